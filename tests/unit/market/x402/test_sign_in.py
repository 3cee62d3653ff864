"""Sign-in-with-x: who may use credit, and every proof that must not open it."""

import time
from importlib.metadata import version

import pytest

from market.gateway.x402.sign_in import message, verify
from market.gateway.x402.wire import decode
from market.payments.x402_model import PaymentRefused
from tests.unit.market.x402.payers import ORIGIN, Payer, header_of

NETWORK = "eip155:31337"


def check(header, now=None):
    return verify(header, origin=ORIGIN, network=NETWORK, now=time.time() if now is None else now)


def test_a_genuine_proof_names_its_account():
    payer = Payer()
    assert check(payer.sign_in()).address == payer.address


def test_the_text_is_that_of_eip_4361():
    proof = {
        "domain": "example.com",
        "uri": "https://example.com/v2",
        "version": "1",
        "chainId": "eip155:8453",
        "nonce": "a" * 16,
        "issuedAt": "2026-11-01T00:00:00Z",
        "statement": "Hello.",
        "expirationTime": "2026-11-01T00:05:00Z",
        "notBefore": "2026-11-01T00:00:00Z",
        "requestId": "r-1",
        "resources": ["https://example.com/a", "https://example.com/b"],
    }
    assert message(proof, "0xAddress") == (
        "example.com wants you to sign in with your Ethereum account:\n0xAddress\n\nHello.\n\n"
        "URI: https://example.com/v2\nVersion: 1\nChain ID: 8453\nNonce: aaaaaaaaaaaaaaaa\n"
        "Issued At: 2026-11-01T00:00:00Z\nExpiration Time: 2026-11-01T00:05:00Z\nNot Before: 2026-11-01T00:00:00Z\n"
        "Request ID: r-1\nResources:\n- https://example.com/a\n- https://example.com/b"
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"domain": "evil.example"}, "domain_mismatch"),
        ({"uri": "http://evil.example/v2"}, "uri_mismatch"),
        ({"uri": ORIGIN + ".evil.example/v2"}, "uri_mismatch"),
        ({"chainId": "eip155:1"}, "chain_id"),
        ({"nonce": "short"}, "nonce"),
        ({"nonce": "with space in it"}, "nonce"),
        ({"issuedAt": "yesterday"}, "issued_at"),
        ({"issuedAt": "2020-01-01T00:00:00Z"}, "issued_at_too_old"),
        ({"issuedAt": "2100-01-01T00:00:00Z"}, "issued_at_in_future"),
        ({"expirationTime": "2020-01-01T00:00:00Z"}, "expired"),
        ({"notBefore": "2100-01-01T00:00:00Z"}, "not_yet_valid"),
    ],
)
def test_a_proof_for_another_place_or_time_is_refused(change, reason):
    with pytest.raises(PaymentRefused) as refused:
        check(Payer().sign_in(**change))
    assert refused.value.reason == f"invalid_siwx_{reason}"


def test_a_proof_signed_by_another_is_refused():
    proof = decode(Payer().sign_in())
    with pytest.raises(PaymentRefused, match="signature"):
        check(header_of(proof | {"address": Payer().account.address}))
    with pytest.raises(PaymentRefused, match="signature"):
        check(header_of(proof | {"nonce": "b" * 32}))


@pytest.mark.parametrize("header", ["", "%%%", header_of([1]), header_of({"domain": 1}), "A" * 20_000])
def test_what_is_no_proof_is_refused(header):
    with pytest.raises(PaymentRefused):
        check(header)


@pytest.mark.parametrize("name", ["statement", "requestId", "expirationTime", "notBefore"])
@pytest.mark.parametrize("value", [5, True, [[]], {"a": 1}])
def test_what_is_signed_is_text(name, value):
    with pytest.raises(PaymentRefused, match="text"):
        check(header_of(decode(Payer().sign_in()) | {name: value}))


@pytest.mark.parametrize("resources", [5, True, "https://example.com", {}, ["https://example.com", 5]])
def test_resources_are_a_list_of_texts(resources):
    with pytest.raises(PaymentRefused, match="text"):
        check(header_of(decode(Payer().sign_in()) | {"resources": resources}))


def test_a_proof_is_one_job():
    payer = Payer()
    header = payer.sign_in()
    assert check(header).request_id == check(header).request_id
    assert check(header).request_id != check(payer.sign_in()).request_id


def test_web3_is_not_held_back():
    """The SDK's own extension for sign-in may hold it at version 7."""
    assert int(version("web3").partition(".")[0]) >= 8
