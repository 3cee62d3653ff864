"""Payment for stock clients of the Open Inference Protocol: `tritonclient` (HTTP and gRPC, sync and aio), KServe's.

    payment = Payment(market, budget=50_000)
    client = tritonclient.http.InferenceServerClient("gateway:8080")
    client.register_plugin(payment)          # any of the four clients
    client.infer("minilm", inputs)

Such clients see neither prices nor receipts, so they pay by one voucher signed ahead: the gateway may charge up to
`budget` beyond what it has charged, and no more. Decides that ceiling only. It never signs more without being told
(`renew`), and needs neither of these clients to be installed. Since it sees no refusals either, a market with `top_up`
deposits when a voucher is signed, so that the channel holds the ceiling as far as `top_up` allows.
"""

from __future__ import annotations

import threading
from typing import Any

from contracts.protocol.hexes import hex0x
from contracts.protocol.receipts import is_receipt_signed_by
from market.sdk.client import Market
from market.sdk.errors import GatewayMisbehaved, NoChannel
from market.sdk.papers import SignedReceipt

# Lower case, which gRPC demands of metadata and HTTP does not mind.
VOUCHER_HEADER = "market-voucher"
# No more, since longer pages may end early.
_PAGE = 64


class Payment:
    """A client plugin that adds the payment to each call; safe to share between clients and threads.

    `budget` bounds what may be charged until the next `renew`, in atomic units. `cover=False` signs without a look at
    what the channel holds: for programs that see the refusals and top up then.
    """

    def __init__(self, market: Market, *, budget: int, cover: bool = True) -> None:
        self._market = market
        self._budget = budget
        self._cover = cover
        self._lock = threading.Lock()
        self._voucher = ""
        self._ceiling = 0
        self._seen = 0
        self.renew()

    @property
    def ceiling(self) -> int:
        """The channel total up to which the gateway may charge now, in atomic units."""
        return self._ceiling

    def renew(self, budget: int | None = None, *, at_most: int | None = None) -> None:
        """Sign a new voucher: what the channel has been charged, and the budget on top; never above `at_most` in all.

        Raises:
            NoChannel: there is no wallet or no channel to this gateway.
            GatewayMisbehaved: the gateway claims to have charged more than was ever signed here.
            ChainError: a top-up was refused; nothing was signed.
        """
        with self._lock:
            wallet, kept = self._market.wallet, self._market.channel()
            if wallet is None:
                raise NoChannel("a wallet is needed to pay.", field="wallet", remedy="Give a keystore.")
            charged = int(self._market.get(f"/market/v1/channels/{hex0x(kept.channel_id)}")["charged"])
            if charged > max(kept.signed, self._ceiling):
                raise GatewayMisbehaved("the gateway claims more than was ever signed here.", field="charged")
            ceiling = charged + (self._budget if budget is None else budget)
            ceiling = ceiling if at_most is None else min(ceiling, at_most)
            if self._cover:
                self._market.top_up(ceiling, partly=True)
            voucher = wallet.voucher_header(kept.channel, ceiling, kept.domain)
            self._market.papers.signed(kept.channel_id, ceiling)
            self._voucher = voucher
            self._ceiling = ceiling

    def headers(self) -> dict[str, str]:
        """Return the payment as HTTP headers or gRPC metadata, for clients that take them with each call."""
        return {VOUCHER_HEADER: self._voucher}

    def __call__(self, request: Any) -> None:
        """Add the payment to a call; `tritonclient` calls this before each request."""
        request.headers.update(self.headers())

    def collect(self) -> list[SignedReceipt]:
        """Fetch, check and keep the receipts of what was charged since the last time.

        Raises:
            GatewayMisbehaved: a receipt's signatures or sums do not hold; `field` names what.
        """
        kept = self._market.channel()
        found: list[SignedReceipt] = []
        while True:
            path = f"/market/v1/channels/{hex0x(kept.channel_id)}/receipts?after={self._seen}&limit={_PAGE}"
            page = self._market.get(path)
            for row in page:
                paper = SignedReceipt.from_json(row)
                self._check(paper)
                self._market.papers.keep(paper)
                self._seen = int(row["position"])
                found.append(paper)
            if len(page) < _PAGE:
                return found

    def _check(self, paper: SignedReceipt) -> None:
        kept, receipt = self._market.channel(), paper.receipt
        digest = receipt.digest(kept.domain)
        checks = {
            "channelId": receipt.channel_id == kept.channel_id,
            "gateway": receipt.gateway == kept.channel.gateway,
            "workerSignature": is_receipt_signed_by(digest, paper.worker_signature, receipt.worker, kept.domain),
            "gatewaySignature": is_receipt_signed_by(digest, paper.gateway_signature, receipt.gateway, kept.domain),
            "cumulative": receipt.cumulative <= max(kept.signed, self._ceiling),
        }
        for field, holds in checks.items():
            if not holds:
                raise GatewayMisbehaved("a receipt does not match the channel.", field=field)
