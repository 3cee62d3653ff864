"""The confirmed records in memory, for everybody who only reads. Implements `market.registry.ports.RegistryView`.

Every answer is a look-up without I/O. Whoever follows the records calls `show`; a reader in another thread sees the
state before or after it, kind by kind, and never half of one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeVar

from market.registry.fold import key_of
from market.registry.model import (
    ChallengeRecord,
    ChannelRecord,
    Listing,
    PayeeCredit,
    Record,
    ReserveRecord,
    SettlementRecord,
    WorkerRecord,
)

KINDS: tuple[type[Any], ...] = (
    Listing,
    WorkerRecord,
    ChannelRecord,
    PayeeCredit,
    SettlementRecord,
    ReserveRecord,
    ChallengeRecord,
)
_R = TypeVar("_R", bound=Record)


class SnapshotView:
    """All records by kind and key, with an index of names, of versions and of each gateway's settlements."""

    def __init__(self) -> None:
        self._cursor: int | None = None
        self._records: dict[type[Any], dict[Hashable, Any]] = {kind: {} for kind in KINDS}
        self._names: dict[str, Listing] = {}
        self._older: dict[bytes, Listing] = {}
        self._settlements: dict[bytes, list[SettlementRecord]] = {}

    def show(self, cursor: int | None, changed: Iterable[Record], *, whole: bool) -> None:
        """Take over changed records; with `whole` they are all there are."""
        records = {kind: {} for kind in KINDS} if whole else dict(self._records)
        touched: set[type[Any]] = set(KINDS) if whole else set()
        for record in changed:
            kind = type(record)
            if kind not in touched:
                touched.add(kind)
                records[kind] = dict(records[kind])
            records[kind][key_of(record)] = record
        if Listing in touched:
            self._names = {found.name: found for found in records[Listing].values() if not found.superseded_by}
            self._older = {found.superseded_by: found for found in records[Listing].values() if found.superseded_by}
        if SettlementRecord in touched:
            settlements: dict[bytes, list[SettlementRecord]] = {}
            for settled in sorted(records[SettlementRecord].values(), key=lambda settled: settled.epoch):
                settlements.setdefault(settled.gateway, []).append(settled)
            self._settlements = settlements
        self._records = records
        self._cursor = cursor

    def cursor(self) -> int | None:
        """See `RegistryView.cursor`."""
        return self._cursor

    def listing(self, model_id: bytes) -> Listing | None:
        """See `RegistryView.listing`."""
        return self._get(Listing, model_id)

    def listing_by_name(self, name: str) -> Listing | None:
        """See `RegistryView.listing_by_name`."""
        return self._names.get(name)

    def predecessor(self, model_id: bytes) -> Listing | None:
        """See `RegistryView.predecessor`."""
        return self._older.get(model_id)

    def listings(self) -> Sequence[Listing]:
        """See `RegistryView.listings`."""
        return self._all(Listing, lambda found: (found.name, found.model_id))

    def worker(self, worker: bytes) -> WorkerRecord | None:
        """See `RegistryView.worker`."""
        return self._get(WorkerRecord, worker)

    def workers(self) -> Sequence[WorkerRecord]:
        """See `RegistryView.workers`."""
        return self._all(WorkerRecord, lambda found: found.worker)

    def channel(self, channel_id: bytes) -> ChannelRecord | None:
        """See `RegistryView.channel`."""
        return self._get(ChannelRecord, channel_id)

    def channels(self) -> Sequence[ChannelRecord]:
        """See `RegistryView.channels`."""
        return self._all(ChannelRecord, lambda found: found.channel_id)

    def credits(self, gateway: bytes, payee: bytes) -> PayeeCredit:
        """See `RegistryView.credits`."""
        return self._get(PayeeCredit, (gateway, payee)) or PayeeCredit(gateway, payee, 0, 0)

    def reserve(self, gateway: bytes) -> ReserveRecord:
        """See `RegistryView.reserve`."""
        return self._get(ReserveRecord, gateway) or ReserveRecord(gateway, 0, 0, 0)

    def settlements(self, gateway: bytes) -> Sequence[SettlementRecord]:
        """See `RegistryView.settlements`."""
        return self._settlements.get(gateway, [])

    def challenges(self, gateway: bytes) -> Sequence[ChallengeRecord]:
        """See `RegistryView.challenges`."""
        found = self._all(ChallengeRecord, lambda one: (one.answer_by, one.digest))
        return [one for one in found if one.open and one.gateway == gateway]

    def _get(self, kind: type[_R], key: Hashable) -> _R | None:
        return self._records[kind].get(key)

    def _all(self, kind: type[_R], order: Callable[[_R], Any]) -> list[_R]:
        return sorted(self._records[kind].values(), key=order)
