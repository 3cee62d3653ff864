"""Paying clients that never give up, and the history of what they saw.

Three ways to pay: a voucher each with one request at a time, vouchers within a window with several at once, and an API
key, which also reads streamed chats and leaves some of them half read. A fourth, x402, is in `tests.chaos.x402`.
"""

from __future__ import annotations

import secrets
import threading
import time

import httpx

from contracts.protocol.errors import CodedError
from contracts.protocol.hexes import hex0x
from contracts.protocol.receipts import is_receipt_signed_by
from contracts.protocol.typed_data import Channel, Domain
from market.demo import minilm
from market.demo.network import UNIT_PRICE
from market.sdk.client import Market
from market.sdk.effects import Reply, plain_problem, refusal
from market.sdk.errors import GatewayMisbehaved, GatewayRefused, GatewayUnreachable
from market.sdk.keys import Keys
from market.sdk.papers import PaperStore, SignedReceipt
from market.sdk.streams import EventReader
from market.sdk.verify import verify_receipt
from market.sdk.wallet import Wallet
from tests.chaos.history import Findings, Seen

TEXTS = ("a cat", "chaos reigns", "two dogs run")
WRITER = "writer"
# Refusals after which the client cannot know whether it was charged: the database went while the charge was written,
# or an attempt before is still served. Any other refusal means that the request costs nothing.
UNSURE = {"database-unreachable", "request-in-progress", "internal-error", "gateway-refused"}
ATTEMPTS = 4
PAUSE_SECONDS = 0.05
TIMEOUT_SECONDS = 12.0
VERIFIED_PER_CLIENT = 10


class Program:
    """What all paying programs have in common: `lanes` threads that each send one request after the other."""

    kind = ""
    sorts: tuple[str, ...] = ("plain",)
    lanes = 1

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self.history: list[Seen] = []
        self.last_answers = dict.fromkeys(self.sorts, 0.0)
        self.wrong: list[str] = []
        self._inputs = [minilm.tokenize(minilm.load_tokenizer(), [text]) for text in TEXTS]
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i,), daemon=True) for i in range(self.lanes)]

    @property
    def last_answer_at(self) -> float:
        return max(self.last_answers.values())

    @property
    def last_answer_of_each_sort_at(self) -> float:
        return min(self.last_answers.values())

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(90)
            assert not thread.is_alive(), "a client hangs"

    def new(self, lane: int) -> Seen | None:
        """Return the next request of a lane, None if there cannot be one now."""
        raise NotImplementedError

    def sort(self, seen: Seen) -> str:
        """Say which of the program's sorts a request is."""
        raise NotImplementedError

    def send(self, seen: Seen) -> tuple[SignedReceipt, int]:
        """Send a request once; returns its receipt and what it is said to cost."""
        raise NotImplementedError

    def goes_on(self, seen: Seen) -> bool:
        """Tell whether a request that was not answered is sent once more before the next."""
        return len(seen.attempts) < ATTEMPTS

    def ask(self, seen: Seen) -> None:
        """Send a request once, and note what came of it."""
        try:
            paper, charged = self.send(seen)
        except GatewayRefused as error:
            sure = error.code not in UNSURE
            seen.attempts.append(f"{'refused' if sure else 'unknown'}:{error.status}:{error.code}")
        except CodedError as error:
            if error.code == "gateway-misbehaved":
                self.wrong.append(f"{error.code}: {error.detail}")
            # Without a connection nothing was sent.
            sure = isinstance(error.__cause__, httpx.ConnectError)
            seen.attempts.append("refused:not-connected" if sure else f"unknown:{error.code}")
        else:
            seen.attempts.append("answered")
            seen.digest, seen.charged = paper.receipt.digest(self.domain), charged
            self.last_answers[self.sort(seen)] = time.monotonic()

    def _run(self, lane: int) -> None:
        try:
            self._pay(lane)
        except Exception as error:
            self.wrong.append(f"the program broke: {error!r}")
            raise

    def _pay(self, lane: int) -> None:
        while not self._over.is_set():
            seen = self.new(lane)
            if seen is None:
                self._over.wait(0.5)
                continue
            if not seen.attempts:
                self.history.append(seen)
            while True:
                self.ask(seen)
                if seen.acknowledged or self._over.is_set() or not self.goes_on(seen):
                    break
                self._over.wait(0.5)
            self._over.wait(PAUSE_SECONDS)

    def newest(self) -> dict[str, list[list[str]]]:
        """What became of the newest requests of each sort, for who looks for the reason."""
        return {sort: [one.attempts for one in self.history if self.sort(one) == sort][-4:] for sort in self.sorts}

    def ask_again_for_the_unknown(self) -> int:
        """After all is mended: a request of which nothing is known is asked again by its id, until that is answered."""
        again = [seen for seen in self.history if not seen.acknowledged and seen.may_be_charged]
        for seen in again:
            for _ in range(20):
                self.ask(seen)
                if seen.acknowledged:
                    break
                time.sleep(0.5)
        return len(again)

    def verify(self, chain, found: Findings) -> None:
        """Hold what the program keeps against the chain alone."""

    def close(self) -> None:
        """Close its connections."""


class Client(Program):
    """A client of the market's own kit, with one channel."""

    kind = "voucher"

    def __init__(self, url: str, wallet: Wallet, channel: Channel, domain: Domain, *, elsewhere: str) -> None:
        super().__init__(domain)
        self.channel = channel
        self.channel_id = channel.digest(domain)
        self.papers = PaperStore(None)
        self.market = Market(
            url, wallet, papers=self.papers, retries=0, timeout_seconds=TIMEOUT_SECONDS, window=self.window
        )
        self.market.use_channel(channel, domain)
        self._elsewhere = elsewhere

    @property
    def window(self) -> int | None:
        return None

    @property
    def signed(self) -> int:
        """The most that was ever signed for the channel."""
        return max(kept.signed for kept in self.papers.channels() if kept.channel == self.channel)

    def new(self, lane: int) -> Seen | None:
        return Seen(secrets.token_bytes(32), self.channel_id, UNIT_PRICE)

    def sort(self, seen: Seen) -> str:
        """See `Program.sort`; its id decides, so that it stays when it is asked again."""
        return self.sorts[seen.request_id[0] % len(self.sorts)]

    def send(self, seen: Seen) -> tuple[SignedReceipt, int]:
        # Some ask for the worker behind the link by its name.
        worker = self._elsewhere if seen.request_id[1] % 3 == 0 else None
        outcome = self.market.infer(minilm.NAME, self.inputs(seen), request_id=seen.request_id, worker=worker)
        return outcome.paper, outcome.charged

    def inputs(self, seen: Seen):
        return self._inputs[seen.request_id[0] % len(self._inputs)]

    def verify(self, chain, found: Findings) -> None:
        """Hold some of the kept receipts against the chain alone."""
        papers = list(self.papers.receipts())
        for paper in papers[:: max(1, len(papers) // VERIFIED_PER_CLIENT)]:
            settled = self.market.wait_for_settlement(paper, timeout_seconds=30)
            verdict = verify_receipt(settled, chain, channel=self.channel)
            found.counts["verified from the chain"] += 1
            found.must(verdict.valid, f"a receipt does not hold: {[c.name for c in verdict.checks if not c.holds]}")

    def close(self) -> None:
        self.market.close()


class WindowClient(Client):
    """Several requests at once on one channel."""

    kind, lanes = "window", 3

    @property
    def window(self) -> int | None:
        return 10 * UNIT_PRICE


class KeyClient(Client):
    """A program without a wallet: plain HTTP with an API key; every second request is a streamed chat."""

    kind, lanes, sorts = "API key", 2, ("plain", "chat")

    def fund(self, limit: int) -> None:
        """Make the key; its owner signs for all of its limit at once."""
        made = Keys(self.market).create(limit=limit, name="chaos")
        self._key = made.state.key_hash
        headers = {"Authorization": f"Bearer {made.secret}"}
        self._http = httpx.Client(base_url=self.market.url, headers=headers, timeout=TIMEOUT_SECONDS)

    def new(self, lane: int) -> Seen | None:
        made = Seen(secrets.token_bytes(32), self.channel_id, UNIT_PRICE, self._key)
        if self.sort(made) == "chat":
            made.price = None
        return made

    def send(self, seen: Seen) -> tuple[SignedReceipt, int]:
        try:
            sent = self._chat(seen) if self.sort(seen) == "chat" else self._infer(seen)
        except httpx.HTTPError as error:
            raise GatewayUnreachable(str(error)) from error
        paper = receipt_in(sent[0], seen, self.channel.gateway, self.domain)
        self.papers.keep(paper)
        return paper, int(sent[1])

    def _infer(self, seen: Seen) -> tuple[str, str]:
        headers = {"Market-Request-Id": hex0x(seen.request_id)}
        answer = self._http.post(f"/v2/models/{minilm.NAME}/infer", json=body_of(self.inputs(seen)), headers=headers)
        if answer.status_code != 200:
            raise refusal(Reply(answer.status_code, answer.headers, answer.content))
        return answer.headers["market-receipt"], answer.headers["market-charged"]

    def _chat(self, seen: Seen) -> tuple[str, str]:
        """Read a chat to its end; some are left after the first piece, at their first attempt."""
        leave = seen.request_id[2] % 4 == 0 and not seen.attempts
        body = {"model": WRITER, "messages": [{"role": "user", "content": "AB"}], "max_tokens": 24, "stream": True}
        headers, reader, paper = {"Market-Request-Id": hex0x(seen.request_id)}, EventReader(), {}
        with self._http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
            if answer.status_code != 200:
                raise refusal(Reply(answer.status_code, answer.headers, answer.read()))
            for data in answer.iter_bytes():
                for event in reader.feed(data):
                    if "error" in event:
                        raise GatewayRefused(200, plain_problem(event))
                    paper = event.get("market", paper)
                if leave:
                    break
        if "receipt" not in paper:
            raise GatewayUnreachable("the stream ended before its receipt.")
        return paper["receipt"], paper["charged"]

    def close(self) -> None:
        self._http.close()
        super().close()


def body_of(inputs) -> dict:
    """Return the JSON of a request."""
    tensors = [
        {"name": name, "datatype": "INT64", "shape": list(array.shape), "data": array.ravel().tolist()}
        for name, array in inputs.items()
    ]
    return {"inputs": tensors}


def receipt_in(header: str, seen: Seen, gateway: bytes, domain: Domain) -> SignedReceipt:
    """Read a receipt as a program without the kit would, and hold it against the request."""
    paper = SignedReceipt.from_header(header, model="")
    receipt = paper.receipt
    holds = (receipt.channel_id, receipt.request_id) == (seen.channel_id, seen.request_id) and is_receipt_signed_by(
        receipt.digest(domain), paper.gateway_signature, gateway, domain
    )
    if not holds:
        raise GatewayMisbehaved("the receipt is not for this request.", field="Market-Receipt")
    return paper
