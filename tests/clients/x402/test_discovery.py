"""How a client that knows nothing finds what is paid for and how; and what it must be told before it pays."""

import httpx
import pytest
from x402 import x402Client
from x402.extensions.bazaar.facilitator import validate_discovery_extension, validate_discovery_extension_spec
from x402.http.clients import x402HttpxClient
from x402.http.clients.httpx import PaymentError
from x402.mechanisms.evm.exact import ExactEvmScheme
from x402.schemas import PaymentRequirements

from tests.clients.x402.shop import receipt_of, written

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def test_the_well_known_page_lists_every_live_model_with_its_price(shop):
    found = httpx.get(f"{shop.local.gateway_url}/.well-known/x402").json()
    assert shop.url in found["resources"]
    for item in found["items"]:
        offers = [PaymentRequirements.model_validate(offer) for offer in item["accepts"]]
        assert [offer.scheme for offer in offers] == ["batch-settlement", "exact"]
        assert {offer.network for offer in offers} == {shop.network}
        assert {offer.asset for offer in offers} == {shop.token}
        assert httpx.get(item["resource"]).status_code == 402


def test_the_bazaar_extension_is_what_its_own_schema_says(shop):
    for extension in (
        shop.asked().extensions["bazaar"],
        httpx.get(f"{shop.local.gateway_url}/.well-known/x402").json()["items"][0]["extensions"]["bazaar"],
    ):
        for check in (validate_discovery_extension, validate_discovery_extension_spec):
            checked = check(extension)
            assert checked.valid, checked.errors


async def test_a_client_that_was_not_told_of_the_token_refuses_to_pay(shop):
    account = shop.payer()
    client = x402Client().register(shop.network, ExactEvmScheme(account))
    before = shop.balance(account)
    async with x402HttpxClient(client, timeout=60.0) as http:
        with pytest.raises(PaymentError, match="spend"):
            await http.post(shop.url, json=shop.body)
    assert shop.balance(account) == before


async def test_what_x402_clients_are_charged_is_what_the_house_channel_is_charged(shop):
    """Two payers by two schemes: the house channel pays onward to the last unit what they were charged."""
    first, second = shop.payer(), shop.payer()
    exact = {"PAYMENT-SIGNATURE": written(await shop.signed(first))}
    batch = {"PAYMENT-SIGNATURE": written(await shop.signed(second, "batch-settlement"))}
    warm = shop.post(exact)
    house = (
        f"{shop.local.gateway_url}/market/v1/channels/0x{receipt_of(warm.headers['market-receipt']).channel_id.hex()}"
    )
    before = int(httpx.get(house).json()["charged"])
    assert shop.post(exact).headers["market-repeated"] == "true"
    answer = shop.post(batch)
    assert answer.status_code == 200, answer.text
    assert int(httpx.get(house).json()["charged"]) == before + int(answer.headers["market-charged"])
    credit = int(warm.headers["market-credit"])
    facts = httpx.get(f"{shop.local.gateway_url}/market/v1/x402/credit/{first.address}").json()
    assert int(facts["available"]) == credit == int(facts["bought"]) - int(warm.headers["market-charged"])
    assert facts["held"] == "0"
