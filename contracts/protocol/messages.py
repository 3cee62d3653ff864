"""What travels between gateway and worker: msgpack data, never pickles, the same in both lanes.

A pack of jobs goes out as the one argument of a Celery task; results come back on the gateway process's reply list.
A failure is data too: a stable code, who may retry, one sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, TypeVar

import msgpack

from contracts.protocol.errors import MessageError, Retry
from contracts.protocol.typed_data import Channel, CreditNote, Offer
from contracts.protocol.values import value_class

TASK_RUN = "workers.tasks.run"
TASK_FILE_PAPERS = "workers.tasks.file_papers"
ANNOUNCE_KEY_PREFIX = "announce:"
ANNOUNCED_SET = "announced"
ANNOUNCE_TTL_SECONDS = 10
ANNOUNCE_INTERVAL_SECONDS = 2
REPLY_TTL_SECONDS = 120
INLINE_LIMIT_BYTES = 65_536
MAX_PACK_BYTES = 64 << 20
# As many as a node has jobs in hand; a list of millions of nothings would take a gateway seconds to read.
MAX_RESULTS = 16_384
PROCESS_BYTES = 8


def worker_queue(worker: bytes) -> str:
    """Name the Celery queue of a worker address."""
    return f"worker.{worker.hex()}"


def reply_key(gateway_process_id: str) -> str:
    """Name the Redis list on which one gateway process awaits results."""
    return f"reply:{gateway_process_id}"


def blob_key(kind: str, request_id: bytes, attempt: str) -> str:
    """Name the Redis key of tensors by reference; `kind` is `in` or `out`, `attempt` tells retries apart."""
    return f"blob:{kind}:{request_id.hex()}:{attempt}"


def cancel_key(request_id: bytes, attempt: str) -> str:
    """Name the Redis key that stops a streamed job; its value is how many completion tokens the client was sent."""
    return f"cancel:{request_id.hex()}:{attempt}"


@value_class(frozen=True, slots=True)
class Job:
    """One paid request as the worker sees and re-checks it.

    `inputs` is the canonical tensor blob, or None when `inputs_ref` names it. `cumulative` is the channel's charge if
    this succeeds; `deadline_at` unix seconds; amounts atomic units. `fee_ppm` and `royalty_ppm` explain the split.
    With a `unit_price` above 0, `units`, `price` and `cumulative` are ceilings: the worker signs what it really served,
    `price_up` of the units served, `units_per_price` of them for one `unit_price`, and takes the difference off
    `cumulative`. `stream` asks for partial results.
    """

    request_id: bytes
    attempt: str
    channel: Channel
    seq: int
    model_id: bytes
    units: int
    price: int
    worker_amount: int
    owner_amount: int
    royalty_ppm: int
    fee_ppm: int
    cumulative: int
    voucher_amount: int
    voucher_signature: bytes
    deadline_at: float
    input_hash: bytes
    inputs: bytes | None
    inputs_ref: str | None
    outputs: tuple[str, ...]
    reply_to: str
    unit_price: int = 0
    stream: bool = False
    units_per_price: int = 1


@value_class(frozen=True, slots=True)
class Papers:
    """What pays a worker without the gateway: countersignatures by request id, and its newest credit note."""

    countersigned: tuple[tuple[bytes, bytes], ...] = ()
    credit_note: CreditNote | None = None
    credit_note_signature: bytes = b""


@value_class(frozen=True, slots=True)
class Pack:
    """Jobs of one model for one worker, with papers of earlier ones.

    `trace` has the W3C `traceparent` of those that belong to a trace, by the hex of their request id.
    """

    jobs: tuple[Job, ...]
    papers: Papers = Papers()
    trace: tuple[tuple[str, str], ...] = ()


@value_class(frozen=True, slots=True)
class Result:
    """The outcome of one job; on success the worker's signature over the receipt, on failure code, retry and detail.

    `units` is what was served where the job's price was a ceiling, else 0. A streamed job sends results with `final`
    False first, each with the tensors that are new; the final one carries all outputs and the signature. `started_at`
    and `signed_at` tell by the worker's clock when the model run began and the receipt was signed; no more.
    """

    request_id: bytes
    attempt: str
    ok: bool
    outputs: bytes | None = None
    outputs_ref: str | None = None
    output_hash: bytes = b""
    served_at: int = 0
    signature: bytes = b""
    code: str = ""
    retry: Retry = Retry.NEVER
    detail: str = ""
    field: str | None = None
    compute_ms: float = 0.0
    units: int = 0
    final: bool = True
    started_at: float = 0.0
    signed_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Announcement:
    """A worker's sign of life: signed offers, the manifests of its models, load. `at` is unix seconds.

    `process` is drawn anew whenever a process of the worker starts, so that a start is seen. `sealing` is the worker's
    signed sealing key, 97 bytes, empty if nothing can be sealed to it; see `sealed`.
    """

    worker: bytes
    offers: tuple[tuple[Offer, bytes], ...]
    manifests: tuple[bytes, ...]
    in_flight: int
    max_batch: tuple[tuple[bytes, int], ...]
    provider: str
    at: float
    process: bytes
    sealing: bytes = b""


_D = TypeVar("_D")


def encode_pack(pack: Pack) -> bytes:
    """Encode a pack for the queue."""
    return _dump([[_job_row(job) for job in pack.jobs], _papers_row(pack.papers), pack.trace])


def decode_pack(data: bytes) -> Pack:
    """Decode a pack.

    Raises:
        MessageError: malformed.
    """
    jobs, papers, trace = _load(data, 3)
    return Pack(
        tuple(_job(row) for row in _rows(jobs)),
        _papers(papers),
        tuple((str(key), str(value)) for key, value in _pairs(trace)),
    )


def encode_papers(papers: Papers) -> bytes:
    """Encode papers sent alone."""
    return _dump(_papers_row(papers))


def decode_papers(data: bytes) -> Papers:
    """Decode papers sent alone.

    Raises:
        MessageError: malformed.
    """
    return _papers(_load(data, 3))


def encode_results(results: Iterable[Result]) -> bytes:
    """Encode the results of one pack as one reply."""
    return _dump([_layout(Result).read(result) for result in results])


def decode_results(data: bytes) -> list[Result]:
    """Decode a reply.

    Raises:
        MessageError: malformed.
    """
    out = []
    for row in _rows(_load(data, None, most=MAX_RESULTS)):
        result = _make(Result, row)
        retry = _RETRIES.get(result.retry)
        if retry is None:
            raise MessageError(f"unknown retry {result.retry!r}.", field="retry")
        object.__setattr__(result, "retry", retry)  # fresh, and nobody else's yet
        out.append(result)
    return out


def encode_announcement(announcement: Announcement) -> bytes:
    """Encode a sign of life."""
    offers = [[offer.to_bytes(), signature] for offer, signature in announcement.offers]
    worker, _, *rest = _layout(Announcement).read(announcement)
    return _dump([worker, offers, *rest])


def decode_announcement(data: bytes) -> Announcement:
    """Decode a sign of life.

    Raises:
        MessageError: malformed.
    """
    worker, offers, manifests, in_flight, max_batch, provider, at, process, sealing = _load(data, 9)
    try:
        if len(process) != PROCESS_BYTES:
            raise MessageError(f"a process has {PROCESS_BYTES} bytes.", field="process")
        return Announcement(
            worker=bytes(worker),
            offers=tuple((Offer.from_bytes(offer), bytes(signature)) for offer, signature in _pairs(offers)),
            manifests=tuple(bytes(manifest) for manifest in _rows(manifests)),
            in_flight=int(in_flight),
            max_batch=tuple((bytes(model), int(cap)) for model, cap in _pairs(max_batch)),
            provider=str(provider),
            at=float(at),
            process=bytes(process),
            sealing=bytes(sealing),
        )
    except MessageError:
        raise
    except Exception as error:
        raise MessageError("a malformed announcement.", field="announcement") from error


def _job_row(job: Job) -> tuple[Any, ...]:
    request_id, attempt, channel, *rest = _layout(Job).read(job)
    return request_id, attempt, channel.to_bytes(), *rest


def _papers_row(papers: Papers) -> list[Any]:
    note = papers.credit_note
    return [papers.countersigned, None if note is None else note.to_bytes(), papers.credit_note_signature]


def _papers(row: Any) -> Papers:
    try:
        countersigned, note, signature = row
        return Papers(
            tuple((bytes(request_id), bytes(sig)) for request_id, sig in countersigned),
            None if note is None else CreditNote.from_bytes(note),
            bytes(signature),
        )
    except Exception as error:
        raise MessageError("malformed papers.", field="papers") from error


def _job(row: Any) -> Job:
    job = _make(Job, row)
    try:
        channel = Channel.from_bytes(job.channel)  # type: ignore[arg-type]  # still the wire form here
    except Exception as error:
        raise MessageError("malformed channel.", field="channel") from error
    return _with(job, channel=channel, outputs=tuple(job.outputs))


_TYPES: dict[str, tuple[type, ...]] = {
    "bytes": (bytes,),
    "str": (str,),
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "bytes | None": (bytes, type(None)),
    "str | None": (str, type(None)),
    "tuple[str, ...]": (list,),
    "Channel": (bytes,),
    "Retry": (str,),
}
_RETRIES: dict[str, Retry] = {retry.value: retry for retry in Retry}


@dataclass(frozen=True, slots=True)
class _Layout:
    """What is read of a message class once: a getter of all its fields, their names and the types they take.

    `seen` are rows of types that were found good.
    """

    read: Callable[[Any], tuple[Any, ...]]
    names: tuple[str, ...]
    types: tuple[tuple[type, ...], ...]
    seen: set[tuple[type, ...]]


_LAYOUTS: dict[type, _Layout] = {}
_SEEN_KEPT = 64


def _layout(kind: type) -> _Layout:
    known = _LAYOUTS.get(kind)
    if known is None:
        names = tuple(f.name for f in fields(kind))
        types = tuple(_TYPES.get(str(f.type), ()) for f in fields(kind))
        known = _LAYOUTS[kind] = _Layout(attrgetter(*names), names, types, set())
    return known


def _make(kind: type[_D], row: Any) -> _D:
    layout = _layout(kind)
    if not isinstance(row, list) or len(row) != len(layout.names):
        raise MessageError(f"a {kind.__name__} has {len(layout.names)} fields.", field=kind.__name__)
    given = tuple(map(type, row))
    if given not in layout.seen:
        for name, one, types in zip(layout.names, given, layout.types, strict=True):
            if one not in types:
                raise MessageError(f"expected {' or '.join(t.__name__ for t in types)}.", field=name)
        # A field takes one or two types, and messages that differ so are few; still, a stranger must not fill this.
        if len(layout.seen) < _SEEN_KEPT:
            layout.seen.add(given)
    return kind(*row)


def _with(item: _D, **changes: Any) -> _D:
    for name, value in changes.items():
        # The object is fresh and not yet shared; replace() would copy twenty fields.
        object.__setattr__(item, name, value)
    return item


def _dump(value: Any) -> bytes:
    return bytes(msgpack.packb(value, use_bin_type=True))


def _load(data: bytes, length: int | None, *, most: int = MAX_PACK_BYTES) -> list[Any]:
    if len(data) > MAX_PACK_BYTES:
        raise MessageError(f"{len(data)} bytes, {MAX_PACK_BYTES} allowed.")
    try:
        value = msgpack.unpackb(data, raw=False, strict_map_key=True, max_array_len=most)
    except Exception as error:
        raise MessageError("not msgpack.") from error
    if not isinstance(value, list) or (length is not None and len(value) != length):
        raise MessageError("unexpected layout.")
    return value


def _rows(value: Any) -> Sequence[Any]:
    if not isinstance(value, list):
        raise MessageError("expected a list.")
    return value


def _pairs(value: Any) -> Sequence[Sequence[Any]]:
    rows = _rows(value)
    if not all(isinstance(row, list) and len(row) == 2 for row in rows):
        raise MessageError("expected pairs.")
    return rows
