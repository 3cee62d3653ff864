"""The client: pays a gateway per request from a channel and keeps the papers.

Decides how much to sign: what has been charged plus the expected price, and what the gateway requires only up to the
caller's limit. It never signs above that and never accepts an answer whose receipt does not hold.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

import httpx

from contracts.protocol.errors import ProtocolError
from contracts.protocol.hexes import address_from_hex, from_hex, hex0x
from contracts.protocol.money import format_amount
from contracts.protocol.signing import SIGNATURE_BYTES, is_signed_by
from contracts.protocol.typed_data import Channel, Domain, Refund
from market.sdk.errors import (
    GatewayMisbehaved,
    GatewayRefused,
    GatewayUnreachable,
    NoChannel,
    NotSettled,
    SpendingLimit,
)
from market.sdk.exchange import Call, Inputs, ModelInfo, Outcome, check_answer, payment_headers, prepare
from market.sdk.papers import KeptChannel, PaperStore, Settlement, SignedReceipt
from market.sdk.wallet import Wallet

DEFAULT_MAX_PRICE = 100_000
_MODEL_INFO_SECONDS = 60.0
_PAYMENT_ATTEMPTS = 3
_POLL_SECONDS = 0.2


class Market:
    """A gateway seen by one client; safe to use from several threads, one paid request at a time per channel.

    `max_price` bounds what one request may cost, in atomic units.
    """

    def __init__(
        self,
        url: str,
        wallet: Wallet | None = None,
        *,
        papers: PaperStore | None = None,
        max_price: int = DEFAULT_MAX_PRICE,
        timeout_seconds: float = 60.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.wallet = wallet
        self.papers = papers if papers is not None else PaperStore(None)
        self._max_price = max_price
        self._http = httpx.Client(base_url=self.url, timeout=timeout_seconds, transport=transport)
        self._models: dict[str, tuple[float, ModelInfo]] = {}
        self._paying = threading.Lock()
        self._channel: KeptChannel | None = None

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
        return self._json(self._send("GET", path))

    def send_json(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> Any:
        """Send a JSON request that costs nothing and return the JSON answer; raises as `get`."""
        return self._json(self._send(method, path, json=body, headers=headers))

    def status(self) -> dict[str, Any]:
        """Return the gateway's address, chain, contracts and state."""
        found: dict[str, Any] = self.get("/market/v1/status")
        return found

    def model(self, name: str) -> ModelInfo:
        """Return what the gateway says of a model; remembered for a minute."""
        known = self._models.get(name)
        if known is not None and time.monotonic() - known[0] < _MODEL_INFO_SECONDS:
            return known[1]
        info = ModelInfo.from_json(self.get(f"/market/v1/models/{name}"))
        if info.unit_prices:
            self._models[name] = (time.monotonic(), info)
        return info

    # --- the channel ------------------------------------------------------------------------------------------

    def use_channel(self, channel: Channel, domain: Domain) -> None:
        """Pay from this channel from now on, and remember it."""
        self.papers.keep_channel(channel, domain)
        self._channel = next(kept for kept in self.papers.channels(payer=channel.payer) if kept.channel == channel)

    def channel(self) -> KeptChannel:
        """Return the channel in use, else the newest one remembered for this wallet and gateway.

        Raises:
            NoChannel: there is none.
        """
        if self._channel is None:
            gateway = address_from_hex(self.status()["gateway"], field="gateway")
            payer = None if self.wallet is None else self.wallet.address
            known = self.papers.channels(payer=payer, gateway=gateway)
            if not known:
                raise NoChannel("no channel to this gateway is known.", remedy="Open one with `market channel open`.")
            self._channel = known[0]
        return self._channel

    def wait_for_channel(self, channel_id: bytes, *, deposited: int, timeout_seconds: float = 60.0) -> dict[str, Any]:
        """Wait until the gateway has seen at least `deposited` atomic units in the channel.

        Raises:
            GatewayRefused: it still does not know the channel after `timeout_seconds`.
        """
        deadline_at = time.monotonic() + timeout_seconds
        while True:
            try:
                found: dict[str, Any] = self.get(f"/market/v1/channels/{hex0x(channel_id)}")
                if int(found["deposited"]) >= deposited or time.monotonic() > deadline_at:
                    return found
            except GatewayRefused as error:
                if error.code != "channel-not-found" or time.monotonic() > deadline_at:
                    raise
            time.sleep(_POLL_SECONDS)

    def ask_refund(self, refund: Refund) -> bytes:
        """Ask the gateway to sign that free money of the channel in use leaves at once; returns its signature.

        Raises:
            GatewayRefused: not so much is free.
            GatewayMisbehaved: what it signed is something else.
        """
        kept, (wallet, _) = self.channel(), self.payer()
        digest = refund.digest(kept.domain)
        answer = self._json(
            self._send(
                "POST",
                f"/market/v1/channels/{hex0x(refund.channel_id)}/refund",
                json={
                    "nonce": refund.nonce,
                    "amount": str(refund.amount),
                    "signature": hex0x(wallet.key.sign_digest(digest)),
                },
            )
        )
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
        max_price: int | None = None,
        worker: str | None = None,
        request_id: bytes | None = None,
    ) -> Outcome:
        """Pay for and run one inference; the receipt is kept before this returns.

        Raises:
            GatewayRefused: the gateway said no; nothing is charged.
            SpendingLimit: it costs more than `max_price` atomic units.
            GatewayMisbehaved: the answer or its receipt does not hold.
            GatewayUnreachable: no answer; call again with the same `request_id`, it is charged once.
        """
        info = self.model(model)
        call = prepare(info, inputs, outputs=outputs, parameters=parameters, request_id=request_id)
        limit = self._max_price if max_price is None else max_price
        with self._paying:
            return self._pay(call, info.expected_price(call.tensors), limit, worker)

    def _pay(self, call: Call, expected: int, limit: int, worker: str | None) -> Outcome:
        wallet, kept = self.payer()
        ceiling = kept.charged + expected
        for attempt in range(_PAYMENT_ATTEMPTS):
            if ceiling - kept.charged > limit:
                raise SpendingLimit(
                    f"the request costs {format_amount(ceiling - kept.charged)}, {format_amount(limit)} is allowed.",
                    field="max_price",
                    remedy="Allow more, or choose another model or worker.",
                )
            signature = wallet.sign_voucher(kept.channel_id, ceiling, kept.domain)
            self.papers.signed(kept.channel_id, ceiling)
            headers = payment_headers(call, kept.channel_id, ceiling, signature, worker=worker)
            response = self._send("POST", f"/v2/models/{call.model}/infer", content=call.body, headers=headers)
            if response.status_code == httpx.codes.OK:
                outcome = check_answer(
                    call,
                    response.headers,
                    response.content,
                    channel=kept.channel,
                    domain=kept.domain,
                    signed=max(ceiling, kept.signed),
                )
                self._keep(outcome)
                return outcome
            refused = _refusal(response)
            if refused.required is None or refused.required <= ceiling or attempt + 1 == _PAYMENT_ATTEMPTS:
                raise refused
            kept = self.catch_up()
            ceiling = refused.required
        raise AssertionError("unreachable")  # pragma: no cover

    def payer(self) -> tuple[Wallet, KeptChannel]:
        """Return the wallet and the channel that pay.

        Raises:
            NoChannel: one of them is missing.
        """
        kept = self.channel()
        if self.wallet is None:
            raise NoChannel("a wallet is needed to pay.", field="wallet", remedy="Give a keystore.")
        return self.wallet, kept

    def catch_up(self) -> KeptChannel:
        """Take over the gateway's count of the channel, within what was signed: others may have used it.

        Raises:
            GatewayMisbehaved: the gateway claims more than was ever signed here.
        """
        kept = self.channel()
        found = self.get(f"/market/v1/channels/{hex0x(kept.channel_id)}")
        charged = int(found["charged"])
        newest = next(k for k in self.papers.channels(payer=kept.channel.payer) if k.channel == kept.channel)
        if charged > newest.signed:
            raise GatewayMisbehaved("the gateway claims more than was ever signed here.", field="charged")
        self.papers.charged(kept.channel_id, charged)
        self._channel = KeptChannel(kept.channel, kept.domain, newest.signed, max(charged, newest.charged))
        return self._channel

    def _keep(self, outcome: Outcome) -> None:
        self.papers.keep(outcome.paper)
        kept = self.channel()
        self.papers.charged(kept.channel_id, outcome.cumulative)
        charged = max(kept.charged, outcome.cumulative)
        self._channel = KeptChannel(kept.channel, kept.domain, max(kept.signed, charged), charged)

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

    # --- HTTP -------------------------------------------------------------------------------------------------

    def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **content)
        except httpx.HTTPError as error:
            raise GatewayUnreachable(
                f"{self.url} does not answer: {error}.", remedy="Check the URL and that the gateway runs."
            ) from error

    def _json(self, response: httpx.Response) -> Any:
        if response.is_error:
            raise _refusal(response)
        try:
            return response.json()
        except ValueError as error:
            raise GatewayMisbehaved("the answer is not JSON.") from error


def _refusal(response: httpx.Response) -> GatewayRefused:
    try:
        problem = response.json()
    except ValueError:
        problem = {}
    return GatewayRefused(response.status_code, problem if isinstance(problem, dict) else {})


def domain_of(status: Mapping[str, Any]) -> Domain:
    """Return the signing domain that a gateway's status names.

    Raises:
        GatewayMisbehaved: it names none.
    """
    try:
        return Domain(int(status["chainId"]), address_from_hex(status["escrow"], field="escrow"))
    except (KeyError, TypeError, ValueError, ProtocolError) as error:
        raise GatewayMisbehaved("the status names no chain and escrow.", field="status") from error
