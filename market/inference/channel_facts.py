"""Gives payments the facts of a channel out of the registry's view of the chain.

Implements `market.payments.ports.Channels`; only here does a channel record of the registry become one of payments.
"""

from __future__ import annotations

from market.payments.model import ChannelFacts
from market.payments.refunds import RefundPromises
from market.registry.model import ChannelRecord
from market.registry.ports import RegistryView

FACTS_KEPT = 10_000


class RegistryChannels:
    """Reads `RegistryView.channel`, and what this gateway promised to give back of it."""

    def __init__(self, registry: RegistryView, promises: RefundPromises | None = None) -> None:
        self._registry = registry
        self._promises = promises
        # What was made of a record; the view replaces a record whenever the chain says something new of it.
        self._known: dict[bytes, tuple[ChannelRecord, int, ChannelFacts]] = {}

    def facts(self, channel_id: bytes) -> ChannelFacts | None:
        """See `Channels.facts`."""
        record = self._registry.channel(channel_id)
        if record is None:
            return None
        promised = 0 if self._promises is None else self._promises.outstanding(channel_id, record.refund_nonce)
        known = self._known.get(channel_id)
        if known is not None and known[0] is record and known[1] == promised:
            return known[2]
        if len(self._known) >= FACTS_KEPT:
            self._known.clear()
        facts = ChannelFacts(
            channel_id=channel_id,
            channel=record.channel,
            deposited=record.deposited,
            settled=record.settled,
            exiting=(record.exit_amount if record.exit_at else 0) + promised,
            refund_nonce=record.refund_nonce,
        )
        self._known[channel_id] = (record, promised, facts)
        return facts
