"""The gateway's application around a market in memory, and the header that pays it."""

from types import SimpleNamespace
from typing import Any

from contracts.protocol.hexes import hex0x
from market.gateway.app import create_app
from market.settings import MarketSettings
from tests.support.money import CHANNEL_ID, DOMAIN, GATEWAY, World, voucher


def runtime_of(world: World, *, audit_book: Any = None, **settings: Any) -> SimpleNamespace:
    async def nothing() -> None:
        return None

    return SimpleNamespace(
        settings=MarketSettings(**{"max_body_bytes": 100_000, **settings}),
        gateway=GATEWAY.address,
        domain=DOMAIN,
        contracts={"token": b"\xdd" * 20, "escrow": DOMAIN.escrow},
        registry=world.registry,
        offers=world.offers,
        inference=world.service,
        x402=None,
        rates=None,
        ledger=world.ledger,
        reservations=world.reservations,
        audit_book=audit_book,
        start=nothing,
        close=world.service.close,
    )


def app_of(world: World, *, audit_book: Any = None, **settings: Any) -> Any:
    return create_app(runtime_of(world, audit_book=audit_book, **settings))  # type: ignore[arg-type]


def payment(amount: int = 10**6) -> dict[str, str]:
    signed = voucher(amount)
    return {"Market-Voucher": f"{hex0x(CHANNEL_ID)};{amount};{hex0x(signed.signature)}"}
