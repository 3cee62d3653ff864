"""How large a request's inputs are, and which sizes took too long of late: those are not computed in vain again.

Otherwise anybody could keep a worker from its clients for nothing, by requests that nobody answers in time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from contracts.protocol.tensors import Tensor, unpack_bytes
from workers.errors import OutOfTime

FIRST_HOLD_SECONDS = 60.0
LONGEST_HOLD_SECONDS = 3_600.0
# What was ended by its deadline would have taken longer, nobody knows how much.
_AT_LEAST = 1.25
_KEPT = 16


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes of all input tensors, and their longest axis or text: one long row may take longer than many short ones."""

    data: int = 0
    longest: int = 0

    @classmethod
    def of(cls, requests: Iterable[Sequence[Tensor]]) -> Size:
        """Measure what ran together."""
        data = longest = 0
        for tensors in requests:
            data += sum(len(tensor.data) for tensor in tensors)
            for tensor in tensors:
                lengths = map(len, unpack_bytes(tensor.data, tensor.name)) if tensor.datatype == "BYTES" else ()
                longest = max(longest, *tensor.shape, *lengths, 0)
        return cls(data, longest)

    def is_within(self, other: Size) -> bool:
        """Tell whether the other is at least as large in both."""
        return self.data <= other.data and self.longest <= other.longest

    def with_other(self, other: Size) -> Size:
        """Return the larger of each."""
        return Size(max(self.data, other.data), max(self.longest, other.longest))


@dataclass(frozen=True, slots=True)
class _Slow:
    """What took longer than `seconds`; not tried again before `until`, of a monotonic clock."""

    size: Size
    seconds: float
    until: float
    hold: float


class SlowSizes:
    """What took too long of one model; tried again after a minute, then after twice as long each time up to an hour."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: list[_Slow] = []

    def __bool__(self) -> bool:
        """Tell whether anything did."""
        return bool(self._known)

    def check(self, size: Size, seconds_left: float) -> None:
        """Refuse what will not be ready in time.

        Raises:
            OutOfTime: inputs that are no larger took longer than is left.
        """
        now = self._clock()
        for one in self._known:
            if now < one.until and one.size.is_within(size) and seconds_left < _AT_LEAST * one.seconds:
                took = f"inputs no larger than these took more than {one.seconds:.1f} s here"
                raise OutOfTime(f"{took}, {seconds_left:.1f} s are left.")

    def late(self, size: Size, seconds: float) -> None:
        """Note that inputs ran for so long and were not ready."""
        before = [one.hold for one in self._known if one.size.is_within(size) or size.is_within(one.size)]
        hold = min(LONGEST_HOLD_SECONDS, 2 * max(before)) if before else FIRST_HOLD_SECONDS
        kept = [one for one in self._known if not (size.is_within(one.size) and one.seconds <= seconds)]
        self._known = [*kept, _Slow(size, seconds, self._clock() + hold, hold)][-_KEPT:]

    def ready(self, size: Size, seconds: float) -> None:
        """Note that inputs were ready after so long: what is known of smaller ones and says otherwise is forgotten."""
        self._known = [one for one in self._known if not (one.size.is_within(size) and one.seconds >= seconds)]
