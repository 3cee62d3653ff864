"""Reading the members of a request's JSON object: types and bounds, what is not offered, what nobody knows.

Decides that a parameter which would change the answer is refused where it is not offered, and that one which would not
is let pass. Called by the parsers of the OpenAI routes.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from market.errors import InvalidRequest
from market.gateway.tensors_check import shorten
from market.gateway.tensors_json import parse_json

# A worker's grammars take no deeper schema, and what writes an answer that repeats one gives up at twice this.
MAX_NESTING = 128
# What says nothing about the answer itself; taken and not used.
WITHOUT_EFFECT = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)


def parse_body(body: bytes) -> dict[str, Any]:
    """Parse a body as one JSON object that can be written again.

    Raises:
        InvalidRequest: not JSON, not an object, or nested too deep.
    """
    found = parse_json(body)
    # Few bodies have so many brackets at all.
    if body.count(b"[") + body.count(b"{") > MAX_NESTING and is_deep(found, MAX_NESTING):
        raise InvalidRequest(f"the body is nested deeper than {MAX_NESTING}.", field="body")
    return found


def is_deep(value: Any, most: int) -> bool:
    """Tell whether lists and objects are nested deeper than `most`."""
    level = [value]
    for _ in range(most + 1):
        level = [
            inner
            for one in level
            if isinstance(one, (dict, list))
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return False
    return True


def check_names(body: Mapping[str, Any], known: frozenset[str], not_offered: Mapping[str, tuple[object, ...]]) -> None:
    """Refuse parameters that are unknown, or that ask for what is not offered; `not_offered` names harmless values.

    Raises:
        InvalidRequest: names the parameter.
    """
    for name, value in body.items():
        if name in known or name in WITHOUT_EFFECT or value is None:
            continue
        if name not in not_offered:
            near = difflib.get_close_matches(name[:80], known, 1)
            remedy = f"Did you mean {near[0]}?" if near else "Leave it out."
            raise InvalidRequest("there is no such parameter here.", field=name[:80], remedy=remedy)
        # True equals 1 in Python, not in JSON.
        if not any(type(value) is type(harmless) and value == harmless for harmless in not_offered[name]):
            raise InvalidRequest(f"{shown(value)} is not offered here.", field=name, remedy="Leave it out.")


def shown(value: object) -> str:
    """Write a caller's value into a message as JSON calls it, at most 80 characters of it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    return shorten(value)


def text(body: Mapping[str, Any], name: str) -> str:
    """Return a text that must be there.

    Raises:
        InvalidRequest: it is not.
    """
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"expected a text, got {shown(value)}.", field=name)
    return value


def truth(body: Mapping[str, Any], name: str) -> bool:
    """Return true or false, false if it is not there.

    Raises:
        InvalidRequest: it is something else.
    """
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest(f"expected true or false, got {shown(value)}.", field=name)
    return bool(value)


def whole(body: Mapping[str, Any], name: str, low: int, high: int) -> int | None:
    """Return a whole number within bounds, None if it is not there.

    Raises:
        InvalidRequest: it is something else.
    """
    value = body.get(name)
    if value is not None and (type(value) is not int or not low <= value <= high):
        raise InvalidRequest(f"expected a whole number from {low} to {high}, got {shown(value)}.", field=name)
    return value


def real(body: Mapping[str, Any], name: str, low: float, high: float) -> float | None:
    """Return a number within bounds, None if it is not there.

    Raises:
        InvalidRequest: it is something else.
    """
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise InvalidRequest(f"expected a number from {low:g} to {high:g}, got {shown(value)}.", field=name)
    return float(value)
