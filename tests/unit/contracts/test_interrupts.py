"""Ctrl-C before a program is loaded: status 130, no trace; once it is loaded, whoever handles interrupts does."""

import signal
import subprocess
import sys
import threading

import pytest

from contracts.interrupts import INTERRUPTED, EndingQuietly

# Interrupts itself where a module is imported. Whoever starts the tests in the background may have interrupts ignored.
DURING = """
import importlib.abc, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)

class Interrupted(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupted())
from {program}.cli import main
sys.argv = ["{program}", {command!r}]
main()
"""
# Typer is making commands of functions; nothing of ours runs yet.
BEFORE = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import {program}.cli as cli

def interrupted(**_):
    os.kill(os.getpid(), signal.SIGINT)
    raise AssertionError("not interrupted")

cli.spare_proxy = lambda _: interrupted()
sys.argv = ["{program}", "--help"]
cli.main()
"""


def ended(code: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("program", "command", "module"),
    [
        ("market", "status", "typer"),
        ("workers", "doctor", "typer"),
        ("market", "status", "httpx"),
        ("workers", "doctor", "web3"),
    ],
)
def test_a_program_that_is_being_loaded_ends_quietly(program, command, module):
    assert ended(DURING.format(program=program, command=command, module=module)) == (INTERRUPTED, "")


@pytest.mark.parametrize("program", ["market", "workers"])
def test_a_program_that_was_just_loaded_ends_quietly(program):
    assert ended(BEFORE.format(program=program)) == (INTERRUPTED, "")


@pytest.fixture
def interruptible():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_interrupts_are_raised_again_afterwards():
    before = signal.getsignal(signal.SIGINT)
    with EndingQuietly():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before is signal.default_int_handler


def test_who_handles_interrupts_already_still_does():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with EndingQuietly():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_thread_that_loads_a_program_is_not_kept_from_it():
    seen = []

    def load():
        with EndingQuietly():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=load)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
