"""What a worker asks the chain: listings, its own registration, channels. Channels are remembered for a while.

A worker computes only for channels whose deposit covers the job, and it takes nobody's word for that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from contracts.bindings.deploy import Contracts
from contracts.bindings.errors import ChainError
from contracts.bindings.escrow import ChannelState
from contracts.bindings.model_registry import ModelState

FRESH_SECONDS = 20.0
USABLE_SECONDS = 300.0
CHANNELS_KEPT = 100_000


class ChainFacts(Protocol):
    """The chain as the worker's checks need it."""

    def channel(self, channel_id: bytes, needed: int) -> ChannelState | None:
        """Return a channel's state, read again if what is known does not cover `needed`; None if the node is away."""
        ...

    def listing(self, model_id: bytes) -> ModelState | None:
        """Return a listing's terms; None if the node is away and they are not known."""
        ...


class CachedChainFacts:
    """Implements `ChainFacts` over the contracts; old answers are renewed behind the scenes."""

    def __init__(self, contracts: Contracts, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._contracts = contracts
        self._clock = clock
        self._lock = threading.Lock()
        self._channels: dict[bytes, tuple[ChannelState, float]] = {}
        self._listings: dict[bytes, tuple[ModelState, float]] = {}
        self._renewing: set[bytes] = set()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="chain")

    def channel(self, channel_id: bytes, needed: int) -> ChannelState | None:
        """See `ChainFacts.channel`."""
        known = self._channels.get(channel_id)
        now = self._clock()
        if known is not None and now - known[1] < USABLE_SECONDS:
            state, read_at = known
            if state.deposited - state.exit_amount >= needed:
                if now - read_at > FRESH_SECONDS:
                    self._renew(channel_id, lambda: self._read_channel(channel_id))
                return state
        try:
            return self._read_channel(channel_id)
        except ChainError:
            return known[0] if known is not None else None

    def listing(self, model_id: bytes) -> ModelState | None:
        """See `ChainFacts.listing`."""
        known = self._listings.get(model_id)
        if known is not None:
            if self._clock() - known[1] > FRESH_SECONDS:
                self._renew(model_id, lambda: self._read_listing(model_id))
            return known[0]
        try:
            return self._read_listing(model_id)
        except ChainError:
            return None

    def _read_channel(self, channel_id: bytes) -> ChannelState:
        state = self._contracts.escrow.channel(channel_id)
        with self._lock:
            if len(self._channels) >= CHANNELS_KEPT:
                self._channels.pop(next(iter(self._channels)))
            self._channels[channel_id] = (state, self._clock())
        return state

    def _read_listing(self, model_id: bytes) -> ModelState:
        state = self._contracts.models.model(model_id)
        with self._lock:
            self._listings[model_id] = (state, self._clock())
        return state

    def _renew(self, key: bytes, read: Callable[[], object]) -> None:
        with self._lock:
            if key in self._renewing:
                return
            self._renewing.add(key)

        def work() -> None:
            try:
                read()
            except ChainError:
                pass  # the old answer stays until it is too old
            finally:
                with self._lock:
                    self._renewing.discard(key)

        self._pool.submit(work)
