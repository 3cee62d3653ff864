"""A worker that is told to end: when it stops, and how it is found."""

import subprocess
import sys
import textwrap
import time

from typer.testing import CliRunner

from market.devnet import keys
from workers import running
from workers.cli import app
from workers.draining import SETTLE_SECONDS, wait_until_idle

ADDRESS = b"\x11" * 20


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_it_waits_until_its_offers_are_forgotten_though_idle():
    clock = Clock()
    assert wait_until_idle(lambda: False, 60, clock=clock, sleep=clock.sleep)
    assert SETTLE_SECONDS <= clock.now < SETTLE_SECONDS + 1


def test_it_waits_for_its_work_and_not_longer():
    clock = Clock()
    assert wait_until_idle(lambda: clock.now < 20, 60, clock=clock, sleep=clock.sleep)
    assert 20 <= clock.now < 21


def test_work_without_end_is_left_to_others():
    clock = Clock()
    assert not wait_until_idle(lambda: True, 60, clock=clock, sleep=clock.sleep)
    assert 60 <= clock.now < 61


PROGRAM = """
    import signal, sys, time
    from workers.draining import Drain
    told = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    busy_until = time.monotonic() + float(sys.argv[1])
    drain = Drain(
        announce_nothing=lambda: print("offers nothing", file=sys.stderr, flush=True),
        has_work=lambda: time.monotonic() < busy_until,
        seconds=60,
    )
    drain.install()
    print("ready", flush=True)
    while True:
        time.sleep(0.05)
"""


def started(busy_seconds: float) -> subprocess.Popen:
    program = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(busy_seconds)]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def test_the_first_signal_drains_and_then_hands_over():
    process = started(0)
    began = time.monotonic()
    process.terminate()
    assert process.stderr.readline() == "offers nothing\n"
    assert process.wait(30) == 7
    assert time.monotonic() - began >= SETTLE_SECONDS


def test_the_second_signal_ends_it_at_once():
    process = started(1_000)
    process.terminate()
    assert process.stderr.readline() == "offers nothing\n"
    process.terminate()
    assert process.wait(30) == 7


def test_a_running_worker_is_found_and_a_dead_one_is_not(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from workers.running import registered\n"
        "with registered(Path(sys.argv[1]), bytes.fromhex(sys.argv[2])):\n"
        "    print('ready', flush=True); time.sleep(60)"
    )
    program = [sys.executable, "-c", code, str(tmp_path), ADDRESS.hex()]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        assert running.find(tmp_path, ADDRESS) == [process.pid]
        assert running.find(tmp_path, b"\x22" * 20) == []
    finally:
        process.kill()
        process.wait()
    assert running.find(tmp_path, ADDRESS) == []
    assert list(tmp_path.iterdir()) == []


def test_who_ends_in_peace_leaves_nothing(tmp_path):
    with running.registered(tmp_path / "new", ADDRESS):
        pass
    assert list((tmp_path / "new").iterdir()) == []


def test_where_no_worker_runs_the_command_says_so(tmp_path, monkeypatch):
    account = keys.load_or_create(tmp_path, "worker")
    monkeypatch.setenv("WORKER_KEYSTORE", str(account.keystore))
    monkeypatch.setenv("WORKER_KEYSTORE_PASSWORD_FILE", str(keys.password_file(tmp_path)))
    monkeypatch.setenv("WORKER_STATE_DIR", str(tmp_path / "state"))
    said = CliRunner().invoke(app, ["drain"])
    assert said.exit_code == 2
    assert "runs on this machine" in said.output
