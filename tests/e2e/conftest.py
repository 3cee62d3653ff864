"""One whole market for the module: real Redis, EVM node, gateway, jobs and worker processes, a real model."""

import pytest

from market.demo.network import LocalMarket, Options
from market.sdk.client import Market
from market.sdk.papers import PaperStore

DEPOSIT = 2_000_000


@pytest.fixture(scope="session")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("market")
    with LocalMarket(Options(folder, keep_state=False, settle_interval_seconds=2.0)) as found:
        found.start_services()
        found.deploy()
        found.list_model()
        found.register_worker()
        found.start_programs()
        yield found


@pytest.fixture(scope="session")
def papers(tmp_path_factory):
    store = PaperStore(tmp_path_factory.mktemp("client") / "papers.db")
    yield store
    store.close()


@pytest.fixture(scope="session")
def market(local, papers):
    """A client with an open channel."""
    wallet = local.wallet("client")
    with Market(local.gateway_url, wallet, papers=papers) as found:
        channel = local.chain.open_channel(wallet, local.accounts["gateway"].address, DEPOSIT)
        found.use_channel(channel, local.chain.domain)
        found.wait_for_channel(channel.digest(local.chain.domain), deposited=DEPOSIT)
        yield found
