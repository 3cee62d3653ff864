"""The documents build into a site: no dead link, nothing fetched from other hosts, both references filled."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def site():
    spec = importlib.util.spec_from_file_location("make_site", ROOT / "docs" / "make_site.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    return maker


def test_it_builds(site):
    assert site.main() == 0
    for page, wanted in (
        ("protocol.html", ("Voucher", "settleBatch", "InferenceEscrow")),
        ("api.html", ("/v2/models/{model}/infer", "/v1/chat/completions", "/market/v1/receipts/{request_id}")),
        ("troubleshooting.html", ("no-capacity",)),
    ):
        text = (site.SITE / page).read_text(encoding="utf-8")
        for word in wanted:
            assert word in text, (page, word)


def test_a_reference_says_what_the_code_says(site):
    text = site.protocol()
    assert "| `cumulative_amount` |" in text or "| `cumulativeAmount` |" in text
    assert "#### function settleBatch" in text
