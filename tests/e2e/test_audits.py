"""Three operators' real workers, the cheapest of which runs an int8 copy: it is found and taken out, clients go on."""

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from onnxruntime.quantization import QuantType, quantize_dynamic

from contracts.protocol.hexes import checksum
from contracts.protocol.manifest import TensorSpec
from contracts.protocol.pricing import Unit
from market.demo.network import GAS_MONEY_WEI, STAKE, LocalMarket, Options, program
from market.devnet import keys, services
from market.sdk.wallet import Wallet
from tests.support import models

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]

ROOT = Path(__file__).parents[2]
DEPOSIT = 5_000_000
CHEAP, DEAR = 500, 2_000
NAME = "wide"


class AuditedMarket(LocalMarket):
    """A local market that looks at half of what a new worker answers."""

    def gateway_environment(self):
        return {**super().gateway_environment(), "MARKET_AUDIT_NEW_SHARE": "0.5"}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages") / NAME
    models.write(
        folder,
        {"model.onnx": models.wide()},
        task="tensor",
        inputs=(TensorSpec("x", "FP32", (-1, 256)),),
        outputs=(TensorSpec("y", "FP32", (-1, 256)),),
        unit=Unit.ROW,
        max_batch=16,
    )
    return folder


@pytest.fixture(scope="module")
def local(package, tmp_path_factory):
    options = Options(
        tmp_path_factory.mktemp("audits"), keep_state=False, settle_interval_seconds=2.0, packages=(package,)
    )
    with AuditedMarket(options) as found:
        found.start()
        yield found


def start_worker(local, name, price, command, **more):
    """Start a worker of an operator of its own; returns its address."""
    worker, operator = (keys.load_or_create(local.data_dir, f"{name}-{role}") for role in ("worker", "operator"))
    for account in (worker, operator):
        services.rpc(local.rpc_url, "anvil_setBalance", checksum(account.address), hex(GAS_MONEY_WEI))
    local.chain.mint(local.wallet("deployer"), operator.address, STAKE)
    local.chain.register_worker(Wallet(operator.key), worker.key, stake=STAKE, region="", hardware="cpu", endpoint="")
    environment = {
        **local.worker_environment(),
        "WORKER_KEYSTORE": str(worker.keystore),
        "WORKER_MODELS": NAME,
        "WORKER_MODEL_DIR": str(local.data_dir / f"models-{name}"),
        "WORKER_STATE_DIR": str(local.data_dir / f"state-{name}"),
        "WORKER_UNIT_PRICE": str(price),
        **more,
    }
    local.supervisor.start(name, command, environment)
    return worker.address


@pytest.fixture(scope="module")
def workers(local, package, tmp_path_factory):
    smaller = tmp_path_factory.mktemp("cheat") / "int8.onnx"
    quantize_dynamic(package / "model.onnx", smaller, weight_type=QuantType.QUInt8)
    cheating = [sys.executable, "-m", "tests.support.cheating_worker", "run"]
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {
        "honest": local.accounts["worker"].address,
        "dear": start_worker(local, "dear", DEAR, program("worker", "run")),
        "cheat": start_worker(local, "cheat", CHEAP, cheating, CHEAT_FILE=str(smaller), PYTHONPATH=paths),
    }


@pytest.fixture(scope="module")
def market(local, workers):
    with local.client(DEPOSIT) as found:
        until = time.monotonic() + 90
        while {row["worker"] for row in offers(found)} != {checksum(one) for one in workers.values()}:
            assert time.monotonic() < until, "not every worker's offer arrives"
            time.sleep(0.3)
        yield found


def offers(market):
    return market.get(f"/market/v1/models/{NAME}")["offers"]


def ask(market, seed):
    return market.infer(NAME, {"x": np.random.default_rng(seed).normal(size=(1, 256)).astype("f4")})


def convicted(market):
    return {row["worker"] for row in market.get("/market/v1/audits/workers") if row["convictedAt"] is not None}


def test_a_cheat_is_found_and_taken_out_while_clients_are_served(local, market, workers):
    served, until, outcomes = [], time.monotonic() + 120, []
    while not convicted(market):
        assert time.monotonic() < until, "the cheat is not found"
        outcome = ask(market, len(outcomes))
        outcomes.append(outcome)
        served.append(outcome.paper.receipt.worker)
    assert workers["cheat"] in served, "it was the cheapest"
    assert convicted(market) == {checksum(workers["cheat"])}
    after = [ask(market, 1_000 + i) for i in range(10)]
    assert {one.paper.receipt.worker for one in after} == {workers["honest"]}
    assert {row["worker"] for row in offers(market)} == {checksum(workers[name]) for name in ("honest", "dear")}
    channel = market.get(f"/market/v1/channels/0x{market.channel().channel_id.hex()}")
    assert int(channel["charged"]) == sum(one.charged for one in (*outcomes, *after)), "no client pays for an audit"


def test_the_evidence_can_be_checked_by_anybody(local, market, workers):
    audits = [one for one in market.get("/market/v1/audits") if one["outcome"] == "convicted"]
    first = audits[-1]
    assert first["against"] == checksum(workers["cheat"])
    assert first["error"] > 2e-3
    assert {one["worker"] for one in first["statements"]} == {checksum(one) for one in workers.values()}
    command = program("market", "audits", "show", str(first["number"]), "--url", local.gateway_url)
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert shown.returncode == 0, shown.stdout + shown.stderr


def test_the_auditors_are_paid_and_a_pardon_lets_the_worker_back(local, market, workers):
    audit = market.get("/market/v1/audits")[0]
    (dear,) = (one for one in audit["statements"] if one["worker"] == checksum(workers["dear"]))
    assert int(dear["receipt"]["price"]) == DEAR
    # No client was ever served there: all that it earned it earned by audits.
    assert int(market.get(f"/market/v1/payees/{dear['operator']}")["earned"]) >= int(dear["receipt"]["workerAmount"])
    metrics = httpx.get(f"{local.gateway_url}/metrics").text
    assert 'market_audits_total{outcome="convicted"}' in metrics
    assert "market_convicted_workers 1.0" in metrics
    command = program("market", "audits", "pardon", checksum(workers["cheat"]))
    environment = {**os.environ, **local.gateway_environment()}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    until = time.monotonic() + 20
    while checksum(workers["cheat"]) not in {row["worker"] for row in offers(market)}:
        assert time.monotonic() < until, "its offers do not come back"
        time.sleep(0.3)
