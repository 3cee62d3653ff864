"""What the chain says of listings, workers, channels, payees and settlements, as the market folds it.

Plain records; bytes for addresses and hashes, atomic token units for amounts, unix seconds for times. Built by
`market.registry.fold`, kept by a `RegistryStore`, read through `RegistryView`.
"""

from __future__ import annotations

from dataclasses import dataclass

from contracts.protocol.typed_data import Channel


@dataclass(frozen=True, slots=True)
class Listing:
    """A model and its terms; `unit` is `contracts.protocol.pricing.Unit`'s number.

    `superseded_by` is the model id of the newer version that took over the name, empty for the newest.
    """

    model_id: bytes
    name: str
    owner: bytes
    royalty_ppm: int
    min_price: int
    max_price: int
    unit: int
    uri: str
    active: bool
    superseded_by: bytes = b""


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A registered worker; `active` means its stake that is not thawing reaches the minimum."""

    worker: bytes
    operator: bytes
    stake: int
    active: bool
    region: str
    hardware: str
    endpoint: str
    thawing: int = 0
    registered: bool = True


@dataclass(frozen=True, slots=True)
class ChannelRecord:
    """A channel's money; while `exit_at` is not 0 the payer is taking `exit_amount` out.

    `refund_nonce` is the number of its next refund.
    """

    channel_id: bytes
    payer: bytes
    signer: bytes
    gateway: bytes
    salt: int
    deposited: int
    settled: int
    exit_amount: int = 0
    exit_at: int = 0
    refund_nonce: int = 0

    @property
    def channel(self) -> Channel:
        """What its id is the digest of."""
        return Channel(self.payer, self.signer, self.gateway, self.salt)


@dataclass(frozen=True, slots=True)
class PayeeCredit:
    """What a payee was credited by a gateway and has withdrawn, both totals since the beginning.

    `owed` is the part of a presented credit note that still waits for the gateway's reserve.
    """

    gateway: bytes
    payee: bytes
    credited: int
    withdrawn: int
    owed: int = 0


@dataclass(frozen=True, slots=True)
class SettlementRecord:
    """One settled batch; its receipts are the gateway's `first_seq` to `first_seq + count - 1`."""

    gateway: bytes
    epoch: int
    root: bytes
    first_seq: int
    count: int
    tx_hash: bytes
    block: int


@dataclass(frozen=True, slots=True)
class ReserveRecord:
    """A gateway's reserve and the part of it that is thawing; `arrears` is what presented credit notes claim of it."""

    gateway: bytes
    amount: int
    thawing: int
    thawed_at: int
    arrears: int = 0


@dataclass(frozen=True, slots=True)
class ChallengeRecord:
    """A claim that no batch of a gateway holds a receipt; `answer_by` unix seconds, `open` until it is decided."""

    digest: bytes
    gateway: bytes
    answer_by: int
    open: bool = True


Record = Listing | WorkerRecord | ChannelRecord | PayeeCredit | SettlementRecord | ReserveRecord | ChallengeRecord
