"""`WorkerRegistry`: stake and metadata of workers. Specified in `contracts/src/interfaces/IWorkerRegistry.sol`."""

from __future__ import annotations

from typing import NamedTuple

from contracts.bindings.contract import Binding


class WorkerState(NamedTuple):
    """A worker on chain; `operator` is 20 zero bytes if the key was never registered."""

    operator: bytes
    stake: int
    thawing: int
    thawed_at: int
    registered_at: int
    registered: bool
    active: bool


class WorkerRegistry(Binding):
    """Reads, call data and events of the worker registry."""

    NAME = "WorkerRegistry"

    def worker(self, worker: bytes) -> WorkerState:
        """Return a worker's state."""
        return WorkerState(*self.read("workers", worker))

    def is_active(self, worker: bytes) -> bool:
        """Tell whether a worker is registered with enough stake."""
        return bool(self.read("isActive", worker))

    def min_stake(self) -> int:
        """Return the smallest stake, atomic units."""
        return int(self.read("minStake"))

    def register(
        self, worker: bytes, stake: int, region: str, hardware: str, endpoint: str, deadline: int, consent: bytes
    ) -> bytes:
        """Encode a registration; `consent` is the worker key's signature of `WorkerConsent`."""
        return self.encode("register", worker, stake, region, hardware, endpoint, deadline, consent)

    def add_stake(self, worker: bytes, amount: int) -> bytes:
        """Encode an increase of stake."""
        return self.encode("addStake", worker, amount)

    def thaw(self, worker: bytes, amount: int) -> bytes:
        """Encode the start of taking stake out."""
        return self.encode("thaw", worker, amount)

    def withdraw_stake(self, worker: bytes) -> bytes:
        """Encode the payout of thawed stake."""
        return self.encode("withdrawStake", worker)

    def deregister(self, worker: bytes) -> bytes:
        """Encode the end of a registration; all stake thaws."""
        return self.encode("deregister", worker)
