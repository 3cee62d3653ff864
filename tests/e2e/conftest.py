"""One whole market for these tests: real Redis, EVM node, gateway, jobs and worker processes, a real model."""

import pytest

from market.demo.network import LocalMarket, Options
from market.sdk.papers import PaperStore

DEPOSIT = 2_000_000


@pytest.fixture(scope="package")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("market")
    with LocalMarket(Options(folder, keep_state=False, settle_interval_seconds=2.0)) as found:
        found.start()
        yield found


@pytest.fixture(scope="module")
def papers(tmp_path_factory):
    store = PaperStore(tmp_path_factory.mktemp("client") / "papers.db")
    yield store
    store.close()


@pytest.fixture(scope="module")
def market(local, papers):
    """A client with an open channel."""
    with local.client(DEPOSIT, papers=papers) as found:
        yield found
