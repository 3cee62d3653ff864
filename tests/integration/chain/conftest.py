import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.chain import Chain, running_anvil
from tests.support.settling import Gateway


@pytest.fixture(scope="module")
def deployed_chain() -> Iterator[Chain]:
    folder = Path(tempfile.mkdtemp(prefix="chain-"))
    try:
        with running_anvil(folder) as url:
            yield Chain(url)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def chain(deployed_chain: Chain) -> Iterator[Chain]:
    """The deployed contracts as they were; what a test does is undone."""
    snapshot = deployed_chain.rpc("evm_snapshot")
    deployed_chain.forget_senders()
    yield deployed_chain
    assert deployed_chain.rpc("evm_revert", snapshot)


@pytest.fixture
def gateway(chain: Chain, tmp_path: Path) -> Iterator[Gateway]:
    made = Gateway(chain, tmp_path)
    yield made
    made.close()
