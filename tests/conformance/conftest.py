import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from market.devnet.process import Supervisor
from market.devnet.services import start_redis
from tests.support.databases import SERVERS, open_database


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A real server of our own by its port, as one elsewhere is reached; whole markets of the tests use its socket."""
    folder = Path(tempfile.mkdtemp(prefix="conformance-"))
    patch = pytest.MonkeyPatch()
    patch.delenv("MARKET_REDIS_URL", raising=False)
    try:
        with Supervisor(folder / "logs", folder) as supervisor:
            yield start_redis(supervisor, folder, by_socket=False)
    finally:
        patch.undo()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=SERVERS)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    """An empty database on each server."""
    made = open_database(request.param, tmp_path)
    yield made
    made.dispose()
