"""Finding what a path names: the runtime, a listing by name or model id, its manifest.

Called by the routes.
"""

from __future__ import annotations

from fastapi import Request

from contracts.protocol.errors import InvalidHex
from contracts.protocol.hexes import address_from_hex, from_hex
from contracts.protocol.manifest import Manifest
from market.bootstrap.gateway import GatewayRuntime
from market.errors import InvalidRequest, NoCapacity, UnknownModel
from market.gateway.tensors_check import shorten
from market.gateway.tensors_json import MODEL_VERSION
from market.registry.model import Listing

# Whoever asks again waits seconds or minutes, in which nobody publishes so many.
_VERSIONS_BACK = 64


def runtime(request: Request) -> GatewayRuntime:
    """Return what bootstrap joined for this application."""
    joined: GatewayRuntime = request.app.state.runtime
    return joined


def find_listing(
    joined: GatewayRuntime, model: str, version: str | None = None, *, inactive_too: bool = False
) -> Listing:
    """Return the active listing with this name or 0x model id; with `inactive_too` also one that was taken off.

    Raises:
        UnknownModel: there is none, or not in this version.
    """
    if version is not None and version != MODEL_VERSION:
        raise UnknownModel(
            f"{shorten(model)} has version {MODEL_VERSION} only, not {shorten(version)}.", field="version"
        )
    found = joined.registry.listing_by_name(model)
    if found is None and model.startswith("0x"):
        try:
            found = joined.registry.listing(from_hex(model, 32, field="model"))
        except InvalidHex:
            found = None
    if found is None or not (found.active or inactive_too):
        raise UnknownModel(f"no active listing is called {shorten(model)}.", field="model")
    return found


def require_manifest(joined: GatewayRuntime, listing: Listing) -> Manifest:
    """Return the manifest that a live worker announced for a listing.

    Raises:
        NoCapacity: no live worker offers it.
    """
    manifest = joined.offers.manifest(listing.model_id)
    if manifest is None:
        raise NoCapacity(f"no live worker offers {listing.name}.", field="model")
    return manifest


def find_answered(joined: GatewayRuntime, model: str, version: str | None) -> Listing:
    """Return the listing, active or not, of a request that may have been answered before.

    Where a newer version has the name now and nobody serves it yet, it is the newest that was served.

    Raises:
        UnknownModel: there is none.
    """
    named = found = find_listing(joined, model, version, inactive_too=True)
    if named.name == model and joined.offers.manifest(named.model_id) is None:
        for _ in range(_VERSIONS_BACK):
            older = joined.registry.predecessor(found.model_id)
            if older is None:
                break
            if joined.offers.manifest(older.model_id) is not None:
                return older
            found = older
    return named


def hash_of(text: str, field: str) -> bytes:
    """Read a 32-byte 0x-hex path or query part.

    Raises:
        InvalidRequest: it is not.
    """
    try:
        return from_hex(text, 32, field=field)
    except InvalidHex as error:
        raise InvalidRequest(error.detail, field=field, remedy=error.remedy) from error


def address_of(text: str, field: str = "address") -> bytes:
    """Read a 20-byte 0x-hex path or query part.

    Raises:
        InvalidRequest: it is not, or its checksum is wrong.
    """
    try:
        return address_from_hex(text, field=field)
    except InvalidHex as error:
        raise InvalidRequest(error.detail, field=field, remedy=error.remedy) from error
