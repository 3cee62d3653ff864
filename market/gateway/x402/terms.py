"""What a 402 says to x402 clients: what is accepted, how to sign in, what the endpoint takes.

Decides the offers and their order: `batch-settlement` for the price of the request, then `exact` for a credit pack.
Called by the door and the discovery routes.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from contracts.protocol.hexes import checksum, hex0x
from contracts.protocol.manifest import Manifest
from market.gateway.x402.wire import V1_NETWORKS, ReadPayment, encode
from market.payments.x402_channels import Merchant
from market.payments.x402_model import BATCH, EXACT, SIGN_IN, PaymentRefused, min_deposit, pack_price
from market.payments.x402_ports import X402Desk
from market.registry.model import Listing

AUTHORIZATION_SECONDS = 300
# Common proxies refuse larger headers; what an endpoint takes is also at /.well-known/x402.
_MAX_HEADER_BYTES = 7_500
STATEMENT = "Use the credit I bought from this inference gateway."
_JSON_SCHEMA = "https://json-schema.org/draft/2020-12/schema"


def accepts(desk: X402Desk, price: int) -> list[dict[str, Any]]:
    """Return the ways to pay a request of `price`."""
    merchant = desk.merchant
    domain = {"name": desk.token_name, "version": desk.token_version}
    channel = {
        "receiverAuthorizer": checksum(merchant.receiver),
        "withdrawDelay": merchant.withdraw_delay,
        "assetTransferMethod": "eip3009",
        "minDeposit": str(min_deposit(price, desk.pack)),
    }
    return [
        _offer(merchant, BATCH, price, {**domain, **channel}),
        _offer(merchant, EXACT, pack_price(desk.pack, price), domain),
    ]


def _offer(merchant: Merchant, scheme: str, amount: int, extra: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "scheme": scheme,
        "network": merchant.network,
        "asset": checksum(merchant.token),
        "amount": str(amount),
        "payTo": checksum(merchant.receiver),
        "maxTimeoutSeconds": AUTHORIZATION_SECONDS,
        "extra": dict(extra),
    }


def matching(desk: X402Desk, price: int, paid: ReadPayment) -> dict[str, Any]:
    """Return the offer that a payment takes.

    Raises:
        PaymentRefused: there is none such, or no longer.
    """
    names = {desk.merchant.network, V1_NETWORKS.get(desk.merchant.chain_id)}
    for offer in accepts(desk, price):
        if offer["scheme"] != paid.scheme:
            continue
        if paid.accepted.get("network") not in names:
            raise PaymentRefused("invalid_network", f"This gateway is paid on {desk.merchant.network}.")
        for name in ("amount", "asset", "payTo"):
            given = paid.accepted.get(name)
            if given is not None and str(given).lower() != offer[name].lower():
                raise PaymentRefused(
                    "No matching payment requirements", f"{name} is {given}; {offer[name]} is asked for now."
                )
        return offer
    raise PaymentRefused("unsupported_scheme", f"This gateway takes {BATCH} and {EXACT}.")


def payment_required(
    desk: X402Desk,
    listing: Listing,
    manifest: Manifest | None,
    price: int,
    path: str,
    *,
    error: str = "Payment required",
    offers: list[dict[str, Any]] | None = None,
) -> str:
    """Return the PAYMENT-REQUIRED header of an endpoint; without a manifest it says nothing of the request."""
    url = desk.origin + path
    task = "" if manifest is None else f" ({manifest.task})"
    required: dict[str, Any] = {
        "x402Version": 2,
        "error": error,
        "resource": {
            "url": url,
            "description": f"Inference with {listing.name}{task}, answered with a signed receipt.",
            "mimeType": "application/json",
        },
        "accepts": offers if offers is not None else accepts(desk, price),
        "extensions": {SIGN_IN: sign_in_challenge(desk, url)},
    }
    if manifest is not None and path.endswith("/infer"):  # what it describes is a body of that route
        required["extensions"]["bazaar"] = bazaar(manifest)
    header = encode(required)
    if len(header) > _MAX_HEADER_BYTES and "bazaar" in required["extensions"]:
        del required["extensions"]["bazaar"]
        header = encode(required)
    return header


def v1_terms(desk: X402Desk, listing: Listing, price: int, path: str) -> dict[str, Any]:
    """Return what clients of version 1 read in the body of a 402."""
    offer = accepts(desk, price)[1]
    merchant = desk.merchant
    return {
        "x402Version": 1,
        "accepts": [
            {
                "scheme": EXACT,
                "network": V1_NETWORKS.get(merchant.chain_id, merchant.network),
                "maxAmountRequired": offer["amount"],
                "resource": desk.origin + path,
                "description": f"A credit pack for inference with {listing.name}.",
                "mimeType": "application/json",
                "payTo": offer["payTo"],
                "maxTimeoutSeconds": offer["maxTimeoutSeconds"],
                "asset": offer["asset"],
                "extra": offer["extra"],
            }
        ],
    }


def sign_in_challenge(desk: X402Desk, url: str) -> dict[str, Any]:
    """Return a fresh challenge of sign-in-with-x, for this gateway's origin and chain."""
    return {
        "info": {
            "domain": desk.origin.partition("://")[2],
            "uri": url,
            "version": "1",
            "nonce": secrets.token_hex(16),
            "issuedAt": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "statement": STATEMENT,
            "resources": [url],
        },
        "supportedChains": [{"chainId": desk.merchant.network, "type": "eip191"}],
        "schema": {
            "$schema": _JSON_SCHEMA,
            "type": "object",
            "properties": {name: {"type": "string"} for name in ("domain", "address", "uri", "nonce", "signature")},
            "required": ["domain", "address", "uri", "version", "chainId", "type", "nonce", "issuedAt", "signature"],
        },
    }


def bazaar(manifest: Manifest) -> dict[str, Any]:
    """Return the discovery extension: an example body and its schema."""
    example = [
        {"name": spec.name, "datatype": spec.datatype, "shape": [1 if size < 0 else size for size in spec.shape]}
        for spec in manifest.inputs
    ]
    tensor = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "datatype": {"type": "string"},
            "shape": {"type": "array", "items": {"type": "integer"}},
            "data": {"type": "array"},
        },
        "required": ["name", "datatype", "shape"],
    }
    body = {
        "type": "object",
        "properties": {"inputs": {"type": "array", "items": tensor}},
        "required": ["inputs"],
    }
    described = {
        "type": "object",
        "properties": {
            "type": {"type": "string", "const": "http"},
            "method": {"type": "string", "enum": ["POST"]},
            "bodyType": {"type": "string", "enum": ["json"]},
            "body": body,
        },
        "required": ["type", "method", "bodyType", "body"],
        "additionalProperties": False,
    }
    return {
        "info": {"input": {"type": "http", "method": "POST", "bodyType": "json", "body": {"inputs": example}}},
        "schema": {
            "$schema": _JSON_SCHEMA,
            "type": "object",
            "properties": {"input": described},
            "required": ["input"],
        },
    }


def receipt_extension(paper: bytes) -> dict[str, Any]:
    """Return the extension of a PAYMENT-RESPONSE that carries our receipt with both signatures."""
    return {"inference-receipt": {"receipt": hex0x(paper)}}
