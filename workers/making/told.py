"""What the process that made a model says of it, read as a stranger's word: types, sizes and finite numbers only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.errors import ModelUnusable
from workers.models.converting import PRECISIONS, Converted
from workers.models.quantizing import Difference
from workers.models.sources import TASKS
from workers.models.wire import printable

MOST_OUTPUTS = 256


@dataclass(frozen=True, slots=True)
class Quantised:
    """Milliseconds of a run before and after, how many samples were compared, and how far each output moved."""

    before_ms: float
    after_ms: float
    samples: int
    differences: tuple[Difference, ...]


def read_converted(said: Mapping[str, Any]) -> Converted:
    """Read what was converted; its folder is for whoever asked to say.

    Raises:
        ModelUnusable: it says something else.
    """
    match said:
        case {"task": str() as task, "architecture": str() as name, "precision": str() as precision, "apart": apart}:
            if task in TASKS and precision in PRECISIONS:
                return Converted(Path(), task, printable(name), precision, None if apart is None else _number(apart))
    raise unreadable()


def read_quantised(said: Mapping[str, Any]) -> Quantised:
    """Read what was quantised.

    Raises:
        ModelUnusable: it says something else.
    """
    match said:
        case {"run_ms": [before, after], "samples": int() as samples, "differences": [_, *_] as rows}:
            if len(rows) <= MOST_OUTPUTS and _number(before) > 0 and _number(after) > 0:
                return Quantised(before, after, samples, tuple(map(_difference, rows)))
    raise unreadable()


def _difference(row: Any) -> Difference:
    match row:
        case {"output": str() as output, "relative": relative, "cosine": cosine, "largest": largest}:
            return Difference(printable(output), _number(relative), _number(cosine), _number(largest))
    raise unreadable()


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise unreadable()
    return float(value)


def ended(detail: str) -> ModelUnusable:
    """Return the refusal of what the process came to, or what it said."""
    return ModelUnusable(f"the process that reads it ended: {detail}", field="path")


def unreadable() -> ModelUnusable:
    """Return the refusal of what makes no sense."""
    return ended("it did not say what it made.")
