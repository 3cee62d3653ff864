"""The worker's sign of life: signed offers and manifests, written to Redis every two seconds by a thread of its own.

It goes on during a long inference. When it stops the key runs out and the gateway sends nothing more.
"""

from __future__ import annotations

import secrets
import threading
import time

import redis
import structlog

from contracts.protocol.messages import (
    ANNOUNCE_INTERVAL_SECONDS,
    ANNOUNCE_KEY_PREFIX,
    ANNOUNCE_TTL_SECONDS,
    ANNOUNCED_SET,
    PROCESS_BYTES,
    Announcement,
    encode_announcement,
)
from contracts.protocol.typed_data import Offer
from workers import telemetry
from workers.node import Node

log = structlog.get_logger(__name__)


class Announcer:
    """Announces one node until stopped; `in_flight` is kept by the tasks."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._process = secrets.token_bytes(PROCESS_BYTES)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="announce", daemon=True)
        self._offers: tuple[tuple[Offer, bytes], ...] = ()
        self._renew_at = 0.0
        self._draining = False
        self._writing = threading.Lock()
        self.in_flight = 0

    def start(self) -> None:
        """Announce once now and go on in the background."""
        self._announce()
        self._thread.start()

    def drain(self) -> None:
        """Offer nothing more from now on, but go on giving signs of life, so that what was sent here is waited for."""
        self._draining = True
        try:
            self._announce()
        except redis.RedisError as error:
            log.warning("announcement-not-written", error=type(error).__name__)

    def stop(self) -> None:
        """Take the announcement back: no new jobs are sent here."""
        self._stop.set()
        name = self._node.key.address.hex()
        try:
            self._node.redis.delete(ANNOUNCE_KEY_PREFIX + name)
            self._node.redis.srem(ANNOUNCED_SET, name)
        except redis.RedisError:
            pass  # it runs out by itself

    def _run(self) -> None:
        while not self._stop.wait(ANNOUNCE_INTERVAL_SECONDS):
            try:
                self._announce()
            except redis.RedisError as error:
                log.warning("announcement-not-written", error=type(error).__name__)

    def _announce(self) -> None:
        with self._writing:
            self._write()

    def _write(self) -> None:
        node, now = self._node, time.time()
        if now >= self._renew_at:
            self._offers = self._signed(int(now))
            self._renew_at = now + node.settings.offer_seconds / 2
        gone = node.sessions.deaths.withdrawn
        telemetry.WITHDRAWN_MODELS.set(len(gone))
        offers = tuple(one for one in self._offers if one[0].model_id not in gone) if gone else self._offers
        message = encode_announcement(
            Announcement(
                worker=node.key.address,
                offers=() if self._draining else offers,
                manifests=tuple(served.package.manifest.to_bytes() for served in node.served.values()),
                in_flight=self.in_flight + node.executor.generations.active,
                max_batch=tuple((model_id, node.sessions.cap(model_id)) for model_id in node.served),
                provider=node.provider,
                at=now,
                process=self._process,
                sealing=node.sealing,
            )
        )
        name = node.key.address.hex()
        with node.redis.pipeline(transaction=False) as pipeline:
            pipeline.set(ANNOUNCE_KEY_PREFIX + name, message, ex=ANNOUNCE_TTL_SECONDS)
            pipeline.sadd(ANNOUNCED_SET, name)
            pipeline.execute()

    def _signed(self, now: int) -> tuple[tuple[Offer, bytes], ...]:
        node, rows = self._node, []
        for gateway in node.settings.gateway_addresses:
            for model_id, served in node.served.items():
                offer = Offer(
                    worker=node.key.address,
                    model_id=model_id,
                    gateway=gateway,
                    unit_price=served.unit_price,
                    max_fee_ppm=node.settings.max_fee_ppm,
                    expires_at=now + node.settings.offer_seconds,
                )
                rows.append((offer, node.key.sign_digest(offer.digest(node.domain))))
        return tuple(rows)
