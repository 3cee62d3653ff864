"""PyPI's x402 with its sign-in extension pays for inferences, in an environment that shares nothing with this project."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.x402.shop import Shop

HERE = Path(__file__).parent
UV = Path(sys.executable).parent / "uv"
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not UV.exists(), reason="uv makes the client's own environment; `make install` installs it"),
]


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
    command = [UV, "run", "--quiet", "--no-project", "--script", HERE / "pay.py", json.dumps(asked)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=200)
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
