"""The Celery workers behind a link, as child processes that end with the node and are started again when they die.

A worker that cannot start as configured ends the node, with the reason it printed; one that dies otherwise is started
again, ever more slowly. Called by `workers.link.node`.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress

import structlog

from workers.errors import StartError

EXIT_UNUSABLE = 2
FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 30.0
HEALTHY_SECONDS = 60.0
STOP_SECONDS = 40.0
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

log = structlog.get_logger(__name__)


def die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent dies; runs in a child between fork and exec."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class WorkerProcess:
    """One `worker run` in the own lane of the node's broker."""

    def __init__(self, number: int, env_file: str | None, environment: Mapping[str, str], metrics_file: str) -> None:
        self._number = number
        self._arguments = ["--plain", "--behind-link", "--metrics-file", metrics_file]
        self._arguments += [] if env_file is None else ["--env-file", env_file]
        self._environment = {**os.environ, **environment}
        self._environment.pop("WORKER_GATEWAY_URL", None)
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False

    async def run(self) -> None:
        """Keep it running until `stop`.

        Raises:
            StartError: it refuses to start.
        """
        delay, loop = FIRST_DELAY_SECONDS, asyncio.get_running_loop()
        while not self._stopping:
            started = loop.time()
            code = await self._once()
            if self._stopping:
                return
            if code == EXIT_UNUSABLE:
                raise StartError("a worker of this node cannot start; the lines above say why.", field="worker")
            if loop.time() - started > HEALTHY_SECONDS:
                delay = FIRST_DELAY_SECONDS
            log.warning("worker-died", number=self._number, status=code, again_in_seconds=delay)
            await asyncio.sleep(delay)
            delay = min(2 * delay, LONGEST_DELAY_SECONDS)

    async def _once(self) -> int:
        program = (sys.executable, "-c", "from workers.cli import main; main()", "run", *self._arguments)
        self._process = await asyncio.create_subprocess_exec(
            *program,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the node, which ends its workers when their jobs are done
            preexec_fn=die_with_parent,
        )
        return await self._process.wait()

    async def stop(self) -> None:
        """Let it finish what it has in hand, then end it."""
        self._stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
