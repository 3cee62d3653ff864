"""The JSON of the market's read API: amounts as decimal strings, addresses checksummed, hashes as 0x-hex.

Pure functions from records to plain data. Called by the routes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from contracts.protocol.hexes import checksum, hex0x
from contracts.protocol.manifest import Manifest
from contracts.protocol.messages import Announcement
from contracts.protocol.pricing import Unit
from contracts.protocol.sealed import KEY_BYTES
from market.adapters.database.statistics import BatchFacts, Past
from market.gateway.tensors_json import MODEL_VERSION
from market.inference.activity import Minute, Performance
from market.payments.model import Account, Earning, StoredReceipt
from market.registry.model import ChannelRecord, Listing, PayeeCredit, SettlementRecord, WorkerRecord
from market.registry.offers import Quote

PLATFORM = "onnxruntime_onnx"
LISTED_CHARACTERS = 2_048


def model_metadata(name: str, manifest: Manifest) -> dict[str, Any]:
    """Return the OIP v2 model metadata."""
    return {
        "name": name,
        "versions": [MODEL_VERSION],
        "platform": PLATFORM,
        "inputs": [spec.to_json() for spec in manifest.inputs],
        "outputs": [spec.to_json() for spec in manifest.outputs],
    }


def model_index(
    listings: Iterable[Listing], quotes: Callable[[bytes], Sequence[Quote]], *, ready_only: bool
) -> list[dict[str, Any]]:
    """Return the OIP v2 repository index of the active listings."""
    rows = []
    for found in listings:
        ready = bool(quotes(found.model_id))
        if found.active and (ready or not ready_only):
            state, reason = ("READY", "") if ready else ("UNAVAILABLE", "no live worker offers it")
            rows.append({"name": found.name, "version": MODEL_VERSION, "state": state, "reason": reason})
    return rows


def quote(found: Quote) -> dict[str, Any]:
    """Return one live offer."""
    return {
        "modelId": hex0x(found.model_id),
        "worker": checksum(found.worker),
        "unit": found.unit.name.lower(),
        "unitPrice": str(found.unit_price),
        "expiresAt": found.expires_at,
        "sealing": _sealing(found.sealing),
    }


def _sealing(signed: bytes) -> dict[str, str] | None:
    if not signed:
        return None
    return {"key": hex0x(signed[:KEY_BYTES]), "signature": hex0x(signed[KEY_BYTES:])}


def listing(found: Listing, manifest: Manifest | None, quotes: Sequence[Quote]) -> dict[str, Any]:
    """Return a listing with its live offers; what only the manifest tells is null while no worker serves it."""
    return {
        "name": found.name,
        "modelId": hex0x(found.model_id),
        "owner": checksum(found.owner),
        "royaltyPpm": found.royalty_ppm,
        "minPrice": str(found.min_price),
        "maxPrice": str(found.max_price),
        "unit": Unit(found.unit).name.lower(),
        "uri": found.uri,
        "active": found.active,
        "task": None if manifest is None else manifest.task,
        "license": None if manifest is None else manifest.license,
        "batchAxis": None if manifest is None else manifest.batch_axis,
        "maxBatch": None if manifest is None else manifest.max_batch,
        "inputs": None if manifest is None else [spec.to_json() for spec in manifest.inputs],
        "outputs": None if manifest is None else [spec.to_json() for spec in manifest.outputs],
        "options": None if manifest is None else dict(manifest.options),
        "offers": [quote(one) for one in quotes],
    }


def cut(text: str) -> str:
    """Return as much of a text from the chain, where it may have any length, as stands in a list."""
    return text[:LISTED_CHARACTERS]


def worker(found: WorkerRecord, announcement: Announcement | None) -> dict[str, Any]:
    """Return a registered worker and, if it is live, what it announces."""
    return {
        "worker": checksum(found.worker),
        "operator": checksum(found.operator),
        "stake": str(found.stake),
        "thawing": str(found.thawing),
        "active": found.active,
        "region": cut(found.region),
        "hardware": cut(found.hardware),
        "endpoint": cut(found.endpoint),
        "live": announcement is not None,
        "inFlight": None if announcement is None else announcement.in_flight,
        "provider": None if announcement is None else announcement.provider,
        "models": [] if announcement is None else [hex0x(offer.model_id) for offer, _ in announcement.offers],
    }


def channel(found: ChannelRecord, account: Account, exposure_cap: int, *, promised: int = 0) -> dict[str, Any]:
    """Return a channel: what the chain holds, what is charged and reserved here, what may still be spent."""
    exiting = found.exit_amount
    spendable = min(found.deposited - exiting - promised, found.settled + exposure_cap)
    return {
        "channelId": hex0x(found.channel_id),
        "payer": checksum(found.payer),
        "signer": checksum(found.signer),
        "gateway": checksum(found.gateway),
        "salt": str(found.salt),
        "needsAccess": found.channel.needs_access,
        "deposited": str(found.deposited),
        "settled": str(found.settled),
        "exitAmount": str(exiting),
        "exitAt": found.exit_at,
        "refundNonce": found.refund_nonce,
        "refundPromised": str(promised),
        "charged": str(account.charged),
        "reserved": str(account.reserved),
        "ceiling": str(account.ceiling),
        "available": str(max(0, spendable - account.charged - account.reserved)),
        "required": str(account.charged + account.reserved),
    }


def receipt(stored: StoredReceipt, settlement: dict[str, Any] | None) -> dict[str, Any]:
    """Return a receipt with both signatures and its settlement, null until there is one."""
    return {
        "receipt": stored.receipt.to_json(),
        "digest": hex0x(stored.digest),
        "workerSignature": hex0x(stored.worker_signature),
        "gatewaySignature": hex0x(stored.gateway_signature),
        "position": stored.position,
        "settlement": settlement,
    }


def leaf(stored: StoredReceipt) -> dict[str, Any]:
    """Return a receipt with its place in its batch."""
    return {
        "index": stored.leaf_index,
        "receipt": stored.receipt.to_json(),
        "digest": hex0x(stored.digest),
        "workerSignature": hex0x(stored.worker_signature),
        "gatewaySignature": hex0x(stored.gateway_signature),
    }


def settlement(found: SettlementRecord, booked: BatchFacts | None) -> dict[str, Any]:
    """Return one settled batch; money and gas are null where the gateway's own book does not have them."""
    gas = None if booked is None else booked.gas_used
    return {
        "gateway": checksum(found.gateway),
        "epoch": str(found.epoch),
        "root": hex0x(found.root),
        "firstSeq": str(found.first_seq),
        "count": found.count,
        "transactionHash": hex0x(found.tx_hash),
        "block": found.block,
        "debited": None if booked is None else str(booked.debited),
        "credited": None if booked is None else str(booked.credited),
        "gasUsed": gas,
        "gasPerReceipt": gas // found.count if gas is not None and found.count else None,
    }


def performance(found: Performance) -> dict[str, Any]:
    """Return an hour's attempts in one line."""
    return {
        "served": found.served,
        "failed": found.failed,
        "successRate": found.success_rate,
        "errors": found.errors,
        "p50Ms": found.p50_ms,
        "p95Ms": found.p95_ms,
    }


def minute(found: Minute) -> dict[str, Any]:
    """Return one minute's attempts."""
    return {
        "at": found.at,
        "served": found.served,
        "failed": found.failed.total(),
        "meanMs": found.spent_ms / found.served if found.served else None,
    }


def past(found: Past) -> dict[str, Any]:
    """Return charged requests over time."""
    return {
        "since": found.since,
        "stepSeconds": found.step_seconds,
        "complete": found.complete,
        "buckets": [
            {
                "at": one.at,
                "modelId": hex0x(one.model_id),
                "requests": one.requests,
                "price": str(one.price),
                "workerAmount": str(one.worker_amount),
                "ownerAmount": str(one.owner_amount),
            }
            for one in found.buckets
        ],
    }


def payee(address: bytes, earned: int, credit: PayeeCredit | None) -> dict[str, Any]:
    """Return what a payee earned here, what is credited on chain, what it has withdrawn."""
    return {
        "payee": checksum(address),
        "earned": str(earned),
        "credited": str(credit.credited if credit else 0),
        "withdrawn": str(credit.withdrawn if credit else 0),
    }


def earning(found: Earning) -> dict[str, Any]:
    """Return what a payee earned in one role with one model."""
    return {
        "role": found.role,
        "modelId": hex0x(found.model_id),
        "requests": found.requests,
        "earned": str(found.earned),
    }
