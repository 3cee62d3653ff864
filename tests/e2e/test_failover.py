"""Two real workers of one model, of which one is stopped, killed or barred by a limit: no request is lost or paid twice.

The tests run in order on one market: the second worker is gone after the last.
"""

import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from contracts.protocol.hexes import checksum
from market.demo import minilm
from market.demo.network import STAKE, LocalMarket, Options, program
from market.devnet import keys
from market.inference.hedging import LEAST_SAMPLES
from market.inference.load import LEAST_PATIENCE_SECONDS
from market.sdk.client import Market
from market.sdk.errors import GatewayRefused
from market.sdk.papers import PaperStore
from market.sdk.verify import verify_receipt

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]

DEPOSIT = 2_000_000
CHEAPER = 900
DEADLINE_SECONDS = 30


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two-workers")
    with LocalMarket(Options(folder, keep_state=False, settle_interval_seconds=2.0)) as found:
        found.start()
        yield found


@pytest.fixture(scope="module")
def second(local):
    """A worker that stands elsewhere and asks less, so that it is the first choice."""
    account = keys.load_or_create(local.data_dir, "worker2")
    local.chain.mint(local.wallet("deployer"), local.accounts["operator"].address, STAKE)
    local.chain.register_worker(
        local.wallet("operator"), account.key, stake=STAKE, region="eu-west", hardware="cpu", endpoint=""
    )
    environment = {
        **local.worker_environment(),
        "WORKER_KEYSTORE": str(account.keystore),
        "WORKER_MODEL_DIR": str(local.data_dir / "models2"),
        "WORKER_STATE_DIR": str(local.data_dir / "state2"),
        "WORKER_UNIT_PRICE": str(CHEAPER),
    }
    child = local.supervisor.start("worker2", program("worker", "run"), environment)
    yield account, child
    if child.exit_code is None:
        os.killpg(child.pid, signal.SIGCONT)


def with_time_to_finish(local, account):
    return {
        **local.worker_environment(),
        "WORKER_KEYSTORE": str(account.keystore),
        "WORKER_MODEL_DIR": str(local.data_dir / "models2"),
        "WORKER_STATE_DIR": str(local.data_dir / "state2"),
        "WORKER_UNIT_PRICE": str(CHEAPER),
        "WORKER_DRAIN_SECONDS": "60",
    }


@pytest.fixture(scope="module")
def market(local, second):
    account, _ = second
    with Market(local.gateway_url, local.wallet("client"), papers=PaperStore(None)) as found:
        channel = local.chain.open_channel(local.wallet("client"), local.accounts["gateway"].address, DEPOSIT)
        found.use_channel(channel, local.chain.domain)
        found.wait_for_channel(channel.digest(local.chain.domain), deposited=DEPOSIT)
        deadline = time.monotonic() + 60
        while served_by(ask(found)) != account.address:
            assert time.monotonic() < deadline, "the second worker's offer does not arrive"
            time.sleep(0.3)
        yield found


def ask(market, **limits):
    return market.infer(minilm.NAME, minilm.tokenize(minilm.load_tokenizer(), ["a cat"]), **limits)


def served_by(outcome) -> bytes:
    return outcome.paper.receipt.worker


def charged(local, market) -> int:
    return int(market.get(f"/market/v1/channels/0x{market.channel().channel_id.hex()}")["charged"])


def test_the_client_says_where_and_how_well_secured(local, market, second):
    account, _ = second
    assert served_by(ask(market, region="eu", min_stake=STAKE)) == account.address
    assert served_by(ask(market, region="local")) == local.accounts["worker"].address
    assert served_by(ask(market, worker=checksum(local.accounts["worker"].address))) == local.accounts["worker"].address
    for limits in ({"region": "mars"}, {"min_stake": STAKE + 1}):
        with pytest.raises(GatewayRefused) as refused:
            ask(market, **limits)
        assert refused.value.code == "no-capacity"


def test_a_worker_that_hangs_costs_seconds_and_nothing_else(local, market, second):
    _, child = second
    before = charged(local, market)
    os.killpg(child.pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        outcomes = [ask(market) for _ in range(6)]
        took = time.monotonic() - started
    finally:
        os.killpg(child.pid, signal.SIGCONT)
    assert {served_by(outcome) for outcome in outcomes} == {local.accounts["worker"].address}
    assert took < DEADLINE_SECONDS
    assert charged(local, market) - before == sum(outcome.charged for outcome in outcomes)


def test_a_request_that_allows_two_is_answered_while_the_first_hangs(local, market, second):
    account, child = second
    worker = checksum(account.address)
    for _ in range(LEAST_SAMPLES):
        ask_patiently(market, worker=worker)
    deadline = time.monotonic() + 60
    while served_by(ask(market)) != account.address:
        assert time.monotonic() < deadline, "its fault is not forgiven"
        time.sleep(0.5)
    before = charged(local, market)
    os.killpg(child.pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        outcome = ask(market, hedge=True)
        took = time.monotonic() - started
    finally:
        os.killpg(child.pid, signal.SIGCONT)
    assert served_by(outcome) == local.accounts["worker"].address
    assert took < LEAST_PATIENCE_SECONDS, "nobody waited for the first one"
    # The other one answers too once it goes on: one receipt, one charge, nothing left set aside.
    ask_patiently(market, worker=worker)
    assert charged(local, market) - before == outcome.charged + CHEAPER
    assert charged(local, market) == sum(paper.receipt.price for paper in market.papers.receipts())


def ask_patiently(market, **limits):
    """Ask until its circuit lets one through."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return ask(market, **limits)
        except GatewayRefused as error:
            if error.code != "no-capacity" or time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def test_woken_it_serves_again(market, second):
    account, _ = second
    assert served_by(ask_patiently(market, worker=checksum(account.address))) == account.address


def test_a_killed_worker_is_passed_over_and_all_is_settled(local, market, second):
    _, child = second
    os.killpg(child.pid, signal.SIGKILL)
    outcomes = [ask(market) for _ in range(6)]
    assert {served_by(outcome) for outcome in outcomes} == {local.accounts["worker"].address}
    last = market.wait_for_settlement(outcomes[-1].paper, timeout_seconds=60)
    assert verify_receipt(last, local.chain).valid
    assert charged(local, market) == sum(paper.receipt.price for paper in market.papers.receipts())


def test_one_that_drains_finishes_what_it_has_and_ends(local, market, second):
    account, _ = second
    environment = with_time_to_finish(local, account)
    child = local.supervisor.start("worker2-again", program("worker", "run"), environment)
    deadline = time.monotonic() + 60
    while served_by(ask(market)) != account.address:
        assert time.monotonic() < deadline, "the second worker does not come back"
        time.sleep(0.3)
    ended = []
    with ThreadPoolExecutor(1) as pool:
        command = [*program("worker", "drain")]
        drained = pool.submit(subprocess.run, command, env={**os.environ, **environment}, timeout=150, check=False)
        while not drained.done():
            ended.append(served_by(ask(market)))
    assert drained.result().returncode == 0
    assert child.exit_code == 0
    # Whoever asked meanwhile was served without a fault, at first here, at last elsewhere.
    assert ended[-1] == local.accounts["worker"].address
    assert served_by(ask(market)) == local.accounts["worker"].address
    workers = market.get("/market/v1/workers")
    assert account.address.hex() in str(workers).lower()
    assert charged(local, market) == sum(paper.receipt.price for paper in market.papers.receipts())
