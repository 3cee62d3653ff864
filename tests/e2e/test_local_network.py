"""`market up` and `market demo` as a person runs them: a second terminal works, and nothing is left running."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(580)]

ROOT = Path(__file__).parents[2]
MARKET = [sys.executable, "-c", "from market.cli import main; main()"]


def processes_of(folder: Path) -> list[int]:
    """Return the living processes whose command line or environment names the folder, but this one."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                said = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
            except (OSError, IndexError):
                continue
            if str(folder).encode() in said and state not in "ZX":
                found.append(int(entry.name))
    return found


def wait_gone(folder: Path, seconds: float = 20) -> list[int]:
    deadline = time.monotonic() + seconds
    while processes_of(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    return processes_of(folder)


def start_up(folder: Path) -> subprocess.Popen:
    process = subprocess.Popen(
        [*MARKET, "up", "--data-dir", str(folder), "--port", "0", "--settle-interval", "1"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=(folder.parent / "up.err").open("wb"),
    )
    deadline = time.monotonic() + 120
    while not (folder / "network.json").exists():
        assert process.poll() is None, (folder.parent / "up.err").read_text()
        if time.monotonic() > deadline:
            process.send_signal(signal.SIGINT)  # it stops what it started
            process.wait(60)
            pytest.fail("nothing came up within 120 s")
        time.sleep(0.1)
    return process


def call(folder: Path, *arguments: str, status: int = 0):
    done = subprocess.run(
        [*MARKET, *arguments, "--data-dir", str(folder), "--json"], cwd=ROOT, capture_output=True, timeout=120
    )
    assert done.returncode == status, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_a_second_terminal_works_and_state_outlives_a_restart(tmp_path):
    folder = tmp_path / "a network, 50%20 ü?#"
    process = start_up(folder)
    try:
        assert call(folder, "status")["models"][0]["name"] == "minilm"
        opened = call(folder, "channel", "open", "1.5")
        assert opened["deposited"] == "1500000"
        answer = call(folder, "infer", "minilm", "--text", "A cat.", "--text", "A kitten.")
        assert answer["charged"] == "2000"
        assert answer["outputs"]["similarities"][0][1] > 0.5
        deadline = time.monotonic() + 30
        while not (verdicts := verify(folder))[0]["valid"]:
            assert time.monotonic() < deadline, verdicts
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    assert wait_gone(folder) == []
    assert not (folder / "network.json").exists()

    process = start_up(folder)
    try:
        assert call(folder, "channel", "status")["channelId"] == opened["channelId"]
        answer = call(folder, "infer", "minilm", "--text", "Still here.")
        assert answer["cumulative"] == "3000"
        refused = subprocess.run(
            [*MARKET, "up", "--data-dir", str(folder), "--port", "0"], cwd=ROOT, capture_output=True, timeout=120
        )
        assert refused.returncode == 2
        assert b"another `market up`" in refused.stderr
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
    assert wait_gone(folder) == [], "killed hard, and still nothing is left"


def verify(folder: Path) -> list:
    done = subprocess.run(
        [*MARKET, "receipts", "verify", "--data-dir", str(folder), "--json"], cwd=ROOT, capture_output=True, timeout=120
    )
    return json.loads(done.stdout)


def test_the_demonstration_verifies_everything_and_leaves_nothing(tmp_path):
    folder = tmp_path / "demo"
    done = subprocess.run(
        [*MARKET, "demo", "--json", "--keep", str(folder)], cwd=ROOT, capture_output=True, timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] is True
    assert len(report["steps"]) == 8
    last = report["steps"][-1]
    assert last["verified"] == last["of"] == 4
    paid = [float(row["paid"]) for row in report["steps"][5]["requests"]]
    assert sum(paid) == pytest.approx(float(last["paid"]))
    assert sum(float(amount) for amount in last["earned"].values()) == pytest.approx(float(last["paid"]))
    assert wait_gone(folder) == []


def test_an_interrupted_demonstration_leaves_nothing(tmp_path):
    folder = tmp_path / "demo"
    process = subprocess.Popen(
        [*MARKET, "demo", "--keep", str(folder)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while not (folder / "logs" / "gateway.log").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in said
    assert wait_gone(folder) == []
