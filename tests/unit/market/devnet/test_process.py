"""Children end with their parent, are named when they fail, and nothing is left running."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from market.devnet.process import ProcessFailed, Supervisor, free_port, require_free
from market.errors import ConfigurationError

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "print(child.pid, flush=True); time.sleep(60)"
    ),
]
ROOT = Path(__file__).parents[4]


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return status not in ("Z", "X")


def gone(pid: int, seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


@pytest.fixture
def supervisor(tmp_path):
    with Supervisor(tmp_path / "logs", tmp_path) as found:
        yield found


def test_leaving_the_block_stops_every_child(tmp_path):
    with Supervisor(tmp_path, tmp_path) as supervisor:
        pids = [supervisor.start(name, SLEEPER).pid for name in ("a", "b")]
        assert all(alive(pid) for pid in pids)
    assert not any(alive(pid) for pid in pids)


def test_programs_end_together_and_what_they_stand_on_after_them(tmp_path):
    slow = (
        "import signal, sys, time\n"
        "def end(*_):\n"
        "    time.sleep(1.0); print(time.monotonic(), flush=True); raise SystemExit\n"
        "signal.signal(signal.SIGTERM, end); print('up', flush=True)\n"
        "while True: time.sleep(0.05)"
    )
    with Supervisor(tmp_path / "logs", tmp_path) as supervisor:
        children = {
            name: supervisor.start(name, [sys.executable, "-c", slow], is_service=name == "service")
            for name in ("first", "service", "second")
        }
        for child in children.values():
            child.wait_ready(lambda child=child: "up" in child.log_tail(), timeout_seconds=20, what="output")
    ended = {name: float(child.log_tail().splitlines()[-1]) for name, child in children.items()}
    assert abs(ended["first"] - ended["second"]) < 0.8
    assert ended["service"] >= max(ended["first"], ended["second"]) + 0.8


def test_a_stubborn_child_and_its_children_are_ended(supervisor):
    child = supervisor.start("stubborn", STUBBORN)
    child.wait_ready(lambda: child.log_tail() != "", timeout_seconds=10, what="output")
    grandchild = int(child.log_tail())
    child.stop(grace_seconds=0.2)
    assert gone(child.pid)
    assert gone(grandchild)


def test_a_child_that_ends_early_is_told_with_its_log(supervisor):
    child = supervisor.start("bad", [sys.executable, "-c", "print('what went wrong'); raise SystemExit(3)"])
    with pytest.raises(ProcessFailed, match="status 3") as raised:
        child.wait_ready(lambda: False, timeout_seconds=10, what="anything")
    assert "what went wrong" in raised.value.detail
    assert supervisor.first_ended() is child


def test_a_child_that_never_gets_ready_is_told(supervisor):
    child = supervisor.start("slow", SLEEPER)
    with pytest.raises(ProcessFailed, match="an answer not seen"):
        child.wait_ready(lambda: False, timeout_seconds=0.2, what="an answer")


def test_a_missing_program_is_told(supervisor):
    with pytest.raises(ProcessFailed, match="cannot be started"):
        supervisor.start("missing", ["/no/such/program"])


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_children_die_with_a_parent_that_is_killed(tmp_path):
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom market.devnet.process import Supervisor\n"
        f"child = Supervisor(Path({str(tmp_path)!r}), Path({str(tmp_path)!r})).start('a', {SLEEPER!r})\n"
        "print(child.pid, flush=True)\ntime.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT)
    try:
        pid = int(parent.stdout.readline())
        assert alive(pid)
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        parent.stdout.close()
    assert gone(pid)


def test_a_free_port_is_a_port():
    assert 1_024 <= free_port() <= 65_535


def test_an_interrupt_lost_in_a_finalizer_is_not_printed_and_is_raised_later():
    code = """
    import os, signal
    from market.devnet.process import check_interrupt, terminate_as_interrupt

    class Finalized:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(1_000):
                pass

    class Faulty:
        def __del__(self):
            raise ValueError("of its own")

    with terminate_as_interrupt():
        Faulty()
        Finalized()
        try:
            check_interrupt()
        except KeyboardInterrupt:
            print("raised again")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "raised again\n")
    assert "of its own" in done.stderr
    assert "KeyboardInterrupt" not in done.stderr


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"port: cannot listen on 127\.0\.0\.1:{port}: .*--port"):
            require_free(port)
    require_free(port)
