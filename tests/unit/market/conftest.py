import pytest

from tests.support.money import World
from tests.support.plain import put_lane_before


@pytest.fixture(params=["use-case", "short-lane"])
def either_lane(request, monkeypatch):
    """Every request of the test goes through the use case, or through the short lane where that takes it."""
    if request.param == "short-lane":
        join = World.join

        def joined(world: World) -> None:
            join(world)
            put_lane_before(world)

        monkeypatch.setattr(World, "join", joined)
    return request.param
