"""What the worker signs: the receipt of a served job, over the hashes of what came in and what went out."""

from __future__ import annotations

import time
from collections.abc import Callable

from contracts.protocol.metering import served_terms
from contracts.protocol.signing import PrivateKey
from contracts.protocol.tensors import content_hash
from contracts.protocol.typed_data import Receipt
from workers.admission import Admitted


def receipt_for(
    admitted: Admitted,
    outputs: bytes,
    *,
    key: PrivateKey,
    units: int = 0,
    clock: Callable[[], float] = time.time,
) -> Receipt:
    """Return the receipt of a served job, to be signed with others; `outputs` is the canonical blob.

    `units` is what was served, at most the job's, where the job's price is a ceiling.
    """
    job = admitted.job
    terms = served_terms(job, units)
    return Receipt(
        request_id=job.request_id,
        channel_id=admitted.channel_id,
        payer=job.channel.payer,
        gateway=job.channel.gateway,
        seq=job.seq,
        worker=key.address,
        model_id=job.model_id,
        input_hash=job.input_hash,
        output_hash=content_hash(outputs),
        price=terms.price,
        worker_amount=terms.worker_amount,
        owner_amount=terms.owner_amount,
        cumulative=terms.cumulative,
        served_at=int(clock()),
    )
