"""A worker that cannot serve honestly does not start: one message, a stable code, a remedy, no traceback."""

import json
import os
import shutil
import subprocess

import pytest

from contracts.bindings.keystore import save_keystore
from contracts.protocol.signing import PrivateKey
from market.demo import minilm
from market.demo.network import program
from market.devnet.process import free_port
from market.sdk import packages

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]

SECONDS = 60


def run_worker(local, *arguments, **changes):
    environment = {**os.environ, **local.worker_environment(), **changes}
    return subprocess.run(
        program("worker", *arguments), env=environment, capture_output=True, text=True, timeout=SECONDS
    )


def refused(local, code, *words, **changes):
    done = run_worker(local, "run", **changes)
    assert done.returncode in (1, 2), done.stderr
    assert f"({code})" in done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    return done


def test_the_chain_is_away(local):
    refused(local, "worker-chain", "WORKER_RPC_URL", WORKER_RPC_URL=f"http://127.0.0.1:{free_port()}")


def test_the_chain_is_another(local):
    refused(local, "worker-chain", "31337", WORKER_CHAIN_ID="84532")


def test_redis_is_away(local):
    done = refused(local, "worker-redis", WORKER_REDIS_URL=f"redis://:hunter2@127.0.0.1:{free_port()}/0")
    assert "hunter2" not in done.stderr


def test_the_key_is_not_registered(local, tmp_path):
    keystore = tmp_path / "stranger.json"
    password = local.worker_environment()["WORKER_KEYSTORE_PASSWORD_FILE"]
    with open(password, "rb") as source:
        save_keystore(keystore, PrivateKey.generate(), source.readline().strip(), light=True)
    refused(local, "worker-not-registered", "worker register", WORKER_KEYSTORE=str(keystore))


def test_the_keystore_is_missing(local, tmp_path):
    refused(local, "worker-configuration", "WORKER_KEYSTORE", WORKER_KEYSTORE=str(tmp_path / "none.json"))


def test_the_model_is_not_listed(local):
    refused(local, "model-not-listed", "gpt-9", WORKER_MODELS="gpt-9")


@pytest.mark.parametrize("price", ["1", "99999999"])
def test_the_price_is_outside_the_owners_bounds(local, price):
    refused(local, "offer-outside-bounds", "100 to 10000", WORKER_UNIT_PRICE=price)


def test_a_setting_is_nonsense(local):
    refused(local, "worker-configuration", "WORKER_CHAIN_ID", WORKER_CHAIN_ID="many")


def test_the_model_file_is_not_the_chains(local, tmp_path):
    folder = tmp_path / "tampered"
    manifest = minilm.build_package(folder)
    manifest = packages.pack(
        folder,
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        unit=manifest.unit,
        batch_axis=0,
        tokenizer="tokenizer.json",
        license_name="another text, another id",
    )
    local.chain.list_model(
        local.wallet("owner"),
        manifest,
        name="tampered",
        min_price=100,
        max_price=10_000,
        royalty_ppm=0,
        uri=folder.as_uri(),
    )
    with (folder / "model.onnx").open("r+b") as model:
        model.seek(1_000_000)
        model.write(b"\0\1\2\3")
    refused(
        local,
        "model-hash-mismatch",
        "model.onnx",
        WORKER_MODELS="tampered",
        WORKER_MODEL_DIR=str(tmp_path / "cache"),
    )
    assert not list((tmp_path / "cache").iterdir())
    shutil.rmtree(folder)


def test_the_doctor_finds_nothing_wrong_and_what_is_wrong(local):
    done = run_worker(local, "doctor", "--json")
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["faults"] == 0
    done = run_worker(local, "doctor", "--json", WORKER_REDIS_URL=f"redis://127.0.0.1:{free_port()}/0")
    report = json.loads(done.stdout)
    assert (done.returncode, report["faults"]) == (1, 1)
    assert next(row for row in report["checks"] if row["state"] == "fault")["check"] == "broker"
