"""The loop behind the door on a real chain: the house channel is funded, and payers who leave are claimed from first."""

from dataclasses import replace

import pytest
from eth_account import Account
from x402.mechanisms.evm.batch_settlement.abi import BATCH_SETTLEMENT_ABI
from x402.mechanisms.evm.batch_settlement.client import BatchSettlementEvmScheme
from x402.mechanisms.evm.batch_settlement.client.voucher import sign_voucher
from x402.mechanisms.evm.batch_settlement.constants import BATCH_SETTLEMENT_ADDRESS
from x402.mechanisms.evm.signers import EthAccountSigner
from x402.schemas import PaymentRequirements

from contracts.bindings.outbox import MemoryOutbox
from contracts.bindings.transactor import Transactor
from contracts.protocol.hexes import hex0x
from contracts.protocol.signing import recover
from contracts.protocol.typed_data import Domain, Voucher
from market.adapters.database.engine import open_engine
from market.adapters.database.migrate import upgrade
from market.adapters.database.x402_book import DatabaseBook
from market.adapters.house_channel import HouseChannel
from market.adapters.x402_housekeeping import Housekeeping
from market.devnet.services import rpc
from market.errors import ChainUnreachable, HouseShort
from market.gateway.x402 import terms
from market.gateway.x402.payloads import read_channel
from market.payments.model import ChannelFacts
from market.payments.x402_channels import PayerChannel
from market.payments.x402_model import identity
from market.payments.x402_ports import X402Desk
from tests.support.chain import key

PRICE, TARGET = 1_000, 5_000_000


class ConfirmedChannels:
    """Reads channels from the chain itself, where a gateway reads its registry."""

    def __init__(self, chain, channel):
        self.chain, self.channel = chain, channel

    def facts(self, channel_id):
        state = self.chain.escrow.channel(channel_id)
        if not state.deposited:
            return None
        return ChannelFacts(channel_id, self.channel, state.deposited, state.settled, state.exit_amount)


def house_of(shop, transactor):
    chain = shop.chain
    channels = ConfirmedChannels(chain, None)
    house = HouseChannel(
        key=key("gateway"),
        domain=chain.domain,
        channels=channels,
        escrow=chain.escrow,
        token=chain.contracts.token,
        transactor=transactor,
        target=TARGET,
    )
    channels.channel = house.channel
    return house


@pytest.fixture(scope="module")
def house(shop):
    return house_of(shop, shop.transactor)


def test_the_house_channel_is_filled_up_and_pays_the_gateway_only(shop, house):
    with pytest.raises(HouseShort):
        house.voucher()
    assert house.fund(0) == 0  # the house account is empty: said in the log, tried again later
    shop.chain.give_tokens("house", 8_000_000)
    before = shop.balance("house")
    assert house.fund(0) == TARGET
    assert shop.balance("house") == before - TARGET
    voucher = house.voucher()
    assert voucher.cumulative_amount == TARGET
    digest = Voucher(voucher.channel_id, TARGET).digest(Domain(shop.merchant.chain_id, shop.chain.escrow.address))
    assert recover(digest, voucher.signature) == house.channel.signer == key("gateway").address
    assert (house.channel.payer, house.channel.gateway) == (key("house").address, key("gateway").address)


def test_it_is_filled_when_half_is_used_and_not_before(shop, house):
    assert house.fund(TARGET // 2) == 0
    owned = shop.balance("house")
    assert house.fund(TARGET // 2 + 1) == min(owned, TARGET // 2 + 1)
    assert house.voucher().cumulative_amount > TARGET


def test_a_deposit_that_is_out_is_not_made_twice(shop):
    outbox, url = MemoryOutbox(), shop.chain.url
    shop.chain.give_tokens("house", TARGET)
    first = house_of(shop, Transactor(shop.chain.web3, key("house"), outbox=outbox))
    deposited = shop.chain.escrow.channel(first.channel_id).deposited
    charged = deposited - 1
    rpc(url, "evm_setAutomine", False)
    try:
        first._transactor.wait = lambda *_args, **_named: (_ for _ in ()).throw(ChainUnreachable("died"))
        with pytest.raises(ChainUnreachable):
            first.fund(charged)
        first._transactor = Transactor(shop.chain.web3, key("house"), outbox=outbox)
        rpc(url, "evm_setAutomine", True)
        rpc(url, "evm_mine")
        first.fund(charged)
    finally:
        rpc(url, "evm_setAutomine", True)
    assert shop.chain.escrow.channel(first.channel_id).deposited == deposited + TARGET - 1


@pytest.fixture
def kept(shop, tmp_path, house):
    engine = open_engine(f"sqlite:///{tmp_path}/book.db")
    upgrade(engine)
    book = DatabaseBook(engine)
    desk = X402Desk(
        shop.merchant, shop.facilitator, book, house, shop.token_name, shop.token_version, 100_000, "http://127.0.0.1:1"
    )
    now = [1_000.0]
    yield desk, Housekeeping(desk, house=house, ledger=None, claim_interval_seconds=300, clock=lambda: now[0]), now
    engine.dispose()


def funded_channel(shop, desk, name):
    """Deposit as the stock client does and charge one request, as the door would."""
    shop.chain.give_tokens(name, 2_000_000)
    offer = terms.accepts(desk, PRICE)[0]
    client = BatchSettlementEvmScheme(Account.from_key(key(name).secret_bytes()))
    inner = client.create_payment_payload(PaymentRequirements.model_validate(offer))
    shop.facilitator.settle({"x402Version": 2, "payload": inner, "accepted": offer}, offer)
    config, voucher = read_channel(inner)
    channel = shop.facilitator.look(PayerChannel(voucher.channel_id, config))
    channel = replace(channel, signed_max=voucher.max_claimable, signature=voucher.signature)
    request_id = identity("test", voucher.channel_id)
    desk.book.hold_channel(request_id, channel, PRICE, now=0, until=1)
    desk.book.charge(request_id, PRICE, now=0)
    return config


def charge_again(shop, desk, channel, name):
    """Charge one request more, as the door would."""
    signer = EthAccountSigner(Account.from_key(key(name).secret_bytes()))
    total = channel.charged + PRICE
    signed = sign_voucher(signer, hex0x(channel.channel_id), total, shop.merchant.network).to_dict()
    channel = replace(channel, signed_max=total, signature=bytes.fromhex(signed["signature"][2:]))
    request_id = identity("test", channel.channel_id, total.to_bytes(32, "big"))
    desk.book.hold_channel(request_id, channel, PRICE, now=0, until=1)
    desk.book.charge(request_id, PRICE, now=0)


def leave(shop, config, name, amount):
    contract = shop.chain.web3.eth.contract(address=BATCH_SETTLEMENT_ADDRESS, abi=BATCH_SETTLEMENT_ABI)
    wire = config.to_wire()
    row = (*(wire[part] for part in ("payer", "payerAuthorizer", "receiver", "receiverAuthorizer", "token")), 900)
    data = contract.encode_abi("initiateWithdraw", args=[(*row, config.salt), amount])
    shop.chain.send(name, bytes.fromhex(BATCH_SETTLEMENT_ADDRESS[2:]), bytes.fromhex(data[2:]))


def transactions(shop) -> int:
    return shop.chain.web3.eth.get_transaction_count(shop.merchant.receiver)


def held_by_x402(shop) -> int:
    return shop.chain.contracts.token.balance_of(bytes.fromhex(BATCH_SETTLEMENT_ADDRESS[2:]))


async def test_channels_are_claimed_on_time_and_swept(shop, kept):
    desk, keeping, now = kept
    funded_channel(shop, desk, "gita")
    before = shop.balance("house")
    now[0] += 299
    await keeping.watch()
    assert shop.balance("house") == before
    now[0] += 1
    await keeping.watch()
    assert shop.balance("house") == before + PRICE
    assert [channel.total_claimed for channel in desk.book.channels()] == [PRICE]
    now[0] += 300
    await keeping.watch()  # nothing new: no transaction
    assert shop.balance("house") == before + PRICE


async def test_what_is_not_worth_its_gas_is_neither_claimed_nor_swept(shop, kept):
    """Two transactions for a tenth of a cent, every five minutes, was what one request in five minutes cost."""
    desk, keeping, now = kept
    keeping._desk = replace(desk, least_claim=2 * PRICE)
    config = funded_channel(shop, desk, "kavi")
    sent, before = transactions(shop), shop.balance("house")
    for _ in range(3):
        now[0] += 300
        await keeping.watch()
    leave(shop, config, "kavi", 999 * PRICE)
    now[0] += 300
    await keeping.watch()
    assert (transactions(shop), shop.balance("house")) == (sent, before)
    [channel] = desk.book.channels()
    assert (channel.total_claimed, channel.withdraw_requested_at > 0) == (0, True)
    charge_again(shop, desk, channel, "kavi")
    now[0] += 30
    await keeping.watch()
    assert (transactions(shop), shop.balance("house")) == (sent + 2, before + 2 * PRICE)


async def test_a_payer_who_starts_to_leave_is_claimed_from_at_once(shop, kept):
    desk, keeping, now = kept
    config = funded_channel(shop, desk, "hari")
    before = shop.balance("house")
    leave(shop, config, "hari", 999 * PRICE)
    now[0] += 30
    await keeping.watch()
    assert shop.balance("house") == before + PRICE
    [channel] = desk.book.channels()
    assert channel.withdraw_requested_at > 0
    assert channel.total_claimed == PRICE


async def test_a_deposit_that_a_reorganisation_took_is_claimed_from_once_it_is_there_again(shop, kept):
    """It costs the house what was served meanwhile and no more, and holds up nobody else's claim."""
    desk, keeping, now = kept
    names = ("house", "indu", "jaya")
    funded_channel(shop, desk, "indu")
    funded_channel(shop, desk, "jaya")
    all_money = sum(map(shop.balance, names)) + held_by_x402(shop)
    shop.chain.reorg(1)  # jaya's deposit; she was served a request
    shop.chain.forget_senders()
    before = shop.balance("house")
    now[0] += 300
    await keeping.watch()
    assert (shop.balance("house"), shop.balance("jaya")) == (before + PRICE, 2_000_000)
    owed = {channel.config.payer: channel.charged - channel.total_claimed for channel in desk.book.channels()}
    assert owed == {key("indu").address: 0, key("jaya").address: PRICE}
    assert sum(map(shop.balance, names)) + held_by_x402(shop) == all_money
