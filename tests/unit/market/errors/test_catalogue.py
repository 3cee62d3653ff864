"""Every error class has a code of its own, a status, a retry and a line in docs/errors.md."""

import importlib
import pkgutil
from collections import Counter
from pathlib import Path

import pytest

import contracts
import market
from contracts.protocol.errors import CodedError, Retry
from market.gateway.problems import STATUS, all_errors, status_of, title_of

DOCS = Path(__file__).parents[4] / "docs" / "errors.md"
SKIPPED = ("node_modules", "migrations", "__main__", "toolchain")


def catalogue() -> list[type[CodedError]]:
    for package in (contracts, market):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not any(part in module.name for part in SKIPPED):
                importlib.import_module(module.name)
    return sorted((e for e in all_errors() if e.__module__.startswith(("contracts", "market"))), key=lambda e: e.code)


ERRORS = catalogue()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
def test_every_error_has_code_status_retry_and_title(error: type[CodedError]):
    assert "code" in vars(error), "a code of its own, not its base's"
    assert error.code == error.code.lower()
    assert " " not in error.code
    assert 400 <= status_of(error) < 600
    assert isinstance(error.retry, Retry)
    assert title_of(error)


def test_no_two_errors_share_a_code():
    assert [code for code, count in Counter(error.code for error in ERRORS).items() if count > 1] == []


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
def test_every_code_is_documented(error: type[CodedError]):
    assert f"| `{error.code}` |" in DOCS.read_text()


def test_no_fault_of_ours_asks_for_payment():
    assert all(
        issubclass(error, importlib.import_module("market.errors").PaymentError)
        for error, status in STATUS.items()
        if status == 402
    )
