"""What other gateways stumbled over: many claims at once, a refused transaction in between, a process that dies."""

import time
from types import SimpleNamespace

import orjson
import pytest
from eth_account import Account
from x402.mechanisms.evm.batch_settlement.client import BatchSettlementEvmScheme
from x402.mechanisms.evm.exact.client import ExactEvmScheme
from x402.schemas import PaymentRequirements

from contracts.bindings.outbox import MemoryOutbox
from contracts.bindings.transactor import Transactor
from contracts.protocol.hexes import checksum
from market.adapters.database.engine import open_engine
from market.adapters.database.migrate import upgrade
from market.adapters.database.x402_book import DatabaseBook
from market.adapters.x402_facilitator import InProcessFacilitator
from market.adapters.x402_housekeeping import Housekeeping
from market.adapters.x402_signer import HouseSigner
from market.devnet.services import rpc
from market.payments.x402_channels import ChannelConfig, PayerChannel, PayerVoucher
from market.payments.x402_model import Authorization, PaymentRefused
from market.payments.x402_ports import SettlementPending, X402Desk
from tests.support.chain import key

PRICE, PACK = 1_000, 100_000


def terms(shop, scheme, amount, **extra):
    return {
        "scheme": scheme,
        "network": shop.merchant.network,
        "asset": checksum(shop.merchant.token),
        "amount": str(amount),
        "payTo": checksum(shop.merchant.receiver),
        "maxTimeoutSeconds": 300,
        "extra": {"name": shop.token_name, "version": shop.token_version, **extra},
    }


def signed(client, name, requirements):
    account = Account.from_key(key(name).secret_bytes())
    inner = client(account).create_payment_payload(PaymentRequirements.model_validate(requirements))
    return {"x402Version": 2, "payload": inner, "accepted": requirements}


def opened(shop, name):
    """Deposit as the stock client does and return the channel with one request charged."""
    shop.chain.give_tokens(name, 10 * PRICE)
    requirements = terms(
        shop,
        "batch-settlement",
        PRICE,
        receiverAuthorizer=checksum(shop.merchant.receiver),
        withdrawDelay=shop.merchant.withdraw_delay,
        minDeposit=str(10 * PRICE),
        assetTransferMethod="eip3009",
    )
    payment = signed(BatchSettlementEvmScheme, name, requirements)
    shop.facilitator.settle(payment, requirements)
    config = ChannelConfig.from_wire(payment["payload"]["channelConfig"])
    voucher = PayerVoucher.from_wire(payment["payload"]["voucher"])
    return PayerChannel(
        voucher.channel_id,
        config,
        charged=PRICE,
        signed_max=voucher.max_claimable,
        signature=voucher.signature,
        balance=10 * PRICE,
    )


@pytest.mark.timeout(120)
def test_thirty_channels_are_claimed_in_one_transaction(shop):
    channels = [opened(shop, f"payer-{number}") for number in range(30)]
    before, nonce = shop.balance("house"), nonce_of(shop)
    assert len(shop.facilitator.claim(channels)) == 30
    assert shop.balance("house") == before + 30 * PRICE
    assert nonce_of(shop) == nonce + 2, "one claim for all, one sweep"


def nonce_of(shop):
    return shop.chain.web3.eth.get_transaction_count(checksum(shop.merchant.receiver))


def test_a_refused_transaction_leaks_no_nonce(shop):
    poor = terms(shop, "exact", PACK)
    with pytest.raises(PaymentRefused):
        shop.facilitator.settle(signed(ExactEvmScheme, "poor", poor), poor)
    shop.chain.give_tokens("gil", PACK)
    nonce = nonce_of(shop)
    shop.facilitator.settle(signed(ExactEvmScheme, "gil", poor), poor)
    assert nonce_of(shop) == nonce + 1


async def test_a_pack_whose_buyer_and_process_are_gone_becomes_credit(shop, tmp_path):
    """The process dies after it sent the transaction; nobody comes back; housekeeping of the next process finds it."""
    shop.chain.give_tokens("hal", PACK)
    requirements = terms(shop, "exact", PACK)
    payment = signed(ExactEvmScheme, "hal", requirements)
    engine = open_engine(f"sqlite:///{tmp_path}/book.db")
    upgrade(engine)
    book, outbox, now = DatabaseBook(engine), MemoryOutbox(), time.time()
    authorization = Authorization.from_wire(payment["payload"], shop.merchant.chain_id, shop.merchant.token)

    def process():
        transactor = Transactor(shop.chain.web3, key("house"), outbox=outbox)
        signer = HouseSigner(shop.chain.web3, key("house"), transactor, confirm_seconds=1.0)
        return InProcessFacilitator(signer, transactor, shop.chain.contracts.token, shop.merchant)

    assert book.begin(authorization, orjson.dumps(payment["payload"]).decode(), bytes(32), now=now, until=now + 180)
    rpc(shop.chain.url, "evm_setAutomine", False)
    try:
        with pytest.raises(SettlementPending):
            process().settle(payment, requirements)
    finally:
        rpc(shop.chain.url, "evm_setAutomine", True)
        rpc(shop.chain.url, "evm_mine")
    desk = X402Desk(
        shop.merchant, process(), book, SimpleNamespace(), shop.token_name, shop.token_version, PACK, "http://x"
    )
    keeper = Housekeeping(
        desk, house=SimpleNamespace(), ledger=SimpleNamespace(), claim_interval_seconds=300, clock=lambda: now + 181
    )
    await keeper.tidy()
    await keeper.tidy()
    assert book.credit(key("hal").address).available == PACK
    assert book.authorization(authorization) is not None
    engine.dispose()
