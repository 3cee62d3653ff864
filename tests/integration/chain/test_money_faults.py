"""Faults around the money, each on a real node: at the end everybody's account is added up."""

import asyncio
from dataclasses import replace

import pytest

from contracts.bindings.errors import TransactionReverted, WrongChain
from contracts.bindings.rpc import connect
from contracts.protocol.hashing import keccak256
from contracts.protocol.hexes import checksum
from contracts.protocol.typed_data import Domain, SettleBatch, Voucher
from market.adapters.memory_ledger import MemoryLedger
from market.adapters.memory_reservations import MemoryReservations
from market.devnet.services import rpc
from market.errors import ChainUnreachable, ExposureLimit
from market.inference.channel_facts import RegistryChannels
from market.payments.authorize import Authorizer
from market.payments.model import ParsedVoucher
from market.settlement.settle import SettlementRefused
from tests.support.chain import EXIT_DELAY, key, running_anvil
from tests.support.refusing_token import refusing
from tests.support.settling import GATEWAY, OPERATOR, OWNER, Gateway, assert_money_adds_up

pytestmark = pytest.mark.integration


def balance(chain, name: str) -> int:
    return chain.contracts.token.balance_of(key(name).address)


def withdraw(chain, name: str, amount: int, *, to: str | None = None, gateway: bytes = GATEWAY) -> None:
    escrow = chain.escrow
    chain.send(name, escrow.address, escrow.withdraw(gateway, key(to or name).address, amount))


@pytest.mark.parametrize("quietly", [False, True], ids=["reverts", "answers false"])
def test_a_paused_token_stops_no_settlement_and_loses_nobodys_money(chain, gateway, quietly):
    channel = chain.deposit(10_000)
    chain.give_tokens("payer", 500)
    gateway.record(*(chain.charge(channel, 100, 100 * (n + 1)) for n in range(5)))
    with refusing(chain, quietly=quietly):
        with pytest.raises(TransactionReverted):
            chain.send("payer", chain.escrow.address, chain.escrow.deposit(channel, 500))
        assert gateway.settle().receipt_count == 5
        with pytest.raises(TransactionReverted):
            withdraw(chain, "operator", 400)
        gateway.index()
        assert gateway.view.credits(GATEWAY, OPERATOR).withdrawn == 0
    before = balance(chain, "operator")
    withdraw(chain, "operator", 400)
    assert balance(chain, "operator") - before == 400
    chain.send("payer", chain.escrow.address, chain.escrow.deposit(channel, 500))
    gateway.index()
    assert gateway.view.channel(channel.digest(chain.domain)).deposited == 10_500
    assert_money_adds_up(chain, gateway.view)


@pytest.mark.parametrize("quietly", [False, True], ids=["reverts", "answers false"])
def test_a_blocked_payee_costs_nobody_else_and_can_be_paid_elsewhere(chain, gateway, quietly):
    channel = chain.deposit(10_000)
    gateway.record(chain.charge(channel, 1_000, 1_000))
    with refusing(chain, blocked=OWNER, quietly=quietly):
        gateway.settle()
        withdraw(chain, "operator", 800)
        with pytest.raises(TransactionReverted):
            withdraw(chain, "owner", 100)
        withdraw(chain, "owner", 100, to="owner's other account")
    gateway.index()
    assert gateway.view.credits(GATEWAY, OWNER).withdrawn == 100
    assert balance(chain, "owner's other account") == 100
    assert_money_adds_up(chain, gateway.view)


@pytest.mark.parametrize("quietly", [False, True], ids=["reverts", "answers false"])
def test_a_blocked_payer_gets_its_rest_when_it_is_free_again(chain, gateway, quietly):
    channel = chain.deposit(10_000)
    other = chain.deposit(10_000, chain.channel(salt=1))
    gateway.record(chain.charge(channel, 1_000, 1_000), chain.charge(other, 500, 500))
    escrow = chain.escrow
    chain.send("payer", escrow.address, escrow.initiate_exit(channel, 10_000))
    with refusing(chain, blocked=key("payer").address, quietly=quietly):
        gateway.settle()
        chain.pass_seconds(EXIT_DELAY + 1)
        with pytest.raises(TransactionReverted):
            chain.send("payer", escrow.address, escrow.finalize_exit(channel))
    before = balance(chain, "payer")
    chain.send("payer", escrow.address, escrow.finalize_exit(channel))
    assert balance(chain, "payer") - before == 9_000
    gateway.index()
    assert_money_adds_up(chain, gateway.view)


def test_without_money_for_gas_nothing_is_lost_and_the_remedy_is_said(chain, gateway):
    channel = chain.deposit(10_000)
    gateway.record(chain.charge(channel, 1_000, 1_000))
    gateway.index()
    chain.rpc("anvil_setBalance", "0x" + GATEWAY.hex(), "0x0")
    with pytest.raises(ChainUnreachable) as error:
        gateway.settler.step(force=True)
    assert "currency" in (error.value.remedy or "")
    assert gateway.book.backlog(GATEWAY).receipts == 1 or gateway.book.open_batch(GATEWAY) is not None
    chain.give_gas(GATEWAY)
    gateway.settle()
    assert gateway.view.credits(GATEWAY, OPERATOR).credited == 800
    assert [(s.epoch, s.count) for s in gateway.view.settlements(GATEWAY)] == [(1, 1)]
    assert_money_adds_up(chain, gateway.view)


def test_a_node_that_changes_its_chain_gets_nothing_and_settles_nothing(chain, gateway, tmp_path):
    """Behind the gateway's address another chain answers: what was signed is good for the first one alone."""
    channel = chain.deposit(10_000)
    gateway.record(chain.charge(channel, 1_000, 1_000))
    gateway.index()
    gateway.transactor._served_chain()
    provider = gateway.transactor.web3.provider
    right = provider.endpoint_uri
    with running_anvil(tmp_path, "--chain-id", "31338") as wrong:
        rpc(wrong, "anvil_setBalance", checksum(GATEWAY), hex(10**20))
        provider.endpoint_uri = wrong
        try:
            with pytest.raises((ChainUnreachable, SettlementRefused)):
                gateway.settler.step(force=True)
            assert rpc(wrong, "eth_blockNumber") == "0x0"
            assert rpc(wrong, "eth_getTransactionCount", checksum(GATEWAY), "pending") == "0x0"
            with pytest.raises(WrongChain, match="serves chain 31338"):
                connect(wrong, chain.deployment.chain_id)
        finally:
            provider.endpoint_uri = right
    gateway.settle()
    gateway.settle()
    assert [(s.epoch, s.count) for s in gateway.view.settlements(GATEWAY)] == [(1, 1)]
    assert gateway.view.credits(GATEWAY, OPERATOR).credited == 800
    assert_money_adds_up(chain, gateway.view)


def test_papers_signed_for_another_chain_move_nothing(chain, gateway):
    """The same keys, contract and amounts under another chain id: a batch skips the row, and the way alone refuses."""
    channel = chain.deposit(10_000)
    charge = chain.charge(channel, 1_000, 1_000)
    elsewhere = Domain(1, chain.deployment.escrow)
    signature = key("signer").sign_digest(Voucher(charge.receipt.channel_id, 1_000).digest(elsewhere))
    gateway.record(replace(charge, voucher_signature=signature))
    gateway.settle()
    assert gateway.view.channel(channel.digest(chain.domain)).settled == 0
    assert gateway.view.credits(GATEWAY, OPERATOR).credited == 0
    claim = chain.escrow.claim_with_receipt(
        channel, 1_000, signature, charge.receipt, charge.worker_signature, charge.gateway_signature
    )
    with pytest.raises(TransactionReverted, match="InvalidSigner"):
        chain.send("worker", chain.escrow.address, claim)
    assert_money_adds_up(chain, gateway.view)


def test_two_gateways_never_touch_each_others_channels(chain, gateway, tmp_path):
    second = Gateway(chain, tmp_path, name="second gateway")
    try:
        here = chain.deposit(10_000)
        there = chain.deposit(10_000, chain.channel(gateway="second gateway"))
        gateway.record(chain.charge(here, 1_000, 1_000))
        second.record(chain.charge(there, 300, 300, gateway="second gateway"))
        # The second one claims by the payer's voucher for the first: its own address makes another channel of it.
        stolen = chain.charge(here, 9_000, 9_000)
        second.record(stolen)
        for one in (gateway, second):
            one.settle()
        assert gateway.view.channel(here.digest(chain.domain)).settled == 1_000
        second.index()
        assert second.view.channel(here.digest(chain.domain)).settled == 1_000
        assert second.view.channel(there.digest(chain.domain)).settled == 300
        escrow = chain.escrow
        for gateway_name, channel, charged in (("gateway", here, 1_000), ("second gateway", there, 300)):
            deposited, settled, *_ = escrow.channel(channel.digest(chain.domain))
            assert (deposited, settled) == (10_000, charged)
            credited = sum(escrow.credits(key(gateway_name).address, payee)[0] for payee in (OPERATOR, OWNER))
            assert credited <= charged
        held = 2 * 10_000 - 1_300
        for name in ("gateway", "second gateway"):
            address = key(name).address
            held += sum(escrow.credits(address, payee)[0] for payee in (OPERATOR, OWNER, address))
            held += escrow.reserve(address)[0]
        assert chain.contracts.token.balance_of(escrow.address) == held
    finally:
        second.close()


def test_a_deposit_that_a_reorganisation_took_costs_the_reserve_until_it_is_made_again(chain, gateway):
    chain.give_tokens("gateway", 1_000)
    chain.send("gateway", chain.escrow.address, chain.escrow.fund_reserve(GATEWAY, 1_000))
    chain.give_tokens("payer", 10_000)
    channel = chain.channel()
    chain.send("payer", chain.escrow.address, chain.escrow.deposit(channel, 10_000))
    gateway.index()
    channel_id = channel.digest(chain.domain)
    assert gateway.view.channel(channel_id).deposited == 10_000
    gateway.record(chain.charge(channel, 500, 500))  # service began
    chain.reorg(1)
    chain.forget_senders()
    gateway.restart()
    gateway.settle()
    found = gateway.view.channel(channel_id)
    assert found is None or (found.deposited, found.settled) == (0, 0)
    # worker and owner are paid all the same; the gateway bears what it lent
    assert gateway.view.credits(GATEWAY, OPERATOR).credited == 400
    assert gateway.view.credits(GATEWAY, OWNER).credited == 50
    assert gateway.view.reserve(GATEWAY).amount == 1_000 - 450
    assert_money_adds_up(chain, gateway.view)

    chain.send("payer", chain.escrow.address, chain.escrow.deposit(channel, 10_000))
    for _ in range(3):
        gateway.settle()
    assert gateway.view.channel(channel_id).settled == 500
    assert gateway.view.reserve(GATEWAY).amount == 1_000 + 50
    assert_money_adds_up(chain, gateway.view)


def test_what_a_lost_deposit_can_cost_is_bounded_by_the_cap(chain, gateway):
    """Service began on a deposit that the chain forgot: no more was lent than the cap, and the reserve bears that alone."""
    cap, price = 1_500, 500
    chain.give_tokens("gateway", 5_000)
    chain.send("gateway", chain.escrow.address, chain.escrow.fund_reserve(GATEWAY, 5_000))
    chain.give_tokens("payer", 10_000)
    channel = chain.channel()
    chain.send("payer", chain.escrow.address, chain.escrow.deposit(channel, 10_000))
    gateway.index()
    channel_id = channel.digest(chain.domain)
    reservations = MemoryReservations(MemoryLedger())
    authorizer = Authorizer(
        domain=chain.domain,
        gateway=GATEWAY,
        channels=RegistryChannels(gateway.view),
        reservations=reservations,
        exposure_cap=cap,
    )

    async def serve(total: int) -> None:
        signature = key("signer").sign_digest(Voucher(channel_id, total).digest(chain.domain))
        voucher = ParsedVoucher(channel_id, total, signature)
        asked = {"price": price, "request_id": total.to_bytes(32, "big"), "ttl_seconds": 60, "remember": False}
        held = await authorizer.reserve(voucher, **asked)
        await gateway.ledger.record(chain.charge(channel, price, total))
        await reservations.commit(held, total)

    for total in range(price, cap + 1, price):
        asyncio.run(serve(total))
    with pytest.raises(ExposureLimit):
        asyncio.run(serve(cap + price))
    chain.reorg(1)
    chain.forget_senders()
    gateway.restart()
    gateway.settle()
    assert gateway.view.credits(GATEWAY, OPERATOR).credited == cap * 8 // 10
    assert gateway.view.credits(GATEWAY, OWNER).credited == cap // 10
    assert gateway.view.reserve(GATEWAY).amount == 5_000 - cap * 9 // 10
    assert balance(chain, "payer") == 10_000
    assert_money_adds_up(chain, gateway.view)


def test_a_settlement_that_the_node_dropped_goes_out_again(chain, gateway):
    channel = chain.deposit(10_000)
    gateway.record(chain.charge(channel, 500, 500))
    gateway.index()
    chain.rpc("evm_setAutomine", False)
    try:
        assert gateway.settler.step(force=True) is None
        (waiting,) = gateway.transactor._outbox.pending(GATEWAY)
        chain.rpc("anvil_dropTransaction", "0x" + waiting.tx_hashes[-1].hex())
        chain.mine()
        assert gateway.settler.step() is None  # seen to be lost, and given to the node again
        chain.mine()
    finally:
        chain.rpc("evm_setAutomine", True)
    gateway.settle()
    assert [(s.epoch, s.count) for s in gateway.view.settlements(GATEWAY)] == [(1, 1)]
    assert gateway.view.credits(GATEWAY, OPERATOR).credited == 400
    assert_money_adds_up(chain, gateway.view)


def test_a_settlement_that_is_stuck_is_replaced_and_counts_once(chain, gateway):
    channel = chain.deposit(10_000)
    gateway.record(chain.charge(channel, 500, 500))
    gateway.index()
    chain.rpc("evm_setAutomine", False)
    try:
        assert gateway.settler.step(force=True) is None
        gateway.transactor._stuck_seconds = 0
        assert gateway.settler.step() is None
        (waiting,) = gateway.transactor._outbox.pending(GATEWAY)
        assert len(waiting.tx_hashes) == 2
        gateway.transactor._stuck_seconds = 60
        chain.mine()
    finally:
        chain.rpc("evm_setAutomine", True)
    gateway.settle()
    assert gateway.view.credits(GATEWAY, OPERATOR).credited == 400
    assert_money_adds_up(chain, gateway.view)


def test_a_settlement_that_reverts_on_chain_pays_nobody_twice(chain, gateway):
    """Another batch takes the epoch while ours is on its way: ours is mined, reverts, and is planned anew."""
    channel = chain.deposit(10_000)
    gateway.record(chain.charge(channel, 500, 500))
    gateway.index()
    chain.sender("anybody")
    chain.rpc("evm_setAutomine", False)
    try:
        assert gateway.settler.step(force=True) is None
        (waiting,) = gateway.transactor._outbox.pending(GATEWAY)
        chain.rpc("anvil_dropTransaction", "0x" + waiting.tx_hashes[-1].hex())
    finally:
        chain.rpc("evm_setAutomine", True)
    root, nothing = b"\x99" * 32, keccak256(b"")
    signature = key("gateway").sign_digest(SettleBatch(GATEWAY, 1, root, 1, nothing, nothing).digest(chain.domain))
    escrow = chain.escrow
    chain.send("anybody", escrow.address, escrow.encode("settleBatchFor", GATEWAY, 1, root, 1, [], [], signature))
    chain.rpc("eth_sendRawTransaction", "0x" + waiting.raw.hex())
    chain.mine()
    assert chain.rpc("eth_getTransactionReceipt", "0x" + waiting.tx_hashes[-1].hex())["status"] == "0x0"
    with pytest.raises(SettlementRefused):
        gateway.settler.step()
    for _ in range(3):
        gateway.settle()
    assert [s.epoch for s in gateway.view.settlements(GATEWAY)] == [1, 2]
    assert gateway.view.channel(channel.digest(chain.domain)).settled == 500
    assert gateway.view.credits(GATEWAY, OPERATOR).credited == 400
    assert gateway.book.backlog(GATEWAY).receipts == 0
    assert_money_adds_up(chain, gateway.view)
