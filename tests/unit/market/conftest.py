import pytest

from tests.support.money import World
from tests.support.plain import put_lane_before


@pytest.fixture(params=["use-case", "short-lane", "shared-lane"])
def either_lane(request, monkeypatch):
    """Every request of the test goes through the use case, or through a short lane where that takes it."""
    if request.param != "use-case":
        join = World.join

        def joined(world: World) -> None:
            join(world)
            put_lane_before(world, shared=request.param == "shared-lane")

        monkeypatch.setattr(World, "join", joined)
    return request.param
