"""Every error class has a code of its own, a status, a retry and a line in docs/errors.md."""

from collections import Counter
from pathlib import Path

import pytest

from contracts.protocol.errors import CodedError, Retry
from market.commands.error_table import catalogue, table
from market.errors import PaymentError
from market.gateway.problems import STATUS, status_of, title_of

ROOT = Path(__file__).parents[4]
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


def test_the_documented_table_is_the_classes():
    assert (ROOT / "docs" / "errors.md").read_text() == table(), "run python -m market.commands.error_table"


def test_no_fault_of_ours_asks_for_payment():
    assert all(issubclass(error, PaymentError) for error, status in STATUS.items() if status == 402)
