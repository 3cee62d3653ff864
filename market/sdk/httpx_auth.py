"""Payment for programs that speak HTTP by themselves: `httpx`, and everything that takes an httpx client, as `openai`.

    client = httpx.Client(base_url=market.url, auth=MarketAuth(market, window=20_000, budget=1_000_000))
    openai.OpenAI(base_url=market.url + "/v1", api_key="none", http_client=client)

Such programs see no prices, so a voucher is signed ahead: `window` beyond what is charged. When it is used up the next
one is signed, `budget` in all. When the channel's deposit is used up, a market with `chain` and `top_up` deposits more,
within that budget of its own. Each request gets an id, under which the gateway charges it once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Generator

import httpx

from contracts.protocol.hexes import hex0x
from contracts.protocol.own_machine import HOSTS
from contracts.protocol.request_ids import new_request_id
from market.sdk.client import Market
from market.sdk.effects import Reply, refusal
from market.sdk.errors import SpendingLimit, UnusableAddress
from market.sdk.papers import SignedReceipt
from market.sdk.tritonclient import Payment

REQUEST_ID_HEADER = "Market-Request-Id"
_USED_UP = ("insufficient-voucher", "stale-voucher")
_ATTEMPTS = 4  # a renewed voucher may meet an empty channel, and the other way round


class MarketAuth(httpx.Auth):
    """Adds the payment to each request, synchronous or not; safe to share. Amounts are atomic units."""

    def __init__(self, market: Market, *, window: int, budget: int) -> None:
        self._market = market
        self._origin = _origin(httpx.URL(market.url))
        self._window = window
        self._lock = threading.Lock()
        self._payment = Payment(market, budget=min(window, budget), cover=False)
        self._last = self._payment.ceiling - min(window, budget) + budget

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """See httpx.Auth."""
        for left in reversed(range(_ATTEMPTS)):
            used = self._pay(request)
            response = yield request
            if response.status_code != httpx.codes.PAYMENT_REQUIRED or not left:
                return
            response.read()
            if not self._mended(response, used):
                return

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """See httpx.Auth."""
        for left in reversed(range(_ATTEMPTS)):
            used = self._pay(request)
            response = yield request
            if response.status_code != httpx.codes.PAYMENT_REQUIRED or not left:
                return
            await response.aread()
            if not await asyncio.to_thread(self._mended, response, used):
                return

    def collect(self) -> list[SignedReceipt]:
        """Fetch, check and keep the receipts of what was charged since the last time; raises as `Payment.collect`."""
        return self._payment.collect()

    def _pay(self, request: httpx.Request) -> int:
        """Add the payment to a request to the market's own gateway; returns what it may cost the channel in all.

        Raises:
            UnusableAddress: it goes elsewhere, where what pays would be anybody's to spend.
        """
        if _origin(request.url) != self._origin:
            raise UnusableAddress(
                f"this pays at {self._market.url}, not at {request.url.scheme}://{request.url.netloc.decode('ascii')}.",
                field="url",
                remedy="Give requests to other servers a client of their own, without this payment.",
            )
        ceiling = self._payment.ceiling
        request.headers.update(self._payment.headers())
        request.headers.setdefault(REQUEST_ID_HEADER, hex0x(new_request_id()))
        return ceiling

    def _mended(self, response: httpx.Response, used: int) -> bool:
        """Tell whether to send the request again, after signing or depositing what the refusal lacks."""
        refused = refusal(Reply(response.status_code, response.headers, response.content))
        if refused.code == "insufficient-deposit":
            return self._market.top_up(refused.required)
        if refused.code not in _USED_UP:
            return False
        with self._lock:
            if self._payment.ceiling > used:
                return True  # another request renewed it meanwhile
            if used >= self._last:
                raise SpendingLimit("the budget is used up.", field="budget", remedy="Allow more, in a new MarketAuth.")
            self._payment.renew(self._window, at_most=self._last)
            return self._payment.ceiling > used


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    """Return scheme, host and port; this machine has several names."""
    return url.scheme, HOSTS[0] if url.host in HOSTS else url.host, url.port
