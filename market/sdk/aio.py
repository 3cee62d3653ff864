"""The client for asyncio: the same kernel as `client.Market`, awaited.

    async with AsyncMarket(url, wallet, window=50_000) as market:
        await asyncio.gather(*(market.infer("minilm", one) for one in many))

Decides nothing. A task that is cancelled gives its part of the window back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, Unpack, overload

import httpx

from contracts.protocol.errors import CodedError
from contracts.protocol.typed_data import Channel, Domain
from market.sdk import streams
from market.sdk.chat_stream import AsyncChatStream
from market.sdk.client import deposit, unreachable
from market.sdk.effects import Deposit, Effect, Pause, Reply, Send, Steps, Turn
from market.sdk.errors import SealingUnavailable
from market.sdk.exchange import Inputs, Limits, ModelInfo, Outcome
from market.sdk.kernel import DEFAULT_MAX_PRICE, DEFAULT_RETRIES, Kernel, TopUp
from market.sdk.papers import KeptChannel, PaperStore
from market.sdk.reaching import asks_environment, certificates, reaching
from market.sdk.tasks import Chat, Embeddings, chat_answer, chat_inputs, chat_parameters, embeddings, text_inputs
from market.sdk.wallet import Wallet

if TYPE_CHECKING:
    from market.sdk.chain import Chain

_T = TypeVar("_T")


class AsyncMarket:
    """A gateway seen by one asynchronous client; parameters as of `client.Market`."""

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
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.wallet = wallet
        self.papers = papers if papers is not None else PaperStore(None)
        self._chain = chain
        with reaching(self.url):
            self._http = httpx.AsyncClient(
                base_url=self.url,
                timeout=timeout_seconds,
                transport=transport,
                trust_env=asks_environment(self.url),
                verify=certificates(self.url),
            )
        self._kernel = Kernel(wallet, self.papers, max_price=max_price, window=window, retries=retries, top_up=top_up)

    async def close(self) -> None:
        """Close the connections; the paper store stays open."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def get(self, path: str) -> Any:
        """Read one of the gateway's JSON resources; raises as `client.Market.get`."""
        return await self._run(self._kernel.get(path))

    async def model(self, name: str) -> ModelInfo:
        """Return what the gateway says of a model; remembered for a minute."""
        return await self._run(self._kernel.model(name))

    def use_channel(self, channel: Channel, domain: Domain) -> None:
        """Pay from this channel from now on, and remember it."""
        self._kernel.use_channel(channel, domain)

    async def channel(self) -> KeptChannel:
        """Return the channel in use; raises as `client.Market.channel`."""
        return await self._run(self._kernel.channel())

    async def wait_for_channel(
        self, channel_id: bytes, *, deposited: int, timeout_seconds: float = 60.0
    ) -> dict[str, Any]:
        """Wait until the gateway has seen a deposit; raises as `client.Market.wait_for_channel`."""
        return await self._run(self._kernel.wait_for_channel(channel_id, deposited, timeout_seconds))

    async def infer(
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
        """Pay for and run one inference; raises as `client.Market.infer`."""
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
        return await self._run(steps)

    async def embed(
        self,
        model: str,
        texts: Sequence[str],
        *,
        hedge: bool = False,
        sealed: bool = False,
        **limits: Unpack[Limits],
    ) -> Embeddings:
        """Return the vectors of texts; see `client.Market.embed`."""
        return embeddings(await self.infer(model, text_inputs(texts), hedge=hedge, sealed=sealed, **limits))

    @overload
    async def chat(
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
    async def chat(
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
    ) -> AsyncChatStream: ...

    async def chat(
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
    ) -> Chat | AsyncChatStream:
        """Return the answer to a conversation; see `client.Market.chat`."""
        limits: Limits = {"max_price": max_price, "worker": worker, "region": region, "min_stake": min_stake}
        if stream:
            if sealed:
                raise SealingUnavailable("streams are not sealed.", field="stream", remedy="Ask without stream.")
            steps = streams.chat(self._kernel, model, messages, parameters, limits)
            return AsyncChatStream(self._http, self._do, steps)
        outcome = await self.infer(
            model, chat_inputs(messages), parameters=chat_parameters(parameters), sealed=sealed, **limits
        )
        return chat_answer(outcome)

    async def _run(self, steps: Steps[_T]) -> _T:
        """Do what the steps ask for until they are done."""
        try:
            effect = next(steps)
            while True:
                try:
                    done = await self._do(effect)
                except CodedError as error:
                    effect = steps.throw(error)
                else:
                    effect = steps.send(done)
        except StopIteration as end:
            result: _T = end.value
            return result
        finally:
            steps.close()

    async def _do(self, effect: Effect) -> Reply | None:
        match effect:
            case Send():
                return await self._send(effect)
            case Pause(seconds):
                await asyncio.sleep(seconds)
            case Turn():
                come, loop = asyncio.Event(), asyncio.get_running_loop()
                effect.on(lambda: loop.call_soon_threadsafe(come.set))
                await come.wait()
            case Deposit():
                await asyncio.to_thread(deposit, self._chain, self.wallet, effect)
        return None

    async def _send(self, send: Send) -> Reply:
        try:
            answer = await self._http.request(send.method, send.path, content=send.content, headers=dict(send.headers))
        except httpx.HTTPError as error:
            raise unreachable(self.url, error) from error
        return Reply(answer.status_code, answer.headers, answer.content)
