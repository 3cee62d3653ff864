"""What was paid and not used comes back: credit by sign-in, a channel's rest by the stock client's own refund."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from x402.http.clients import x402HttpxClient
from x402.mechanisms.evm.batch_settlement.client import BatchSettlementEvmScheme

from market.gateway.x402.sign_in import message
from tests.clients.x402.shop import written

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def signed_in(shop, account):
    base = f"{shop.local.gateway_url}/market/v1/x402"
    challenge = httpx.get(f"{base}/sign-in").json()
    proof = challenge["info"] | {"address": account.address, "type": "eip191", "chainId": shop.network}
    signed = account.sign_message(encode_defunct(text=message(proof, account.address)))
    return {"SIGN-IN-WITH-X": written(proof | {"signature": "0x" + signed.signature.hex()})}


def credit(shop, account):
    found = httpx.get(f"{shop.local.gateway_url}/market/v1/x402/credit/{account.address}").json()
    return {name: int(found[name]) for name in ("available", "bought", "refunded")}


async def test_unused_credit_comes_back_once(shop):
    account = shop.payer()
    before = shop.balance(account)
    answer = shop.post({"PAYMENT-SIGNATURE": written(await shop.signed(account))})
    charged, left = int(answer.headers["market-charged"]), int(answer.headers["market-credit"])
    proof = signed_in(shop, account)
    url = f"{shop.local.gateway_url}/market/v1/x402/refund"
    with ThreadPoolExecutor(5) as pool:
        refunds = list(pool.map(lambda _: httpx.post(url, headers=proof, timeout=60.0), range(5)))
    assert {refund.status_code for refund in refunds} == {200}, [refund.text for refund in refunds]
    assert {(refund.json()["amount"], refund.json()["transaction"]) for refund in refunds} == {
        (str(left), refunds[0].json()["transaction"])
    }
    assert shop.balance(account) == before - charged
    assert credit(shop, account) == {"available": 0, "bought": left + charged, "refunded": left}
    again = httpx.post(url, headers=signed_in(shop, account), timeout=60.0)
    assert (again.status_code, again.json()["code"]) == (404, "nothing-to-refund")


async def test_nobody_else_can_ask_for_it(shop):
    account, other = shop.payer(), Account.create()
    assert shop.post({"PAYMENT-SIGNATURE": written(await shop.signed(account))}).status_code == 200
    base = f"{shop.local.gateway_url}/market/v1/x402"
    info = httpx.get(f"{base}/sign-in").json()["info"]
    proof = info | {"address": account.address, "type": "eip191", "chainId": shop.network}
    signed = other.sign_message(encode_defunct(text=message(proof, account.address)))
    headers = {"SIGN-IN-WITH-X": written(proof | {"signature": "0x" + signed.signature.hex()})}
    assert httpx.post(f"{base}/refund", headers=headers).status_code == 400
    assert httpx.post(f"{base}/refund").status_code == 400
    assert credit(shop, account)["refunded"] == 0


async def test_the_rest_of_a_channel_comes_back_by_the_stock_client(shop):
    account = shop.payer()
    before = shop.balance(account)
    client = shop.client(account, "batch-settlement")
    scheme = next(iter(client._schemes[shop.network].values()))
    assert isinstance(scheme, BatchSettlementEvmScheme)
    async with x402HttpxClient(client, timeout=60.0) as http:
        answers = [await http.post(shop.url, json=shop.body) for _ in range(2)]
    charged = sum(int(answer.headers["market-charged"]) for answer in answers)
    settled = scheme.refund(shop.url)
    assert settled.success
    assert shop.balance(account) == before - charged
