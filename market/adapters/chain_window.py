"""The chain as far as a browser may see it through the gateway: four reads of this market's own contracts.

Decides which JSON-RPC calls are passed on; never one that writes, signs, or asks about anything else. What it answers
is the word of the gateway's node, and pages that show it say so. Called by the gateway's read API.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Any

import httpx
import orjson

from contracts.protocol.hexes import checksum
from market.errors import ChainReadRefused, ChainUnreachable, Overloaded

MAX_AT_ONCE = 8
MAX_CALL_DATA = 16_384
MAX_LOG_BLOCKS = 50_000
MAX_ANSWER_BYTES = 16 << 20
_TIMEOUT_SECONDS = 10.0
_HEAD_KEPT_SECONDS = 1.0
_METHODS = ("eth_chainId", "eth_blockNumber", "eth_call", "eth_getLogs")
_TAGS = ("latest", "safe", "finalized")


class ChainWindow:
    """Read-only JSON-RPC to one node, for the contracts given."""

    def __init__(
        self, rpc_url: str, contracts: Iterable[bytes], *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._url = rpc_url
        self._contracts = {checksum(address).lower() for address in contracts}
        self._transport = transport
        self._client: httpx.AsyncClient | None = None
        self._asked = 0
        self._head: tuple[float, int] = (float("-inf"), 0)
        self._asking_head = asyncio.Lock()

    async def close(self) -> None:
        """Drop the connections."""
        if self._client is not None:
            await self._client.aclose()

    async def head(self) -> int:
        """Return the newest block's number, at most a second old.

        Raises:
            ChainUnreachable: the node does not answer.
        """
        async with self._asking_head:
            if time.monotonic() - self._head[0] > _HEAD_KEPT_SECONDS:
                answer = await self._send("eth_blockNumber", [])
                try:
                    self._head = (time.monotonic(), int(answer["result"], 16))
                except (KeyError, TypeError, ValueError) as error:
                    raise ChainUnreachable("the node names no newest block.") from error
            return self._head[1]

    async def ask(self, method: Any, params: Any) -> dict[str, Any]:
        """Pass one allowed read on; returns `result`, or the node's own `error`.

        Raises:
            ChainReadRefused: it is not among the reads that are passed on.
            Overloaded: too many at once.
            ChainUnreachable: the node does not answer.
        """
        cleaned = self._cleaned(method, params)
        if self._asked >= MAX_AT_ONCE:
            raise Overloaded("as many chain reads as are allowed are under way.")
        self._asked += 1
        try:
            if method == "eth_getLogs":
                await self._check_range(cleaned[0])
            return await self._send(method, cleaned)
        finally:
            self._asked -= 1

    async def _send(self, method: str, params: list[Any]) -> dict[str, Any]:
        if self._client is None:
            self._client = httpx.AsyncClient(timeout=_TIMEOUT_SECONDS, transport=self._transport)
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        try:
            async with self._client.stream("POST", self._url, json=body) as response:
                found = bytearray()
                async for piece in response.aiter_bytes():
                    found += piece
                    if len(found) > MAX_ANSWER_BYTES:
                        raise ChainReadRefused(
                            f"the answer is larger than {MAX_ANSWER_BYTES} bytes.", remedy="Ask for fewer blocks."
                        )
            answer = orjson.loads(found)
        except (httpx.HTTPError, ValueError) as error:
            raise ChainUnreachable from error
        if not isinstance(answer, dict) or not ("result" in answer or "error" in answer):
            raise ChainUnreachable("the node's answer makes no sense.")
        if "error" in answer:
            return {"error": answer["error"]}
        return {"result": answer["result"]}

    def _cleaned(self, method: Any, params: Any) -> list[Any]:
        """Return the parameters with nothing in them but what was looked at."""
        if method not in _METHODS:
            raise ChainReadRefused(f"{method!r} is not passed on.", field="method")
        if method in ("eth_chainId", "eth_blockNumber"):
            return []
        if not isinstance(params, list) or not 1 <= len(params) <= 2 or not isinstance(params[0], Mapping):
            raise ChainReadRefused("expected an object and, for eth_call, a block.", field="params")
        return self._call(params) if method == "eth_call" else self._logs(params[0])

    def _call(self, params: list[Any]) -> list[Any]:
        to, data = params[0].get("to"), params[0].get("data", params[0].get("input"))
        self._known(to, "params.to")
        if not _is_hex(data, MAX_CALL_DATA):
            raise ChainReadRefused("the call data are not 0x-hex, or too long.", field="params.data")
        return [{"to": to, "data": data}, _block(params[1] if len(params) == 2 else "latest")]

    def _logs(self, wanted: Mapping[str, Any]) -> list[Any]:
        addresses = wanted.get("address")
        for address in addresses if isinstance(addresses, list) else [addresses]:
            self._known(address, "params.address")
        if not addresses:
            raise ChainReadRefused("name a contract of this market.", field="params.address")
        first, last = _block(wanted.get("fromBlock", "latest")), _block(wanted.get("toBlock", "latest"))
        topics = wanted.get("topics", [])
        if not isinstance(topics, list) or len(topics) > 4 or not all(t is None or _is_hex(t, 66) for t in topics):
            raise ChainReadRefused("expected at most four topics, each one hash or null.", field="params.topics")
        return [{"address": addresses, "fromBlock": first, "toBlock": last, "topics": topics}]

    async def _check_range(self, wanted: Mapping[str, Any]) -> None:
        first, last = wanted["fromBlock"], wanted["toBlock"]
        if first in _TAGS:
            return
        end = int(last, 16) if last not in _TAGS else await self.head()
        if end - int(first, 16) > MAX_LOG_BLOCKS:
            raise ChainReadRefused(f"more than {MAX_LOG_BLOCKS} blocks.", field="params.fromBlock")

    def _known(self, address: Any, field: str) -> None:
        if not isinstance(address, str) or address.lower() not in self._contracts:
            raise ChainReadRefused("this is not a contract of this market.", field=field)


def _is_hex(text: Any, longest: int) -> bool:
    if not isinstance(text, str) or not text.startswith("0x") or len(text) > longest:
        return False
    return all(letter in "0123456789abcdefABCDEF" for letter in text[2:])


def _block(text: Any) -> str:
    if text in _TAGS or (_is_hex(text, 18) and len(text) > 2):
        return str(text)
    raise ChainReadRefused("expected latest, safe, finalized or a block's number in 0x-hex.", field="params.block")
