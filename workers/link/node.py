"""A node behind a link: its broker, its Celery workers and its connection, joined and ended in the right order.

Holds no credential of the gateway's: it is given an address on the web and a key on chain. Called by the command line.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import structlog
import uvloop

from contracts.protocol.errors import InvalidHex
from contracts.protocol.hexes import address_from_hex, checksum
from contracts.protocol.link import MAX_WINDOW
from contracts.protocol.own_machine import HOSTS
from workers.errors import GatewayNotReady, StartError
from workers.link.bridge import Bridge
from workers.link.broker import EmbeddedBroker
from workers.link.connection import GatewayLink
from workers.link.programs import WorkerProcess
from workers.metrics import SUFFIX, published
from workers.node import ChainSide, check_registered, open_chain
from workers.running import registered
from workers.settings import WorkerSettings

PACKS_FOR_EACH_WORKER = 2
LEAVE_SECONDS = 2.0
FLUSH_SECONDS = 5.0
STATUS_SECONDS = 10.0

log = structlog.get_logger(__name__)


def run(
    settings: WorkerSettings, url: str, *, workers: int, env_file: Path | None, metrics_file: Path | None = None
) -> None:
    """Serve a gateway until told to stop; the jobs in hand are finished first.

    Raises:
        WorkerError: what is wrong, in which setting, and how to mend it.
    """
    side = open_chain(settings)
    check_registered(side)
    gateway = find_gateway(settings, url, side)
    with contextlib.ExitStack() as stack:
        if "redis_url" in settings.model_fields_set:
            broker_url = settings.redis_url
        else:
            folder = settings.state_dir.expanduser() / f"broker-{side.key.address.hex()}"
            broker_url = stack.enter_context(EmbeddedBroker(folder)).url
        log.info("node-starts", worker=checksum(side.key.address), gateway=checksum(gateway), workers=workers)
        folder = stack.enter_context(published(settings, side, broker_url, to_file=metrics_file, behind_link=True))
        stack.enter_context(registered(settings.state_dir, side.key.address))
        uvloop.run(_serve(side, url, gateway, broker_url, workers, env_file, folder, settings.drain_seconds))


def find_gateway(settings: WorkerSettings, url: str, side: ChainSide) -> bytes:
    """Return the address of the gateway at `url`, one that the settings name if they name any.

    Raises:
        StartError: the address of the web is not one, or would send in the clear.
        GatewayNotReady: it does not answer, is another gateway, or settles elsewhere.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
        raise StartError(f"{url!r} is not the address of a gateway.", field="gateway", remedy="Write https://host.")
    if parts.scheme == "http" and parts.hostname not in HOSTS and not settings.allow_plain_link:
        raise StartError(
            f"{url} would send inputs and outputs in the clear.",
            field="gateway",
            remedy="Use https://, or set WORKER_ALLOW_PLAIN_LINK=true on a network that you trust.",
        )
    known = settings.gateway_addresses
    try:
        status = httpx.get(f"{url.rstrip('/')}/market/v1/status", timeout=STATUS_SECONDS).raise_for_status().json()
        gateway = address_from_hex(status["gateway"], field="gateway")
        escrow = address_from_hex(status["escrow"], field="escrow")
        chain_id = int(status["chainId"])
    except (httpx.HTTPError, InvalidHex, KeyError, TypeError, ValueError) as error:
        if len(known) == 1:
            # It may come; the connection proves the address.
            log.warning("gateway-not-reached", gateway=url, error=type(error).__name__)
            return known[0]
        raise GatewayNotReady(f"{url} does not answer as a gateway.", field="gateway") from error
    if known and gateway not in known:
        raise GatewayNotReady(
            f"{url} is {checksum(gateway)}, which WORKER_GATEWAYS does not name.", field="WORKER_GATEWAYS"
        )
    if (chain_id, escrow) != (side.domain.chain_id, side.domain.escrow):
        raise GatewayNotReady(f"{url} settles on chain {chain_id}, escrow {checksum(escrow)}.", field="gateway")
    if not known:
        log.warning("gateway-taken-on-trust", gateway=checksum(gateway), url=url, remedy="Name it in WORKER_GATEWAYS.")
    return gateway


async def _serve(
    side: ChainSide,
    url: str,
    gateway: bytes,
    broker_url: str,
    workers: int,
    env_file: Path | None,
    folder: Path,
    drain_seconds: float,
) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    bridge = Bridge(broker_url, worker=side.key.address, gateway=gateway)
    await bridge.recover()
    environment = {"WORKER_REDIS_URL": broker_url, "WORKER_GATEWAYS": checksum(gateway)}
    file = None if env_file is None else str(env_file)
    programs = [
        WorkerProcess(number, file, environment, str(folder / f"{number}{SUFFIX}")) for number in range(workers)
    ]
    link = GatewayLink(
        url,
        gateway=gateway,
        key=side.key,
        domain=side.domain,
        bridge=bridge,
        window=min(MAX_WINDOW, PACKS_FOR_EACH_WORKER * max(1, workers)),
    )
    running = [asyncio.create_task(program.run()) for program in programs]
    linking = asyncio.create_task(link.run())
    stop = asyncio.create_task(stopping.wait())
    try:
        done, _ = await asyncio.wait({stop, linking, *running}, return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stop}:
            task.result()
        log.info("node-stops", jobs_in_hand=bridge.in_hand())
        link.leave()
        # The gateway's view of the offers is a second old; what it sends meanwhile is served.
        await asyncio.sleep(LEAVE_SECONDS)
        await _until(lambda: bridge.in_hand() == 0, drain_seconds)
        await asyncio.gather(*(program.stop() for program in programs))
        await _until(lambda: link.unacknowledged() == 0, FLUSH_SECONDS)
    finally:
        await asyncio.gather(*(program.stop() for program in programs), return_exceptions=True)
        for task in (stop, linking, *running):
            task.cancel()
        await asyncio.gather(stop, linking, *running, return_exceptions=True)
        await bridge.close()


async def _until(condition: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:  # noqa: ASYNC110 - nobody else tells
        await asyncio.sleep(0.05)
