"""An authorization whose transaction is out when the gateway dies: what the payer paid becomes credit, however late."""

import time

import pytest
from eth_account import Account
from x402.mechanisms.evm.exact.client import ExactEvmScheme
from x402.schemas import PaymentRequirements

from contracts.bindings.outbox import MemoryOutbox
from contracts.bindings.transactor import Transactor
from contracts.protocol.hexes import checksum
from market.adapters.x402_facilitator import InProcessFacilitator
from market.adapters.x402_signer import HouseSigner
from market.devnet.services import rpc
from market.payments.x402_ports import SettlementPending
from tests.support.chain import key

PACK = 100_000


def facilitator(shop, outbox):
    """Join what one gateway process joins; the outbox is the database's part of it."""
    transactor = Transactor(shop.chain.web3, key("house"), outbox=outbox)
    signer = HouseSigner(shop.chain.web3, key("house"), transactor, confirm_seconds=1.0)
    return InProcessFacilitator(signer, transactor, shop.chain.contracts.token, shop.merchant)


def test_a_transaction_that_is_out_is_found_again_after_a_restart_and_after_its_time(shop):
    shop.chain.give_tokens("dora", PACK)
    requirements = {
        "scheme": "exact",
        "network": shop.merchant.network,
        "asset": checksum(shop.merchant.token),
        "amount": str(PACK),
        "payTo": checksum(shop.merchant.receiver),
        "maxTimeoutSeconds": 9,
        "extra": {"name": shop.token_name, "version": shop.token_version},
    }
    account = Account.from_key(key("dora").secret_bytes())
    inner = ExactEvmScheme(account).create_payment_payload(PaymentRequirements.model_validate(requirements))
    payment = {"x402Version": 2, "payload": inner, "accepted": requirements}
    outbox, before, url = MemoryOutbox(), shop.balance("house"), shop.chain.url
    rpc(url, "evm_setAutomine", False)
    try:
        with pytest.raises(SettlementPending):
            facilitator(shop, outbox).settle(payment, requirements)
    finally:
        rpc(url, "evm_setAutomine", True)
        rpc(url, "evm_mine")
    time.sleep(max(0.0, int(inner["authorization"]["validBefore"]) - time.time() + 1))
    settled = facilitator(shop, outbox).settle(payment, requirements)
    assert settled.payer.lower() == account.address.lower()
    assert shop.balance("house") == before + PACK
