"""What live workers offer right now: announcements held against their signatures and the chain.

Decides which offers may be sold; keeps no history. Must never show an offer that a check failed. Refreshed by a loop
that `market.bootstrap` starts; read by the use case and the HTTP routes without waiting.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from contracts.protocol.errors import CodedError, ProtocolError
from contracts.protocol.hashing import sha256
from contracts.protocol.manifest import Manifest
from contracts.protocol.messages import ANNOUNCE_TTL_SECONDS, Announcement
from contracts.protocol.money import PPM
from contracts.protocol.pricing import Unit
from contracts.protocol.sealed import key_of
from contracts.protocol.signing import is_signed_by
from contracts.protocol.typed_data import Domain, Offer
from market.registry.model import Listing, WorkerRecord
from market.registry.ports import RegistryView

REFRESH_SECONDS = 1.0
# An offer about to run out is not sold: the worker re-checks it when the job arrives.
EXPIRY_MARGIN_SECONDS = 5
# More than a node has processes (`worker run --workers`).
MAX_PROCESSES = 128

log = structlog.get_logger(__name__)


class Announcements(Protocol):
    """Where the workers' signs of life are read."""

    async def read(self) -> Sequence[Announcement]:
        """Return the announcements that have not run out.

        Raises:
            RedisUnreachable: the store does not answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class Quote:
    """What one unit of a model costs at a worker, atomic units; `expires_at` unix seconds.

    `sealing` is the key that requests to it are sealed to, with its signature; empty if it has none.
    """

    model_id: bytes
    worker: bytes
    unit: Unit
    unit_price: int
    expires_at: int
    sealing: bytes = b""


@dataclass(frozen=True, slots=True)
class LiveOffer:
    """An offer that passed every check, with what the chain says of its worker.

    `start` is the newest start of the worker's process that was seen, a number that grows with each and over all
    workers.
    """

    offer: Offer
    worker: WorkerRecord
    start: int = 0


@dataclass(slots=True)
class _Seen:
    """A worker's newest announcement, when this process first saw it, and its processes, the last seen last."""

    announcement: Announcement
    at: float
    start: int
    processes: deque[bytes]


class LiveOffers:
    """The newest checked view; replaced as a whole by each refresh."""

    def __init__(
        self,
        *,
        announcements: Announcements,
        registry: RegistryView,
        domain: Domain,
        gateway: bytes,
        fee_ppm: int,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._announcements = announcements
        self._registry = registry
        self._domain = domain
        self._gateway = gateway
        self._fee_ppm = fee_ppm
        self._clock = clock
        self._wall_clock = wall_clock
        self._seen: dict[bytes, _Seen] = {}
        self._starts = itertools.count(1)
        self._offers: dict[bytes, list[LiveOffer]] = {}
        # When the first offer of a model runs out: until then none must be looked at.
        self._good_until: dict[bytes, float] = {}
        self._max_batch: dict[tuple[bytes, bytes], int] = {}
        self._manifests: dict[bytes, Manifest] = {}
        # Those of listed models that are none, so that each is read once.
        self._refused: set[bytes] = set()
        self._genuine: dict[tuple[bytes, bytes], bool] = {}
        self._reported: dict[tuple[bytes, bytes], str] = {}
        self._barred: frozenset[bytes] = frozenset()
        # As announced, and as it counts: empty where the signature is not the worker's.
        self._sealing: dict[bytes, tuple[bytes, bytes]] = {}

    def bar(self, workers: frozenset[bytes]) -> None:
        """Sell no offer of these workers from now on, and again those of all others."""
        if workers != self._barred:
            self._barred = workers
            self._rebuild()

    async def run(self) -> None:
        """Refresh until cancelled; while the store is away the last view ages out by itself."""
        while True:
            try:
                await self.refresh()
            except CodedError as error:
                log.warning("announcements-unreadable", code=error.code)
                self._rebuild()
            except Exception:  # one strange announcement must not end the view of all the others
                log.exception("offers-not-refreshed")
            await asyncio.sleep(REFRESH_SECONDS)

    async def refresh(self) -> None:
        """Read the announcements and check their offers again.

        Raises:
            RedisUnreachable: the store does not answer.
        """
        now = self._clock()
        for announcement in await self._announcements.read():
            self._see(announcement, now)
        self._rebuild()

    def _see(self, announcement: Announcement, now: float) -> None:
        known = self._seen.get(announcement.worker)
        if known is None:
            first = deque([announcement.process], MAX_PROCESSES)
            self._seen[announcement.worker] = _Seen(announcement, now, next(self._starts), first)
            return
        # A worker's clock may be wrong; that its announcement changed is seen with our own.
        if known.announcement.at != announcement.at:
            known.announcement, known.at = announcement, now
        # Processes of one node announce by turns.
        if announcement.process not in known.processes:
            known.start = next(self._starts)
            known.processes.append(announcement.process)

    @property
    def view(self) -> object:
        """A token of the newest view: another one after each refresh."""
        return self._offers

    def offers(self, model_id: bytes) -> Sequence[LiveOffer]:
        """Return the live offers for a model."""
        soon = self._wall_clock() + EXPIRY_MARGIN_SECONDS
        offers = self._offers.get(model_id, ())
        if soon < self._good_until.get(model_id, 0.0):
            return offers
        return [live for live in offers if live.offer.expires_at > soon]

    def quotes(self, model_id: bytes) -> list[Quote]:
        """Return the live offers for a model as quotes, the cheapest first."""
        listing = self._registry.listing(model_id)
        if listing is None:
            return []
        unit = Unit(listing.unit)
        quotes = [
            Quote(model_id, offer.worker, unit, offer.unit_price, offer.expires_at, self._sealing_of(offer.worker))
            for offer in (live.offer for live in self.offers(model_id))
        ]
        return sorted(quotes, key=lambda quote: (quote.unit_price, quote.worker))

    def manifest(self, model_id: bytes) -> Manifest | None:
        """Return the manifest that hashes to a model id, once a live worker has shown it."""
        return self._manifests.get(model_id)

    def announcement(self, worker: bytes) -> Announcement | None:
        """Return a live worker's newest announcement."""
        return self._seen[worker].announcement if self.is_live(worker) else None

    def workers(self) -> list[bytes]:
        """Name the live workers."""
        return [worker for worker in self._seen if self.is_live(worker)]

    def is_live(self, worker: bytes) -> bool:
        """Tell whether a worker gave a sign of life within the announcement's lifetime."""
        seen = self._seen.get(worker)
        return seen is not None and self._clock() - seen.at <= ANNOUNCE_TTL_SECONDS

    def max_batch(self, worker: bytes, model_id: bytes) -> int:
        """Return how many requests of a model the worker runs at once; 1 if it did not say."""
        return self._max_batch.get((worker, model_id), 1)

    def _rebuild(self) -> None:
        self._seen = {worker: seen for worker, seen in self._seen.items() if self.is_live(worker)}
        self._sealing = {worker: signed for worker, signed in self._sealing.items() if worker in self._seen}
        offers: dict[bytes, list[LiveOffer]] = {}
        max_batch: dict[tuple[bytes, bytes], int] = {}
        genuine: dict[tuple[bytes, bytes], bool] = {}
        reported: dict[tuple[bytes, bytes], str] = {}
        for seen in self._seen.values():
            announcement = seen.announcement
            self._learn_manifests(announcement)
            record = self._registry.worker(announcement.worker)
            self._learn_sealing(announcement)
            for model_id, cap in announcement.max_batch:
                max_batch[announcement.worker, model_id] = max(1, cap)
            for offer, signature in announcement.offers:
                key = (offer.to_bytes(), signature)
                fault = self._fault(announcement, record, offer)
                if fault is None:
                    known = self._genuine.get(key)
                    genuine[key] = (
                        is_signed_by(offer.digest(self._domain), signature, offer.worker) if known is None else known
                    )
                    fault = None if genuine[key] else "bad-signature"
                if fault is None and record is not None:
                    offers.setdefault(offer.model_id, []).append(LiveOffer(offer, record, seen.start))
                elif fault is not None:
                    where = (offer.worker, offer.model_id)
                    reported[where] = fault
                    if self._reported.get(where) != fault:
                        log.warning(
                            "offer-refused", reason=fault, worker=offer.worker.hex(), model=offer.model_id.hex()
                        )
        self._offers, self._max_batch, self._genuine, self._reported = offers, max_batch, genuine, reported
        self._good_until = {
            model_id: min(live.offer.expires_at for live in found) for model_id, found in offers.items()
        }

    def _learn_sealing(self, announcement: Announcement) -> None:
        worker, signed = announcement.worker, announcement.sealing
        if worker in self._sealing and self._sealing[worker][0] == signed:
            return
        genuine = bool(signed) and key_of(signed, worker, self._domain) is not None
        if signed and not genuine:
            log.warning("sealing-key-refused", worker=worker.hex())
        self._sealing[worker] = signed, signed if genuine else b""

    def _sealing_of(self, worker: bytes) -> bytes:
        return self._sealing.get(worker, (b"", b""))[1]

    def _learn_manifests(self, announcement: Announcement) -> None:
        for data in announcement.manifests:
            model_id = sha256(data)
            known = model_id in self._manifests or model_id in self._refused
            if known or self._registry.listing(model_id) is None:
                continue
            try:
                self._manifests[model_id] = Manifest.parse(data)
            except (ProtocolError, ValueError, RecursionError) as error:
                self._refused.add(model_id)
                log.warning("manifest-refused", detail=str(error), model=model_id.hex())

    def _fault(self, announcement: Announcement, record: WorkerRecord | None, offer: Offer) -> str | None:
        """Say why an offer may not be sold, or None; the signature is checked last since it costs most."""
        listing = self._registry.listing(offer.model_id)
        manifest = self._manifests.get(offer.model_id)
        if offer.worker != announcement.worker:
            return "another-workers-offer"
        if offer.gateway != self._gateway:
            return "another-gateway"
        if record is None or not record.active:
            return "worker-not-active"
        if offer.worker in self._barred:
            return "convicted"
        if listing is None or not listing.active:
            return "model-not-listed"
        if not listing.min_price <= offer.unit_price <= listing.max_price:
            return "price-outside-bounds"
        if self._fee_ppm > offer.max_fee_ppm:
            return "fee-above-offer"
        if offer.expires_at <= self._wall_clock():
            return "expired"
        if manifest is None:
            return "no-manifest"
        return _terms_fault(listing, manifest, self._fee_ppm)


def _terms_fault(listing: Listing, manifest: Manifest, fee_ppm: int) -> str | None:
    if Unit(listing.unit) is not manifest.unit:
        return "unit-differs-from-manifest"
    if listing.royalty_ppm + fee_ppm > PPM:
        return "royalty-and-fee-exceed-price"
    return None
