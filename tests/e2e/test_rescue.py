"""The gateway is killed for good after it served: the operator ends with all it earned, from papers and chain alone.

In the gateway's own lane and behind a link; from several channels, whose receipts were signed many at once (ADR 11).
"""

import json
import os
import re
import signal
import sqlite3
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import httpx
import pytest

from market.demo import minilm
from market.demo.network import UNIT_PRICE, LocalMarket, Options, program
from market.sdk.client import Market
from market.sdk.papers import PaperStore
from tests.chaos.arena import family, signalled

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]

DEPOSIT = 1_000_000
CHANNELS, REQUESTS = 4, 3
PLAIN_SIGNATURE = 65
# A worker is held for less than the gateway's patience with it.
HELD_SECONDS, SHARED_WITHIN_SECONDS = 2.0, 60.0
# The worker's share of a price after the owner's 10 % and the gateway's 5 %.
EARNED = UNIT_PRICE * 85 // 100


@pytest.fixture(params=[False, True], ids=["own lane", "linked"])
def local(tmp_path, request):
    options = Options(tmp_path / "market", keep_state=False, settle_interval_seconds=3_600.0, linked=request.param)
    with LocalMarket(options) as found:
        found.start()
        yield found


def rescue(local, *arguments) -> dict:
    return worker(local, "rescue", *arguments)


def worker(local, *arguments) -> dict:
    environment = {
        **os.environ,
        **local.worker_environment(),
        "WORKER_OPERATOR_KEYSTORE": str(local.accounts["operator"].keystore),
        "WORKER_OPERATOR_PASSWORD_FILE": local.worker_environment()["WORKER_KEYSTORE_PASSWORD_FILE"],
    }
    done = subprocess.run(
        program("worker", *arguments, "--json"), env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def clients(local, stack) -> list[Market]:
    found = []
    for _ in range(CHANNELS):
        wallet = local.wallet("client")
        channel = local.chain.open_channel(wallet, local.accounts["gateway"].address, DEPOSIT)
        market = stack.enter_context(Market(local.gateway_url, wallet, papers=PaperStore(None)))
        market.use_channel(channel, local.chain.domain)
        market.wait_for_channel(channel.digest(local.chain.domain), deposited=DEPOSIT)
        found.append(market)
    return found


def ask_at_once(local, markets, inputs) -> None:
    """Let one request of each channel wait for the worker, which then serves and signs them together."""
    worker = next(child for child in local.supervisor.children if child.name == "worker")
    stopped = family(worker.pid)
    with ThreadPoolExecutor(len(markets)) as pool:
        try:
            for pid in stopped:
                signalled(pid, signal.SIGSTOP)
            asked = [pool.submit(market.infer, minilm.NAME, inputs) for market in markets]
            until = time.monotonic() + HELD_SECONDS
            while in_flight(local) < len(markets) and time.monotonic() < until:
                time.sleep(0.02)
            # From the gateway's door to the worker's lane is one voucher's check more.
            time.sleep(0.2)
        finally:
            for pid in stopped:
                signalled(pid, signal.SIGCONT)
        for one in asked:
            one.result()


def in_flight(local) -> int:
    """How many requests the gateway is serving now."""
    metrics = httpx.get(f"{local.gateway_url}/metrics", timeout=5.0).text
    return int(float(re.search(r"^market_requests_in_flight (\S+)$", metrics, re.MULTILINE)[1]))


def claims(local) -> list[int]:
    """How long the signature is under which each channel would be claimed: its newest receipt's."""
    return journal(local, "SELECT length(worker_signature), max(number) FROM work GROUP BY channel_id")


def journal(local, query: str) -> list:
    """Return the first column of a query of the worker's papers."""
    [path] = (local.data_dir / "worker").glob("papers-*.db")
    with closing(sqlite3.connect(path)) as db:
        return [row[0] for row in db.execute(query).fetchall()]


def test_what_was_served_is_paid_without_the_gateway(local):
    operator = local.accounts["operator"].address
    inputs = minilm.tokenize(minilm.load_tokenizer(), ["What was served is paid."])
    with ExitStack() as stack:
        markets = clients(local, stack)
        channels = [market.channel().channel_id for market in markets]
        rounds, deadline_at = 0, time.monotonic() + SHARED_WITHIN_SECONDS
        # On a busy machine the last round's requests may reach the worker one by one: then there is another round.
        while rounds < REQUESTS or max(claims(local)) <= PLAIN_SIGNATURE:
            assert time.monotonic() < deadline_at, "no claim was signed with others"
            ask_at_once(local, markets, inputs)
            rounds += 1
    served = len(channels) * rounds

    deadline_at = time.monotonic() + 30
    while journal(local, "SELECT count(DISTINCT work) FROM countersignatures") != [served]:
        assert time.monotonic() < deadline_at, "the papers did not come"
        time.sleep(0.1)
    papers = rescue(local, "--dry-run")
    assert papers["receipts"] == papers["countersigned"] == served
    assert papers["channels to claim"] == len(channels)
    assert papers["owed by notes"] == f"0.{served * EARNED:06d}"

    for child in local.supervisor.children:
        if child.name in ("gateway", "jobs"):
            os.killpg(child.pid, signal.SIGKILL)
    before = local.chain.balance(operator)
    assert [local.chain.channel_settled(channel) for channel in channels] == [0] * CHANNELS

    report = rescue(local)

    assert local.chain.balance(operator) - before == served * EARNED
    assert [local.chain.channel_settled(channel) for channel in channels] == [rounds * UNIT_PRICE] * CHANNELS
    assert report["withdrawn"] == f"0.{served * EARNED:06d}"
    assert report["still owed"] == "0.000000"
    (standing,) = worker(local, "audit")["gateways"]
    assert standing["receipts"] == standing["countersigned"] == served
    assert standing["earned"] == standing["credited on chain"] == standing["withdrawn"] == f"0.{served * EARNED:06d}"
    # Doing it again changes nothing.
    again = rescue(local)
    assert (again["claimed"], again["withdrawn"]) == ("0.000000", "0.000000")
    assert local.chain.balance(operator) - before == served * EARNED
