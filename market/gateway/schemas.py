"""The shapes of requests and answers, for OpenAPI; the hot route checks bodies itself, against the model's manifest."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

Amount = Field(description="Atomic token units as a decimal string.", pattern=r"^\d+$", examples=["250000"])


class Schema(BaseModel):
    """Base: camelCase names in JSON."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class TensorMetadata(BaseModel):
    """An input or output of a model; -1 is a free dimension."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """OIP v2 model metadata."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelIndex(BaseModel):
    """OIP v2 repository index: one model; `state` is READY while a live worker offers it."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class ServerMetadata(BaseModel):
    """OIP v2 server metadata."""

    name: str
    version: str
    extensions: list[str]


class InputTensor(BaseModel):
    """An input; `data` flat in row-major order, or nested."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any]
    parameters: dict[str, Any] | None = None


class RequestedOutput(BaseModel):
    """An output that the caller wants."""

    name: str
    parameters: dict[str, Any] | None = None


class InferRequest(BaseModel):
    """OIP v2 inference request."""

    id: str | None = None
    parameters: dict[str, Any] | None = None
    inputs: list[InputTensor]
    outputs: list[RequestedOutput] | None = None


class OutputTensor(BaseModel):
    """An output; `data` flat in row-major order."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any]


class InferAnswer(BaseModel):
    """OIP v2 inference answer."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[OutputTensor]


class SealingKey(Schema):
    """A worker's X25519 public key, 32 bytes, and the worker's EIP-712 signature of it (`SealingKey`), 65 bytes."""

    key: str
    signature: str


class Offer(Schema):
    """A live offer of a worker."""

    model_id: str
    worker: str
    unit: Literal["request", "row", "image", "token", "second", "byte", "million_tokens"]
    unit_price: str = Amount
    expires_at: int
    sealing: SealingKey | None = Field(None, description="What requests are sealed to that only the worker shall read.")
    price: str | None = Field(None, description="Price of the request at hand, atomic token units.")


class Problem(Schema):
    """RFC 9457 problem; `code` is stable, `error` repeats the detail for OIP clients."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retry: Literal["never", "same", "other_worker", "later"]
    error: str
    field: str | None = None
    remedy: str | None = None


class PaymentRequired(Problem):
    """402: what to pay, to whom, where."""

    gateway: str
    escrow: str
    chain_id: int
    token: str
    offers: list[Offer]
    required: str | None = Field(None, description="Cumulative amount that a voucher must reach, atomic token units.")


class Performance(Schema):
    """Attempts of the last hour by this gateway process; times are of the newest answers."""

    served: int
    failed: int
    success_rate: float | None = Field(description="Served over attempted; null before the first attempt.")
    errors: dict[str, int] = Field(description="Failed attempts by error code.")
    p50_ms: float | None
    p95_ms: float | None


class Model(Schema):
    """A listing with its live offers."""

    name: str
    model_id: str
    owner: str
    royalty_ppm: int
    min_price: str = Amount
    max_price: str = Amount
    unit: str
    uri: str
    active: bool
    task: str | None
    license: str | None
    batch_axis: int | None
    max_batch: int | None
    inputs: list[TensorMetadata] | None
    outputs: list[TensorMetadata] | None
    options: dict[str, Any] | None = Field(description="What the manifest says for its task, such as labels.")
    offers: list[Offer]
    regions: list[str] = Field(description="Where the live workers say they are.")
    performance: Performance


class Worker(Schema):
    """A registered worker; the last three say what it announces, if it is live."""

    worker: str
    operator: str
    stake: str = Amount
    thawing: str = Amount
    active: bool
    region: str
    hardware: str
    endpoint: str
    live: bool
    in_flight: int | None
    provider: str | None
    models: list[str]


class Channel(Schema):
    """A payment channel as this gateway sees it."""

    channel_id: str
    payer: str
    signer: str
    gateway: str
    salt: str
    needs_access: bool = Field(description="Whether a voucher is good only beside the signer's ChannelAccess.")
    deposited: str = Amount
    settled: str = Amount
    exit_amount: str = Amount
    exit_at: int
    refund_nonce: int = Field(description="Number of the channel's next refund.")
    refund_promised: str = Field(description="Signed by the gateway to be given back, not paid yet; atomic units.")
    charged: str = Amount
    reserved: str = Amount
    ceiling: str = Amount
    available: str = Amount
    required: str = Field(description="Charged and reserved; add the price of a request to get the voucher for it.")


class RefundRequest(Schema):
    """A refund that the channel's payer or signer asks for, signed by one of them as the escrow's `Refund`."""

    nonce: int = Field(ge=0, lt=1 << 64)
    amount: str = Field(description="Atomic token units as a decimal string.", pattern=r"^\d{1,39}$")
    signature: str = Field(description="0x and 65 bytes over Refund(channelId, nonce, amount).")


class Refund(RefundRequest):
    """The same refund signed by the gateway: submit it to the escrow's `refund`."""

    channel_id: str


class ReceiptSettlement(Schema):
    """Where a receipt was settled, with its Merkle proof."""

    epoch: str
    root: str
    index: int
    proof: list[str]
    transaction_hash: str | None


class Receipt(Schema):
    """A receipt with both signatures."""

    receipt: dict[str, str]
    digest: str
    worker_signature: str
    gateway_signature: str
    position: int
    settlement: ReceiptSettlement | None


class Settlement(Schema):
    """One batch on chain."""

    gateway: str
    epoch: str
    root: str
    first_seq: str
    count: int
    transaction_hash: str
    block: int
    debited: str | None
    credited: str | None
    gas_used: int | None
    gas_per_receipt: int | None


class Leaf(Schema):
    """One receipt of a batch; `index` is its place among the leaves from which the root is built."""

    index: int
    receipt: dict[str, str]
    digest: str
    worker_signature: str
    gateway_signature: str


class Payee(Schema):
    """What a payee earned with this gateway."""

    payee: str
    earned: str = Amount
    credited: str = Amount
    withdrawn: str = Amount


class Earning(Schema):
    """What a payee earned in one role with one model."""

    role: str
    model_id: str
    requests: int
    earned: str = Amount


class Earnings(Schema):
    """What an owner earned, by model."""

    owner: str
    total: str = Amount
    models: list[Earning]


class Status(Schema):
    """Who this gateway is and how it stands."""

    version: str
    gateway: str
    chain_id: int
    escrow: str
    token: str
    contracts: dict[str, str]
    fee_ppm: int
    confirmations: int
    exposure_cap: str = Amount
    indexed_block: int
    live_workers: int
    models: int
    last_epoch: int
