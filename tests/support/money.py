"""A small market in memory: keys, a registry, announcements and signing workers, for tests of the paid path."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace

import numpy as np

from contracts.protocol.hashing import sha256
from contracts.protocol.manifest import FileEntry, Manifest, TensorSpec
from contracts.protocol.messages import Announcement, Job, Result
from contracts.protocol.pricing import Unit
from contracts.protocol.signing import PrivateKey
from contracts.protocol.tensors import Tensor, content_hash, decode_tensors, encode_tensors
from contracts.protocol.typed_data import Channel, Domain, Offer, Receipt, Voucher
from market.adapters.memory_ledger import MemoryLedger
from market.adapters.memory_queue import MemoryDispatcher
from market.adapters.memory_reservations import MemoryReservations
from market.inference.channel_facts import RegistryChannels
from market.inference.model import InferenceRequest
from market.inference.papers import PapersDesk
from market.inference.service import InferenceLimits, InferenceService
from market.payments.authorize import Authorizer
from market.payments.model import Charge, Claim, ParsedVoucher
from market.registry.model import ChannelRecord, Listing, WorkerRecord
from market.registry.offers import LiveOffers
from market.verification.result_check import receipt_of

DOMAIN = Domain(31_337, b"\xee" * 20)
GATEWAY = PrivateKey(sha256(b"gateway"))
SIGNER = PrivateKey(sha256(b"signer"))
PAYER = PrivateKey(sha256(b"payer"))
OWNER = b"\x0e" * 20
FEE_PPM = 50_000
ROYALTY_PPM = 100_000


def channel_of(salt: int = 0, *, gateway: bytes = GATEWAY.address) -> Channel:
    return Channel(PAYER.address, SIGNER.address, gateway, salt)


CHANNEL = channel_of()
CHANNEL_ID = CHANNEL.digest(DOMAIN)


def voucher(amount: int, *, channel_id: bytes = CHANNEL_ID, key: PrivateKey = SIGNER) -> ParsedVoucher:
    return ParsedVoucher(channel_id, amount, key.sign_digest(Voucher(channel_id, amount).digest(DOMAIN)))


def claim(price: int, ceiling: int, *, request: int, token: int = 0, **changes: object) -> Claim:
    """A reservation wish on CHANNEL; request and token are small numbers here."""
    made = Claim(
        channel_id=CHANNEL_ID,
        request_id=request.to_bytes(32, "big"),
        token=(token or request).to_bytes(8, "big"),
        price=price,
        limit=10**12,
        voucher_amount=ceiling,
        voucher_signature=ceiling.to_bytes(65, "big"),
        ttl_seconds=60.0,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def charge(
    price: int, ceiling: int, *, request: int, salt: int = 0, seq: int = 1, outputs: bytes | None = None
) -> Charge:
    """A served request on the channel with this salt."""
    channel = channel_of(salt)
    receipt = Receipt(
        request_id=request.to_bytes(32, "big"),
        channel_id=channel.digest(DOMAIN),
        payer=channel.payer,
        gateway=channel.gateway,
        seq=seq,
        worker=b"\x01" * 20,
        model_id=b"\x02" * 32,
        input_hash=b"\x03" * 32,
        output_hash=b"\x04" * 32,
        price=price,
        worker_amount=price * 8 // 10,
        owner_amount=price // 10,
        cumulative=price,
        served_at=1_700_000_000,
    )
    return Charge(
        receipt=receipt,
        digest=receipt.digest(DOMAIN),
        channel=channel,
        voucher_amount=ceiling,
        voucher_signature=ceiling.to_bytes(65, "big"),
        worker_signature=b"\x05" * 65,
        gateway_signature=b"\x06" * 65,
        worker_payee=b"\x07" * 20,
        owner_payee=b"\x08" * 20,
        outputs=outputs,
        outputs_expire_at=1_000.0,
    )


def manifest(*, unit: Unit = Unit.ROW) -> Manifest:
    return Manifest(
        task="tensor",
        entry="model.onnx",
        files={"model.onnx": FileEntry(b"\x01" * 32, 10)},
        inputs=(TensorSpec("x", "FP32", (-1, 4)),),
        outputs=(TensorSpec("y", "FP32", (-1, 4)),),
        unit=unit,
        batch_axis=0,
    )


def tensor(rows: int = 1, fill: float = 1.0) -> Tensor:
    return Tensor.from_numpy("x", np.full((rows, 4), fill, np.float32))


class FakeRegistry:
    """As much of `RegistryView` as the paid path reads."""

    def __init__(self) -> None:
        self.by_id: dict[bytes, Listing] = {}
        self.records: dict[bytes, WorkerRecord] = {}
        self.open: dict[bytes, ChannelRecord] = {}

    def listings(self) -> list[Listing]:
        return list(self.by_id.values())

    def listing(self, model_id: bytes) -> Listing | None:
        return self.by_id.get(model_id)

    def listing_by_name(self, name: str) -> Listing | None:
        return next((listing for listing in self.by_id.values() if listing.name == name), None)

    def predecessor(self, model_id: bytes) -> Listing | None:
        return next((listing for listing in self.by_id.values() if listing.superseded_by == model_id), None)

    def worker(self, worker: bytes) -> WorkerRecord | None:
        return self.records.get(worker)

    def channel(self, channel_id: bytes) -> ChannelRecord | None:
        return self.open.get(channel_id)


@dataclass
class FakeWorker:
    """Doubles its input and signs; `tamper` changes the result, `pause` delays it, `served` counts."""

    key: PrivateKey
    price: int = 100
    pause: float = 0.0
    served: int = 0
    tamper: object = None
    gate: asyncio.Event | None = None
    process: bytes = bytes(8)

    async def __call__(self, job: Job) -> Result:
        self.served += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.pause:
            await asyncio.sleep(self.pause)
        tensors, _ = decode_tensors(job.inputs or b"")
        outputs = encode_tensors([Tensor.from_numpy("y", tensors[0].to_numpy() * 2)])
        result = Result(
            request_id=job.request_id,
            attempt=job.attempt,
            ok=True,
            outputs=outputs,
            output_hash=content_hash(outputs),
            served_at=int(time.time()),
        )
        receipt = receipt_of(job, result, self.key.address, channel_id=job.channel.digest(DOMAIN))
        result = replace(result, signature=self.key.sign_digest(receipt.digest(DOMAIN)))
        return self.tamper(job, result) if callable(self.tamper) else result


class FakeAnnouncements:
    def __init__(self) -> None:
        self.current: list[Announcement] = []

    async def read(self) -> list[Announcement]:
        return self.current


@dataclass
class World:
    """Everything of the paid path, joined by hand."""

    model: Manifest = field(default_factory=manifest)
    timeout: float = 5.0
    exposure_cap: int = 10**9
    rates: object = None
    audits: object = None

    def __post_init__(self) -> None:
        self.registry = FakeRegistry()
        self.listing = Listing(
            self.model.model_id, "tiny", OWNER, ROYALTY_PPM, 1, 10_000, int(self.model.unit), "", True
        )
        self.registry.by_id[self.model.model_id] = self.listing
        self.open_channel()
        self.announcements = FakeAnnouncements()
        self.workers: list[FakeWorker] = []
        self.dispatcher = MemoryDispatcher()
        self.ledger = MemoryLedger()
        self.offers = LiveOffers(
            announcements=self.announcements,
            registry=self.registry,  # type: ignore[arg-type]
            domain=DOMAIN,
            gateway=GATEWAY.address,
            fee_ppm=FEE_PPM,
        )
        self.papers = PapersDesk(key=GATEWAY, domain=DOMAIN)
        self.join()

    def join(self) -> None:
        """Build the service anew: what a restart of the gateway keeps is the ledger alone."""
        self.reservations = MemoryReservations(self.ledger)
        self.service = InferenceService(
            key=GATEWAY,
            domain=DOMAIN,
            registry=self.registry,  # type: ignore[arg-type]
            offers=self.offers,
            authorizer=Authorizer(
                domain=DOMAIN,
                gateway=GATEWAY.address,
                channels=RegistryChannels(self.registry),  # type: ignore[arg-type]
                reservations=self.reservations,
                exposure_cap=self.exposure_cap,
            ),
            reservations=self.reservations,
            ledger=self.ledger,
            dispatcher=self.dispatcher,
            papers=self.papers,
            limits=InferenceLimits(fee_ppm=FEE_PPM, timeout_seconds=self.timeout),
            rates=self.rates,  # type: ignore[arg-type]
            audits=self.audits,  # type: ignore[arg-type]
        )

    def open_channel(self, *, deposited: int = 10**9, **changes: object) -> None:
        record = ChannelRecord(CHANNEL_ID, CHANNEL.payer, CHANNEL.signer, CHANNEL.gateway, 0, deposited, 0)
        self.registry.open[CHANNEL_ID] = replace(record, **changes)  # type: ignore[arg-type]

    async def add_worker(
        self, name: str, *, price: int = 100, operator: bytes = b"\x0f" * 20, **worker: object
    ) -> FakeWorker:
        key = PrivateKey(sha256(name.encode()))
        made = FakeWorker(key, price, **worker)  # type: ignore[arg-type]
        self.workers.append(made)
        self.dispatcher.handlers[key.address] = made
        self.registry.records[key.address] = WorkerRecord(key.address, operator, 10**9, True, "", "", "")
        self.announcements.current.append(self.announcement(made))
        await self.offers.refresh()
        return made

    async def start_anew(self, worker: FakeWorker) -> None:
        """Let the gateway see that a worker's process was started again."""
        worker.process = sha256(worker.process)[:8]
        self.announcements.current = [self.announcement(one) for one in self.workers]
        await self.offers.refresh()

    def announcement(self, worker: FakeWorker, /, **changes: object) -> Announcement:
        offer = Offer(
            worker.key.address, self.model.model_id, GATEWAY.address, worker.price, FEE_PPM, int(time.time()) + 3_600
        )
        offer = replace(offer, **changes)  # type: ignore[type-var]
        signature = worker.key.sign_digest(offer.digest(DOMAIN))
        return Announcement(
            worker=worker.key.address,
            offers=((offer, signature),),
            manifests=(self.model.to_bytes(),),
            in_flight=0,
            max_batch=((self.model.model_id, 8),),
            provider="cpu",
            at=time.time(),
            process=getattr(worker, "process", bytes(8)),
        )

    def request(self, *, pay: int | None = 10**6, rows: int = 1, **changes: object) -> InferenceRequest:
        made = InferenceRequest("tiny", (tensor(rows),), None if pay is None else voucher(pay))
        return replace(made, **changes)  # type: ignore[arg-type]

    async def account(self):
        return await self.reservations.account(CHANNEL_ID)
