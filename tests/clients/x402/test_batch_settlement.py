"""The `batch-settlement` scheme with a stock Python client: one deposit, then a voucher a request."""

import asyncio

import httpx
import pytest
from x402.http.clients import x402HttpxClient

from tests.clients.x402.shop import read, receipt_of, written

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


async def test_one_deposit_pays_many_requests(shop):
    account = shop.payer()
    before = shop.balance(account)
    asked = shop.asked().accepts[0]
    price, deposit = int(asked.amount), int(asked.extra["minDeposit"])
    assert deposit == 1_000 * price
    async with x402HttpxClient(shop.client(account, "batch-settlement"), timeout=60.0) as http:
        answers = [await http.post(shop.url, json=shop.body) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 200], answers[-1].text
    assert shop.balance(account) == before - deposit
    states = [read(answer.headers["payment-response"])["extra"]["channelState"] for answer in answers]
    assert [int(state["chargedCumulativeAmount"]) for state in states] == [price, 2 * price, 3 * price]
    assert {int(state["balance"]) for state in states} == {deposit}
    assert all(receipt_of(answer.headers["market-receipt"]).price == price for answer in answers)


async def test_a_client_without_memory_finds_its_channel_again(shop):
    account = shop.payer()
    before = shop.balance(account)
    deposit = int(shop.asked().accepts[0].extra["minDeposit"])
    for _ in range(2):  # a fresh client each time: nothing is remembered but the key
        async with x402HttpxClient(shop.client(account, "batch-settlement"), timeout=60.0) as http:
            answer = await http.post(shop.url, json=shop.body)
        assert answer.status_code == 200, answer.text
    assert before - shop.balance(account) in (deposit, 2 * deposit)


async def test_one_voucher_in_parallel_is_one_request(shop):
    account = shop.payer()
    payment = await shop.signed(account, "batch-settlement")
    headers = {"PAYMENT-SIGNATURE": written(payment)}
    async with httpx.AsyncClient(timeout=60.0) as http:
        answers = await asyncio.gather(*(http.post(shop.url, json=shop.body, headers=headers) for _ in range(8)))
    served = [answer for answer in answers if answer.status_code == 200]
    assert served, [answer.text for answer in answers]
    assert len({answer.headers["market-receipt"] for answer in served}) == 1
    assert {answer.status_code for answer in answers} <= {200, 409}


async def test_a_voucher_that_a_contract_could_revoke_is_refused(shop):
    account = shop.payer()
    payment = await shop.signed(account, "batch-settlement")
    payment["payload"]["channelConfig"]["payerAuthorizer"] = "0x" + "00" * 20
    before = shop.balance(account)
    refused = shop.post({"PAYMENT-SIGNATURE": written(payment)})
    assert (refused.status_code, refused.json()["code"]) == (402, "payment-rejected")
    assert shop.balance(account) == before
