"""`ModelRegistry`: models and their terms. Specified in `contracts/src/interfaces/IModelRegistry.sol`."""

from __future__ import annotations

from typing import NamedTuple

from contracts.bindings.contract import Binding


class ModelState(NamedTuple):
    """A listing on chain; `owner` is 20 zero bytes if the model is not listed."""

    owner: bytes
    pending_owner: bytes
    min_price: int
    max_price: int
    royalty_ppm: int
    unit: int
    active: bool
    listed_at: int
    superseded_by: bytes
    name: str
    uri: str


class ModelRegistry(Binding):
    """Reads, call data and events of the model registry."""

    NAME = "ModelRegistry"

    def model(self, model_id: bytes) -> ModelState:
        """Return a listing."""
        return ModelState(*self.read("models", model_id))

    def by_name(self, name: str) -> bytes:
        """Return the model id a name stands for; 32 zero bytes if none."""
        return bytes(self.read("modelByName", name))

    def list_model(
        self, model_id: bytes, name: str, min_price: int, max_price: int, royalty_ppm: int, unit: int, uri: str
    ) -> bytes:
        """Encode a new listing by the sender, who becomes its owner."""
        return self.encode("list", model_id, name, min_price, max_price, royalty_ppm, unit, uri)

    def update(self, model_id: bytes, min_price: int, max_price: int, royalty_ppm: int, uri: str) -> bytes:
        """Encode new terms."""
        return self.encode("update", model_id, min_price, max_price, royalty_ppm, uri)

    def set_active(self, model_id: bytes, active: bool) -> bytes:
        """Encode taking a listing down, or putting it up again."""
        return self.encode("setActive", model_id, active)

    def supersede(self, old_model_id: bytes, new_model_id: bytes, uri: str) -> bytes:
        """Encode a new version under the same name."""
        return self.encode("supersede", old_model_id, new_model_id, uri)
