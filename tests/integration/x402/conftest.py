"""A real chain with x402's contracts, the in-process facilitator on it, and payers with test dollars."""

import pytest

from tests.support.x402_chain import running_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    with running_shop(tmp_path_factory.mktemp("x402")) as found:
        yield found
