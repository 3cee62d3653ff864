"""Parts of a whole market die, hang, forget and run full under paying clients; no request, receipt or credit is lost.

The long form is `make chaos`.
"""

import pytest

from tests.chaos.run import run
from tests.support import postgres

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]

SEED, FAULTS = 3, 8


def test_after_random_faults_clients_books_and_chain_agree(tmp_path):
    postgres.need()
    report = run(tmp_path / "market", seed=SEED, faults=FAULTS, clients=1)
    assert report.findings.violations == []
    assert sum(report.faults.values()) == FAULTS
    # Each way to pay was used, every worker served, and audits were made.
    assert set(report.by_client) == {"voucher, plain", "window, plain", "API key, plain", "API key, chat"} | {
        "x402, channel",
        "x402, credit",
    }
    assert min(report.by_worker.values()) > 0
    assert report.findings.counts["audits passed"] > 0
    assert report.findings.counts["verified from the chain"] > 0
