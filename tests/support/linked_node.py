"""A node that opens a link and says so: `python -m tests.support.linked_node <gateway url>`; its broker is embedded."""

import asyncio
import sys
import tempfile
from pathlib import Path

from contracts.protocol.hashing import sha256
from contracts.protocol.link import LINK_PATH
from contracts.protocol.signing import PrivateKey
from tests.support.money import DOMAIN, GATEWAY
from workers.link.bridge import Bridge
from workers.link.broker import EmbeddedBroker
from workers.link.connection import GatewayLink


async def main(url: str, broker_url: str) -> None:
    key = PrivateKey(sha256(b"node in a namespace"))
    bridge = Bridge(broker_url, worker=key.address, gateway=GATEWAY.address)
    link = GatewayLink(url, gateway=GATEWAY.address, key=key, domain=DOMAIN, bridge=bridge, window=2)
    running = asyncio.create_task(link.run())
    await link.linked()
    sys.stdout.write(f"linked {LINK_PATH}\n")
    sys.stdout.flush()
    await running


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, EmbeddedBroker(Path(folder) / "broker") as broker:
        asyncio.run(main(sys.argv[1], broker.url))
