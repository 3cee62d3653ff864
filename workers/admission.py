"""Whether a job will be paid: everything the gateway says is computed or read again before anything runs.

Decides nothing about the inputs' meaning for the model; that is `workers.execution`. Each refusal names the field.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from contracts.protocol.errors import CodedError, Retry, TensorError
from contracts.protocol.messages import Job
from contracts.protocol.metering import ceiling_units
from contracts.protocol.money import split_price
from contracts.protocol.pricing import price_up
from contracts.protocol.sealed import TENSOR, UNITS, is_sealed
from contracts.protocol.sealing import WorkersKey
from contracts.protocol.signing import is_signed_by
from contracts.protocol.tensors import Tensor, content_hash, decode_tensors
from contracts.protocol.typed_data import Domain, Voucher
from contracts.protocol.values import value_class
from workers.chain import ChainFacts
from workers.errors import InputsRefused, JobRefused, JobTooLate
from workers.models.store import Package

VOUCHERS_KEPT = 50_000
GENERATION = "text-generation"


class ChainAway(JobRefused):
    """The worker cannot see the channel on chain now."""

    code = "chain-away"
    retry = Retry.OTHER_WORKER


@dataclass(frozen=True, slots=True)
class Served:
    """A model this worker serves and the price it asks."""

    package: Package
    unit_price: int


@value_class(frozen=True, slots=True)
class Admitted:
    """A job in order, with its decoded inputs; `ceiling` is the most units that it may be charged.

    `answer_key` seals the outputs of inputs that came sealed; empty where they came in the open.
    """

    job: Job
    tensors: tuple[Tensor, ...]
    parameters: Mapping[str, Any]
    channel_id: bytes
    ceiling: int
    answer_key: bytes = b""


class Admission:
    """The checks of one worker."""

    def __init__(
        self,
        *,
        domain: Domain,
        gateways: frozenset[bytes],
        served: Mapping[bytes, Served],
        max_fee_ppm: int,
        chain: ChainFacts,
        sealing: WorkersKey | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._domain = domain
        self._gateways = gateways
        self._served = served
        self._max_fee_ppm = max_fee_ppm
        self._chain = chain
        self._sealing = sealing
        self._clock = clock
        # Each channel's highest genuine voucher: the worker is paid by that one, whatever came with a job below it.
        self._highest: dict[bytes, tuple[int, bytes]] = {}
        # Ids of channels, by their wire form: a digest costs more than a look-up.
        self._channel_ids: dict[bytes, bytes] = {}

    def foresee(self, jobs: Sequence[Job]) -> None:
        """Look at the highest voucher of each channel in a pack: if it is genuine, no other needs to be looked at."""
        highest: dict[bytes, Job] = {}
        # A voucher that was signed ahead comes with many of them.
        for job in {job.voucher_signature: job for job in jobs}.values():
            channel_id = self._channel_id(job)
            known = highest.get(channel_id)
            if known is None or job.voucher_amount > known.voucher_amount:
                highest[channel_id] = job
        for channel_id, job in highest.items():
            with suppress(CodedError):  # no amount at all, say; the job's own check refuses that, and it alone
                self._is_covered(job, channel_id)

    def check(self, job: Job, inputs: bytes) -> Admitted:
        """Return the job with its inputs decoded, and with a genuine voucher that covers it, its own or a higher one.

        Raises:
            JobTooLate: the deadline has passed.
            JobRefused: price, split, channel, voucher or deposit is not in order.
            InputsRefused: the inputs are not what was hashed, not decodable, or sealed and not what was said of them.
        """
        if job.deadline_at <= self._clock():
            raise JobTooLate("the deadline has passed.", field="deadline_at")
        served = self._served.get(job.model_id)
        if served is None:
            raise JobRefused("this worker does not serve the model.", field="model_id")
        if job.channel.gateway not in self._gateways:
            raise JobRefused("this worker does not work for the gateway.", field="gateway")
        if content_hash(inputs) != job.input_hash:
            raise InputsRefused("the inputs do not have the hash they came with.", field="input_hash")
        try:
            tensors, parameters = decode_tensors(inputs)
            ceiling = ceiling_units(served.package.manifest, tensors, parameters)
        except TensorError as error:
            raise InputsRefused(error.detail, field=error.field, remedy=error.remedy) from error
        self._check_price(job, served, ceiling)
        channel_id = self._channel_id(job)
        job = self._with_voucher(job, channel_id)
        self._check_deposit(job, channel_id)
        if is_sealed(parameters):
            return self._opened(job, served, tensors, channel_id, ceiling)
        return Admitted(job, tuple(tensors), parameters, channel_id, ceiling)

    def _opened(self, job: Job, served: Served, tensors: Sequence[Tensor], channel_id: bytes, ceiling: int) -> Admitted:
        manifest = served.package.manifest
        if self._sealing is None or job.stream:
            raise InputsRefused("sealed requests are not served here, or not in pieces.", field=TENSOR)
        try:
            opened = self._sealing.open_request(job.model_id, tensors)
            units = ceiling_units(manifest, opened.tensors, opened.parameters)
        except TensorError as error:
            raise InputsRefused(error.detail, field=error.field, remedy=error.remedy) from error
        if opened.parameters and manifest.task != GENERATION:
            raise InputsRefused(f"a model of the task {manifest.task!r} takes no parameters.", field=TENSOR)
        if units > ceiling:
            raise InputsRefused(f"it is sealed as {ceiling} units and may take {units}.", field=UNITS)
        return Admitted(job, tuple(opened.tensors), opened.parameters, channel_id, ceiling, opened.answer_key)

    def _check_price(self, job: Job, served: Served, units: int) -> None:
        per_price = served.package.manifest.unit.per_price
        asked = price_up(served.unit_price, units, units_per_price=per_price)
        if job.price < asked:
            raise JobRefused(f"{job.price} for {units} units, {asked} asked.", field="price")
        if job.unit_price:
            self._check_metered(job, served, units)
        if job.fee_ppm > self._max_fee_ppm:
            raise JobRefused(f"a fee of {job.fee_ppm} ppm, {self._max_fee_ppm} accepted.", field="fee_ppm")
        listing = self._chain.listing(job.model_id)
        if listing is None:
            raise ChainAway("the listing cannot be read.", field="model_id")
        if job.royalty_ppm != listing.royalty_ppm:
            raise JobRefused(
                f"a royalty of {job.royalty_ppm} ppm, {listing.royalty_ppm} on chain.", field="royalty_ppm"
            )
        split = split_price(job.price, job.royalty_ppm, job.fee_ppm)
        if job.worker_amount < split.worker_amount or job.owner_amount != split.owner_amount:
            raise JobRefused(
                f"worker {job.worker_amount} and owner {job.owner_amount} of {job.price}, "
                f"{split.worker_amount} and {split.owner_amount} due.",
                field="worker_amount",
            )

    @staticmethod
    def _check_metered(job: Job, served: Served, units: int) -> None:
        """Check that what was served, up to `units`, can be charged at no less than the offer."""
        if not served.package.manifest.is_metered:
            raise JobRefused("the model's units are known beforehand.", field="unit_price")
        if job.unit_price < served.unit_price:
            raise JobRefused(f"{job.unit_price} a unit, {served.unit_price} asked.", field="unit_price")
        per_price = served.package.manifest.unit.per_price
        if job.units_per_price != per_price:
            raise JobRefused(
                f"a price for {job.units_per_price} units, it is for {per_price}.", field="units_per_price"
            )
        if job.units < units or job.price < price_up(job.unit_price, units, units_per_price=per_price):
            raise JobRefused(f"{job.units} units for {job.price}; there may be {units}.", field="units")

    def _channel_id(self, job: Job) -> bytes:
        wire = job.channel.to_bytes()
        known = self._channel_ids.get(wire)
        if known is None:
            if len(self._channel_ids) >= VOUCHERS_KEPT:
                self._channel_ids.clear()
            known = self._channel_ids[wire] = job.channel.digest(self._domain)
        return known

    def _with_voucher(self, job: Job, channel_id: bytes) -> Job:
        if job.voucher_amount < job.cumulative or job.cumulative < job.price:
            raise JobRefused(
                f"the voucher's {job.voucher_amount} does not cover {job.cumulative}.", field="voucher_amount"
            )
        if not self._is_covered(job, channel_id):
            raise JobRefused("the voucher is not signed by the channel's signer.", field="voucher_signature")
        amount, signature = self._highest[channel_id]
        if amount == job.voucher_amount:
            return job
        return replace(job, voucher_amount=amount, voucher_signature=signature)

    def _is_covered(self, job: Job, channel_id: bytes) -> bool:
        """Tell whether the job's voucher is genuine, or less than one that is."""
        own = (job.voucher_amount, job.voucher_signature)
        known = self._highest.get(channel_id)
        if known is not None and (known == own or job.voucher_amount < known[0]):
            return True
        digest = Voucher(channel_id, job.voucher_amount).digest(self._domain)
        if not is_signed_by(digest, job.voucher_signature, job.channel.signer):
            return False
        if len(self._highest) >= VOUCHERS_KEPT:
            self._highest.clear()
        self._highest[channel_id] = own
        return True

    def _check_deposit(self, job: Job, channel_id: bytes) -> None:
        state = self._chain.channel(channel_id, job.cumulative)
        if state is None:
            raise ChainAway("the channel cannot be read.", field="channel")
        available = state.deposited - state.exit_amount
        if available < job.cumulative:
            raise JobRefused(f"the deposit of {available} does not cover {job.cumulative}.", field="channel")
