"""Folds the contracts' events into records. Pure: the same events in the same order give the same records.

Decides what each event means; never reads anything but the records so far. An event about something unknown (a channel
never funded, say) changes nothing. Called by the registry's stores.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from market.registry.model import (
    ChallengeRecord,
    ChannelRecord,
    Listing,
    PayeeCredit,
    Record,
    ReserveRecord,
    SettlementRecord,
    WorkerRecord,
)
from market.registry.ports import ChainEvent

_R = TypeVar("_R", bound=Record)
_Args = Mapping[str, Any]


class Records(Protocol):
    """The records so far."""

    def get(self, kind: type[_R], key: Hashable) -> _R | None:
        """Return the record of a kind with a key, as `key_of` gives it."""
        ...

    def put(self, record: Record) -> None:
        """Insert or replace a record."""
        ...


def key_of(record: Record) -> Hashable:
    """Name a record within its kind."""
    match record:
        case Listing():
            return record.model_id
        case WorkerRecord():
            return record.worker
        case ChannelRecord():
            return record.channel_id
        case PayeeCredit():
            return record.gateway, record.payee
        case SettlementRecord():
            return record.gateway, record.epoch
        case ReserveRecord():
            return record.gateway
        case ChallengeRecord():
            return record.digest


class Fold:
    """The fold of one deployment; `min_stake` is its worker registry's constant, atomic units."""

    def __init__(self, min_stake: int) -> None:
        self._min_stake = min_stake

    def apply(self, records: Records, event: ChainEvent) -> None:
        """Put the records that an event makes or replaces."""
        handler = _HANDLERS.get((event.contract, event.name))
        if handler is None:
            return
        for record in list(handler(event, event.args, records)):
            records.put(self._standing(record) if isinstance(record, WorkerRecord) else record)

    def _standing(self, worker: WorkerRecord) -> WorkerRecord:
        """Say whether a worker is active, by the contract's rule."""
        return replace(worker, active=worker.registered and worker.stake - worker.thawing >= self._min_stake)


# --- models ----------------------------------------------------------------------------------------------------


def _model_listed(_: ChainEvent, args: _Args, __: Records) -> Iterable[Record]:
    yield Listing(
        model_id=args["modelId"],
        name=args["name"],
        owner=args["owner"],
        royalty_ppm=args["royaltyPpm"],
        min_price=args["minPrice"],
        max_price=args["maxPrice"],
        unit=args["unit"],
        uri=args["uri"],
        active=True,
    )


def _model_updated(_: ChainEvent, args: _Args, records: Records) -> Iterable[Record]:
    found = records.get(Listing, args["modelId"])
    if found is not None:
        yield replace(
            found,
            min_price=args["minPrice"],
            max_price=args["maxPrice"],
            royalty_ppm=args["royaltyPpm"],
            uri=args["uri"],
        )


def _model_activity(_: ChainEvent, args: _Args, records: Records) -> Iterable[Record]:
    found = records.get(Listing, args["modelId"])
    if found is not None:
        yield replace(found, active=args["active"])


def _model_transferred(_: ChainEvent, args: _Args, records: Records) -> Iterable[Record]:
    found = records.get(Listing, args["modelId"])
    if found is not None:
        yield replace(found, owner=args["owner"])


def _model_superseded(_: ChainEvent, args: _Args, records: Records) -> Iterable[Record]:
    found = records.get(Listing, args["oldModelId"])
    if found is not None:
        yield replace(found, superseded_by=args["newModelId"])


# --- workers ---------------------------------------------------------------------------------------------------


def _worker_registered(_: ChainEvent, args: _Args, records: Records) -> Iterable[Record]:
    before = records.get(WorkerRecord, args["worker"])
    yield WorkerRecord(
        worker=args["worker"],
        operator=args["operator"],
        stake=args["stake"],
        active=False,
        region=args["region"],
        hardware=args["hardware"],
        endpoint=args["endpoint"],
        # Stake of an earlier registration that still thaws stays and goes on thawing.
        thawing=0 if before is None else before.thawing,
    )


def _worker_metadata(_: ChainEvent, args: _Args, records: Records) -> Iterable[Record]:
    found = records.get(WorkerRecord, args["worker"])
    if found is not None:
        yield replace(found, region=args["region"], hardware=args["hardware"], endpoint=args["endpoint"])


def _stake_added(_: ChainEvent, args: _Args, records: Records) -> Iterable[Record]:
    found = records.get(WorkerRecord, args["worker"])
    if found is not None:
        yield replace(found, stake=args["stake"])


def _stake_thawing(_: ChainEvent, args: _Args, records: Records) -> Iterable[Record]:
    found = records.get(WorkerRecord, args["worker"])
    if found is not None:
        yield replace(found, stake=args["stake"], thawing=args["thawing"])


def _stake_withdrawn(_: ChainEvent, args: _Args, records: Records) -> Iterable[Record]:
    found = records.get(WorkerRecord, args["worker"])
    if found is not None:
        yield replace(found, stake=args["stake"], thawing=0)


def _worker_deregistered(_: ChainEvent, args: _Args, records: Records) -> Iterable[Record]:
    found = records.get(WorkerRecord, args["worker"])
    if found is not None:
        yield replace(found, registered=False, stake=args["stake"], thawing=args["stake"])


def _worker_slashed(_: ChainEvent, args: _Args, records: Records) -> Iterable[Record]:
    found = records.get(WorkerRecord, args["worker"])
    if found is not None:
        yield replace(found, stake=args["stake"], thawing=args["thawing"])


# --- channels --------------------------------------------------------------------------------------------------


def _channel_funded(_: ChainEvent, args: _Args, records: Records) -> Iterable[Record]:
    found = records.get(ChannelRecord, args["channelId"])
    if found is None:
        yield ChannelRecord(
            channel_id=args["channelId"],
            payer=args["payer"],
            signer=args["signer"],
            gateway=args["gateway"],
            salt=args["salt"],
            deposited=args["deposited"],
            settled=0,
        )
        return
    # New money is not exiting: a pending exit is cut to what was unclaimed before the deposit.
    unclaimed = found.deposited - found.settled
    yield replace(found, deposited=args["deposited"], exit_amount=min(found.exit_amount, unclaimed))


def _exit_initiated(_: ChainEvent, args: _Args, records: Records) -> Iterable[Record]:
    found = records.get(ChannelRecord, args["channelId"])
    if found is not None:
        yield replace(found, exit_amount=args["amount"], exit_at=args["exitAt"])


def _exit_cancelled(_: ChainEvent, args: _Args, records: Records) -> Iterable[Record]:
    found = records.get(ChannelRecord, args["channelId"])
    if found is not None:
        yield replace(found, exit_amount=0, exit_at=0)


def _exit_finalized(_: ChainEvent, args: _Args, records: Records) -> Iterable[Record]:
    found = records.get(ChannelRecord, args["channelId"])
    if found is not None:
        yield replace(found, deposited=args["deposited"], exit_amount=0, exit_at=0)


def _refunded(_: ChainEvent, args: _Args, records: Records) -> Iterable[Record]:
    found = records.get(ChannelRecord, args["channelId"])
    if found is not None:
        yield replace(found, deposited=args["deposited"], refund_nonce=args["nonce"] + 1)


def _channel_settled(_: ChainEvent, args: _Args, records: Records) -> Iterable[Record]:
    found = records.get(ChannelRecord, args["channelId"])
    if found is not None:
        yield replace(found, settled=args["settled"])


# --- gateways and payees ---------------------------------------------------------------------------------------


def _reserve(records: Records, gateway: bytes) -> ReserveRecord:
    return records.get(ReserveRecord, gateway) or ReserveRecord(gateway, 0, 0, 0)


def _credit(records: Records, gateway: bytes, payee: bytes) -> PayeeCredit:
    return records.get(PayeeCredit, (gateway, payee)) or PayeeCredit(gateway, payee, 0, 0)


def _batch_settled(event: ChainEvent, args: _Args, records: Records) -> Iterable[Record]:
    gateway = args["gateway"]
    yield SettlementRecord(
        gateway=gateway,
        epoch=args["epoch"],
        root=args["receiptsRoot"],
        first_seq=args["firstSeq"],
        count=args["count"],
        tx_hash=event.tx_hash,
        block=event.block_number,
    )
    reserve = _reserve(records, gateway)
    yield replace(reserve, amount=reserve.amount + args["debited"] - args["credited"])
    for payee, credited in args["creditedTotals"]:
        before = _credit(records, gateway, payee)
        if credited > before.credited:
            yield replace(before, credited=credited)


def _withdrawn(_: ChainEvent, args: _Args, records: Records) -> Iterable[Record]:
    before = _credit(records, args["gateway"], args["payee"])
    # What was withdrawn had been credited, whatever is known of the batch that did it.
    yield replace(before, withdrawn=args["withdrawn"], credited=max(before.credited, args["withdrawn"]))


def _reserve_changed(_: ChainEvent, args: _Args, records: Records) -> Iterable[Record]:
    yield replace(_reserve(records, args["gateway"]), amount=args["reserve"])


def _reserve_thawing(_: ChainEvent, args: _Args, records: Records) -> Iterable[Record]:
    yield replace(_reserve(records, args["gateway"]), thawing=args["thawing"], thawed_at=args["thawedAt"])


def _reserve_withdrawn(_: ChainEvent, args: _Args, records: Records) -> Iterable[Record]:
    yield replace(_reserve(records, args["gateway"]), amount=args["reserve"], thawing=0, thawed_at=0)


def _note_redeemed(_: ChainEvent, args: _Args, records: Records) -> Iterable[Record]:
    before = _credit(records, args["gateway"], args["payee"])
    yield replace(before, credited=args["credited"], owed=args["owed"])
    reserve = _reserve(records, args["gateway"])
    yield replace(reserve, amount=args["reserve"], arrears=reserve.arrears + args["owed"] - before.owed)


# --- disputes --------------------------------------------------------------------------------------------------


def _inclusion_challenged(_: ChainEvent, args: _Args, __: Records) -> Iterable[Record]:
    yield ChallengeRecord(args["receiptDigest"], args["gateway"], args["answerBy"])


def _inclusion_decided(_: ChainEvent, args: _Args, records: Records) -> Iterable[Record]:
    found = records.get(ChallengeRecord, args["receiptDigest"])
    if found is not None:
        yield replace(found, open=False)


_Handler = Callable[[ChainEvent, _Args, Records], Iterable[Record]]
_HANDLERS: dict[tuple[str, str], _Handler] = {
    ("ModelRegistry", "ModelListed"): _model_listed,
    ("ModelRegistry", "ModelUpdated"): _model_updated,
    ("ModelRegistry", "ModelActivity"): _model_activity,
    ("ModelRegistry", "ModelOwnershipTransferred"): _model_transferred,
    ("ModelRegistry", "ModelSuperseded"): _model_superseded,
    ("WorkerRegistry", "WorkerRegistered"): _worker_registered,
    ("WorkerRegistry", "WorkerMetadata"): _worker_metadata,
    ("WorkerRegistry", "StakeAdded"): _stake_added,
    ("WorkerRegistry", "StakeThawing"): _stake_thawing,
    ("WorkerRegistry", "StakeWithdrawn"): _stake_withdrawn,
    ("WorkerRegistry", "WorkerDeregistered"): _worker_deregistered,
    ("WorkerRegistry", "WorkerSlashed"): _worker_slashed,
    ("InferenceEscrow", "ChannelFunded"): _channel_funded,
    ("InferenceEscrow", "ExitInitiated"): _exit_initiated,
    ("InferenceEscrow", "ExitCancelled"): _exit_cancelled,
    ("InferenceEscrow", "ExitFinalized"): _exit_finalized,
    ("InferenceEscrow", "Refunded"): _refunded,
    ("InferenceEscrow", "ChannelSettled"): _channel_settled,
    ("InferenceEscrow", "BatchSettled"): _batch_settled,
    ("InferenceEscrow", "Withdrawn"): _withdrawn,
    ("InferenceEscrow", "ReserveFunded"): _reserve_changed,
    ("InferenceEscrow", "ReserveSlashed"): _reserve_changed,
    ("InferenceEscrow", "ReceiptClaimed"): _reserve_changed,
    ("InferenceEscrow", "ReserveThawing"): _reserve_thawing,
    ("InferenceEscrow", "ReserveWithdrawn"): _reserve_withdrawn,
    ("InferenceEscrow", "NoteRedeemed"): _note_redeemed,
    ("DisputeManager", "InclusionChallenged"): _inclusion_challenged,
    ("DisputeManager", "InclusionAnswered"): _inclusion_decided,
    ("DisputeManager", "InclusionUpheld"): _inclusion_decided,
}
