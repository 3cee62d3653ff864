"""A gateway and worker played in memory: real keys, real signatures, no sockets."""

import base64
import time
from dataclasses import dataclass, field

import httpx
import numpy as np
import orjson
import pytest

from contracts.protocol.hexes import checksum, from_hex, hex0x
from contracts.protocol.money import split_price
from contracts.protocol.receipts import pack_receipt
from contracts.protocol.signing import PrivateKey
from contracts.protocol.tensors import Tensor, content_hash, encode_tensors
from contracts.protocol.typed_data import Channel, Domain, Receipt
from market.payments.vouchers import VoucherVerifier, parse_voucher
from market.sdk.client import Market
from market.sdk.papers import PaperStore
from market.sdk.wallet import Wallet

DOMAIN = Domain(31_337, b"\x05" * 20)
MODEL_ID = b"\x07" * 32
PRICE = 1_000
ROYALTY_PPM = 100_000


@dataclass
class FakeGateway:
    key: PrivateKey = field(default_factory=PrivateKey.generate)
    worker: PrivateKey = field(default_factory=PrivateKey.generate)
    unit_price: int = PRICE
    advertised: int | None = None
    charged: int = 0
    calls: list[httpx.Request] = field(default_factory=list)
    channel: Channel | None = None
    tamper: object = None

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.calls.append(request)
        path = request.url.path
        if path == "/market/v1/status":
            body = {
                "gateway": checksum(self.key.address),
                "chainId": DOMAIN.chain_id,
                "escrow": checksum(DOMAIN.escrow),
            }
            return httpx.Response(200, json=body)
        if path.startswith("/market/v1/models/"):
            price = self.unit_price if self.advertised is None else self.advertised
            offers = [{"unitPrice": str(price)}]
            body = {"name": "m", "modelId": hex0x(MODEL_ID), "unit": "row", "batchAxis": 0, "offers": offers}
            return httpx.Response(200, json=body)
        if path.startswith("/market/v1/channels/"):
            return httpx.Response(200, json={"charged": str(self.charged), "deposited": "5000000"})
        assert path == "/v2/models/m/infer"
        return self.infer(request)

    def infer(self, request: httpx.Request) -> httpx.Response:
        voucher = parse_voucher(request.headers["Market-Voucher"])
        verifier, amount = VoucherVerifier(DOMAIN), voucher.cumulative_amount
        verifier.verify(voucher, self.channel.signer)
        if self.channel.needs_access:
            verifier.verify_access(voucher, self.channel.signer)
        else:
            assert voucher.access is None
        body = orjson.loads(request.content)
        inputs = [
            Tensor.from_numpy(t["name"], np.array(t["data"], dtype="<f4").reshape(t["shape"])) for t in body["inputs"]
        ]
        price = self.unit_price * inputs[0].shape[0]
        if amount < self.charged + price:
            problem = {"code": "insufficient-voucher", "detail": "too little.", "retry": "never"}
            return httpx.Response(402, json={**problem, "required": str(self.charged + price)})
        self.charged += price
        doubled = inputs[0].to_numpy() * 2
        output = Tensor.from_numpy("y", doubled)
        split = split_price(price, ROYALTY_PPM, 50_000)
        receipt = Receipt(
            request_id=from_hex(request.headers["Market-Request-Id"], 32, field="r"),
            channel_id=voucher.channel_id,
            payer=self.channel.payer,
            gateway=self.key.address,
            seq=1,
            worker=self.worker.address,
            model_id=MODEL_ID,
            input_hash=content_hash(encode_tensors(inputs)),
            output_hash=content_hash(encode_tensors([output])),
            price=price,
            worker_amount=split.worker_amount,
            owner_amount=split.owner_amount,
            cumulative=self.charged,
            served_at=int(time.time()),
        )
        answer = {
            "outputs": [
                {"name": "y", "datatype": "FP32", "shape": list(doubled.shape), "data": doubled.ravel().tolist()}
            ]
        }
        if self.tamper:
            receipt, answer = self.tamper(receipt, answer)
        digest = receipt.digest(DOMAIN)
        raw = pack_receipt(receipt, self.worker.sign_digest(digest), self.key.sign_digest(digest))
        header = base64.urlsafe_b64encode(raw).decode().rstrip("=")
        return httpx.Response(200, json=answer, headers={"Market-Receipt": header})


@pytest.fixture
def gateway() -> FakeGateway:
    return FakeGateway()


@pytest.fixture
def papers(tmp_path):
    store = PaperStore(tmp_path / "papers.db")
    yield store
    store.close()


@pytest.fixture
def market(gateway: FakeGateway, papers: PaperStore):
    wallet = Wallet.generate()
    gateway.channel = wallet.new_channel(gateway.key.address)
    with Market("http://gateway", wallet, papers=papers, transport=httpx.MockTransport(gateway.handle)) as market:
        market.use_channel(gateway.channel, DOMAIN)
        yield market
