"""Child processes that never outlive their parent.

Decides how a child is started (own process group, output to a log file, SIGTERM when the parent dies), how its
readiness is awaited and how it is ended. It never kills by name and never touches a process it did not start.
Called by `market.devnet` and the end-to-end tests.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from market.errors import ConfigurationError, OperationError

# Below those that Linux gives to connections: one of them may be taken again before the program listens that it is for.
_PORTS = range(20_000, 32_000)
_TRIES = 200
_PR_SET_PDEATHSIG = 1
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class ProcessFailed(OperationError):
    """A program of the local network did not start or stopped by itself."""

    code = "process-failed"
    default_remedy = "The lines above are the end of its log."


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that was free a moment ago."""
    for port in secrets.SystemRandom().sample(_PORTS, _TRIES):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found


def require_free(port: int) -> None:
    """Return if a program could listen at a TCP port of 127.0.0.1 now.

    Raises:
        ConfigurationError: another does.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on 127.0.0.1:{port}: {error.strerror}.",
                field="port",
                remedy="Stop the program that has the port, or name another with `--port`.",
            ) from error


def _die_with(parent: int) -> None:
    """Ask the kernel for SIGTERM when the parent dies; runs in the child between fork and exec."""
    # The parent holds signals back while it forks; a child must not inherit that.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPTS)
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent died before the request was made
            os._exit(1)


class Child:
    """One started program, its log file and its process group."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process
        self._asked = False

    @classmethod
    def start(cls, name: str, command: Sequence[str], *, log: Path, environment: Mapping[str, str], cwd: Path) -> Self:
        """Start `command` in its own process group.

        Raises:
            ProcessFailed: the program cannot be executed.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        parent = os.getpid()
        # An interrupt in one of Python's own hooks around a fork would be printed and lost.
        with log.open("ab") as sink, _signals_held():
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    env=dict(environment),
                    cwd=cwd,
                    start_new_session=True,
                    preexec_fn=lambda: _die_with(parent),  # noqa: PLW1509 - started before any thread is
                )
            except OSError as error:
                raise ProcessFailed(f"{name} cannot be started: {error.strerror} ({command[0]}).") from error
        return cls(name, process, log)

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._process.poll()

    def log_tail(self, lines: int = 15) -> str:
        """Return the last lines it wrote."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def wait_ready(self, probe: Callable[[], bool], *, timeout_seconds: float, what: str) -> None:
        """Poll `probe` until it is true.

        Raises:
            ProcessFailed: the child ended, or `timeout_seconds` passed.
        """
        deadline_at = time.monotonic() + timeout_seconds
        while True:
            check_interrupt()
            if self.exit_code is not None:
                raise ProcessFailed(f"{self.name} ended with status {self.exit_code}.\n{self.log_tail()}\n")
            if probe():
                return
            if time.monotonic() > deadline_at:
                raise ProcessFailed(f"{self.name}: {what} not seen in {timeout_seconds:.0f} s.\n{self.log_tail()}\n")
            time.sleep(0.05)

    def ask_to_stop(self) -> None:
        """Ask the process to end, once; a second request could mean that it shall not end in order."""
        if not self._asked and self._process.poll() is None:
            self._asked = True
            self._process.terminate()

    def stop(self, *, grace_seconds: float = 8.0) -> None:
        """Ask the process to end, then end its whole group; returns when it is gone."""
        if self._process.poll() is None:
            self.ask_to_stop()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_seconds)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Supervisor:
    """Starts children and stops them all: programs together, and then the services they stand on."""

    def __init__(self, log_dir: Path, cwd: Path) -> None:
        self._log_dir = log_dir
        self._cwd = cwd
        self.children: list[Child] = []
        self._services: set[Child] = set()

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        is_service: bool = False,
    ) -> Child:
        """Start a program with this process's environment plus `environment`; services end after all others."""
        child = Child.start(
            name,
            command,
            log=self._log_dir / f"{name}.log",
            environment={**os.environ, **(environment or {})},
            cwd=self._cwd,
        )
        self.children.append(child)
        if is_service:
            self._services.add(child)
        return child

    def first_ended(self) -> Child | None:
        """Return a child that ended by itself, if any."""
        return next((child for child in self.children if child.exit_code is not None), None)

    def stop(self, child: Child) -> None:
        """Stop one child and forget it."""
        child.stop()
        self.children.remove(child)

    def stop_all(self) -> None:
        """Stop every child; a second interrupt does not leave any behind."""
        with _signals_held():
            for child in self.children:
                if child not in self._services:
                    child.ask_to_stop()
            self.children.sort(key=lambda child: child not in self._services)
            while self.children:
                self.children.pop().stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_all()


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Hold interrupts back during the body; they are delivered after it."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


_interrupts: list[float] = []


def check_interrupt() -> None:
    """Raise KeyboardInterrupt if a signal came and its exception was lost; long waits and steps call this."""
    if _interrupts:
        raise KeyboardInterrupt


@contextlib.contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Turn SIGINT, SIGTERM and SIGHUP into KeyboardInterrupt during the body, so that `finally` blocks run.

    SIGINT too: a shell starts background programs with it ignored.
    """

    def raise_interrupt(*_: object) -> None:
        # Raised where a finalizer happens to run, the exception is lost: remembered, it is raised again.
        _interrupts.append(time.monotonic())
        raise KeyboardInterrupt

    def lost(unraisable: sys.UnraisableHookArgs) -> None:
        if unraisable.exc_type is not KeyboardInterrupt:
            print_lost(unraisable)

    _interrupts.clear()
    print_lost, sys.unraisablehook = sys.unraisablehook, lost
    previous = {number: signal.signal(number, raise_interrupt) for number in _INTERRUPTS}
    try:
        yield
    finally:
        _interrupts.clear()
        sys.unraisablehook = print_lost
        for number, handler in previous.items():
            signal.signal(number, handler)
