"""Gives payments the facts of a channel out of the registry's view of the chain.

Implements `market.payments.ports.Channels`; only here does a channel record of the registry become one of payments.
"""

from __future__ import annotations

from contracts.protocol.typed_data import Channel
from market.payments.model import ChannelFacts
from market.registry.ports import RegistryView


class RegistryChannels:
    """Reads `RegistryView.channel`."""

    def __init__(self, registry: RegistryView) -> None:
        self._registry = registry

    def facts(self, channel_id: bytes) -> ChannelFacts | None:
        """See `Channels.facts`."""
        record = self._registry.channel(channel_id)
        if record is None:
            return None
        return ChannelFacts(
            channel_id=channel_id,
            channel=Channel(record.payer, record.signer, record.gateway, record.salt),
            deposited=record.deposited,
            settled=record.settled,
            exiting=record.exit_amount if record.exit_at else 0,
        )
