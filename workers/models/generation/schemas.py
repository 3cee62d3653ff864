"""What a client's JSON schema costs before the first token is drawn: its grammar is made while everybody else waits.

The runtime bounds the grammar's size, but only once it was written down: a schema of 70 bytes that asks for a billion
items takes all memory first. Pure.
"""

from __future__ import annotations

import json
import math
from fractions import Fraction
from typing import Any

from workers.errors import InputsRefused

FIELD = "parameters.json_schema"
MAX_SCHEMA_BYTES = 1 << 16
# Of either of two measures: a third of a second at most, and 55 MB (llguidance in onnxruntime-genai 0.18, 2026-11-28).
MAX_SCHEMA_WORK = 20_000
# Of objects' names: each of `properties` is held against each other one, each of `patternProperties` against each two.
MAX_NAMES_WORK = 3_000_000
_COUNTS = frozenset({"minItems", "maxItems"})
_NAMES = ("properties", "patternProperties")
_BRANCHES = ("$ref", "anyOf", "oneOf")
# They say nothing about what a text may be.
_REMARKS = frozenset(
    {"$comment", "$defs", "$id", "$schema", "default", "definitions", "deprecated", "description", "examples", "title"}
)


def read_schema(value: Any, weight: Weight) -> str | None:
    """Return a schema's JSON as it came, None if there is none; adds to what it weighs.

    Raises:
        InputsRefused: no JSON of an object, too long, or too much work.
    """
    if value is None:
        return None
    try:
        fits = (
            isinstance(value, str)
            and len(value.encode()) <= MAX_SCHEMA_BYTES
            and isinstance(json.loads(value, object_pairs_hook=weight.add), dict)
        )
    except (ValueError, OverflowError, RecursionError):
        fits = False
    if not fits:
        raise InputsRefused(
            f"expected the JSON of a schema, an object of at most {MAX_SCHEMA_BYTES} bytes.", field=FIELD
        )
    weight.check(FIELD)
    return str(value)


class Weight:
    """Adds up what makes a grammar large, object by object as they stand in the JSON, a name given twice included."""

    def __init__(self) -> None:
        self._items = 0
        self._merged = 0
        self._names = 0
        self._numerator, self._denominator = 1, 1

    def add(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """Count an object and return it."""
        constraints = sum(name not in _REMARKS for name, _ in pairs)
        for name, value in pairs:
            if name in _BRANCHES:
                # What else is said beside is written down anew for each.
                self._merged += _count(value) if constraints > 1 else 0
            elif name == "allOf" and isinstance(value, list):
                members = [one for one in value if isinstance(one, dict)]
                self._merged += sum(_count(one[branch]) for one in members for branch in _BRANCHES if branch in one)
                self._names += _names_work([one.get(kind) for one in members for kind in _NAMES])
            elif name in _NAMES:
                self._names += _names_work([value], 3 if name == "patternProperties" else 2)
            elif type(value) not in (int, float) or value <= 0:
                continue
            elif name in _COUNTS:
                self._items += math.ceil(value)
            elif name == "multipleOf":
                # Of several in one place, each remainder of the least number that all divide is a state.
                step = Fraction(repr(value))
                self._numerator = math.lcm(self._numerator, step.numerator)
                self._denominator = math.lcm(self._denominator, step.denominator)
        return dict(pairs)

    def weigh(self, schema: dict[str, Any]) -> None:
        """Count a schema, which is JSON that was read before."""
        json.loads(json.dumps(schema), object_pairs_hook=self.add)

    def check(self, field: str) -> None:
        """Hold the sums against the limit.

        Raises:
            InputsRefused: names what there is too much of.
        """
        # Twice, since what was merged may be merged again.
        if self._items * (1 + self._merged) ** 2 > MAX_SCHEMA_WORK:
            raise InputsRefused(
                f"minItems and maxItems add up to too many items: at most {MAX_SCHEMA_WORK}, fewer where $ref, anyOf "
                "or allOf merge what holds them.",
                field=field,
                remedy="Leave maxItems out, or make it smaller: max_tokens bounds a list too.",
            )
        if self._names * (1 + self._merged) > MAX_NAMES_WORK:
            raise InputsRefused(
                "objects with too many properties, or patternProperties: some 1,700 of the one or 140 of the other, "
                "fewer where $ref, anyOf or allOf merge what holds them.",
                field=field,
                remedy="Describe fewer of them.",
            )
        if self._numerator * self._denominator > MAX_SCHEMA_WORK:
            raise InputsRefused(
                f"multipleOf of more than {MAX_SCHEMA_WORK} steps, all of them together.",
                field=field,
                remedy="Leave multipleOf out, or make it smaller.",
            )


def _names_work(values: list[Any], power: int = 2) -> int:
    return int(sum(len(value) for value in values if isinstance(value, dict)) ** power)


def _count(value: Any) -> int:
    return len(value) if isinstance(value, list) else 1
