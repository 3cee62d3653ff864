"""Index, settle, reorganise on a real node: the money adds up to the last unit after each step."""

import asyncio
import contextlib
from dataclasses import replace

import pytest
from eth_abi.abi import encode as abi_encode

from contracts.bindings.escrow import Credit, Debit
from contracts.protocol.commitments import MerkleTree, verify
from contracts.protocol.hashing import keccak256
from contracts.protocol.hexes import checksum, hex0x
from contracts.protocol.signing import to_compact
from contracts.protocol.typed_data import SettleBatch
from market.adapters.database import proofs as proofs_under_test
from market.adapters.database.proofs import DatabaseProofs
from market.registry.indexer import KEPT_BLOCKS, ReorgTooDeep
from market.registry.model import PayeeCredit
from market.settlement.settle import SettlementRefused
from tests.support.chain import key
from tests.support.settling import GATEWAY, OPERATOR, OWNER, assert_money_adds_up, undo_and_send_again
from workers.rescue import collect

pytestmark = pytest.mark.integration


def test_one_batch_pays_everybody(chain, gateway):
    chain.list_model()
    chain.register_worker()
    channel = chain.deposit(1_000_003)
    gateway.index()
    assert gateway.view.listing_by_name("tiny").owner == OWNER
    assert gateway.view.worker(key("worker").address).active
    charges = [chain.charge(channel, 101, 101 * (i + 1)) for i in range(20)]
    gateway.record(*charges)

    batch = gateway.settle()

    assert (batch.epoch, batch.receipt_count) == (1, 20)
    assert gateway.view.channel(channel.digest(chain.domain)).settled == 20 * 101
    assert gateway.view.credits(GATEWAY, OPERATOR).credited == 20 * 80
    assert gateway.view.credits(GATEWAY, OWNER).credited == 20 * 10
    assert gateway.view.reserve(GATEWAY).amount == 20 * 11
    assert_money_adds_up(chain, gateway.view)
    record = gateway.view.settlements(GATEWAY)[0]
    assert (record.root, record.first_seq, record.count) == (batch.root, 0, 20)
    proofs = DatabaseProofs(gateway.engine, gateway.view)
    for stored in asyncio.run(gateway.ledger.receipts(charges[0].receipt.channel_id)):
        found = proofs.of(stored)
        path = [bytes.fromhex(node[2:]) for node in found["proof"]]
        assert verify(record.root, stored.digest, path)
        assert chain.escrow.verify_receipt(GATEWAY, 1, stored.digest, path)
    assert gateway.settle() is None


def test_batches_follow_each_other(chain, gateway):
    channel = chain.deposit(10_000)
    for turn in range(3):
        gateway.record(chain.charge(channel, 7, 7 * (turn + 1)))
        assert gateway.settle().epoch == turn + 1
    assert [(s.epoch, s.first_seq, s.count) for s in gateway.view.settlements(GATEWAY)] == [
        (1, 0, 1),
        (2, 1, 1),
        (3, 2, 1),
    ]
    assert gateway.view.credits(GATEWAY, OPERATOR).credited == 15
    assert_money_adds_up(chain, gateway.view)


def test_the_trees_of_batches_are_kept_up_to_so_many_leaves(chain, gateway, monkeypatch):
    channel = chain.deposit(10_000)
    charges = [chain.charge(channel, 7, 7 * (turn + 1)) for turn in range(6)]
    for first, last in ((0, 1), (1, 3), (3, 6)):
        gateway.record(*charges[first:last])
        gateway.settle()
    built = []

    def counted(leaves):
        built.append(len(leaves))
        return MerkleTree(leaves)

    monkeypatch.setattr(proofs_under_test, "MerkleTree", counted)
    monkeypatch.setattr(proofs_under_test, "KEPT_LEAVES", 3)
    proofs = DatabaseProofs(gateway.engine, gateway.view)
    stored = asyncio.run(gateway.ledger.receipts(charges[0].receipt.channel_id))
    for one in (*stored[:3], *stored[:3]):
        assert proofs.of(one)["root"] == hex0x(gateway.view.settlements(GATEWAY)[one.epoch - 1].root)
    assert built == [1, 2]
    for one in stored[3:]:
        assert proofs.of(one)["epoch"] == "3"
    assert built == [1, 2, 3], "the largest is kept alone"
    proofs.of(stored[0])
    assert built == [1, 2, 3, 1]
    assert proofs.of(replace(stored[0], epoch=4)) is None


def test_withdrawals_and_reserve_are_folded(chain, gateway):
    channel = chain.deposit(10_000)
    gateway.record(chain.charge(channel, 1_000, 1_000))
    gateway.settle()
    chain.send("operator", chain.escrow.address, chain.escrow.withdraw(GATEWAY, OPERATOR, 300))
    chain.give_tokens("gateway", 5_000)
    chain.send("gateway", chain.escrow.address, chain.escrow.fund_reserve(GATEWAY, 5_000))
    note, signature = chain.credit_note("operator", 900)
    chain.send("operator", chain.escrow.address, chain.escrow.redeem_credit_note(note, signature))
    gateway.index()
    assert gateway.view.credits(GATEWAY, OPERATOR).credited == 900
    assert_money_adds_up(chain, gateway.view)


def test_a_note_above_the_reserve_leaves_arrears(chain, gateway):
    note, signature = chain.credit_note("operator", 900)
    chain.give_tokens("gateway", 400)
    chain.send("gateway", chain.escrow.address, chain.escrow.fund_reserve(GATEWAY, 400))
    chain.send("operator", chain.escrow.address, chain.escrow.redeem_credit_note(note, signature))
    gateway.index()
    assert gateway.view.reserve(GATEWAY).arrears == 500
    assert gateway.view.credits(GATEWAY, OPERATOR).owed == 500
    assert_money_adds_up(chain, gateway.view)


def test_an_exit_is_settled_at_once(chain, gateway):
    channel = chain.deposit(10_000)
    gateway.record(chain.charge(channel, 500, 500, served_at=1_700_000_009))
    assert gateway.settle(force=False) is None
    chain.send("payer", chain.escrow.address, chain.escrow.initiate_exit(channel, 10_000))
    assert gateway.settle(force=False).epoch == 1
    chain.pass_seconds(3_601)
    chain.send("payer", chain.escrow.address, chain.escrow.finalize_exit(channel))
    gateway.index()
    assert gateway.view.channel(channel.digest(chain.domain)).deposited == 500
    assert chain.contracts.token.balance_of(key("payer").address) == 9_500
    assert_money_adds_up(chain, gateway.view)


def test_a_payer_in_default_costs_the_gateway_and_what_is_short_is_paid_later(chain, gateway):
    channel = chain.deposit(100)
    gateway.record(chain.charge(channel, 1_000, 1_000))
    gateway.settle()
    owed_operator, owed_owner = 800, 100
    credited = gateway.view.credits(GATEWAY, OPERATOR).credited + gateway.view.credits(GATEWAY, OWNER).credited
    assert credited == 100
    assert gateway.view.reserve(GATEWAY).amount == 0
    assert_money_adds_up(chain, gateway.view)
    # The gateway fills its reserve: what was held back is credited without a new request.
    chain.give_tokens("gateway", 5_000)
    chain.send("gateway", chain.escrow.address, chain.escrow.fund_reserve(GATEWAY, 5_000))
    gateway.settle()
    assert gateway.view.credits(GATEWAY, OPERATOR).credited == owed_operator
    assert gateway.view.credits(GATEWAY, OWNER).credited == owed_owner
    assert gateway.view.reserve(GATEWAY).amount == 5_000 - 800
    assert_money_adds_up(chain, gateway.view)


def test_a_default_is_claimed_once_the_payer_deposits_again(chain, gateway):
    channel = chain.deposit(100)
    gateway.record(chain.charge(channel, 1_000, 1_000))
    gateway.settle()
    chain.deposit(2_000, channel)
    gateway.settle()
    assert gateway.view.channel(channel.digest(chain.domain)).settled == 1_000
    assert gateway.view.credits(GATEWAY, OPERATOR).credited == 800
    assert gateway.view.reserve(GATEWAY).amount == 100
    assert_money_adds_up(chain, gateway.view)


@pytest.mark.parametrize("depth", [1, 3, KEPT_BLOCKS])
def test_a_reorganisation_of_folded_blocks_is_followed(chain, gateway, depth):
    channel = chain.deposit(1_000)
    chain.mine(depth)
    gateway.index()
    before = gateway.view.channel(channel.digest(chain.domain))
    chain.send("payer", chain.escrow.address, chain.escrow.initiate_exit(channel, 1_000))
    chain.mine(depth - 1)
    gateway.index()
    assert gateway.view.channel(channel.digest(chain.domain)).exit_amount == 1_000
    chain.reorg(depth)
    chain.forget_senders()
    gateway.index()
    assert gateway.view.channel(channel.digest(chain.domain)) == before
    assert_money_adds_up(chain, gateway.view)


def test_a_reorganisation_beyond_the_limit_is_said_and_changes_nothing(chain, gateway):
    channel = chain.deposit(1_000)
    chain.mine(KEPT_BLOCKS)
    chain.send("payer", chain.escrow.address, chain.escrow.initiate_exit(channel, 1_000))
    chain.mine(KEPT_BLOCKS)
    gateway.index()
    before = gateway.store.cursor(), gateway.view.channel(channel.digest(chain.domain))
    assert before[1].exit_amount == 1_000
    chain.reorg(KEPT_BLOCKS + 1)
    with pytest.raises(ReorgTooDeep):
        gateway.index()
    gateway.view.refresh()
    assert (gateway.store.cursor(), gateway.view.channel(channel.digest(chain.domain))) == before


@pytest.mark.parametrize("depth", [1, 3])
def test_a_settlement_that_a_reorganisation_undid_is_sent_again(chain, gateway, depth):
    undo_and_send_again(chain, gateway, depth)


def test_a_batch_lost_under_an_open_one_is_sent_again_first(chain, gateway):
    """The next batch is decided already when a reorganisation takes the last one: it has to wait for its turn."""
    channel = chain.deposit(1_000)
    gateway.record(chain.charge(channel, 500, 500))
    assert gateway.settle().epoch == 1
    gateway.record(chain.charge(channel, 100, 600))
    decided, gateway.settler._carry_on = gateway.settler._carry_on, lambda _: None  # the process dies before it sends
    gateway.index()
    gateway.settler.step(force=True)
    gateway.settler._carry_on = decided
    assert gateway.book.open_batch(GATEWAY).epoch == 2
    chain.reorg(1)
    for _ in range(4):
        with contextlib.suppress(SettlementRefused):
            gateway.settle()
    assert [s.epoch for s in gateway.view.settlements(GATEWAY)] == [1, 2]
    assert gateway.view.channel(channel.digest(chain.domain)).settled == 600
    assert gateway.view.credits(GATEWAY, OPERATOR).credited == 480
    assert_money_adds_up(chain, gateway.view)


def test_hostile_texts_do_not_stop_the_index(chain, gateway):
    """Names that look like addresses, broken UTF-8, NUL: all are text that somebody may put on chain."""
    chain.give_tokens("operator", 10 * 10**8)
    registry = chain.contracts.workers
    texts = ("0x" + "ab" * 20, "a\x00b", "\U0001f600")
    chain.register_worker()
    for text in texts:
        chain.send(
            "operator", registry.address, registry.encode("updateMetadata", key("worker").address, text, text, text)
        )
        gateway.index()
        assert isinstance(gateway.view.worker(key("worker").address).region, str)
    data = bytearray(registry.encode("updateMetadata", key("worker").address, "QQQQ", "cpu", ""))
    at = data.index(b"QQQQ")
    data[at : at + 4] = b"\xff\xfe\xc3\x28"
    chain.send("operator", registry.address, bytes(data))
    gateway.index()
    assert isinstance(gateway.view.worker(key("worker").address).region, str)


@pytest.mark.parametrize("shown", ["rows that credit more", "offsets that nothing can hold"])
def test_what_a_contract_in_between_was_called_with_credits_nobody(chain, gateway, shown):
    """A gateway settles through a contract of its own and calls that with rows the escrow never saw."""
    channel = chain.deposit(10_000)
    charge = chain.charge(channel, 1_000, 1_000)
    escrow, root = chain.escrow, b"\x99" * 32
    known = (channel.payer, channel.signer, channel.salt, 1_000, 1_000)
    row, credit = (*known, *to_compact(charge.voucher_signature)), (OPERATOR, 1)
    rows_hash = keccak256(abi_encode(["(address,address,uint64,uint128,uint128,bytes32,bytes32)"], [row]))
    credits_hash = keccak256(abi_encode(["(address,uint128)"], [credit]))
    batch = SettleBatch(GATEWAY, 1, root, 1, rows_hash, credits_hash)
    signature = key("gateway").sign_digest(batch.digest(chain.domain))
    true = escrow.encode("settleBatchFor", GATEWAY, 1, root, 1, [row], [credit], signature)
    between = b"\xbe" * 20
    chain.rpc("anvil_setCode", checksum(between), hex0x(_calls(escrow.address, true)))
    told = escrow.settle_batch(1, root, 1, [Debit(*known, charge.voucher_signature)], [Credit(OPERATOR, 900)])
    if shown != "rows that credit more":
        told = told[:100] + b"\xff" * 32 + told[132:]
    chain.send("anybody", between, told)
    assert escrow.credits(GATEWAY, OPERATOR) == (1, 0)
    gateway.index()
    assert gateway.view.channel(channel.digest(chain.domain)).settled == 1_000
    assert gateway.view.credits(GATEWAY, OPERATOR).credited <= 1
    chain.send("operator", escrow.address, escrow.withdraw(GATEWAY, OPERATOR, 1))
    gateway.index()
    assert gateway.view.credits(GATEWAY, OPERATOR) == PayeeCredit(GATEWAY, OPERATOR, 1, 1)


def _calls(target: bytes, data: bytes) -> bytes:
    """Code that calls a contract with these data, whatever it is called with itself."""
    length = b"\x61" + len(data).to_bytes(2, "big")
    copy = length + b"\x61\x00\x2e\x5f\x39"  # codecopy(0, 46, length)
    call = b"\x5f\x5f" + length + b"\x5f\x5f\x73" + target + b"\x5a\xf1"
    return copy + call + b"\x60\x2c\x57\x5f\x5f\xfd\x5b\x00" + data  # revert unless it went well


def test_amounts_beyond_64_bits_do_not_stop_the_index(chain, gateway):
    channel = chain.deposit(2**127)
    models = chain.contracts.models
    chain.send("owner", models.address, models.list_model(b"\x33" * 32, "dear", 1, 2**128 - 1, 0, 1, ""))
    gateway.index()
    assert gateway.view.channel(channel.digest(chain.domain)).deposited == 2**127
    assert gateway.view.listing_by_name("dear").max_price == 2**128 - 1


def test_a_superseded_name_means_the_newest_version(chain, gateway):
    old = chain.list_model()
    models = chain.contracts.models
    newer = bytes(32 - 1) + b"\x01"  # sorts before the old one
    chain.send("owner", models.address, models.supersede(old, newer, "file:///2"))
    gateway.index()
    assert gateway.view.listing_by_name("tiny").model_id == newer
    assert gateway.view.listing(old).superseded_by == newer
    gateway.restart()
    gateway.index()
    assert gateway.view.listing_by_name("tiny").model_id == newer


class Notes:
    """The papers of a worker that has a credit note and no receipts."""

    def __init__(self, *notes):
        self._notes = notes

    def claims(self):
        return []

    def notes(self):
        return self._notes


def test_a_rescue_ends_the_arrears_of_a_note_that_a_batch_has_paid(chain, gateway):
    """Arrears hold the gateway's reserve back from every other payee; nobody else has a reason to end them."""
    note, signature = chain.credit_note("operator", 800)
    chain.send("operator", chain.escrow.address, chain.escrow.redeem_credit_note(note, signature))
    channel = chain.deposit(10_000)
    gateway.record(chain.charge(channel, 1_000, 1_000))
    gateway.settle()
    assert chain.escrow.credits(GATEWAY, OPERATOR) == (800, 0)
    assert chain.escrow.arrears(GATEWAY) == 800
    papers, sender = Notes((note, signature)), chain.sender("operator")
    got = collect(chain.contracts, sender, papers)
    assert (got.withdrawn, got.still_owed) == (800, 0)
    assert chain.escrow.arrears(GATEWAY) == 0
    gateway.index()
    assert gateway.view.reserve(GATEWAY).arrears == 0
    assert_money_adds_up(chain, gateway.view)
    assert collect(chain.contracts, sender, papers).withdrawn == 0
