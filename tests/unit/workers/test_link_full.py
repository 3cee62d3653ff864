"""A gateway that acknowledges nothing has a node keep a bounded amount for it, and the rest in its broker."""

import asyncio

from contracts.protocol.hashing import sha256
from contracts.protocol.signing import PrivateKey
from contracts.protocol.typed_data import Domain
from workers.link import connection
from workers.link.connection import GatewayLink


class Bridge:
    """Has as many replies as are asked for."""

    def __init__(self) -> None:
        self.taken = 0

    async def next_results(self) -> bytes:
        await asyncio.sleep(0)
        self.taken += 1
        return b"x" * 1_000


async def test_no_more_replies_are_taken_than_a_gateway_acknowledges(monkeypatch):
    monkeypatch.setattr(connection, "MAX_UNACKNOWLEDGED_BYTES", 10_000)
    monkeypatch.setattr(connection, "FULL_SECONDS", 0.01)
    bridge = Bridge()
    key, domain = PrivateKey(sha256(b"w")), Domain(31_337, b"\xee" * 20)
    link = GatewayLink("http://gateway", gateway=bytes(20), key=key, domain=domain, bridge=bridge, window=2)
    link._linked.set()
    pumping = asyncio.create_task(link._pump())
    await asyncio.sleep(0.2)
    assert (bridge.taken, link.unacknowledged()) == (11, 11)
    link._take_acknowledgement(5)
    await asyncio.sleep(0.2)
    assert bridge.taken == 16
    pumping.cancel()
    await asyncio.gather(pumping, return_exceptions=True)
