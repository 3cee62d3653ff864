"""A new operator on a fresh machine: one command sets up, stakes and serves; the view, the metrics and the doctor tell."""

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time

import httpx
import numpy as np
import pytest

from contracts.bindings.keystore import save_keystore
from contracts.protocol.hexes import checksum
from contracts.protocol.money import ATOMIC_PER_TOKEN
from contracts.protocol.signing import PrivateKey
from market.demo import minilm
from market.demo.network import program
from market.devnet import keys, services
from market.devnet.process import free_port
from tests.support.keystores import quicken

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]

CARD = "NVIDIA H100 80GB HBM3, 81559, 2048, 37, 550.54.15"
SECONDS = 120
STAKE_TOKENS = 1_000
TENSORS = {
    name: np.array([data], np.int64)
    for name, data in (("input_ids", [101, 7592, 102]), ("attention_mask", [1, 1, 1]), ("token_type_ids", [0, 0, 0]))
}


def environment(home):
    """A fresh user's: no settings, a home of its own, a card that `nvidia-smi` sees."""
    tools = home / "bin"
    if not tools.exists():
        tools.mkdir(parents=True)
        (tools / "nvidia-smi").write_text(f"#!/bin/sh\necho '{CARD}'\n")
        (tools / "nvidia-smi").chmod(0o755)
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("WORKER_", "MARKET_"))}
    path = f"{tools}:{plain['PATH']}"
    return {**plain, "HOME": str(home), "XDG_CONFIG_HOME": str(home / "config"), "PATH": path, "TERM": "xterm"}


def run(home, *arguments, status=0):
    done = subprocess.run(
        program("worker", *map(str, arguments)), env=environment(home), capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def metrics_port():
    return free_port()


@pytest.fixture(scope="module")
def made(local, home, metrics_port):
    """What `worker init` said; the operator has money and nothing else."""
    operator = PrivateKey.generate()
    password = keys.password_file(local.data_dir)
    save_keystore(home / "operator.json", operator, password.read_bytes().strip(), light=True)
    services.rpc(local.rpc_url, "anvil_setBalance", checksum(operator.address), hex(10**18))
    local.chain.mint(local.wallet("deployer"), operator.address, STAKE_TOKENS * ATOMIC_PER_TOKEN)
    done = run(
        home,
        *("init", "--json", "--gateway", local.gateway_url, "--rpc-url", local.rpc_url, "--allow-file-uri"),
        *("--models", f"{minilm.NAME}=100", "--model-dir", home / "models", "--state-dir", home / "state"),
        *("--metrics-port", metrics_port, "--region", "eu-west", "--register", "--stake", STAKE_TOKENS),
        *("--operator-keystore", home / "operator.json", "--operator-password-file", password),
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def quick(made, home):
    """The key that was drawn, quick to open from now on."""
    folder = home / "config" / "inference-market"
    quicken(folder / "worker.json", folder / "worker.pass")


def test_a_choice_that_is_not_to_be_had_leaves_nothing_behind(local, home):
    done = run(home, "init", "--yes", "--gateway", local.gateway_url, "--models", "gpt-9", status=2)
    assert "(model-not-listed)" in done.stderr
    assert not (home / "config").exists(), "nothing was written"


def test_init_draws_a_key_stakes_and_leaves_settings_that_the_other_commands_find(made, local, home):
    assert made["faults"] == 0
    assert made["next"] == ["worker doctor", "worker run"]
    assert made["settings"]["WORKER_GATEWAYS"] == checksum(local.accounts["gateway"].address)
    assert "79.6 GiB" in next(row["detail"] for row in made["checks"] if row["check"] == "cards")
    folder = home / "config" / "inference-market"
    assert {path.name for path in folder.iterdir()} == {"worker.env", "worker.json", "worker.pass", "deployment.json"}
    assert (folder / "worker.json").stat().st_mode & 0o077 == 0
    assert (folder / "worker.pass").stat().st_mode & 0o077 == 0
    again = run(home, "init", "--yes", "--gateway", local.gateway_url, status=2)
    assert "--force" in again.stderr, "settings are not written over by mistake"


def test_stake_moves_in_dollars_or_units_and_a_dry_run_sends_nothing(quick, local, home):
    account = ("--operator-keystore", home / "operator.json")
    account += ("--operator-password-file", keys.password_file(local.data_dir))
    planned = json.loads(run(home, "unstake", "1.5", "--dry-run", "--json", *account).stdout)
    assert planned["dryRun"]
    assert [row["what"] for row in planned["transactions"]] == ["thaw"]
    assert planned["transactions"][0]["gas"] > 21_000
    assert planned["thawing"] == "0"
    text = run(home, "stake", "1u", "--dry-run", *account, status=1)
    assert "(not-enough-tokens)" in text.stderr
    assert "holds 0.000000 (0u)" in text.stderr
    text = run(home, "register", "--stake", "1", *account, status=1)
    assert "(invalid-amount) stake:" in text.stderr
    assert "Stake at least 100" in text.stderr
    done = json.loads(run(home, "unstake", "1500000u", "--json", *account).stdout)
    assert done["thawing"] == "1500000"
    assert done["transaction"]
    assert "is no number of units" in run(home, "unstake", "1.5u", *account, status=1).stderr


def test_the_doctor_names_each_fault_with_its_remedy(made, home):
    folder = home / "config" / "inference-market"
    text = (folder / "worker.env").read_text()
    broken = home / "broken.env"
    broken.write_text(
        text.replace(made["settings"]["WORKER_GATEWAY_URL"], f"http://127.0.0.1:{free_port()}").replace("=100", "=1")
        + "WORKER_STATE_DIR=/proc/nowhere\n"
    )
    done = run(home, "doctor", "--json", "--env-file", broken, status=1)
    faults = {row["check"]: row for row in json.loads(done.stdout)["checks"] if row["state"] == "fault"}
    assert faults.keys() == {"models", "gateway", "disk"}
    assert all(row["code"] for row in faults.values())
    assert faults["disk"]["remedy"]


class Terminal:
    """`worker run` as a person sees it."""

    def __init__(self, home) -> None:
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            command = program("worker", "run")
            os.execve(command[0], command, environment(home))
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 140, 0, 0))
        self.shown = ""

    def read(self, seconds: float) -> None:
        """Take what the view draws for a while."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([self._fd], [], [], left)[0]:
                try:
                    self.shown += os.read(self._fd, 65_536).decode(errors="replace")
                except OSError:  # the other end is closed
                    return

    def wait_for(self, what) -> None:
        until = time.monotonic() + SECONDS
        while not what():
            assert time.monotonic() < until, self.shown[-4_000:]
            self.read(0.3)

    def interrupt(self) -> int:
        os.write(self._fd, b"\x03")
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            self.read(0.3)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
        os.kill(self.pid, signal.SIGKILL)
        raise AssertionError(self.shown[-4_000:])


def metric(where, name) -> float:
    """Add up one metric of a URL, or of a port here; 0 while there is none."""
    url = where if isinstance(where, str) else f"http://127.0.0.1:{where}/metrics"
    try:
        text = httpx.get(url, timeout=10).text
    except httpx.HTTPError:
        return 0.0
    rows = (line.rpartition(" ") for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name)
    return sum(float(value) for _, _, value in rows)


def test_run_serves_earns_and_shows_it(made, local, market, home, metrics_port):
    terminal = Terminal(home)
    try:
        terminal.wait_for(lambda: metric(metrics_port, "worker_served_models") == 1)
        url = f"{local.gateway_url}/market/v1/workers"
        terminal.wait_for(lambda: any(w["live"] and w["worker"] == made["worker"] for w in httpx.get(url).json()))
        for _ in range(5):
            assert market.infer(minilm.NAME, TENSORS, worker=made["worker"]).charged == 100
        terminal.wait_for(lambda: metric(metrics_port, "worker_jobs_total") == 5)
        assert metric(metrics_port, "worker_earned_units_total") > 0
        assert metric(metrics_port, "worker_pack_seconds_count") >= 1
        assert metric(metrics_port, "worker_linked") == 1
        assert metric(metrics_port, "worker_stake_units") == STAKE_TOKENS * ATOMIC_PER_TOKEN
        assert metric(metrics_port, "worker_gpu_memory_used_bytes") == 2048 << 20
        assert "0x" not in httpx.get(f"http://127.0.0.1:{metrics_port}/metrics").text, "no address is a label"
        terminal.wait_for(lambda: "5 in all" in terminal.shown)
        for words in ("requests", "tokens", "earned", "queue", "stake", "2.0 GiB of 79.6 GiB", "serving"):
            assert words in terminal.shown
    finally:
        status = terminal.interrupt()
    assert status == 0
    assert "ended with status 0" in terminal.shown


def test_the_jobs_tell_what_settles_and_how_far_they_have_read(local, market):
    market.infer(minilm.NAME, TENSORS)
    until = time.monotonic() + SECONDS
    wanted = ("market_settlements_total", "market_job_done_at", "market_block_age_seconds")
    while not all(metric(local.jobs_metrics_url, name) for name in wanted):
        assert time.monotonic() < until, httpx.get(local.jobs_metrics_url).text
        time.sleep(0.3)
    text = httpx.get(local.jobs_metrics_url).text
    assert 'market_settlements_total{code="ok"}' in text
    for name in ("market_unsettled_units", "market_blocks_behind", "market_stake_thawing_units"):
        assert f"\n{name} " in text
    assert {f'market_job_done_at{{job="{name}"}}' in text for name in ("index", "settle", "measure")} == {True}
