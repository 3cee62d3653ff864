"""The program's shell: one message per error with code and remedy, JSON when asked, the right exit status."""

import json

import pytest
from typer.testing import CliRunner

from market.cli import app
from market.commands import client
from market.errors import InvalidRequest
from market.sdk.packages import load
from market.sdk.wallet import Wallet

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in ("MARKET_URL", "MARKET_RPC_URL", "MARKET_DATA_DIR", "MARKET_KEYSTORE", "MARKET_DEPLOYMENT"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments: str):
    return RUNNER.invoke(app, list(arguments))


def test_help_names_every_command():
    shown = run("--help").output
    for name in ("demo", "up", "serve", "jobs", "status", "infer", "receipts", "channel", "wallet", "mint", "model"):
        assert f" {name} " in shown


def test_inputs_that_are_no_json_are_said_to_be_none():
    with pytest.raises(InvalidRequest, match="not JSON") as refused:
        client._tensors(None, "minilm", '{"x": 1', None)
    assert refused.value.field == "inputs"
    with pytest.raises(InvalidRequest, match="No such file"):
        client._tensors(None, "minilm", "@nowhere.json", None)


@pytest.mark.parametrize("arguments", [("status",), ("infer", "m", "{}"), ("receipts", "verify")])
def test_who_is_in_another_folder_than_market_up_is_told_so(tmp_path, arguments):
    shown = " ".join(run(*arguments, "--data-dir", str(tmp_path)).output.split())
    assert "no local network is known" in shown
    assert "--data-dir" in shown


def test_help_says_whole_what_each_command_does():
    for group in ((), ("audits",), ("channel",), ("keys",), ("model",), ("receipts",), ("wallet",)):
        shown = run(*group, "--help").output.partition("Commands:")[2]
        assert shown
        assert "..." not in shown
    assert "Draw a fresh key and write its keystore file." in run("wallet", "--help").output


@pytest.mark.parametrize(
    "arguments", [("status",), ("infer", "m", "{}"), ("channel", "status"), ("receipts", "verify"), ("wallet", "show")]
)
def test_without_a_network_the_remedy_is_named(tmp_path, arguments):
    shown = run(*arguments, "--data-dir", str(tmp_path))
    assert shown.exit_code in (1, 2)
    assert "(configuration)" in shown.output or "(receipt-not-found)" in shown.output or "gateway" in shown.output
    assert "market" in shown.output
    assert "Traceback" not in shown.output


def test_errors_are_json_when_asked(tmp_path):
    shown = run("status", "--data-dir", str(tmp_path), "--json")
    error = json.loads(shown.stdout)["error"]
    assert (error["code"], error["field"], shown.exit_code) == ("configuration", "url", 2)
    assert "market up" in error["remedy"]


def test_serve_without_a_key_says_which_setting(monkeypatch):
    shown = run("serve")
    assert shown.exit_code == 2
    assert "MARKET_KEYSTORE" in shown.output


def test_a_bad_setting_is_named(monkeypatch):
    monkeypatch.setenv("MARKET_FEE_PPM", "2000000")
    shown = run("jobs")
    assert shown.exit_code == 2
    assert "MARKET_FEE_PPM" in shown.output


def test_a_damaged_network_file_is_told(tmp_path):
    (tmp_path / "network.json").write_text("{")
    shown = run("status", "--data-dir", str(tmp_path))
    assert shown.exit_code == 2
    assert "is damaged" in shown.output


def test_a_wallet_is_written_once_and_opens(tmp_path):
    password = tmp_path / "password"
    password.write_text("open sesame\n")
    keystore = tmp_path / "key.json"
    arguments = ("wallet", "new", str(keystore), "--password-file", str(password), "--json")
    address = json.loads(run(*arguments).stdout)["address"]
    assert Wallet.load(keystore, password).checksum_address == address
    assert keystore.stat().st_mode & 0o777 == 0o600
    again = run(*arguments)
    assert (again.exit_code, json.loads(again.stdout)["error"]["code"]) == (1, "keystore")


def test_a_password_that_is_not_there_is_drawn(tmp_path):
    password, keystore = tmp_path / "pass", tmp_path / "key.json"
    arguments = ("wallet", "new", str(keystore), "--password-file", str(password))
    assert "drawn" in run(*arguments).stdout
    assert password.stat().st_mode & 0o777 == 0o600
    Wallet.load(keystore, password)
    password.unlink()
    assert run(*arguments).exit_code == 1
    assert not password.exists(), "no password beside a key that it does not open"


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe\n"], ids=["a folder", "empty", "no line", "no text"])
def test_a_brokers_password_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "worker.pass"
    path.mkdir() if content is None else path.write_bytes(content)
    shown = run("broker-acl", "0x" + "11" * 20, "--password-file", str(path))
    assert shown.exit_code == 1
    assert "(keystore) password-file" in shown.output
    assert "Name a file" in shown.output


def test_an_empty_password_is_refused(tmp_path):
    password = tmp_path / "password"
    password.write_text("\n")
    shown = run("wallet", "new", str(tmp_path / "key.json"), "--password-file", str(password))
    assert shown.exit_code == 1
    assert not (tmp_path / "key.json").exists()


def test_a_package_is_packed_and_its_change_noticed(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"weights")
    arguments = ("model", "pack", str(tmp_path), "--input", "x:FP32:-1,4", "--output", "y:FP32:-1,3", "--json")
    shown = json.loads(run(*arguments).stdout)
    assert shown["modelId"] == "0x" + load(tmp_path).model_id.hex()
    (tmp_path / "model.onnx").write_bytes(b"other")
    changed = run(
        *("model", "publish", str(tmp_path), "m", "--min-price", "0.1", "--max-price", "1", "--royalty-ppm", "0"),
        *("--data-dir", str(tmp_path / "data"), "--json"),
    )
    error = json.loads(changed.stdout)["error"]
    assert (error["code"], error["field"]) == ("manifest", "files.model.onnx")


@pytest.mark.parametrize("spec", ["x", "x:FP32", "x:FLOAT:1", "x:FP32:a", ":FP32:1", "x:FP32:-2"])
def test_a_malformed_tensor_is_refused(tmp_path, spec):
    (tmp_path / "model.onnx").write_bytes(b"weights")
    shown = run("model", "pack", str(tmp_path), "--input", spec, "--output", "y:FP32:1")
    assert shown.exit_code == 1
    assert "(manifest)" in shown.output
