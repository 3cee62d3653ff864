"""`InferenceEscrow`: channels, settlement, payees, reserves; specified in `contracts/src/interfaces`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from eth_abi.exceptions import DecodingError

from contracts.bindings.contract import Binding
from contracts.bindings.errors import NodeUnreachable
from contracts.bindings.rpc import named
from contracts.protocol.hexes import checksum, hex0x
from contracts.protocol.signing import to_compact
from contracts.protocol.typed_data import Channel, CreditNote, Receipt

LEAST_SPAN = 1_000


@dataclass(frozen=True, slots=True)
class Debit:
    """One channel's row of a batch: raise what is settled to `claim_total`, covered by the voucher."""

    payer: bytes
    signer: bytes
    salt: int
    claim_total: int
    voucher_amount: int
    voucher_signature: bytes


class Credit(NamedTuple):
    """One payee's row of a batch: all it was ever owed by the gateway, atomic units."""

    payee: bytes
    cumulative: int


class ChannelState(NamedTuple):
    """A channel's money on chain, atomic units; `exit_at` unix seconds or 0."""

    deposited: int
    settled: int
    exit_amount: int
    exit_at: int


class ReserveState(NamedTuple):
    """A gateway's reserve, and the part that may leave at `thawed_at`."""

    amount: int
    thawing: int
    thawed_at: int


class Escrow(Binding):
    """Reads, call data and events of the escrow."""

    NAME = "InferenceEscrow"

    def channel(self, channel_id: bytes, *, block: int | None = None) -> ChannelState:
        """Return a channel's state; zeros if it was never funded."""
        return ChannelState(*self.read("channels", channel_id, block=block))

    def channels_of(self, payer: bytes, first: int, last: int) -> list[Channel]:
        """Return the channels that blocks `first` to `last` funded for a payer, each once and the oldest first.

        A node that refuses so many blocks at once is asked for fewer, down to 1,000.
        """
        topics = [hex0x(self.abi.topic("ChannelFunded")), None, hex0x(payer.rjust(32, b"\0"))]
        found: dict[Channel, None] = {}
        at, span = first, max(1, last - first + 1)
        while at <= last:
            until = min(last, at + span - 1)
            query: Any = {"address": checksum(self.address), "topics": topics, "fromBlock": at, "toBlock": until}
            try:
                with named():
                    logs = self.web3.eth.get_logs(query)
            except NodeUnreachable:
                if span <= LEAST_SPAN:
                    raise
                span = max(LEAST_SPAN, span // 2)
                continue
            for log in logs:
                decoded = self.decode_log([bytes(topic) for topic in log["topics"]], bytes(log["data"]))
                if decoded is not None:
                    told = decoded[1]
                    found[Channel(told["payer"], told["signer"], told["gateway"], told["salt"])] = None
            at = until + 1
        return list(found)

    def last_epoch(self, gateway: bytes, *, block: int | None = None) -> int:
        """Return the number of the gateway's newest batch, 0 before the first."""
        return int(self.read("lastEpoch", gateway, block=block))

    def settlement_root(self, gateway: bytes, epoch: int) -> bytes:
        """Return the receipts' root of a batch; 32 zero bytes if there is none."""
        return bytes(self.read("settlements", gateway, epoch))

    def credits(self, gateway: bytes, payee: bytes, *, block: int | None = None) -> tuple[int, int]:
        """Return (credited, withdrawn) totals."""
        credited, withdrawn = self.read("credits", gateway, payee, block=block)
        return int(credited), int(withdrawn)

    def reserve(self, gateway: bytes, *, block: int | None = None) -> ReserveState:
        """Return a gateway's reserve."""
        return ReserveState(*self.read("reserves", gateway, block=block))

    def arrears(self, gateway: bytes) -> int:
        """Return what presented credit notes still wait for."""
        return int(self.read("arrears", gateway))

    def presented_note(self, gateway: bytes, payee: bytes) -> tuple[int, int]:
        """Return a payee's highest presented credit note and what of it is booked as arrears, atomic units."""
        cumulative, owed = self.read("notes", gateway, payee)
        return int(cumulative), int(owed)

    def verify_receipt(self, gateway: bytes, epoch: int, digest: bytes, proof: Sequence[bytes]) -> bool:
        """Let the contract check a receipt's Merkle proof."""
        return bool(self.read("verifyReceipt", gateway, epoch, digest, list(proof)))

    def receipt_digest(self, receipt: Receipt) -> bytes:
        """Let the contract compute a receipt's digest."""
        return bytes(self.read("receiptDigest", _row(receipt)))

    def refund_nonce(self, channel_id: bytes) -> int:
        """Return the number of the channel's next refund."""
        return int(self.read("refundNonce", channel_id))

    def deposit(self, channel: Channel, amount: int) -> bytes:
        """Encode a deposit from the sender's allowance."""
        return self.encode("deposit", _row(channel), amount)

    def initiate_exit(self, channel: Channel, amount: int) -> bytes:
        """Encode the payer's exit."""
        return self.encode("initiateExit", _row(channel), amount)

    def cancel_exit(self, channel: Channel) -> bytes:
        """Encode the end of an exit that has not been paid."""
        return self.encode("cancelExit", _row(channel))

    def finalize_exit(self, channel: Channel) -> bytes:
        """Encode the payout of an exit whose delay is over."""
        return self.encode("finalizeExit", _row(channel))

    def refund(self, channel: Channel, nonce: int, amount: int, gateway_signature: bytes) -> bytes:
        """Encode a refund that the gateway agreed to."""
        return self.encode("refund", _row(channel), nonce, amount, gateway_signature)

    def settle_batch(
        self, epoch: int, root: bytes, count: int, debits: Sequence[Debit], credit_rows: Sequence[Credit]
    ) -> bytes:
        """Encode a settlement by the gateway itself."""
        rows = [
            (d.payer, d.signer, d.salt, d.claim_total, d.voucher_amount, *to_compact(d.voucher_signature))
            for d in debits
        ]
        return self.encode("settleBatch", epoch, root, count, rows, [tuple(row) for row in credit_rows])

    def decode_credits(self, call_data: bytes) -> list[Credit] | None:
        """Return the credit rows that a settlement's call data asks for; None if it is not a settlement."""
        try:
            found = self.abi.decode_call(call_data)
        except DecodingError:
            return None
        if found is None or found[0] not in ("settleBatch", "settleBatchFor"):
            return None
        rows = found[1].get("payeeCredits", found[1].get("credits"))
        return [Credit(payee, cumulative) for payee, cumulative in rows or ()]

    def withdraw(self, gateway: bytes, to: bytes, amount: int) -> bytes:
        """Encode a payee's withdrawal."""
        return self.encode("withdraw", gateway, to, amount)

    def fund_reserve(self, gateway: bytes, amount: int) -> bytes:
        """Encode a deposit into a gateway's reserve."""
        return self.encode("fundReserve", gateway, amount)

    def claim_with_receipt(
        self,
        channel: Channel,
        voucher_amount: int,
        voucher_signature: bytes,
        receipt: Receipt,
        worker_signature: bytes,
        gateway_signature: bytes,
    ) -> bytes:
        """Encode the claim of a countersigned receipt against its channel, without the gateway."""
        return self.encode(
            "claimWithReceipt",
            _row(channel),
            voucher_amount,
            voucher_signature,
            _row(receipt),
            worker_signature,
            gateway_signature,
        )

    def redeem_credit_note(self, note: CreditNote, signature: bytes) -> bytes:
        """Encode the redemption of a credit note from the gateway's reserve."""
        return self.encode("redeemCreditNote", note.gateway, note.payee, note.cumulative_amount, signature)


def _row(struct: Channel | Receipt) -> tuple[bytes | int, ...]:
    return tuple(getattr(struct, name) for name, _ in struct.FIELDS)
