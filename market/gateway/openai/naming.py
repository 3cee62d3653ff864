"""Refusals by the names that a client of the OpenAI routes gave.

A worker names the tensors and parameters of its job, which no client of these routes has sent. Nothing else of a
refusal is decided here: code, status and detail stay. Called by the routes around whatever a worker is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from market.errors import InputsRefused, MarketError

# Of a graph that could not run on what it was given; a worker does not say which of it.
ALL_INPUTS = "inputs"
_REMEDY = "Correct it, or send less."


@contextmanager
def by_names_of(names: Mapping[str, str]) -> Iterator[None]:
    """Let refusals name the client's parameter; `names` gives it for a worker's tensor or `parameters.NAME`."""
    try:
        yield
    except MarketError as error:
        named = None if error.field is None else names.get(error.field)
        if named is not None:
            error.field = named
            if isinstance(error, InputsRefused) and error.remedy == error.default_remedy:
                error.remedy = _REMEDY  # the default describes tensors
        raise
