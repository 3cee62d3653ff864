import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from market.devnet.process import Supervisor
from market.devnet.services import start_redis


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A real server of our own, without what an environment variable might name."""
    folder = Path(tempfile.mkdtemp(prefix="conformance-"))
    patch = pytest.MonkeyPatch()
    patch.delenv("MARKET_REDIS_URL", raising=False)
    try:
        with Supervisor(folder / "logs", folder) as supervisor:
            yield start_redis(supervisor, folder)
    finally:
        patch.undo()
        shutil.rmtree(folder, ignore_errors=True)
