"""The client pays what it must, never more than it may, and believes no answer that does not hold."""

import json
import math
from dataclasses import replace

import httpx
import numpy as np
import pytest

from contracts.bindings.errors import WrongChain
from contracts.protocol.signing import PrivateKey
from contracts.protocol.typed_data import Channel, Domain
from market.sdk.client import Market
from market.sdk.errors import (
    ClientError,
    GatewayMisbehaved,
    GatewayRefused,
    GatewayUnreachable,
    NoChannel,
    SpendingLimit,
)
from market.sdk.kernel import TopUp
from market.sdk.papers import PaperStore
from market.sdk.wallet import Wallet

DOMAIN = Domain(31_337, b"\x05" * 20)
X = {"x": np.array([[1.5, 2.0]], dtype=np.float32)}


def infers(gateway) -> list:
    return [call for call in gateway.calls if call.url.path.endswith("/infer")]


def test_a_request_is_paid_checked_and_kept(market, gateway, papers):
    outcome = market.infer("m", X)
    assert outcome.outputs["y"].tolist() == [[3.0, 4.0]]
    assert (outcome.charged, outcome.cumulative) == (1_000, 1_000)
    assert [paper.receipt for paper in papers.receipts()] == [outcome.paper.receipt]
    market.infer("m", X)
    assert papers.channels()[0].charged == 2_000
    assert len(infers(gateway)) == 2, "one round trip a request"


def test_the_price_follows_the_rows(market):
    assert market.infer("m", {"x": np.ones((3, 2), dtype=np.float32)}).charged == 3_000


def test_a_higher_price_is_paid_up_to_the_limit(market, gateway):
    gateway.advertised = 10
    assert market.infer("m", X).charged == 1_000
    gateway.unit_price = 50_000
    with pytest.raises(SpendingLimit):
        market.infer("m", X, max_price=40_000)
    assert gateway.charged == 1_000


def test_nothing_is_signed_above_the_limit(market, gateway, papers):
    gateway.advertised = gateway.unit_price = 10_000_000
    with pytest.raises(SpendingLimit):
        market.infer("m", X)
    assert infers(gateway) == []
    assert papers.channels()[0].signed == 0


def test_a_claim_above_what_was_signed_is_a_fraud(market, gateway):
    gateway.charged = 99_000
    with pytest.raises(GatewayMisbehaved, match="more than was ever signed"):
        market.infer("m", X)


def test_a_gateway_that_counts_up_without_answering_is_signed_two_prices_and_no_more(gateway, market, papers):
    """One for the request, one where the count may have been lost here; from then on one for each request."""

    def infer(request):
        signed = gateway.charged = int(request.headers["Market-Voucher"].split(";")[1])
        problem = {"code": "insufficient-voucher", "detail": "too little.", "retry": "never"}
        return httpx.Response(402, json={**problem, "required": str(signed + 1_000)})

    gateway.infer = infer
    for prices in (2, 3, 4):
        with pytest.raises(GatewayRefused):
            market.infer("m", X)
        (kept,) = papers.channels()
        assert kept.signed == prices * 1_000


def test_another_program_may_use_the_channel_too(market, gateway, papers):
    market.infer("m", X)
    with Market("http://g", market.wallet, papers=papers, transport=httpx.MockTransport(gateway.handle)) as other:
        other.infer("m", X)
    assert market.infer("m", X).cumulative == 3_000


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("requestId", {"request_id": b"\x01" * 32}),
        ("channelId", {"channel_id": b"\x01" * 32}),
        ("payer", {"payer": b"\x01" * 20}),
        ("modelId", {"model_id": b"\x01" * 32}),
        ("inputHash", {"input_hash": b"\x01" * 32}),
        ("outputHash", {"output_hash": b"\x01" * 32}),
        ("cumulative", {"cumulative": 10**9}),
        ("cumulative", {"price": 10**9}),
    ],
)
def test_a_receipt_for_something_else_is_refused(market, gateway, papers, field, change):
    gateway.tamper = lambda receipt, answer: (replace(receipt, **change), answer)
    with pytest.raises(GatewayMisbehaved) as raised:
        market.infer("m", X)
    assert raised.value.field == field
    assert list(papers.receipts()) == []


def test_one_changed_output_is_refused(market, gateway):
    def flip(receipt, answer):
        answer["outputs"][0]["data"][0] = 3.0000002
        return receipt, answer

    gateway.tamper = flip
    with pytest.raises(GatewayMisbehaved) as raised:
        market.infer("m", X)
    assert raised.value.field == "outputHash"


def test_a_foreign_workers_signature_is_refused(market, gateway):
    honest = gateway.worker.address
    gateway.worker = PrivateKey.generate()
    gateway.tamper = lambda receipt, answer: (replace(receipt, worker=honest), answer)
    with pytest.raises(GatewayMisbehaved) as raised:
        market.infer("m", X)
    assert raised.value.field == "workerSignature"


def test_a_refusal_keeps_the_gateways_code_and_remedy(papers):
    problem = {"code": "unknown-model", "detail": "no.", "field": "model", "remedy": "look.", "retry": "never"}
    with (
        Market("http://g", transport=httpx.MockTransport(lambda _: httpx.Response(404, json=problem))) as market,
        pytest.raises(GatewayRefused) as raised,
    ):
        market.model("x")
    assert (raised.value.code, raised.value.field, raised.value.remedy) == ("unknown-model", "model", "look.")


def test_a_dead_gateway_is_named():
    def refuse(_):
        raise httpx.ConnectError("refused")

    with Market("http://g", transport=httpx.MockTransport(refuse)) as market, pytest.raises(GatewayUnreachable):
        market.status()


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b"{}", b'"no"'])
def test_what_is_no_gateway_is_told_by_its_url(content):
    transport = httpx.MockTransport(lambda _: httpx.Response(404, content=content))
    with Market("http://g", transport=transport) as market, pytest.raises(GatewayRefused) as refused:
        market.status()
    assert (refused.value.field, refused.value.remedy) == ("url", "Check that the URL is a gateway's.")


@pytest.mark.parametrize("status", [{}, [], {"gateway": 1}, {"gateway": "0x12", "chainId": 1, "escrow": "0x12"}])
def test_a_status_without_gateway_chain_or_escrow_is_told(status):
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=status))
    with Market("http://g", Wallet.generate(), transport=transport) as market, pytest.raises(GatewayMisbehaved) as told:
        market.channel()
    assert told.value.field == "url"


def test_a_channel_of_other_contracts_is_not_the_one_in_use(gateway, papers):
    """As after a new deployment: the gateway's key is the same, and what the papers hold is another escrow's."""
    wallet = Wallet.generate()
    gateway.channel = wallet.new_channel(gateway.key.address)
    papers.keep_channel(gateway.channel, Domain(31_337, b"\x06" * 20))
    transport = httpx.MockTransport(gateway.handle)
    with Market("http://g", wallet, papers=papers, transport=transport) as market:
        with pytest.raises(NoChannel):
            market.channel()
        papers.keep_channel(gateway.channel, DOMAIN)
        assert market.channel().domain == DOMAIN


def test_a_channel_of_before_is_paid_from_by_its_vouchers_alone(gateway, papers):
    wallet = Wallet.generate()
    gateway.channel = Channel(wallet.address, wallet.address, gateway.key.address, salt=7)
    with Market("http://g", wallet, papers=papers, transport=httpx.MockTransport(gateway.handle)) as market:
        market.use_channel(gateway.channel, DOMAIN)
        market.infer("m", X)
    assert gateway.calls[-1].headers["Market-Voucher"].count(";") == 2


def test_a_chain_with_other_contracts_gets_no_top_up(gateway, papers):
    class Elsewhere:
        deposits = 0

        def check_domain(self, domain):
            assert domain == DOMAIN
            raise WrongChain("the gateway works elsewhere.")

        def deposit(self, *_):
            self.deposits += 1

    wallet, chain = Wallet.generate(), Elsewhere()
    gateway.channel = wallet.new_channel(gateway.key.address)
    transport = httpx.MockTransport(gateway.handle)
    top_up = TopUp(1_000, 10_000)
    with Market("http://g", wallet, papers=papers, transport=transport, chain=chain, top_up=top_up) as market:
        market.use_channel(gateway.channel, DOMAIN)
        with pytest.raises(WrongChain):
            market.top_up()
    assert chain.deposits == 0


def test_without_a_channel_there_is_a_remedy(gateway):
    with (
        Market("http://g", Wallet.generate(), transport=httpx.MockTransport(gateway.handle)) as market,
        pytest.raises(NoChannel, match="market channel open"),
    ):
        market.infer("m", X)


def test_papers_outlive_the_program(tmp_path, gateway):
    wallet = Wallet.generate()
    gateway.channel = wallet.new_channel(gateway.key.address)
    for count in (1, 2):
        papers = PaperStore(tmp_path / "papers.db")
        with Market("http://g", wallet, papers=papers, transport=httpx.MockTransport(gateway.handle)) as market:
            if count == 1:
                market.use_channel(gateway.channel, Domain(31_337, b"\x05" * 20))
            assert market.infer("m", X).cumulative == 1_000 * count
        papers.close()


@pytest.mark.parametrize("limits", [{"region": "ü"}, {"region": "eu\r\nX: y"}, {"worker": "0x1\n"}, {"worker": b"0x1"}])
def test_a_limit_that_no_header_holds_is_refused_before_anything_is_signed(market, gateway, papers, limits):
    with pytest.raises(ClientError, match="printable ASCII"):
        market.infer("m", X, **limits)
    assert infers(gateway) == []
    assert papers.channels()[0].signed == 0


@pytest.mark.filterwarnings("ignore:overflow")
def test_infinities_are_asked_for_once_more_as_they_are_and_paid_once(market, gateway, monkeypatch):
    """JSON has no word for them, so the receipt cannot match what it says."""
    first, answered, x = gateway.infer, {}, np.array([[3e38, -3e38, 1.0]], "<f4")

    def nulls(receipt, answer):
        (output,) = answer["outputs"]
        data = [value if math.isfinite(value) else None for value in output["data"]]
        return receipt, {"outputs": [{**output, "data": data}]}

    def infer(request):
        request_id = request.headers["Market-Request-Id"]
        if request_id not in answered:
            answered[request_id] = first(request)
            return answered[request_id]
        assert json.loads(request.content)["parameters"] == {"binary_data_output": True}
        raw = (x * 2).tobytes()
        row = {"name": "y", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": len(raw)}}
        head = json.dumps({"outputs": [row]}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        headers["Market-Receipt"] = answered[request_id].headers["Market-Receipt"]
        return httpx.Response(200, content=head + raw, headers=headers)

    gateway.tamper = nulls
    monkeypatch.setattr(gateway, "infer", infer)
    outcome = market.infer("m", {"x": x})
    assert outcome.outputs["y"].tolist() == [[math.inf, -math.inf, 2.0]]
    assert (gateway.charged, len(answered), len(list(market.papers.receipts()))) == (1_000, 1, 1)


def test_a_null_for_a_number_that_is_one_is_still_a_lie(market, gateway):
    def hide(receipt, answer):
        gateway.charged = 0  # it is the same request again
        return receipt, {"outputs": [{**answer["outputs"][0], "data": [None]}]}

    gateway.tamper = hide
    with pytest.raises(GatewayMisbehaved) as refused:
        market.infer("m", {"x": np.ones((1, 1), "<f4")})
    assert refused.value.field == "outputHash"
