"""A chat that is iterated over while it is written: the connection behind `market.chat(stream=True)`.

    with market.chat("writer", messages, stream=True) as stream:
        for piece in stream:
            print(piece, end="")
    print(stream.answer.outcome.charged)

Decides nothing: does what the steps of `streams.chat` yield. Leaving the block early closes the connection, which ends
the generation, and waits for the receipt of what was sent.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Self

import httpx

from contracts.protocol.errors import CodedError
from market.sdk.effects import OK, Effect, Give, Left, Read, Reply, Send, Steps
from market.sdk.errors import GatewayUnreachable, StreamOpen
from market.sdk.tasks import Chat


class _Stream:
    def __init__(self, steps: Steps[Chat | None]) -> None:
        self._steps = steps
        self._begun = False
        self._ended = False
        self._answer: Chat | None = None

    @property
    def answer(self) -> Chat:
        """The whole chat with its checked receipt, once all of it was read.

        Raises:
            StreamOpen: it was not, or it was left.
        """
        if self._answer is None:
            raise StreamOpen("the stream was not read to its end.", remedy="Read all of its pieces first.")
        return self._answer

    def _next(self) -> Effect:
        if self._begun:
            return self._steps.send(None)
        self._begun = True
        return next(self._steps)

    def _leave(self) -> Effect:
        return self._steps.throw(Left())


class ChatStream(_Stream):
    """Iterates over the pieces of a chat; close it, or use it as a context, if you may leave early."""

    def __init__(self, http: httpx.Client, do: Callable[[Effect], object], steps: Steps[Chat | None]) -> None:
        super().__init__(steps)
        self._http = http
        self._do_other = do
        self._response: httpx.Response | None = None
        self._chunks: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        """Return the next piece; raises as `Market.infer`, and what was sent until then may be charged."""
        piece = None if self._ended else self._go(self._next)
        if piece is None:
            raise StopIteration
        return piece

    def close(self) -> None:
        """End the generation if it goes on; the receipt of what was sent is kept."""
        if self._ended:
            return
        self._hang_up()
        if self._begun:
            self._go(self._leave)
        self._end()

    def _go(self, resume: Callable[[], Effect]) -> str | None:
        try:
            effect = resume()
            while not isinstance(effect, Give):
                try:
                    done = self._do(effect)
                except CodedError as error:
                    effect = self._steps.throw(error)
                else:
                    effect = self._steps.send(done)
        except StopIteration as end:
            self._answer = end.value
            self._end()
            return None
        except BaseException:
            self._end()
            raise
        return effect.text

    def _do(self, effect: Effect) -> object:
        match effect:
            case Send(stream=True):
                return self._open(effect)
            case Read():
                try:
                    return next(self._chunks, None)
                except (httpx.HTTPError, httpx.StreamError) as error:
                    raise _broken(error) from error
        return self._do_other(effect)

    def _open(self, send: Send) -> Reply:
        self._hang_up()
        request = self._http.build_request(send.method, send.path, content=send.content, headers=dict(send.headers))
        try:
            response = self._response = self._http.send(request, stream=True)
            if response.status_code != OK:
                return Reply(response.status_code, response.headers, response.read())
        except httpx.HTTPError as error:
            raise _broken(error) from error
        self._chunks = response.iter_bytes()
        return Reply(OK, response.headers, b"")

    def _hang_up(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None

    def _end(self) -> None:
        self._ended = True
        self._steps.close()
        self._hang_up()

    def __del__(self) -> None:
        # Forgotten after a `break`: the generation ends, its money is free again; there is no waiting for its receipt.
        if not self._ended:
            self._end()


class AsyncChatStream(_Stream):
    """Iterates over the pieces of a chat; use it as a context if you may leave early."""

    def __init__(
        self, http: httpx.AsyncClient, do: Callable[[Effect], Awaitable[object]], steps: Steps[Chat | None]
    ) -> None:
        super().__init__(steps)
        self._http = http
        self._do_other = do
        self._response: httpx.Response | None = None
        self._chunks: Any = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        """Return the next piece; raises as `ChatStream.__next__`."""
        piece = None if self._ended else await self._go(self._next)
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def close(self) -> None:
        """End the generation if it goes on; the receipt of what was sent is kept."""
        if self._ended:
            return
        await self._hang_up()
        if self._begun:
            await self._go(self._leave)
        await self._end()

    async def _go(self, resume: Callable[[], Effect]) -> str | None:
        try:
            effect = resume()
            while not isinstance(effect, Give):
                try:
                    done = await self._do(effect)
                except CodedError as error:
                    effect = self._steps.throw(error)
                else:
                    effect = self._steps.send(done)
        except StopIteration as end:
            self._answer = end.value
            await self._end()
            return None
        except BaseException:
            await self._end()
            raise
        return effect.text

    async def _do(self, effect: Effect) -> object:
        match effect:
            case Send(stream=True):
                return await self._open(effect)
            case Read():
                try:
                    return await anext(self._chunks, None)
                except (httpx.HTTPError, httpx.StreamError) as error:
                    raise _broken(error) from error
        return await self._do_other(effect)

    async def _open(self, send: Send) -> Reply:
        await self._hang_up()
        request = self._http.build_request(send.method, send.path, content=send.content, headers=dict(send.headers))
        try:
            response = self._response = await self._http.send(request, stream=True)
            if response.status_code != OK:
                return Reply(response.status_code, response.headers, await response.aread())
        except httpx.HTTPError as error:
            raise _broken(error) from error
        self._chunks = response.aiter_bytes()
        return Reply(OK, response.headers, b"")

    async def _hang_up(self) -> None:
        if self._response is not None:
            await self._response.aclose()
            self._response = None

    async def _end(self) -> None:
        self._ended = True
        self._steps.close()
        await self._hang_up()


def _broken(error: Exception) -> GatewayUnreachable:
    return GatewayUnreachable(
        f"the connection to the gateway broke: {error}.", remedy="Check the URL and that the gateway runs."
    )
