"""A worker's place at its queue: it takes message after message itself, and asks for the next one as it answers.

Celery's loop costs more a message than the work on a small one (ADR 20); it is given its turn once a second. Called by
the tasks.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from celery.worker import state

from workers.line import Command, Line

# How long a sitting waits for the next message, and how long it may last.
LINGER_SECONDS = 0.1
SITTING_SECONDS = 1.0


class Sitting:
    """From a message that Celery brought until none comes for a moment, a second has passed, or the worker stops."""

    def __init__(self, line: Line, queue: str) -> None:
        self.queue = queue
        self._line = line
        self._question: Command = ("BRPOP", queue, LINGER_SECONDS)
        self._until = time.monotonic() + SITTING_SECONDS

    def answer(self, commands: Sequence[Command]) -> list[Any]:
        """Send a message's last answers, and ask for the next message along with them; see `Line.call`."""
        return self._line.call(commands, ahead=None if self._is_over() else self._question)

    def next_message(self) -> bytes | None:
        """Return the next message, None where the sitting is over; one that was asked for is waited for in any case.

        Raises:
            RedisError | OSError: the broker does not answer.
        """
        if not self._line.awaits:
            if self._is_over():
                return None
            self._line.call((), ahead=self._question)
        found = self._line.awaited()
        return found[1] if isinstance(found, list) else None

    def _is_over(self) -> bool:
        stops = state.should_stop is not None or state.should_terminate is not None
        return stops or time.monotonic() >= self._until
