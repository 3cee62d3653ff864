"""One streamed request between worker and reader: a bounded buffer, a count of tokens, and the end of a generation.

Decides when a generation is stopped (the reader is gone, too slow, or the deadline is near) and at which token, and
whether the worker's last word agrees with what it streamed. Holds no money and no connection. Called by the use case.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from typing import Protocol, TypeVar

import structlog

from contracts.protocol.errors import ProtocolError
from contracts.protocol.messages import Job, Result
from contracts.protocol.tensors import Tensor, decode_tensors, unpack_bytes
from market.errors import MarketError, ReceiptMismatch
from market.inference.kept import Cut
from market.inference.model import Answer, Partial
from market.inference.ports import Dispatcher

# A reader that leaves more than this unread has its generation stopped; kernel and server hold some more.
MAX_UNREAD_TOKENS = 512
MAX_TOKEN_BYTES = 4_096
TEXT, TOKENS, INDEX = "text", "tokens", "index"
FINISH_REASON, USAGE = "finish_reason", "usage"
_REASONS = frozenset({b"stop", b"length", b"cancelled"})
_TYPES = {
    TEXT: "BYTES",
    FINISH_REASON: "BYTES",
    USAGE: "INT64",
    "logprobs": "FP32",
    "top_tokens": "BYTES",
    "top_logprobs": "FP32",
}

_T = TypeVar("_T")
log = structlog.get_logger(__name__)


class Spawn(Protocol):
    """Starts work that somebody waits for before the process ends."""

    def __call__(self, work: Coroutine[object, object, _T], /) -> asyncio.Task[_T]:
        """Start it."""
        ...


class TokenFeed:
    """What one generation has streamed; `stop` is called once, with the job and the tokens after which it shall end.

    Without `counted` nothing counts as sent before all of it is. `texts` is how many it gives, one token after another.
    `cuts` are its pieces that have tokens.
    """

    def __init__(self, stop: Callable[[Job, int], object], *, counted: bool = True, texts: int = 1) -> None:
        self._stop = stop
        self._counted = counted
        self._job: Job | None = None
        self._unread: deque[Partial] = deque()
        self._wake = asyncio.Event()
        self._streamed = [bytearray() for _ in range(texts)]
        self.cuts: list[Cut] = []
        self._received = 0
        self._handed = 0
        self._sent = 0
        self._stopped_at: int | None = None
        self._ended = False
        self._fault: str | None = None

    @property
    def started(self) -> bool:
        """Tell whether anything came: from then on no other worker may be asked."""
        return bool(self._received or any(self._streamed) or self._fault)

    @property
    def sent(self) -> int:
        """How many tokens the reader has taken for good."""
        return self._sent

    def begin(self, job: Job) -> Callable[[Result], None]:
        """Note which attempt is under way; returns what takes its partial results."""
        self._job = job
        return self.take

    def end(self) -> None:
        """Note that nothing more comes; what is unread can still be taken."""
        self._ended = True
        self._wake.set()

    def take(self, result: Result) -> None:
        """Take a partial result of the worker."""
        if self._fault is not None:
            return
        try:
            partial = _read(result)
        except ProtocolError as error:
            self._fail(f"A part of the stream cannot be read: {error.detail}")
            return
        self._received += partial.tokens
        if not 0 <= partial.index < len(self._streamed):
            self._fail("The worker streams another text than was asked for.")
            return
        streamed = self._streamed[partial.index]
        start = len(streamed)
        streamed += partial.text
        most = 0 if self._job is None else self._job.units
        if self._received > most or sum(map(len, self._streamed)) > most * MAX_TOKEN_BYTES:
            self._fail("The worker streams more than the request asked for.")
            return
        if partial.tokens:
            self.cuts.append((partial.index, partial.tokens, start, len(partial.text)))
        if self._stopped_at is not None:
            return
        self._unread.append(partial)
        self._wake.set()
        # An empty part costs memory too.
        if self._received - self._handed > MAX_UNREAD_TOKENS or len(self._unread) > 2 * MAX_UNREAD_TOKENS:
            self._unread.clear()
            self.stop(self._handed)

    async def next(self) -> Partial | None:
        """Return what is to be sent next; None when all was taken. Asking means that the part before was sent.

        Raises:
            ReceiptMismatch: what the worker streams is not what was asked for.
        """
        if self._counted:
            self._sent = self._handed
        while not self._unread:
            if self._fault is not None:
                raise ReceiptMismatch(self._fault)
            if self._ended:
                return None
            self._wake.clear()
            await self._wake.wait()
        partial = self._unread.popleft()
        self._handed += partial.tokens
        return partial

    def stop(self, tokens: int | None = None) -> None:
        """End the generation after `tokens` of its tokens, by default those that came so far; the first call counts."""
        if self._stopped_at is None and not self._ended and self._job is not None:
            self._stopped_at = self._received if tokens is None else tokens
            self._stop(self._job, self._stopped_at)

    def stop_if_started(self) -> None:
        """End the generation after what came so far, if anything did."""
        if self.started:
            self.stop()

    def contradiction(self, outputs: Sequence[Tensor]) -> str | None:
        """Say in what the final outputs contradict what was streamed; None if in nothing."""
        if self._fault is not None:
            return self._fault
        by_name = {tensor.name: tensor for tensor in outputs}
        try:
            texts = unpack_bytes(by_name[TEXT].data, TEXT)
        except (KeyError, ProtocolError):
            texts = []
        if len(texts) != len(self._streamed):
            return f"The answer to a stream has {len(texts)} texts, not {len(self._streamed)}."
        if not _is_generation(by_name, len(texts), () if self._job is None else self._job.outputs):
            return "The answer is not that of a generation."
        if not self.started:
            return None
        for streamed, text in zip(self._streamed, texts, strict=True):
            if not (streamed == text if self._stopped_at is None else streamed.startswith(text)):
                return "The text is not the one that was streamed."
        return None

    def _fail(self, reason: str) -> None:
        self._fault = reason
        self._unread.clear()
        self._wake.set()


async def stream(
    infer: Callable[[TokenFeed], Coroutine[object, object, Answer]],
    dispatcher: Dispatcher,
    spawn: Spawn,
    *,
    counted: bool,
    texts: int,
    stop_after_seconds: float,
) -> AsyncGenerator[Partial | Answer, None]:
    """Run `infer` beside its reader and yield what it streams, then its answer; see `InferenceService.stream`.

    After `stop_after_seconds` the generation is ended with what came, so that the worker's last word is in time.
    """
    feed = TokenFeed(lambda job, tokens: spawn(_stop(dispatcher, job, tokens)), counted=counted, texts=texts)
    serving = spawn(infer(feed))
    serving.add_done_callback(lambda _: feed.end())
    alarm = asyncio.get_running_loop().call_later(max(0.0, stop_after_seconds), feed.stop_if_started)
    try:
        while (partial := await feed.next()) is not None:
            yield partial
        yield serving.result()  # the feed has ended, so this is done
    finally:
        alarm.cancel()
        if not serving.done():
            # The reader is gone: what it took is charged when the worker has signed for it.
            feed.stop(feed.sent)
            if not feed.sent:
                serving.cancel()
            serving.add_done_callback(_told_nobody)


async def _stop(dispatcher: Dispatcher, job: Job, tokens: int) -> None:
    try:
        await dispatcher.stop(job, tokens)
    except MarketError as error:
        # The generation then ends by its own length or deadline.
        log.warning("generation-not-stopped", code=error.code)


def _told_nobody(serving: asyncio.Task[Answer]) -> None:
    if not serving.cancelled() and (error := serving.exception()) is not None:
        code = error.code if isinstance(error, MarketError) else type(error).__name__
        log.info("abandoned-generation-failed", code=code)


def _is_generation(by_name: Mapping[str, Tensor], texts: int, asked: Sequence[str]) -> bool:
    """Tell whether outputs are a generation's: of the texts why each ended, and the tokens of prompt and texts.

    What was not `asked` for may be missing, where anything was.
    """
    if any(name in by_name and by_name[name].datatype != kind for name, kind in _TYPES.items()):
        return False
    if any(name not in by_name for name in (FINISH_REASON, USAGE) if not asked or name in asked):
        return False
    try:
        reasons = unpack_bytes(by_name[FINISH_REASON].data, FINISH_REASON) if FINISH_REASON in by_name else None
    except ProtocolError:
        return False
    if reasons is not None and (len(reasons) != texts or not _REASONS.issuperset(reasons)):
        return False
    if USAGE not in by_name:
        return True
    usage = by_name[USAGE].to_numpy()
    if usage.shape != (1 + texts,) or (usage < 0).any():
        return False
    if asked:
        return True
    # Each token has a row of its own in what is said of tokens.
    made = int(usage[1:].sum())
    rows = [by_name[name].shape[:1] for name in ("logprobs", "top_tokens", "top_logprobs") if name in by_name]
    tops = {by_name[name].shape for name in ("top_tokens", "top_logprobs") if name in by_name}
    return all(one == (made,) for one in rows) and len(tops) < 2 and all(len(one) == 2 for one in tops)


def _read(result: Result) -> Partial:
    tensors, _ = decode_tensors(result.outputs or b"")
    by_name = {tensor.name: tensor for tensor in tensors}
    try:
        [text] = unpack_bytes(by_name[TEXT].data, TEXT)
        [tokens] = by_name[TOKENS].to_numpy().tolist()
        [index] = by_name[INDEX].to_numpy().tolist() if INDEX in by_name else [0]
    except (KeyError, ValueError, TypeError) as error:
        raise ProtocolError("text or tokens are missing.", field="stream") from error
    if type(tokens) is not int or tokens < 0 or type(index) is not int:
        raise ProtocolError("tokens are not a count.", field="stream")
    return Partial(result.request_id, text, tokens, index)
