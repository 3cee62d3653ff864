"""npm's @x402/fetch pays for inferences with both schemes, as a program that knows nothing of this market."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.clients.x402.shop import Shop

HERE = Path(__file__).parent
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def run(shop: Shop, account, scheme: str, requests: int, *, sign_in: bool = False) -> list[dict]:
    asked = {
        "url": shop.url,
        "body": shop.body,
        "key": "0x" + bytes(account.key).hex(),
        "network": shop.network,
        "asset": shop.token,
        "scheme": scheme,
        "signIn": sign_in,
        "requests": requests,
    }
    ran = subprocess.run(["node", "pay.mjs", json.dumps(asked)], cwd=HERE, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_exact_buys_a_pack_and_sign_in_spends_it(shop):
    account = shop.payer()
    before = shop.balance(account)
    answers = run(shop, account, "exact", 3, sign_in=True)
    assert [answer["status"] for answer in answers] == [200, 200, 200], answers
    assert answers[0]["settled"]["success"] is True
    assert [answer["settled"] for answer in answers[1:]] == [None, None]
    assert shop.balance(account) == before - int(answers[0]["settled"]["amount"])
    assert len({answer["receipt"] for answer in answers}) == 3


def test_batch_settlement_deposits_once(shop):
    account = shop.payer()
    before = shop.balance(account)
    answers = run(shop, account, "batch-settlement", 3)
    assert [answer["status"] for answer in answers] == [200, 200, 200], answers
    assert shop.balance(account) == before - int(shop.asked().accepts[0].extra["minDeposit"])
    assert len({answer["receipt"] for answer in answers}) == 3
