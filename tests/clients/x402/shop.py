"""What the x402 client tests share: payers with test dollars, the endpoint, and how its answers are read."""

import base64
import json
from dataclasses import dataclass

import httpx
from eth_account import Account
from eth_account.signers.local import LocalAccount
from x402 import x402Client
from x402.mechanisms.evm.batch_settlement.client import BatchSettlementEvmScheme
from x402.mechanisms.evm.exact import ExactEvmScheme
from x402.schemas import PaymentRequired

from contracts.protocol.hexes import checksum
from contracts.protocol.receipts import unpack_receipt
from contracts.protocol.typed_data import Receipt
from market.demo import minilm
from market.demo.network import LocalMarket

PURSE = 50_000_000
SCHEMES = {"exact": ExactEvmScheme, "batch-settlement": BatchSettlementEvmScheme}


@dataclass(frozen=True)
class Shop:
    """The local market as an x402 client sees it."""

    local: LocalMarket
    body: dict

    @property
    def url(self) -> str:
        return f"{self.local.gateway_url}/v2/models/{minilm.NAME}/infer"

    @property
    def network(self) -> str:
        return f"eip155:{self.local.chain.domain.chain_id}"

    @property
    def token(self) -> str:
        return checksum(self.local.chain.deployment.token)

    def payer(self, tokens: int = PURSE) -> LocalAccount:
        """Draw an account that has test dollars and no gas money: the gateway pays for gas."""
        account = Account.create()
        if tokens:
            self.local.chain.mint(self.local.wallet("deployer"), bytes.fromhex(account.address[2:]), tokens)
        return account

    def balance(self, account: LocalAccount) -> int:
        return self.local.chain.balance(bytes.fromhex(account.address[2:]))

    def client(self, account: LocalAccount, scheme: str) -> x402Client:
        """Return the stock client; test dollars are on no default list, so they are allowed by name."""
        client = x402Client()
        client.register(self.network, SCHEMES[scheme](account))
        client.set_spend_controls({"allowed_assets": [{"network": self.network, "asset": self.token}]})
        return client

    def post(self, headers: dict[str, str] | None = None, body: dict | None = None) -> httpx.Response:
        return httpx.post(self.url, json=body or self.body, headers=headers or {}, timeout=60.0)

    def asked(self) -> PaymentRequired:
        """Ask without paying, and read what to pay."""
        refused = self.post()
        assert refused.status_code == 402, refused.text
        return PaymentRequired.model_validate(read(refused.headers["payment-required"]))

    async def signed(self, account: LocalAccount, scheme: str = "exact") -> dict:
        """Return a payment as the stock client signs it, as JSON."""
        payload = await self.client(account, scheme).create_payment_payload(self.asked())
        return json.loads(payload.model_dump_json(by_alias=True, exclude_none=True))


def read(header: str) -> dict:
    return json.loads(base64.b64decode(header))


def written(payment: dict) -> str:
    return base64.b64encode(json.dumps(payment).encode()).decode()


def receipt_of(header: str) -> Receipt:
    paper = base64.urlsafe_b64decode(header + "=" * (-len(header) % 4))
    return unpack_receipt(paper)[0]
