"""A payment by x402 while the chain's node is away: a fault and never a 402, and the same payment serves afterwards."""

import asyncio
import base64
import json
import os
import signal
import time

import httpx
import pytest
from eth_account import Account
from x402 import x402Client
from x402.mechanisms.evm.exact import ExactEvmScheme
from x402.schemas import PaymentRequired

from market.demo import minilm

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]

PURSE = 1_000_000


def read(header):
    return json.loads(base64.b64decode(header))


def test_a_node_that_is_away_makes_no_client_pay_twice(local):
    url = f"{local.gateway_url}/v2/models/{minilm.NAME}/infer"
    inputs = minilm.tokenize(minilm.load_tokenizer(), ["The node is away."])
    body = {
        "inputs": [
            {"name": name, "datatype": "INT64", "shape": list(array.shape), "data": array.flatten().tolist()}
            for name, array in inputs.items()
        ]
    }
    account = Account.create()
    payer = bytes.fromhex(account.address[2:])
    local.chain.mint(local.wallet("deployer"), payer, PURSE)
    asked = read(httpx.post(url, json=body).headers["payment-required"])
    client = x402Client().register(asked["accepts"][0]["network"], ExactEvmScheme(account))
    client.set_spend_controls({"allowed_assets": True})
    payment = asyncio.run(client.create_payment_payload(PaymentRequired.model_validate(asked)))
    text = payment.model_dump_json(by_alias=True, exclude_none=True)
    headers = {"PAYMENT-SIGNATURE": base64.b64encode(text.encode()).decode()}
    pack = int(payment.accepted.amount)

    node = next(child for child in local.supervisor.children if child.name == "chain")
    os.kill(node.pid, signal.SIGSTOP)
    try:
        away = httpx.post(url, json=body, headers=headers, timeout=60.0)
    finally:
        os.kill(node.pid, signal.SIGCONT)
    assert away.status_code == 503, away.text
    assert "payment-required" not in away.headers
    assert local.chain.balance(payer) == PURSE

    deadline = time.monotonic() + 60
    answer = httpx.post(url, json=body, headers=headers, timeout=60.0)
    while answer.status_code in (409, 503) and time.monotonic() < deadline:
        time.sleep(1.0)
        answer = httpx.post(url, json=body, headers=headers, timeout=60.0)
    assert answer.status_code == 200, answer.text
    assert local.chain.balance(payer) == PURSE - pack
    assert int(answer.headers["market-credit"]) == pack - int(answer.headers["market-charged"])
