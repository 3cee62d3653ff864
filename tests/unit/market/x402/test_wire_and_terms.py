"""What clients of both versions send and read, and what of it goes on to the facilitator."""

import pytest
from x402.extensions.bazaar import validate_discovery_extension
from x402.extensions.bazaar.types import parse_discovery_extension
from x402.http.utils import decode_payment_required_header
from x402.schemas.v1 import PaymentRequiredV1

from contracts.protocol.manifest import FileEntry, Manifest, TensorSpec
from contracts.protocol.pricing import Unit
from market.gateway.x402 import terms
from market.gateway.x402.payloads import only_authorization, only_channel
from market.gateway.x402.wire import X402Headers, read_payment, x402_headers
from market.payments.x402_model import Authorization, PaymentRefused, least_refund, min_deposit, pack_price
from market.registry.model import Listing
from tests.unit.market.x402.payers import MERCHANT, ORIGIN, PACK, PRICE, Payer, desk_of, header_of

MANIFEST = Manifest(
    task="tensor",
    entry="model.onnx",
    files={"model.onnx": FileEntry(b"\x01" * 32, 1)},
    inputs=tuple(TensorSpec(f"input_{i}", "FP32", (-1, 3, 224, 224)) for i in range(4)),
    outputs=(TensorSpec("y", "FP32", (-1,)),),
    unit=Unit.ROW,
    batch_axis=0,
)
LISTING = Listing(MANIFEST.model_id, "m", b"\x01" * 20, 0, 1, 10_000, int(Unit.ROW), "file:///m", active=True)
PATH = "/v2/models/m/infer"


@pytest.fixture
def desk():
    return desk_of(None)


def test_a_402_is_read_by_the_sdk_and_fits_a_header(desk):
    header = terms.payment_required(desk, LISTING, MANIFEST, PRICE, PATH)
    assert len(header) < 8_000
    found = decode_payment_required_header(header)
    assert found.resource.url == ORIGIN + PATH
    assert [(offer.scheme, offer.amount) for offer in found.accepts] == [
        ("batch-settlement", str(PRICE)),
        ("exact", str(PACK)),
    ]
    assert int(found.accepts[0].extra["minDeposit"]) >= 1_000 * PRICE
    assert found.extensions["sign-in-with-x"]["info"]["domain"] == "127.0.0.1:8080"


def test_the_bazaar_extension_holds_against_its_own_schema():
    extension = parse_discovery_extension(terms.bazaar(MANIFEST))
    assert validate_discovery_extension(extension).valid


def test_a_large_endpoint_still_has_a_small_header(desk):
    wide = tuple(TensorSpec(f"feature_number_{i}", "FP32", (-1,)) for i in range(200))
    header = terms.payment_required(desk, LISTING, Manifest(**fields(inputs=wide)), PRICE, PATH)
    assert len(header) < 8_000


def fields(**changes):
    names = ("task", "entry", "files", "inputs", "outputs", "unit", "batch_axis")
    return {name: getattr(MANIFEST, name) for name in names} | changes


def test_clients_of_version_1_read_the_body(desk):
    found = PaymentRequiredV1.model_validate(terms.v1_terms(desk, LISTING, PRICE, PATH))
    assert (found.accepts[0].scheme, found.accepts[0].max_amount_required) == ("exact", str(PACK))


def test_packs_and_deposits_grow_with_the_price():
    assert (pack_price(100, 7), pack_price(100, 700)) == (100, 700)
    assert min_deposit(7, 100) == 7_000
    assert min_deposit(7, 9_000) == 9_000, "no less than a deposit that is made"


def test_a_channel_is_emptied_in_some_dozens_of_refunds_whoever_asks():
    for rest in (1, 99, 100, 101, 10_000, 10_000_001):
        refunds, left = 0, rest
        while left:
            least = least_refund(left, 100)
            assert least == left or least >= 100
            refunds, left = refunds + 1, left - least
        assert refunds <= 130


def test_both_header_names_are_taken_and_the_new_one_first():
    assert x402_headers({"payment-signature": "new", "x-payment": "old"}) == X402Headers("new", False, None)
    assert x402_headers({"x-payment": "old"}) == X402Headers("old", True, None)
    assert not x402_headers({}).given
    assert x402_headers({"sign-in-with-x": "proof"}).given


@pytest.mark.parametrize(
    "header",
    [
        "%%%",
        "bm8ganNvbg==",
        header_of([]),
        header_of({"x402Version": 2}),
        header_of({"x402Version": 2, "payload": {}}),
        header_of({"x402Version": 2, "payload": {}, "accepted": {}}),
        header_of({"x402Version": 3, "payload": {}}),
        header_of({"x402Version": 1, "payload": {}, "scheme": "batch-settlement"}),
        header_of({"x402Version": 2, "payload": "p", "accepted": {"scheme": "exact"}}),
        "A" * 20_000,
    ],
)
def test_what_is_no_payment_is_refused(header):
    with pytest.raises(PaymentRefused):
        read_payment(header)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"scheme": "upto"}, "unsupported_scheme"),
        ({"network": "eip155:1"}, "invalid_network"),
        ({"amount": "1"}, "No matching payment requirements"),
        ({"payTo": "0x" + "11" * 20}, "No matching payment requirements"),
        ({"asset": "0x" + "11" * 20}, "No matching payment requirements"),
    ],
)
def test_a_payment_for_another_offer_is_refused(desk, change, reason):
    payment = Payer().exact(desk)
    payment["accepted"] = payment["accepted"] | change
    with pytest.raises(PaymentRefused) as refused:
        terms.matching(desk, PRICE, read_payment(header_of(payment)))
    assert refused.value.reason == reason


def test_what_is_settled_is_what_was_reserved(desk):
    """A second authorization beside the one that is read would be settled in its place, and credited as the first."""
    payload = Payer().exact(desk)["payload"]
    smuggled = payload | {"permit2Authorization": {"from": "0x" + "11" * 20}, "extra": 1}
    clean = only_authorization(smuggled)
    assert clean.keys() == {"signature", "authorization"}
    read = Authorization.from_wire(clean, MERCHANT.chain_id, MERCHANT.token)
    assert clean["authorization"]["value"] == str(read.value) == str(PACK)
    with pytest.raises(PaymentRefused):
        only_authorization({"signature": "0x", "permit2Authorization": {}})


@pytest.mark.parametrize("kind", ["claim", "settle", "refund", None, 7])
def test_only_vouchers_and_deposits_pay(desk, kind):
    payload = Payer().batch(desk, Payer().channel())["payload"] | {"type": kind}
    with pytest.raises(PaymentRefused):
        only_channel(payload, ("voucher", "deposit"))


def test_a_deposit_keeps_what_its_kind_has(desk):
    payload = Payer().batch(desk, Payer().channel())["payload"]
    assert only_channel(payload | {"claims": [1]}, ("deposit",)) == payload
    for broken in ({"deposit": None}, {"deposit": {"amount": "1"}}, {"deposit": {"authorization": {}}}):
        with pytest.raises(PaymentRefused):
            only_channel(payload | broken, ("deposit",))


@pytest.mark.parametrize(
    "change", [{"value": "-1"}, {"value": "1e6"}, {"nonce": "0x12"}, {"from": "nobody"}, {"value": "9" * 30}]
)
def test_malformed_authorizations_are_refused(desk, change):
    payload = Payer().exact(desk)["payload"]
    payload["authorization"] = payload["authorization"] | change
    with pytest.raises(PaymentRefused):
        Authorization.from_wire(payload, MERCHANT.chain_id, MERCHANT.token)
