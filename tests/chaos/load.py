"""Paying clients that never give up, and the history of what they saw."""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass, field

from contracts.protocol.errors import CodedError
from contracts.protocol.typed_data import Channel, Domain
from market.demo import minilm
from market.sdk.client import Market
from market.sdk.errors import GatewayRefused
from market.sdk.papers import PaperStore
from market.sdk.wallet import Wallet

TEXTS = ("a cat", "chaos reigns", "two dogs run")
# Refusals after which the client cannot know whether it was charged: the database went while the charge was written,
# or an attempt before is still served. Any other refusal means that the request costs nothing.
UNSURE = {"database-unreachable", "request-in-progress", "internal-error", "gateway-refused"}


@dataclass
class Seen:
    """One request as its client saw it: every attempt's outcome, and whether it was acknowledged in the end."""

    request_id: bytes
    channel_id: bytes
    attempts: list[str] = field(default_factory=list)
    digest: bytes | None = None
    charged: int = 0

    @property
    def acknowledged(self) -> bool:
        return self.digest is not None

    @property
    def may_be_charged(self) -> bool:
        return self.acknowledged or any(a.startswith("unknown") for a in self.attempts)


class Client:
    """One channel, one request at a time, in a thread of its own."""

    def __init__(self, url: str, wallet: Wallet, channel: Channel, domain: Domain) -> None:
        self.channel, self.domain = channel, domain
        self.channel_id = channel.digest(domain)
        self.papers = PaperStore(None)
        self.market = Market(url, wallet, papers=self.papers, retries=0, timeout_seconds=12.0)
        self.market.use_channel(channel, domain)
        self.history: list[Seen] = []
        self.last_answer_at = 0.0
        self.wrong: list[str] = []
        self._inputs = [minilm.tokenize(minilm.load_tokenizer(), [text]) for text in TEXTS]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "a client hangs"

    def ask(self, seen: Seen) -> None:
        """Send a request once, and note what came of it."""
        inputs = self._inputs[seen.request_id[0] % len(self._inputs)]
        try:
            outcome = self.market.infer(minilm.NAME, inputs, request_id=seen.request_id)
        except GatewayRefused as error:
            sure = error.code not in UNSURE
            seen.attempts.append(f"{'refused' if sure else 'unknown'}:{error.status}:{error.code}")
        except CodedError as error:
            if error.code == "gateway-misbehaved":
                self.wrong.append(f"{error.code}: {error.detail}")
            seen.attempts.append(f"unknown:{error.code}")
        else:
            seen.attempts.append("answered")
            seen.digest = outcome.paper.receipt.digest(self.domain)
            seen.charged = outcome.charged
            self.last_answer_at = time.monotonic()

    def _run(self) -> None:
        while not self._over.is_set():
            seen = Seen(secrets.token_bytes(32), self.channel_id)
            self.history.append(seen)
            for _ in range(4):
                self.ask(seen)
                if seen.acknowledged or self._over.is_set():
                    break
                self._over.wait(0.2)
            self._over.wait(0.02)

    def ask_again_for_the_unknown(self) -> int:
        """After all is mended: a request of which nothing is known is asked again by its id."""
        again = [seen for seen in self.history if not seen.acknowledged and seen.may_be_charged]
        for seen in again:
            for _ in range(5):
                self.ask(seen)
                if seen.acknowledged:
                    break
                time.sleep(0.5)
        return len(again)
