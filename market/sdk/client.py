"""The client: pays a gateway per request from a channel and keeps the papers.

Does what `kernel` decides, with blocking connections. It never signs above the caller's limits and never accepts an
answer whose receipt does not hold.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, Unpack, overload

import httpx

from contracts.protocol.errors import CodedError
from contracts.protocol.hexes import from_hex, hex0x
from contracts.protocol.signing import SIGNATURE_BYTES, is_signed_by
from contracts.protocol.typed_data import Channel, Domain, Refund
from market.sdk import streams
from market.sdk.chat_stream import ChatStream
from market.sdk.effects import Deposit, Effect, Pause, Reply, Send, Steps, Turn
from market.sdk.errors import GatewayMisbehaved, GatewayUnreachable, NoChannel, NotSettled, SealingUnavailable
from market.sdk.exchange import Inputs, Limits, ModelInfo, Outcome
from market.sdk.kernel import DEFAULT_MAX_PRICE, DEFAULT_RETRIES, Kernel, TopUp
from market.sdk.papers import KeptChannel, PaperStore, Settlement, SignedReceipt
from market.sdk.reaching import asks_environment, certificates, reaching
from market.sdk.tasks import Chat, Embeddings, chat_answer, chat_inputs, chat_parameters, embeddings, text_inputs
from market.sdk.wallet import Wallet

if TYPE_CHECKING:
    from market.sdk.chain import Chain

_POLL_SECONDS = 0.2
_T = TypeVar("_T")


class Market:
    """A gateway seen by one client; safe to use from several threads.

    `max_price` bounds what one request may cost. `window` bounds what is signed beyond what is charged: with it
    requests of several threads run side by side on one channel; without it one at a time. A request that meets a lost
    connection or a busy gateway is sent again up to `retries` times under its request id, so it is charged once. With
    `chain` and `top_up` the channel is topped up by itself. Amounts are atomic units.
    """

    def __init__(
        self,
        url: str,
        wallet: Wallet | None = None,
        *,
        papers: PaperStore | None = None,
        max_price: int = DEFAULT_MAX_PRICE,
        window: int | None = None,
        retries: int = DEFAULT_RETRIES,
        chain: Chain | None = None,
        top_up: TopUp | None = None,
        timeout_seconds: float = 60.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.wallet = wallet
        self.papers = papers if papers is not None else PaperStore(None)
        self._chain = chain
        with reaching(self.url):
            self._http = httpx.Client(
                base_url=self.url,
                timeout=timeout_seconds,
                transport=transport,
                trust_env=asks_environment(self.url),
                verify=certificates(self.url),
            )
        self._kernel = Kernel(wallet, self.papers, max_price=max_price, window=window, retries=retries, top_up=top_up)

    def close(self) -> None:
        """Close the connections; the paper store stays open."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- what the gateway says --------------------------------------------------------------------------------

    def get(self, path: str) -> Any:
        """Read one of the gateway's JSON resources.

        Raises:
            GatewayRefused: it answered with a problem.
            GatewayUnreachable: it did not answer.
        """
        return self._run(self._kernel.get(path))

    def send_json(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> Any:
        """Send a JSON request that costs nothing and return the JSON answer; raises as `get`."""
        return self._run(self._kernel.send_json(method, path, body, headers))

    def status(self) -> dict[str, Any]:
        """Return the gateway's address, chain, contracts and state."""
        found: dict[str, Any] = self.get("/market/v1/status")
        return found

    def model(self, name: str) -> ModelInfo:
        """Return what the gateway says of a model; remembered for a minute."""
        return self._run(self._kernel.model(name))

    # --- the channel ------------------------------------------------------------------------------------------

    def use_channel(self, channel: Channel, domain: Domain) -> None:
        """Pay from this channel from now on, and remember it."""
        self._kernel.use_channel(channel, domain)

    def channel(self) -> KeptChannel:
        """Return the channel in use, else the newest one remembered for this wallet and gateway.

        Raises:
            NoChannel: there is none.
        """
        return self._run(self._kernel.channel())

    def payer(self) -> tuple[Wallet, KeptChannel]:
        """Return the wallet and the channel that pay.

        Raises:
            NoChannel: one of them is missing.
        """
        return self._run(self._kernel.payer())

    def catch_up(self) -> KeptChannel:
        """Take over the gateway's count of the channel, within what was signed: others may have used it.

        Raises:
            GatewayMisbehaved: the gateway claims more than was ever signed here.
        """
        return self._run(self._kernel.catch_up())

    def top_up(self, required: int | None = None, *, partly: bool = False) -> bool:
        """Deposit what the channel in use lacks of `required` atomic units in all, as far as `top_up` allows.

        Returns whether it holds them now; without `required` one amount is deposited. What is allowed but not enough is
        deposited only if `partly`.

        Raises:
            NoChannel: there is no channel, or no chain to deposit by.
            ChainError: the deposit was refused.
        """
        return self._run(self._kernel.top_up(self.channel(), required, partly=partly))

    def wait_for_channel(self, channel_id: bytes, *, deposited: int, timeout_seconds: float = 60.0) -> dict[str, Any]:
        """Wait until the gateway has seen at least `deposited` atomic units in the channel.

        Raises:
            GatewayRefused: it still does not know the channel after `timeout_seconds`.
        """
        return self._run(self._kernel.wait_for_channel(channel_id, deposited, timeout_seconds))

    def ask_refund(self, refund: Refund) -> bytes:
        """Ask the gateway to sign that free money of the channel in use leaves at once; returns its signature.

        Raises:
            GatewayRefused: not so much is free.
            GatewayMisbehaved: what it signed is something else.
        """
        kept, (wallet, _) = self.channel(), self.payer()
        digest = refund.digest(kept.domain)
        path = f"/market/v1/channels/{hex0x(refund.channel_id)}/refund"
        asked = {
            "nonce": refund.nonce,
            "amount": str(refund.amount),
            "signature": hex0x(wallet.key.sign_digest(digest)),
        }
        answer = self.send_json("POST", path, asked)
        signature = from_hex(str(answer.get("signature")), SIGNATURE_BYTES, field="signature")
        if not is_signed_by(digest, signature, kept.channel.gateway):
            raise GatewayMisbehaved("the refund is not signed by the channel's gateway.", field="signature")
        return signature

    # --- inference --------------------------------------------------------------------------------------------

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
        **limits: Unpack[Limits],
    ) -> Outcome:
        """Pay for and run one inference; the receipt is kept before this returns.

        The limits: `max_price` (atomic units), and which workers will do, by `worker` (an address), `region` and
        `min_stake` (atomic units). `hedge` allows the gateway to ask a second one when the first is late, see
        docs/selection.md. `sealed` lets only the worker read the inputs, and only this client the outputs: name one
        whose operator you trust, or the cheapest that can is taken.

        Raises:
            GatewayRefused: the gateway said no; nothing is charged.
            SealingUnavailable: it cannot be sealed to that worker, or not to any, or not for this model.
            SpendingLimit: it costs more than `max_price` atomic units, or than the window.
            GatewayMisbehaved: the answer or its receipt does not hold.
            GatewayUnreachable: no answer; call again with the same `request_id`, it is charged once.
        """
        steps = self._kernel.infer(
            model,
            inputs,
            outputs=outputs,
            parameters=parameters,
            hedge=hedge,
            sealed=sealed,
            request_id=request_id,
            **limits,
        )
        return self._run(steps)

    def embed(
        self,
        model: str,
        texts: Sequence[str],
        *,
        hedge: bool = False,
        sealed: bool = False,
        **limits: Unpack[Limits],
    ) -> Embeddings:
        """Return the vectors of texts, float32[texts, D]; limits and errors as of `infer`."""
        return embeddings(self.infer(model, text_inputs(texts), hedge=hedge, sealed=sealed, **limits))

    @overload
    def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, str]],
        *,
        stream: Literal[False] = False,
        max_price: int | None = None,
        worker: str | None = None,
        region: str | None = None,
        min_stake: int = 0,
        sealed: bool = False,
        **parameters: Any,
    ) -> Chat: ...

    @overload
    def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, str]],
        *,
        stream: Literal[True],
        max_price: int | None = None,
        worker: str | None = None,
        region: str | None = None,
        min_stake: int = 0,
        **parameters: Any,
    ) -> ChatStream: ...

    def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, str]],
        *,
        stream: bool = False,
        max_price: int | None = None,
        worker: str | None = None,
        region: str | None = None,
        min_stake: int = 0,
        sealed: bool = False,
        **parameters: Any,
    ) -> Chat | ChatStream:
        """Return the answer to a conversation; `parameters` such as max_tokens or temperature, limits as of `infer`.

        With `stream` its pieces can be iterated over as they come. Leaving early ends it, and costs what was sent.
        `sealed` is as of `infer`, for an answer that comes whole.
        """
        limits: Limits = {"max_price": max_price, "worker": worker, "region": region, "min_stake": min_stake}
        if stream:
            if sealed:
                raise SealingUnavailable("streams are not sealed.", field="stream", remedy="Ask without stream.")
            return ChatStream(self._http, self._do, streams.chat(self._kernel, model, messages, parameters, limits))
        outcome = self.infer(
            model, chat_inputs(messages), parameters=chat_parameters(parameters), sealed=sealed, **limits
        )
        return chat_answer(outcome)

    # --- papers -----------------------------------------------------------------------------------------------

    def fetch_settlement(self, paper: SignedReceipt) -> SignedReceipt:
        """Fetch where a receipt was settled, and keep it.

        Raises:
            NotSettled: it is not settled yet.
        """
        if paper.settlement is not None:
            return paper
        receipt = paper.receipt
        path = f"/market/v1/receipts/{hex0x(receipt.request_id)}?channel={hex0x(receipt.channel_id)}"
        found = self.get(path)
        if found.get("settlement") is None:
            raise NotSettled(
                "the receipt is not settled yet.", remedy="Wait for the gateway's next settlement and ask again."
            )
        settled = SignedReceipt(
            receipt,
            paper.worker_signature,
            paper.gateway_signature,
            paper.model,
            Settlement.from_json(found["settlement"]),
        )
        self.papers.keep(settled)
        return settled

    def wait_for_settlement(self, paper: SignedReceipt, *, timeout_seconds: float = 60.0) -> SignedReceipt:
        """Fetch where a receipt was settled, as soon as it is.

        Raises:
            NotSettled: it is not after `timeout_seconds`.
        """
        deadline_at = time.monotonic() + timeout_seconds
        while True:
            try:
                return self.fetch_settlement(paper)
            except NotSettled:
                if time.monotonic() > deadline_at:
                    raise
            time.sleep(_POLL_SECONDS)

    # --- I/O --------------------------------------------------------------------------------------------------

    def _run(self, steps: Steps[_T]) -> _T:
        """Do what the steps ask for until they are done."""
        try:
            effect = next(steps)
            while True:
                try:
                    done = self._do(effect)
                except CodedError as error:
                    effect = steps.throw(error)
                else:
                    effect = steps.send(done)
        except StopIteration as end:
            result: _T = end.value
            return result
        finally:
            steps.close()

    def _do(self, effect: Effect) -> Reply | None:
        match effect:
            case Send():
                return self._send(effect)
            case Pause(seconds):
                time.sleep(seconds)
            case Turn():
                come = threading.Event()
                effect.on(come.set)
                come.wait()
            case Deposit():
                deposit(self._chain, self.wallet, effect)
        return None

    def _send(self, send: Send) -> Reply:
        try:
            answer = self._http.request(send.method, send.path, content=send.content, headers=dict(send.headers))
        except httpx.HTTPError as error:
            raise unreachable(self.url, error) from error
        return Reply(answer.status_code, answer.headers, answer.content)


def unreachable(url: str, error: httpx.HTTPError) -> GatewayUnreachable:
    """Return what a failed connection is called."""
    said = str(error).rstrip(".") or type(error).__name__
    remedy = "Check the URL and that the gateway runs."
    return GatewayUnreachable(f"{url} does not answer: {said}.", field="url", remedy=remedy)


def deposit(chain: Chain | None, wallet: Wallet | None, effect: Deposit) -> None:
    """Deposit into a channel.

    Raises:
        NoChannel: there is no chain or wallet to do it with.
        WrongChain: the channel is another chain's or escrow's.
    """
    if chain is None or wallet is None:
        raise NoChannel(
            "a chain is needed to top up.", field="chain", remedy="Give Market(..., chain=Chain.connect(…))."
        )
    chain.check_domain(effect.domain)
    chain.deposit(wallet, effect.channel, effect.amount)
