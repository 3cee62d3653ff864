"""A payer who signs by x402, a facilitator that answers what the test says, and a desk over a real book."""

from __future__ import annotations

import base64
import json
import os
import time

from eth_account import Account
from eth_account.messages import encode_defunct
from x402.mechanisms.evm.batch_settlement.client import BatchSettlementEvmScheme
from x402.mechanisms.evm.exact.client import ExactEvmScheme
from x402.schemas import PaymentRequirements

from contracts.protocol.signing import PrivateKey
from market.errors import HouseShort
from market.gateway.x402 import terms
from market.gateway.x402.sign_in import message
from market.gateway.x402.wire import X402Headers
from market.payments.model import ParsedVoucher
from market.payments.x402_channels import Merchant
from market.payments.x402_model import PaymentRefused, Settled
from market.payments.x402_ports import X402Desk

PRICE, PACK = 1_000, 100_000
HOUSE = PrivateKey(b"\x05" * 32)
MERCHANT = Merchant(31_337, b"\x77" * 20, HOUSE.address, 900)
ORIGIN = "http://127.0.0.1:8080"
TRANSACTION = "0x" + "ab" * 32


class Chain:
    """Plays the facilitator; `faults` are raised by the next calls of a method, one each."""

    def __init__(self):
        self.calls = []
        self.faults = {}
        self.balance = 0
        self.withdraw_requested_at = 0
        self.total_claimed = 0
        self.refund_nonce = 0
        self.deposited = set()

    def _called(self, name, *arguments):
        self.calls.append((name, *arguments))
        waiting = self.faults.get(name, [])
        if waiting:
            raise waiting.pop(0)

    def count(self, name):
        return sum(call[0] == name for call in self.calls)

    def _state(self):
        return {
            "balance": str(self.balance),
            "totalClaimed": str(self.total_claimed),
            "withdrawRequestedAt": self.withdraw_requested_at,
            "refundNonce": str(self.refund_nonce),
        }

    def verify(self, payload, requirements):
        self._called("verify", payload)
        if salt_of(payload) in self.deposited:
            raise PaymentRefused("invalid_batch_settlement_evm_deposit_simulation_failed")
        return self._state()

    def settle(self, payload, requirements):
        self._called("settle", payload)
        inner = payload["payload"]
        if "deposit" in inner:
            self.balance += int(inner["deposit"]["amount"])
            self.deposited.add(salt_of(payload))
            return Settled(TRANSACTION, "0x", inner["deposit"]["amount"], {"channelState": self._state()})
        return Settled(TRANSACTION, inner["authorization"]["from"], inner["authorization"]["value"])

    def pay(self, purpose, to, amount):
        self._called("pay", purpose, to, amount)
        return TRANSACTION

    def look(self, channel):
        state = {"balance": self.balance, "total_claimed": self.total_claimed, "refund_nonce": self.refund_nonce}
        requested = self.withdraw_requested_at
        return channel.seen_on_chain(**state, withdraw_requested_at=requested, at=time.time())

    def refund(self, channel, amount):
        self._called("refund", channel, amount)
        self.balance -= amount
        self.refund_nonce += 1
        return Settled(TRANSACTION, "0x", str(amount))


def salt_of(payload):
    """What makes a deposit one: the chain takes it once."""
    inner = payload["payload"]
    return inner["deposit"]["authorization"]["erc3009Authorization"]["salt"] if inner.get("type") == "deposit" else None


class House:
    channel_id = b"\x09" * 32

    def __init__(self):
        self.funded = True

    def voucher(self):
        if not self.funded:
            raise HouseShort
        return ParsedVoucher(self.channel_id, 10**9, b"\x01" * 65)


def desk_of(book, chain=None, house=None, least=1):
    return X402Desk(MERCHANT, chain or Chain(), book, house or House(), "TestUSD", "1", PACK, ORIGIN, least)


def header_of(values):
    return base64.b64encode(json.dumps(values).encode()).decode()


def paying(values, *, v1=False):
    return X402Headers(header_of(values), v1, None)


class Payer:
    """Signs as the stock clients do."""

    def __init__(self, secret=None):
        self.account = Account.from_key(secret or os.urandom(32))
        self.address = bytes.fromhex(self.account.address[2:])

    def _paid(self, client, offer):
        inner = client.create_payment_payload(PaymentRequirements.model_validate(offer))
        return {"x402Version": 2, "accepted": offer, "payload": inner}

    def exact(self, desk, price=PRICE):
        return self._paid(ExactEvmScheme(self.account), terms.accepts(desk, price)[1])

    def channel(self):
        return BatchSettlementEvmScheme(self.account)

    def batch(self, desk, client, price=PRICE):
        return self._paid(client, terms.accepts(desk, price)[0])

    def sign_in(self, **changes):
        issued = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        proof = {
            "domain": "127.0.0.1:8080",
            "address": self.account.address,
            "uri": f"{ORIGIN}/v2/models/m/infer",
            "version": "1",
            "chainId": "eip155:31337",
            "type": "eip191",
            "nonce": os.urandom(16).hex(),
            "issuedAt": issued,
            "statement": terms.STATEMENT,
            **changes,
        }
        signed = self.account.sign_message(encode_defunct(text=message(proof, self.account.address)))
        return header_of({"signature": "0x" + signed.signature.hex(), **proof})
