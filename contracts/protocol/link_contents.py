"""What travels inside the link's frames beside the messages of the own lane, and how a node passes those on.

A node hands packs to its own broker and results to the gateway as rows, read only as far as passing on needs: the
worker behind it checks the jobs, the gateway the results. Does no input or output.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Self

from contracts.protocol.link_frames import MAX_MESSAGE_BYTES, LinkRefused, dump, load, make, row_of
from contracts.protocol.messages import Job, Result, blob_key

MAX_ATTEMPT_CHARS = 64
_JOB = {f.name: i for i, f in enumerate(fields(Job))}
_REQUEST_ID, _ATTEMPT, _REPLY_TO = _JOB["request_id"], _JOB["attempt"], _JOB["reply_to"]
_INPUTS, _INPUTS_REF, _DEADLINE = _JOB["inputs"], _JOB["inputs_ref"], _JOB["deadline_at"]
_RESULT = {f.name: i for i, f in enumerate(fields(Result))}
_RESULT_ID, _RESULT_ATTEMPT, _FINAL = _RESULT["request_id"], _RESULT["attempt"], _RESULT["final"]
_OUTPUTS, _OUTPUTS_REF = _RESULT["outputs"], _RESULT["outputs_ref"]


class _Message:
    """A dataclass of plain fields that travels as one payload."""

    def to_bytes(self) -> bytes:
        """Encode it."""
        return dump(row_of(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode it.

        Raises:
            LinkRefused: malformed.
        """
        return make(cls, load(data))


@dataclass(frozen=True)
class Stop(_Message):
    """End a streamed job after so many of its tokens."""

    request_id: bytes
    attempt: str
    tokens: int

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """See `_Message.from_bytes`."""
        made = super().from_bytes(data)
        _check_name(made.request_id, made.attempt)
        return made


@dataclass(frozen=True)
class Renewal(_Message):
    """A longer life of the session's key."""

    expiry: int
    signature: bytes


@dataclass(frozen=True)
class Bye(_Message):
    """Why a side ends the link, as a code and a sentence."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class ForwardedJob:
    """What a node must know of a job to pass it on, with its inputs' `size`; the worker behind it reads the rest."""

    request_id: bytes
    attempt: str
    deadline_at: float
    size: int


class ForwardedPack:
    """A pack on its way through a node."""

    def __init__(self, data: bytes) -> None:
        rows = load(data, limit=MAX_MESSAGE_BYTES)
        try:
            self._jobs, self._papers, self._trace = rows
            self.jobs = [_forwarded(row) for row in self._jobs]
        except LinkRefused:
            raise
        except Exception as error:
            raise LinkRefused("a malformed pack.", field="pack") from error

    def drop(self, keys: set[tuple[bytes, str]]) -> None:
        """Leave out jobs that are here already."""
        pairs = zip(self._jobs, self.jobs, strict=True)
        stay = [(row, job) for row, job in pairs if (job.request_id, job.attempt) not in keys]
        self._jobs, self.jobs = [row for row, _ in stay], [job for _, job in stay]

    def take_out(self, limit: int, name: Callable[[bytes, str], str]) -> list[tuple[ForwardedJob, bytes]]:
        """Take inputs above `limit` bytes out of their jobs, which refer to them by `name(request id, attempt)`."""
        out = []
        for row, job in zip(self._jobs, self.jobs, strict=True):
            if len(row[_INPUTS]) > limit:
                out.append((job, row[_INPUTS]))
                row[_INPUTS], row[_INPUTS_REF] = None, name(job.request_id, job.attempt)
        return out

    def to_bytes(self, reply_to: str) -> bytes:
        """Encode the pack for the node's own broker, its results to be sent to `reply_to` there."""
        for row in self._jobs:
            row[_REPLY_TO] = reply_to
        return dump([self._jobs, self._papers, self._trace])


def _forwarded(row: Any) -> ForwardedJob:
    if len(row) != len(_JOB) or not isinstance(row[_INPUTS], bytes) or row[_INPUTS_REF] is not None:
        raise LinkRefused("a job without its inputs.", field="inputs")
    request_id, attempt, deadline_at = row[_REQUEST_ID], row[_ATTEMPT], row[_DEADLINE]
    _check_name(request_id, attempt)
    deadline_at = float(deadline_at)
    if not math.isfinite(deadline_at):
        raise LinkRefused("a job without a deadline.", field="deadline_at")
    return ForwardedJob(request_id, attempt, deadline_at, len(row[_INPUTS]))


def _check_name(request_id: Any, attempt: Any) -> None:
    named = isinstance(request_id, bytes) and len(request_id) == 32 and isinstance(attempt, str)
    if not named or len(attempt) > MAX_ATTEMPT_CHARS:
        raise LinkRefused("a job without an id.", field="request_id")


class ForwardedResults:
    """A reply on its way through a node.

    `references` names the outputs that lie in its broker, where they are called as a job's outputs are; `finished` the
    jobs that have their final result.
    """

    NONE = dump([])

    def __init__(self, data: bytes) -> None:
        self._data = data
        try:
            self._rows = load(data, limit=MAX_MESSAGE_BYTES)
            self.references = [
                row[_OUTPUTS_REF]
                for row in self._rows
                if row[_OUTPUTS_REF] is not None
                and row[_OUTPUTS_REF] == blob_key("out", row[_RESULT_ID], row[_RESULT_ATTEMPT])
            ]
            self.finished = [(row[_RESULT_ID], row[_RESULT_ATTEMPT]) for row in self._rows if row[_FINAL]]
        except LinkRefused:
            raise
        except Exception as error:
            raise LinkRefused("malformed results.", field="results") from error

    def to_bytes(self, found: dict[str, bytes | None]) -> bytes:
        """Encode the reply with its outputs put in; one whose outputs are gone keeps its reference."""
        if not self.references:
            return self._data
        for row in self._rows:
            outputs = found.get(row[_OUTPUTS_REF]) if row[_OUTPUTS_REF] in self.references else None
            if outputs is not None:
                row[_OUTPUTS], row[_OUTPUTS_REF] = outputs, None
        return dump(self._rows)
