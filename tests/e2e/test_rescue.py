"""The gateway is killed for good after it served: the operator ends with all it earned, from papers and chain alone."""

import json
import os
import signal
import subprocess
import time

import pytest

from market.demo import minilm
from market.demo.network import UNIT_PRICE, LocalMarket, Options, program
from market.sdk.client import Market
from market.sdk.papers import PaperStore

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]

DEPOSIT = 1_000_000
REQUESTS = 3
# The worker's share of a price after the owner's 10 % and the gateway's 5 %.
EARNED = UNIT_PRICE * 85 // 100


@pytest.fixture
def local(tmp_path):
    with LocalMarket(Options(tmp_path / "market", keep_state=False, settle_interval_seconds=3_600.0)) as found:
        found.start_services()
        found.deploy()
        found.list_model()
        found.register_worker()
        found.start_programs()
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


def test_what_was_served_is_paid_without_the_gateway(local):
    operator, gateway = local.accounts["operator"].address, local.accounts["gateway"].address
    inputs = minilm.tokenize(minilm.load_tokenizer(), ["What was served is paid."])
    channels = []
    for _ in range(2):
        wallet = local.wallet("client")
        channel = local.chain.open_channel(wallet, gateway, DEPOSIT)
        channels.append(channel.digest(local.chain.domain))
        with Market(local.gateway_url, wallet, papers=PaperStore(None)) as market:
            market.use_channel(channel, local.chain.domain)
            market.wait_for_channel(channels[-1], deposited=DEPOSIT)
            for _ in range(REQUESTS):
                market.infer(minilm.NAME, inputs)
    served = len(channels) * REQUESTS

    deadline_at = time.monotonic() + 30
    while (papers := rescue(local, "--dry-run"))["countersigned"] < served and time.monotonic() < deadline_at:
        time.sleep(0.5)
    assert papers["receipts"] == papers["countersigned"] == served
    assert papers["channels to claim"] == len(channels)
    assert papers["owed by notes"] == f"0.{served * EARNED:06d}"

    for child in local.supervisor.children:
        if child.name in ("gateway", "jobs"):
            os.killpg(child.pid, signal.SIGKILL)
    before = local.chain.balance(operator)
    assert [local.chain.channel_settled(channel) for channel in channels] == [0, 0]

    report = rescue(local)

    assert local.chain.balance(operator) - before == served * EARNED
    assert [local.chain.channel_settled(channel) for channel in channels] == [REQUESTS * UNIT_PRICE] * 2
    assert report["withdrawn"] == f"0.{served * EARNED:06d}"
    assert report["still owed"] == "0.000000"
    (standing,) = worker(local, "audit")["gateways"]
    assert standing["receipts"] == standing["countersigned"] == served
    assert standing["earned"] == standing["credited on chain"] == standing["withdrawn"] == f"0.{served * EARNED:06d}"
    # Doing it again changes nothing.
    again = rescue(local)
    assert (again["claimed"], again["withdrawn"]) == ("0.000000", "0.000000")
    assert local.chain.balance(operator) - before == served * EARNED
