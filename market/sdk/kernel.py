"""What a client decides, without I/O: an operation is a generator that yields what to do and is sent what came of it.

Decides how much to sign, when a request must wait for others, when to try again and when to deposit more. It never
signs above the caller's limits, never has more at risk than the window, and pays once for a request that is sent again:
it keeps its request id. Driven by `client.Market` and `aio.AsyncMarket`, which only do what it yields.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from contracts.protocol.hexes import address_from_hex, checksum, hex0x
from contracts.protocol.sealed import key_of
from contracts.protocol.typed_data import Channel, Domain
from market.sdk.effects import OK, Deposit, Pause, Reply, Send, Steps, Turn, asked_price, refusal, worth_repeating
from market.sdk.errors import (
    GatewayMisbehaved,
    GatewayRefused,
    GatewayUnreachable,
    NoChannel,
    SealingUnavailable,
    check_limit,
    over_window,
)
from market.sdk.exchange import (
    Call,
    Inputs,
    ModelInfo,
    Outcome,
    check_answer,
    lacks_numbers,
    payment_headers,
    prepare,
    prepare_sealed,
    worker_headers,
)
from market.sdk.papers import KeptChannel, PaperStore, SignedReceipt
from market.sdk.status import domain_of, gateway_of
from market.sdk.wallet import Wallet

DEFAULT_MAX_PRICE = 100_000
_NO_WISHES: Mapping[str, str] = {}
DEFAULT_RETRIES = 2
_MODEL_INFO_SECONDS = 60.0
_PAYMENT_ATTEMPTS = 4
_MAX_WAITS = 50
_POLL_SECONDS = 0.2
# How long a request waits for those of other programs.
_TURN_SECONDS = 2.0
_TURN_POLL_SECONDS = 0.01
_FIRST_PAUSE_SECONDS = 0.2
_MAX_PAUSE_SECONDS = 5.0

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class TopUp:
    """Deposit `amount`, or as many times that as is missing, when the channel runs short; at most `budget` in all.

    Atomic units.
    """

    amount: int
    budget: int


class _Hold:
    """What one request under way may cost, and what ends its turn among the programs that pay from the channel."""

    __slots__ = ("amount", "end_turn")

    def __init__(self, amount: int) -> None:
        self.amount = amount
        self.end_turn: Callable[[], None] | None = None


class Kernel:
    """One client's state; its operations may run side by side, in threads or tasks.

    `window` is how much may be signed beyond what is charged, in atomic units; None means one request at a time.
    """

    def __init__(
        self,
        wallet: Wallet | None,
        papers: PaperStore,
        *,
        max_price: int,
        window: int | None,
        retries: int,
        top_up: TopUp | None,
    ) -> None:
        self.wallet = wallet
        self.papers = papers
        self._max_price = max_price
        self._window = window
        self._retries = retries
        self._top_up = top_up
        self._topped_up = 0
        self._depositing = False
        self._models: dict[str, tuple[float, ModelInfo]] = {}
        self._kept: KeptChannel | None = None
        # Of the channel's charge, what receipts explain that were kept since (up to which number), what was taken for
        # others' at most, and if that was done since the last answer.
        self._paid = 0
        self._counted = 0
        self._foreign = 0
        self._took_more = False
        self._holds: set[_Hold] = set()
        self._turns: list[Turn] = []
        self._lock = threading.Lock()

    # --- what the gateway says ----------------------------------------------------------------------------------

    def get(self, path: str) -> Steps[Any]:
        """Read a JSON resource."""
        return (yield from self.send_json("GET", path))

    def send_json(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Steps[Any]:
        """Send a JSON request that costs nothing."""
        content = b"" if body is None else orjson.dumps(body)
        sent = {**({"Content-Type": "application/json"} if content else {}), **(headers or {})}
        reply: Reply = yield Send(method, path, content, sent)
        if reply.status >= 400:
            raise refusal(reply)
        try:
            return orjson.loads(reply.content)
        except ValueError as error:
            raise GatewayMisbehaved("the answer is not JSON.") from error

    def model(self, name: str) -> Steps[ModelInfo]:
        """Return what the gateway says of a model; remembered for a minute."""
        known = self._models.get(name)
        if known is not None and time.monotonic() - known[0] < _MODEL_INFO_SECONDS:
            return known[1]
        info = ModelInfo.from_json((yield from self.get(f"/market/v1/models/{name}")))
        if info.unit_prices:
            self._models[name] = (time.monotonic(), info)
        return info

    # --- the channel --------------------------------------------------------------------------------------------

    def use_channel(self, channel: Channel, domain: Domain) -> None:
        """Pay from this channel from now on, and remember it."""
        self.papers.keep_channel(channel, domain)
        self._use(self._newest(channel))

    def _newest(self, channel: Channel) -> KeptChannel:
        return next(kept for kept in self.papers.channels(payer=channel.payer) if kept.channel == channel)

    def channel(self) -> Steps[KeptChannel]:
        """Return the channel in use, else the newest one remembered for this wallet and gateway."""
        if self._kept is None:
            status = yield from self.get("/market/v1/status")
            payer, domain = None if self.wallet is None else self.wallet.address, domain_of(status)
            known = self.papers.channels(payer=payer, gateway=gateway_of(status), domain=domain)
            if not known:
                raise NoChannel("no channel to this gateway is known.", remedy="Open one with `market channel open`.")
            self._use(known[0])
        assert self._kept is not None, "just set"
        return self._kept

    def _use(self, kept: KeptChannel) -> None:
        counted = self.papers.newest_number()
        with self._lock:
            self._kept, self._paid, self._counted = kept, 0, counted
            self._foreign, self._took_more = kept.charged, False

    def payer(self) -> Steps[tuple[Wallet, KeptChannel]]:
        """Return the wallet and the channel that pay."""
        kept = yield from self.channel()
        if self.wallet is None:
            raise NoChannel("a wallet is needed to pay.", field="wallet", remedy="Give a keystore.")
        return self.wallet, kept

    def catch_up(self) -> Steps[KeptChannel]:
        """Take over the gateway's count of the channel, within what was signed: others may have used it."""
        kept = yield from self.channel()
        found = yield from self.get(f"/market/v1/channels/{hex0x(kept.channel_id)}")
        charged = int(found["charged"])
        newest = self._newest(kept.channel)
        if charged > newest.signed:
            raise GatewayMisbehaved("the gateway claims more than was ever signed here.", field="charged")
        return self._charged(charged)

    def _charged(self, charged: int) -> KeptChannel:
        assert self._kept is not None, "a channel is in use"
        self.papers.charged(self._kept.channel_id, charged)
        with self._lock:
            kept = self._kept = self._newest(self._kept.channel)
        return kept

    def wait_for_channel(self, channel_id: bytes, deposited: int, timeout_seconds: float) -> Steps[dict[str, Any]]:
        """Wait until the gateway has seen at least `deposited` atomic units in the channel."""
        deadline_at = time.monotonic() + timeout_seconds
        while True:
            try:
                found: dict[str, Any] = yield from self.get(f"/market/v1/channels/{hex0x(channel_id)}")
                if int(found["deposited"]) >= deposited or time.monotonic() > deadline_at:
                    return found
            except GatewayRefused as error:
                if error.code != "channel-not-found" or time.monotonic() > deadline_at:
                    raise
            yield Pause(_POLL_SECONDS)

    # --- inference ----------------------------------------------------------------------------------------------

    def infer(
        self,
        model: str,
        inputs: Inputs,
        *,
        outputs: Sequence[str] = (),
        parameters: Mapping[str, Any] | None = None,
        hedge: bool = False,
        sealed: bool = False,
        request_id: bytes | None = None,
        max_price: int | None = None,
        worker: str | None = None,
        region: str | None = None,
        min_stake: int = 0,
    ) -> Steps[Outcome]:
        """Pay for one inference; see `client.Market.infer`. A limit that is misspelt is refused, not dropped."""
        info = yield from self.model(model)
        if sealed:
            worker, key = yield from self._sealing(info, worker, hedge=hedge, outputs=outputs)
            call = prepare_sealed(info, inputs, key, parameters=parameters, request_id=request_id)
        else:
            call = prepare(info, inputs, outputs=outputs, parameters=parameters, request_id=request_id)

        wishes = worker_headers({"worker": worker, "region": region, "min_stake": min_stake}, hedge=hedge)

        def take(reply: Reply, kept: KeptChannel) -> Steps[Outcome]:
            try:
                return self._keep(call, reply, kept)
            except GatewayMisbehaved as error:
                if sealed or not lacks_numbers(error, reply.headers, reply.content):
                    raise
            # The same request is answered again for nothing, its numbers as they are.
            exact = prepare(
                info, inputs, outputs=outputs, parameters=parameters, request_id=call.request_id, binary_outputs=True
            )
            wallet, _ = yield from self.payer()
            ceiling = self.signed(kept)
            headers = {**payment_headers(exact, wallet.voucher_header(kept.channel, ceiling, kept.domain)), **wishes}
            again = yield from self._send_surely(Send("POST", exact.path, exact.body, headers))
            if again.status != OK:
                raise refusal(again)
            return self._keep(exact, again, kept)

        return (yield from self.pay(call, info, take, max_price=max_price, wishes=wishes))

    def _sealing(
        self, info: ModelInfo, worker: str | None, *, hedge: bool, outputs: Sequence[str]
    ) -> Steps[tuple[str, bytes]]:
        """Return who a request is sealed to, the cheapest if nobody is named, and the key."""
        if hedge or outputs:
            raise SealingUnavailable(
                "a sealed request goes to one worker and brings all outputs.", field="hedge" if hedge else "outputs"
            )
        if worker is not None:
            wanted = address_from_hex(worker, field="worker")
        elif info.sealing:
            wanted = next(iter(info.sealing))
        else:
            raise SealingUnavailable(f"no live worker of {info.name} has a key to seal to.", field="sealed")
        kept = yield from self.channel()
        signed = info.sealing.get(wanted)
        if signed is None:
            raise SealingUnavailable(
                f"{checksum(wanted)} offers {info.name} not now, or without a key.", field="worker"
            )
        key = key_of(signed, wanted, kept.domain)
        if key is None:
            raise GatewayMisbehaved("the sealing key is not signed by its worker.", field="sealing")
        return checksum(wanted), key

    def pay(
        self,
        call: Call,
        info: ModelInfo,
        take: Callable[[Reply, KeptChannel], Steps[_T]],
        *,
        max_price: int | None,
        wishes: Mapping[str, str] = _NO_WISHES,
    ) -> Steps[_T]:
        """Send a call until it is paid and answered; `take` reads the answer, while its money is still set aside."""
        limit = self._max_price if max_price is None else max_price
        expected = info.expected_price(call.tensors)
        wallet, kept = yield from self.payer()
        check_limit(expected, limit)
        hold = yield from self._hold(expected)
        try:
            attempt, waits, required = 0, 0, 0
            while True:
                ceiling = max(required, self._ceiling())
                voucher = wallet.voucher_header(kept.channel, ceiling, kept.domain)
                self.papers.signed(kept.channel_id, ceiling)
                headers = {**payment_headers(call, voucher), **wishes}
                reply = yield from self._send_surely(Send("POST", call.path, call.body, headers, call.stream))
                if reply.status == OK:
                    return (yield from take(reply, kept))
                refused = refusal(reply)
                attempt += 1
                last = attempt == _PAYMENT_ATTEMPTS
                short = refused.code == "insufficient-deposit" and not last
                if short and (yield from self.top_up(kept, refused.required)):
                    continue
                if refused.required is None or refused.required <= ceiling or last:
                    raise refused
                if not self._takes(hold, (yield from self.catch_up()).charged):
                    raise refused
                raised = yield from self._raise_hold(hold, refused, limit)
                if raised is None and waits < _MAX_WAITS:
                    attempt, waits = attempt - 1, waits + 1
                required = raised or 0
        finally:
            self._let_go(hold)

    def _hold(self, amount: int) -> Steps[_Hold]:
        if self._window is not None and amount > self._window:
            raise over_window(amount, self._window)
        hold = _Hold(amount)
        yield from self._take(hold)
        return hold

    def _take(self, hold: _Hold) -> Steps[None]:
        """Wait until there is room for a hold, and take it."""
        while True:
            with self._lock:
                if self._fits(hold.amount):
                    self._holds.add(hold)
                    break
                turn = Turn()
                self._turns.append(turn)
            yield turn
        if self._window is None:
            try:
                yield from self._queue(hold)
            except BaseException:
                self._let_go(hold)
                raise

    def _queue(self, hold: _Hold) -> Steps[None]:
        """Wait, but not for long, until no other program pays from the channel, and go on from what it has paid."""
        assert self._kept is not None, "a channel is in use"
        until = time.monotonic() + _TURN_SECONDS
        while True:
            hold.end_turn = self.papers.take_turn(self._kept.channel_id)
            if hold.end_turn is not None or time.monotonic() > until:
                break
            yield Pause(_TURN_POLL_SECONDS)
        newest = self._newest(self._kept.channel)
        with self._lock:
            self._kept = newest

    def _fits(self, amount: int, *, beside: _Hold | None = None) -> bool:
        others = [hold.amount for hold in self._holds if hold is not beside]
        return not others if self._window is None else sum(others) + amount <= self._window

    def _raise_hold(self, hold: _Hold, refused: GatewayRefused, limit: int) -> Steps[int | None]:
        """Hold what the gateway asks for this request.

        Returns the voucher that it needs; None if there is no room for that beside others, when this request has let
        them go first.
        """
        required = refused.required or 0
        with self._lock:
            assert self._kept is not None
            others = sum(other.amount for other in self._holds if other is not hold)
            needed = required - self._kept.charged
            # Others may have cost more than was expected of them: what they lack is not this request's price.
            price = max(hold.amount, needed - others) if not others else max(hold.amount, asked_price(refused, needed))
            check_limit(price, limit)
            if self._window is not None and price > self._window:
                raise over_window(price, self._window)
            if self._fits(price, beside=hold) and (self._window is None or needed <= self._window):
                hold.amount = price
                return required
            if not others:
                raise over_window(needed, self._window or 0)
            turn = Turn()
        self._let_go(hold)
        with self._lock:
            if self._holds:
                self._turns.append(turn)
            else:
                turn.come()
        yield turn
        hold.amount = price
        yield from self._take(hold)
        return None

    def _takes(self, hold: _Hold, charged: int) -> bool:
        """Tell whether to sign on after a refusal, on the gateway's word that so much of the channel is charged.

        What neither kept receipts nor this client's requests explain others may have used, or its count was lost here;
        that is taken once for each answer. A gateway that goes on counting up while it refuses would have one price
        after the other signed for nothing.
        """
        assert self._kept is not None, "a channel is in use"
        with self._lock:
            paid, self._counted = self.papers.paid_since(self._kept.channel_id, self._counted)
            self._paid += paid
            foreign = charged - self._paid
            under_way = sum(other.amount for other in self._holds if other is not hold)
            more, before = foreign - under_way > self._foreign, self._took_more
            self._foreign = max(self._foreign, foreign)
            self._took_more = before or more
        return not (more and before)

    def _ceiling(self) -> int:
        with self._lock:
            assert self._kept is not None
            return self._kept.charged + sum(hold.amount for hold in self._holds)

    def _let_go(self, hold: _Hold) -> None:
        if hold.end_turn is not None:
            hold.end_turn()
            hold.end_turn = None
        with self._lock:
            self._holds.discard(hold)
            turns, self._turns = self._turns, []
        for turn in turns:
            turn.come()

    def _send_surely(self, send: Send) -> Steps[Reply]:
        """Send, and again where that may help: the request id stays, so it is served and charged once."""
        pause = _FIRST_PAUSE_SECONDS
        for left in range(self._retries, -1, -1):
            try:
                reply: Reply = yield send
            except GatewayUnreachable:
                if not left:
                    raise
            else:
                if not left or not worth_repeating(reply):
                    return reply
            yield Pause(pause)
            pause = min(_MAX_PAUSE_SECONDS, 3 * pause)
        raise AssertionError("unreachable")  # pragma: no cover

    def top_up(self, kept: KeptChannel, required: int | None, *, partly: bool = False) -> Steps[bool]:
        """Deposit what the channel lacks of `required` in all, as far as `TopUp` allows; one request does, others wait.

        Returns whether the channel holds it now. What is allowed but not enough is deposited only `partly`.
        """
        if self._top_up is None:
            return False
        while True:
            with self._lock:
                if not self._depositing:
                    self._depositing = True
                    break
                turn = Turn()
                self._turns.append(turn)
            yield turn
        try:
            return (yield from self._fund(self._top_up, kept, required, partly=partly))
        finally:
            with self._lock:
                self._depositing = False
                turns, self._turns = self._turns, []
            for turn in turns:
                turn.come()

    def _fund(self, top_up: TopUp, kept: KeptChannel, required: int | None, *, partly: bool) -> Steps[bool]:
        held = int((yield from self.get(f"/market/v1/channels/{hex0x(kept.channel_id)}"))["deposited"])
        lacks = top_up.amount if required is None else required - held
        if lacks <= 0:
            return True  # somebody else has deposited meanwhile
        times, allowed = -(-lacks // top_up.amount), (top_up.budget - self._topped_up) // top_up.amount
        if allowed < times and not (partly and allowed > 0):
            return False
        amount = min(times, allowed) * top_up.amount
        self._topped_up += amount
        yield Deposit(kept.channel, kept.domain, amount)
        yield from self.wait_for_channel(kept.channel_id, held + amount, 60.0)
        return amount >= lacks

    def _keep(self, call: Call, reply: Reply, kept: KeptChannel) -> Outcome:
        outcome = check_answer(
            call, reply.headers, reply.content, channel=kept.channel, domain=kept.domain, signed=self.signed(kept)
        )
        self.keep(outcome.paper)
        return outcome

    def signed(self, kept: KeptChannel) -> int:
        """Return the most that was ever signed for a channel."""
        return self._newest(kept.channel).signed

    def keep(self, paper: SignedReceipt) -> None:
        """Keep a checked receipt and count its charge."""
        self.papers.keep(paper)
        with self._lock:
            self._took_more = False
        self._charged(paper.receipt.cumulative)
