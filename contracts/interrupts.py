"""Ctrl-C while a program is being loaded: it ends at once, without the trace of what it was just importing.

For the first lines of `market` and `worker`, so it imports only what takes no time. Later typer and the programs' own
handlers know what is to be put down first.
"""

from __future__ import annotations

import os
import signal

INTERRUPTED = 128 + signal.SIGINT


class EndingQuietly:
    """While it is entered an interrupt ends this process with status 130, unless somebody handles them already."""

    def __init__(self) -> None:
        self._entered = False

    def __enter__(self) -> None:
        """Take interrupts, in the main thread and if nobody else does: a shell may have them ignored."""
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            try:
                signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
            except ValueError:  # not the main thread, where no interrupt is raised
                return
            self._entered = True

    def __exit__(self, *_: object) -> None:
        """Let them be raised again."""
        if self._entered:
            signal.signal(signal.SIGINT, signal.default_int_handler)
