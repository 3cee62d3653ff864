"""Values of the one-request use case: what a client asks, what it gets, what it would cost.

Plain data without I/O. Built by the HTTP gateway, consumed and produced by `market.inference.service`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from contracts.protocol.tensors import Tensor
from contracts.protocol.typed_data import Receipt
from contracts.protocol.values import value_class
from market.payments.model import KeySpending, ParsedVoucher
from market.registry.offers import Quote

__all__ = ["Answer", "InferenceRequest", "Partial", "PriceTerms", "Quote"]


@value_class(frozen=True, slots=True)
class InferenceRequest:
    """A request as read from the wire, not yet checked against a model.

    `model_ref` is a listing name or a 0x model id. `requested_outputs` empty means all. `request_id` None means a
    random one. `max_price` and `min_stake` in atomic units; these, `worker` and `region` restrict the choice; `hedge`
    allows to ask a second worker when the first is late; `key` is
    the API key that the voucher stands for; `payer` who asks, where the channel's payer does not; `trace` the
    client's `traceparent`; `received_at` unix seconds. Without `audited` the answer is not to be audited, being one
    that an audit asked for; no worker learns of it.
    """

    model_ref: str
    tensors: tuple[Tensor, ...]
    voucher: ParsedVoucher | None
    version: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    requested_outputs: tuple[str, ...] = ()
    request_id: bytes | None = None
    max_price: int | None = None
    worker: bytes | None = None
    region: str | None = None
    min_stake: int = 0
    hedge: bool = False
    key: KeySpending | None = None
    payer: bytes | None = None
    trace: str | None = None
    received_at: float = field(default_factory=time.time)
    audited: bool = True

    @property
    def limits_workers(self) -> bool:
        """Whether not every live worker may serve it."""
        return not (self.max_price is None and self.worker is None and self.region is None and self.min_stake == 0)

    @property
    def is_paid_by_gateway(self) -> bool:
        """Whether the gateway's own channel pays: for a client by x402, or for an audit."""
        return self.payer is not None or not self.audited


@dataclass(frozen=True, slots=True)
class Partial:
    """The next piece of a streamed text, and how many tokens it is; `index` says of which text, of several."""

    request_id: bytes
    text: bytes
    tokens: int
    index: int = 0


@value_class(frozen=True, slots=True)
class Answer:
    """Outputs with the receipt that both worker and gateway signed.

    `charged` is the price of this request, `cumulative` the channel's charged total after it, both atomic units.
    `pieces` are those of a repeated generation with log probabilities, which is not streamed again.
    """

    tensors: tuple[Tensor, ...]
    parameters: Mapping[str, Any]
    receipt: Receipt
    worker_signature: bytes
    gateway_signature: bytes
    charged: int
    cumulative: int
    request_id: bytes
    repeated: bool = False
    pieces: tuple[Partial, ...] = ()


@dataclass(frozen=True, slots=True)
class PriceTerms:
    """What a request costs at the chosen worker and how the price is split.

    A `unit_price` above 0 makes all of it ceilings: what is served is counted and charged at that price for
    `units_per_price` of it.
    """

    units: int
    price: int
    worker_amount: int
    owner_amount: int
    royalty_ppm: int
    fee_ppm: int
    unit_price: int = 0
    units_per_price: int = 1
