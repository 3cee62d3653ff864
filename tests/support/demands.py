"""What tests need of the machine: missing it they skip, and fail where it is demanded, as `.ci/run` does."""

import os

import pytest

from workers.models.sandbox import find_bubblewrap


def lacking(what: str, variable: str) -> BaseException:
    """Return what ends a test that cannot run here, to be raised."""
    if os.environ.get(variable):
        return pytest.fail.Exception(f"{what} ({variable} is set)")
    return pytest.skip.Exception(what)


def sandbox() -> str:
    """Return bubblewrap's path where it works."""
    found = find_bubblewrap()
    if found.program is None:
        raise lacking(found.fault, "REQUIRE_SANDBOX")
    return found.program
