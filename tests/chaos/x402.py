"""A program that knows the market by x402 only: PyPI's stock client, in two ways to pay at once.

One lane holds a channel of the `batch-settlement` scheme; the other buys credit packs by `exact` and uses them up by
signing in. What was signed for a request is sent again until it is answered or refused for good, so that it stays one job.
"""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
from eth_account import Account
from eth_account.messages import encode_defunct
from x402 import x402ClientSync
from x402.http import x402HTTPClientSync
from x402.mechanisms.evm.batch_settlement.client import BatchSettlementEvmScheme
from x402.mechanisms.evm.exact import ExactEvmScheme

from contracts.protocol.hexes import from_hex
from contracts.protocol.typed_data import Channel, Domain
from market.adapters.house_channel import SALT
from market.demo import minilm
from market.demo.network import UNIT_PRICE
from market.gateway.x402.sign_in import message
from market.payments.x402_model import BATCH, SIGN_IN, Authorization, identity
from market.sdk.effects import Reply, refusal
from market.sdk.errors import GatewayUnreachable
from market.sdk.papers import SignedReceipt
from tests.chaos.history import Seen
from tests.chaos.load import Program, body_of, receipt_in

CHANNEL, CREDIT = "channel", "credit"
PURSE = 50_000_000
# A pack is settled and confirmed before its request is served.
TIMEOUT_SECONDS = 30.0
# What may be charged is asked for so long, whatever it is refused for: a gateway's clock may be wrong for a while.
PATIENCE_SECONDS = 120.0
_SCHEMES = {CHANNEL: BatchSettlementEvmScheme, CREDIT: ExactEvmScheme}


@dataclass
class Payment(Seen):
    """One request with what was signed for it."""

    lane: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    payload: Any = None
    signed_at: float = 0.0
    is_refused: bool = False


class X402Client(Program):
    """Two payers, each with a purse of test dollars, no gas and nothing in the escrow."""

    kind, sorts, lanes = "x402", (CHANNEL, CREDIT), 2

    def __init__(self, url: str, house: bytes, gateway: bytes, token: bytes, domain: Domain) -> None:
        super().__init__(domain)
        self._url = f"{url}/v2/models/{minilm.NAME}/infer"
        self._gateway = gateway
        self._token = token
        self._network = f"eip155:{domain.chain_id}"
        # Receipts name the channel from which the gateway pays onward.
        self.channel_id = Channel(house, gateway, gateway, SALT).digest(domain)
        self._accounts = {sort: Account.create() for sort in self.sorts}
        self._clients = {sort: self._client(sort) for sort in self.sorts}
        self._http = httpx.Client(timeout=TIMEOUT_SECONDS)
        self._has_credit = False

    @property
    def payers(self) -> dict[str, bytes]:
        """The payers' addresses by their way to pay."""
        return {sort: bytes.fromhex(account.address[2:]) for sort, account in self._accounts.items()}

    def _client(self, sort: str) -> x402HTTPClientSync:
        client = x402ClientSync()
        client.register(self._network, _SCHEMES[sort](self._accounts[sort]))
        client.set_spend_controls({"allowed_assets": True})
        return x402HTTPClientSync(client)

    # --- the next request -------------------------------------------------------------------------------------

    def new(self, lane: int) -> Payment | None:
        sort = self.sorts[lane]
        try:
            asked = self._http.post(self._url, json=self._body(lane))
        except httpx.HTTPError:
            return None
        if asked.status_code != 402:
            return None
        made = self._signed_in(asked) if sort == CREDIT and self._has_credit else self._paying(sort, asked)
        made.lane, made.signed_at = lane, time.monotonic()
        # A voucher signed again is the same request.
        return next((one for one in self.history[-8:] if one.request_id == made.request_id), made)

    def _paying(self, sort: str, asked: httpx.Response) -> Payment:
        client = self._clients[sort]
        required = client.get_payment_required_response(asked.headers.get, asked.json())
        payload = client.create_payment_payload(required)
        wire = payload.payload
        if sort == CHANNEL:
            voucher = wire["voucher"]
            most = int(voucher["maxClaimableAmount"])
            base = most - int(payload.accepted.amount)
            channel_id = from_hex(voucher["channelId"], 32, field="channelId")
            request_id = identity(BATCH, channel_id, base.to_bytes(32, "big"), most.to_bytes(32, "big"))
        else:
            request_id = Authorization.from_wire(wire, self.domain.chain_id, self._token).request_id
        headers = client.encode_payment_signature_header(payload)
        return Payment(request_id, self.channel_id, UNIT_PRICE, headers=headers, payload=payload)

    def _signed_in(self, asked: httpx.Response) -> Payment:
        """Sign the challenge of a 402, as the extension's clients do; the extension itself holds web3 too old."""
        account = self._accounts[CREDIT]
        challenge = json.loads(base64.b64decode(asked.headers["payment-required"]))["extensions"][SIGN_IN]
        proof = challenge["info"] | {"address": account.address, "type": "eip191", "chainId": self._network}
        text = encode_defunct(text=message(proof, account.address))
        proof["signature"] = "0x" + account.sign_message(text).signature.hex()
        headers = {"SIGN-IN-WITH-X": base64.b64encode(json.dumps(proof).encode()).decode()}
        request_id = identity(SIGN_IN, bytes.fromhex(account.address[2:]), proof["nonce"].encode())
        return Payment(request_id, self.channel_id, UNIT_PRICE, headers=headers)

    def _body(self, lane: int) -> dict:
        return body_of(self._inputs[lane])

    # --- one request ------------------------------------------------------------------------------------------

    def sort(self, seen: Seen) -> str:
        assert isinstance(seen, Payment)
        return self.sorts[seen.lane]

    def goes_on(self, seen: Seen) -> bool:
        assert isinstance(seen, Payment)
        if time.monotonic() - seen.signed_at > PATIENCE_SECONDS:
            return False
        return seen.may_be_charged or not seen.is_refused

    def send(self, seen: Seen) -> tuple[SignedReceipt, int]:
        assert isinstance(seen, Payment)
        sort = self.sort(seen)
        try:
            answer = self._http.post(self._url, json=self._body(seen.lane), headers=seen.headers)
        except httpx.HTTPError as error:
            raise GatewayUnreachable(str(error)) from error
        if seen.payload is not None:
            # The stock client counts what its channel was charged, and takes the gateway's count where they differ.
            self._clients[sort].process_payment_result(seen.payload, answer.headers.get, answer.status_code)
        if answer.status_code != 200:
            seen.is_refused = answer.status_code == 402
            if sort == CREDIT and seen.is_refused:
                self._has_credit = False
            raise refusal(Reply(answer.status_code, answer.headers, answer.content))
        paper = receipt_in(answer.headers["market-receipt"], seen, self._gateway, self.domain)
        if sort == CREDIT:
            self._has_credit = int(answer.headers["market-credit"]) >= UNIT_PRICE
        return paper, int(answer.headers["market-charged"])

    def close(self) -> None:
        self._http.close()
