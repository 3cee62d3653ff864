"""The `exact` scheme with a stock Python client: a credit pack, then sign-in; and everything that must be refused."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from x402.http.clients import x402HttpxClient
from x402.http.utils import decode_payment_response_header
from x402conf.harness import check_402, run_resource

from market.gateway.x402.sign_in import message
from tests.clients.x402.shop import Shop, read, receipt_of, written

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


async def pay(shop: Shop, account, scheme: str = "exact") -> httpx.Response:
    async with x402HttpxClient(shop.client(account, scheme), timeout=60.0) as http:
        return await http.post(shop.url, json=shop.body)


def transfers(shop: Shop, account) -> int:
    """Count the authorizations that the token has seen used by a payer."""
    chain = shop.local.chain
    topic = "0x" + chain._web3.keccak(text="AuthorizationUsed(address,bytes32)").hex().removeprefix("0x")
    payer = "0x" + account.address[2:].lower().rjust(64, "0")
    filters = {"fromBlock": 0, "address": shop.token, "topics": [topic, payer]}
    return len(chain._web3.eth.get_logs(filters))


def sign_in(shop: Shop, account) -> dict[str, str]:
    """Sign the challenge of a fresh 402 as the extension's clients do."""
    challenge = shop.asked().extensions["sign-in-with-x"]
    proof = challenge["info"] | {"address": account.address, "type": "eip191", "chainId": shop.network}
    proof["signature"] = (
        "0x" + account.sign_message(encode_defunct(text=message(proof, account.address))).signature.hex()
    )
    return {"SIGN-IN-WITH-X": written(proof)}


def test_the_402_passes_the_conformance_checks(shop):
    refused = shop.post()
    found = {"status": refused.status_code, "headers": dict(refused.headers), "body": refused.content}
    assert [check for check in check_402(found) if not check["pass"]] == []
    assert refused.json()["code"] == "payment-required"
    assert [offer.scheme for offer in shop.asked().accepts] == ["batch-settlement", "exact"]
    assert {"sign-in-with-x", "bazaar"} <= shop.asked().extensions.keys()


def test_an_unpaid_get_of_the_endpoint_passes_the_conformance_checks(shop):
    report = run_resource(shop.url)
    assert [check for check in report["checks"] if not check["pass"]] == []


async def test_a_pack_pays_and_sign_in_uses_it_up(shop, reference):
    account = shop.payer()
    before = shop.balance(account)
    answer = await pay(shop, account)
    assert answer.status_code == 200, answer.text
    settled = decode_payment_response_header(answer.headers["payment-response"])
    assert settled.success
    assert settled.payer == account.address
    assert shop.local.chain._web3.eth.get_transaction_receipt(settled.transaction)["status"] == 1
    pack = int(settled.amount)
    assert shop.balance(account) == before - pack
    charged = int(answer.headers["market-charged"])
    receipt = receipt_of(answer.headers["market-receipt"])
    assert receipt.price == charged
    assert int(answer.headers["market-credit"]) == pack - charged
    np.testing.assert_allclose(np.array(answer.json()["outputs"][0]["data"]), reference.flatten(), atol=1e-5)

    again = shop.post(sign_in(shop, account))
    assert again.status_code == 200, again.text
    assert int(again.headers["market-credit"]) == pack - 2 * charged
    assert shop.balance(account) == before - pack


def test_without_credit_sign_in_asks_for_a_pack(shop):
    refused = shop.post(sign_in(shop, shop.payer(0)))
    assert refused.status_code == 402
    assert refused.json()["code"] == "credit-spent"
    assert "payment-required" in refused.headers


async def test_one_sign_in_is_one_request(shop):
    account = shop.payer()
    assert (await pay(shop, account)).status_code == 200
    headers = sign_in(shop, account)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: shop.post(headers), range(8)))
    assert {answer.status_code for answer in answers} <= {200, 409}
    served = [answer for answer in answers if answer.status_code == 200]
    assert len({answer.headers["market-receipt"] for answer in served}) == 1
    charged = int(served[0].headers["market-charged"])
    last = shop.post(sign_in(shop, account))
    pack = int(shop.asked().accepts[1].amount)
    assert int(last.headers["market-credit"]) == pack - 3 * charged


async def test_one_authorization_sent_twenty_times_is_one_transaction_and_one_job(shop):
    account = shop.payer()
    before = shop.balance(account)
    payment = await shop.signed(account)
    pack = int(payment["accepted"]["amount"])
    async with httpx.AsyncClient(timeout=60.0) as http:
        headers = {"PAYMENT-SIGNATURE": written(payment)}
        answers = await asyncio.gather(*(http.post(shop.url, json=shop.body, headers=headers) for _ in range(20)))
    by_status = {answer.status_code: answer for answer in answers}
    assert set(by_status) <= {200, 409}, {status: answer.text for status, answer in by_status.items()}
    assert 200 in by_status
    assert len({answer.headers["market-receipt"] for answer in answers if answer.status_code == 200}) == 1
    assert transfers(shop, account) == 1
    assert shop.balance(account) == before - pack
    later = shop.post(headers)
    assert later.status_code == 200
    assert later.headers["market-receipt"] == by_status[200].headers["market-receipt"]
    charged = int(later.headers["market-charged"])
    assert int(later.headers["market-credit"]) == pack - charged


async def test_the_same_authorization_buys_no_other_inputs(shop):
    account = shop.payer()
    headers = {"PAYMENT-SIGNATURE": written(await shop.signed(account))}
    assert shop.post(headers).status_code == 200
    other = {"inputs": [{**tensor, "data": [1] * len(tensor["data"])} for tensor in shop.body["inputs"]]}
    refused = shop.post(headers, other)
    assert (refused.status_code, refused.json()["code"]) == (409, "request-id-reused")


async def test_version_1_names_are_taken(shop):
    account = shop.payer()
    payment = await shop.signed(account)
    v1 = {"x402Version": 1, "scheme": "exact", "network": shop.network, "payload": payment["payload"]}
    answer = shop.post({"X-PAYMENT": written(v1)})
    assert answer.status_code == 200, answer.text
    assert read(answer.headers["x-payment-response"])["success"] is True


def altered(payment: dict, **changes: str) -> dict:
    inner = payment["payload"]
    return payment | {"payload": inner | {"authorization": inner["authorization"] | changes}}


async def resigned(shop: Shop, account, **changes) -> dict:
    """Sign for something else than what was asked."""
    client = shop.client(account, "exact")
    asked = shop.asked()
    asked.accepts[:] = [offer.model_copy(update=changes) for offer in asked.accepts if offer.scheme == "exact"]
    payload = await client.create_payment_payload(asked)
    payment = payload.model_dump(by_alias=True, exclude_none=True, mode="json")
    payment["accepted"] = next(
        o for o in read(shop.post().headers["payment-required"])["accepts"] if o["scheme"] == "exact"
    )
    return payment


@pytest.mark.parametrize(
    "kind",
    ["amount", "recipient", "expired", "not-yet", "signature", "network", "scheme", "poor", "not-base64", "used"],
)
async def test_a_bad_authorization_is_refused_and_moves_nothing(shop, kind):
    account = shop.payer(0 if kind == "poor" else 1_000_000)
    before = shop.balance(account)
    payment = await shop.signed(account)
    header = None
    match kind:
        case "amount":
            payment = await resigned(shop, account, amount="1000")
        case "recipient":
            payment = await resigned(shop, account, pay_to=Account.create().address)
        case "expired":
            payment = await resigned(shop, account, max_timeout_seconds=1)
            await asyncio.sleep(2)
        case "not-yet":
            payment = altered(payment, validAfter=str(int(time.time()) + 600))
        case "signature":
            payment = altered(payment, nonce="0x" + "11" * 32)
        case "network":
            payment["accepted"]["network"] = "eip155:1"
        case "scheme":
            payment["accepted"]["scheme"] = "upto"
        case "not-base64":
            header = "%%%"
        case "used":
            answer = shop.post({"PAYMENT-SIGNATURE": written(payment)})
            assert answer.status_code == 200
            before = shop.balance(account)
            payment["payload"]["signature"] = "0x" + "22" * 64 + "1b"
    refused = shop.post({"PAYMENT-SIGNATURE": header or written(payment)})
    assert refused.status_code == 402, refused.text
    assert refused.json()["code"] == "payment-rejected"
    assert read(refused.headers["payment-required"])["error"] not in ("", "Payment required")
    assert shop.balance(account) == before


async def test_a_failed_request_leaves_the_credit(shop):
    account = shop.payer()
    header = {"PAYMENT-SIGNATURE": written(await shop.signed(account))}
    wrong = {"inputs": [{**shop.body["inputs"][0], "name": "no-such-input"}]}
    refused = shop.post(header, wrong)
    assert refused.status_code == 400
    assert transfers(shop, account) == 0  # what can be seen to be wrong beforehand costs nothing
    assert shop.post(header).status_code == 200
