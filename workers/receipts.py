"""What the worker signs: the receipt of a served job, over the hashes of what came in and what went out."""

from __future__ import annotations

import time
from collections.abc import Callable

from contracts.protocol.metering import served_terms
from contracts.protocol.signing import PrivateKey
from contracts.protocol.tensors import content_hash
from contracts.protocol.typed_data import Domain, Receipt
from workers.admission import Admitted


def sign_receipt(
    admitted: Admitted,
    outputs: bytes,
    *,
    key: PrivateKey,
    domain: Domain,
    units: int = 0,
    clock: Callable[[], float] = time.time,
) -> tuple[Receipt, bytes]:
    """Return the receipt of a served job and the worker's signature; `outputs` is the canonical blob.

    `units` is what was served, at most the job's, where the job's price is a ceiling.
    """
    job = admitted.job
    terms = served_terms(job, units)
    receipt = Receipt(
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
    return receipt, key.sign_digest(receipt.digest(domain))
