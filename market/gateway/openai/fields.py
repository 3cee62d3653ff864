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
