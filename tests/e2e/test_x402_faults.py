"""Payments by x402 while something is broken: a fault and never a 402, nobody pays twice, and nothing paid is lost."""

import asyncio
import base64
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from eth_account import Account
from x402 import x402Client
from x402.mechanisms.evm.exact import ExactEvmScheme
from x402.schemas import PaymentRequired

from contracts.protocol.hexes import checksum
from market.demo import minilm
from market.demo.network import program
from market.devnet.services import rpc

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]

PURSE = 1_000_000


def read(header):
    return json.loads(base64.b64decode(header))


class Buyer:
    """A payer with one signed payment for a credit pack, sent as often as a test likes."""

    def __init__(self, local, text):
        self.local = local
        inputs = minilm.tokenize(minilm.load_tokenizer(), [text])
        self.body = {
            "inputs": [
                {"name": name, "datatype": "INT64", "shape": list(array.shape), "data": array.flatten().tolist()}
                for name, array in inputs.items()
            ]
        }
        account = Account.create()
        self.address = bytes.fromhex(account.address[2:])
        local.chain.mint(local.wallet("deployer"), self.address, PURSE)
        asked = read(httpx.post(self.url, json=self.body).headers["payment-required"])
        client = x402Client().register(asked["accepts"][0]["network"], ExactEvmScheme(account))
        client.set_spend_controls({"allowed_assets": True})
        payment = asyncio.run(client.create_payment_payload(PaymentRequired.model_validate(asked)))
        text = payment.model_dump_json(by_alias=True, exclude_none=True)
        self.headers = {"PAYMENT-SIGNATURE": base64.b64encode(text.encode()).decode()}
        self.pack = int(payment.accepted.amount)

    @property
    def url(self):
        return f"{self.local.gateway_url}/v2/models/{minilm.NAME}/infer"

    def tokens(self):
        return self.local.chain.balance(self.address)

    def send(self):
        return httpx.post(self.url, json=self.body, headers=self.headers, timeout=90.0)

    def send_until_served(self, seconds=60):
        deadline = time.monotonic() + seconds
        answer = self.send()
        while answer.status_code in (409, 503) and time.monotonic() < deadline:
            time.sleep(1.0)
            answer = self.send()
        assert answer.status_code == 200, answer.text
        return answer


def child(local, name):
    return next(found for found in local.supervisor.children if found.name == name)


def test_a_node_that_is_away_makes_no_client_pay_twice(local):
    buyer, node = Buyer(local, "The node is away."), child(local, "chain")
    os.kill(node.pid, signal.SIGSTOP)
    try:
        away = buyer.send()
    finally:
        os.kill(node.pid, signal.SIGCONT)
    assert away.status_code == 503, away.text
    assert "payment-required" not in away.headers
    assert buyer.tokens() == PURSE
    answer = buyer.send_until_served()
    assert buyer.tokens() == PURSE - buyer.pack
    assert int(answer.headers["market-credit"]) == buyer.pack - int(answer.headers["market-charged"])


def test_a_gateway_killed_while_it_settles_gives_the_credit_when_it_is_back(local):
    buyer = Buyer(local, "The gateway is killed.")
    house = local.accounts["house"].address
    rpc(local.rpc_url, "evm_setAutomine", False)
    rpc(local.rpc_url, "evm_setIntervalMining", 0)
    try:
        with ThreadPoolExecutor(1) as pool:
            lost = pool.submit(buyer.send)
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline and not waiting(local, house):
                time.sleep(0.1)
            assert waiting(local, house), "the transaction is out"
            gateway = child(local, "gateway")
            os.killpg(gateway.pid, signal.SIGKILL)
            with pytest.raises(httpx.HTTPError):
                lost.result()
        local.supervisor.stop(gateway)
    finally:
        rpc(local.rpc_url, "evm_setAutomine", True)
        # The last word: a node that mines at once mines what comes, never what waits already.
        rpc(local.rpc_url, "evm_setIntervalMining", 1)
    port = local.gateway_url.rpartition(":")[2]
    environment = {**local.gateway_environment(), "MARKET_PORT": port}
    gateway = local.supervisor.start("gateway", program("market", "serve"), environment)
    gateway.wait_ready(lambda: answers(local), timeout_seconds=60, what="health")
    credit_url = f"{local.gateway_url}/market/v1/x402/credit/0x{buyer.address.hex()}"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and httpx.get(credit_url).json()["available"] != str(buyer.pack):
        time.sleep(0.5)
    assert httpx.get(credit_url).json()["bought"] == str(buyer.pack), "nobody had to ask for it"
    answer = buyer.send_until_served()
    assert buyer.tokens() == PURSE - buyer.pack
    assert int(answer.headers["market-credit"]) == buyer.pack - int(answer.headers["market-charged"])


def waiting(local, house):
    pending = rpc(local.rpc_url, "eth_getTransactionCount", checksum(house), "pending")
    mined = rpc(local.rpc_url, "eth_getTransactionCount", checksum(house), "latest")
    return int(pending, 16) > int(mined, 16)


def answers(local):
    try:
        return httpx.get(f"{local.gateway_url}/v2/models/{minilm.NAME}/ready").is_success
    except httpx.HTTPError:
        return False
