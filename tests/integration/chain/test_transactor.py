"""One effect per purpose, whatever breaks: crashes at each step, stolen nonces, forgetful nodes, forks, stuck fees."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from contracts.bindings.errors import NodeUnreachable, NotEnoughGasMoney, TransactionReverted, WrongChain
from contracts.bindings.outbox import MemoryOutbox
from contracts.bindings.outbox_file import FileOutbox
from contracts.bindings.rpc import connect
from contracts.bindings.transactor import FEE_CEILING, NotConfirmed, Transactor
from contracts.protocol.hexes import checksum, hex0x
from market.adapters.database.engine import open_engine
from market.adapters.database.migrate import upgrade
from market.adapters.database.outbox import DatabaseOutbox
from market.devnet.process import free_port
from tests.support.chain import Chain, key

pytestmark = pytest.mark.integration


class Crash(BaseException):
    """The process dies here."""


@pytest.fixture(params=["memory", "database", "file"])
def outbox(request, tmp_path):
    if request.param == "file":
        yield FileOutbox(tmp_path / "outbox.json")
        return
    engine = open_engine(f"sqlite:///{tmp_path}/outbox.db")
    upgrade(engine)
    yield MemoryOutbox() if request.param == "memory" else DatabaseOutbox(engine)
    engine.dispose()


@pytest.fixture
def sender(chain):
    """A fresh account with gas; its balance of test dollars counts the effects."""
    chain.give_gas(key("sender").address)
    return key("sender")


def transactor(chain: Chain, outbox, **settings) -> Transactor:
    return Transactor(connect(chain.url), key("sender"), outbox=outbox, **settings)


def mint(chain: Chain, amount: int = 1) -> tuple[bytes, bytes]:
    token = chain.contracts.token
    return token.address, token.mint(key("sender").address, amount)


def minted(chain: Chain) -> int:
    return chain.contracts.token.balance_of(key("sender").address)


def test_a_purpose_is_one_transaction(chain, sender, outbox):
    first = transactor(chain, outbox).run("a", *mint(chain))
    again = transactor(chain, outbox).run("a", *mint(chain))
    assert first.tx_hash == again.tx_hash
    assert minted(chain) == 1
    transactor(chain, outbox).run("b", *mint(chain))
    assert minted(chain) == 2


def test_many_senders_of_an_account_never_share_a_nonce(chain, sender, outbox):
    senders = [transactor(chain, outbox) for _ in range(4)]
    chain.rpc("evm_setAutomine", False)
    try:
        with ThreadPoolExecutor(8) as pool:
            sent = list(pool.map(lambda n: senders[n % 4].submit(f"many:{n}", *mint(chain)), range(16)))
        assert len(sent) == 16
        assert len({found.nonce for found in outbox.pending(sender.address)}) == 16
    finally:
        chain.rpc("evm_setAutomine", True)
        chain.mine()
    for number in range(16):
        senders[0].wait(f"many:{number}", wait_seconds=20)
    assert minted(chain) == 16


@pytest.mark.parametrize("step", ["before-outbox", "after-outbox", "before-broadcast", "after-broadcast", "at-receipt"])
def test_a_crash_at_any_step_neither_loses_nor_repeats(chain, sender, outbox, step, monkeypatch):
    dying = transactor(chain, outbox)
    send, add, receipt = dying.web3.eth.send_raw_transaction, outbox.add, dying.web3.eth.get_transaction_receipt

    def die(*_):
        raise Crash

    def add_and_die(outgoing):
        add(outgoing)
        raise Crash

    def send_and_die(raw):
        send(raw)
        raise Crash

    patches = {
        "before-outbox": (outbox, "add", die),
        "after-outbox": (outbox, "add", add_and_die),
        "before-broadcast": (dying.web3.eth, "send_raw_transaction", die),
        "after-broadcast": (dying.web3.eth, "send_raw_transaction", send_and_die),
        "at-receipt": (dying.web3.eth, "get_transaction_receipt", die),
    }
    target, name, patch = patches[step]
    monkeypatch.setattr(target, name, patch)
    with pytest.raises(Crash):
        dying.run("a", *mint(chain))
    monkeypatch.undo()
    assert receipt is not None

    reborn = transactor(chain, outbox)
    reborn.resume()
    reborn.run("a", *mint(chain), wait_seconds=10)
    assert minted(chain) == 1
    reborn.run("b", *mint(chain), wait_seconds=10)
    assert minted(chain) == 2
    assert chain.web3.eth.get_transaction_count(checksum(sender.address)) == 2


def test_resume_alone_sends_what_was_signed(chain, sender, outbox, monkeypatch):
    dying = transactor(chain, outbox)
    monkeypatch.setattr(dying, "_broadcast", lambda *_, **__: (_ for _ in ()).throw(Crash()))
    with pytest.raises(Crash):
        dying.run("a", *mint(chain))
    signed = outbox.pending(sender.address)[0].raw
    reborn = transactor(chain, outbox)
    assert reborn.resume() == ["a"]
    reborn.wait("a", wait_seconds=10)
    assert minted(chain) == 1
    assert outbox.get(sender.address, "a").raw == signed, "the same bytes"


def test_a_nonce_that_somebody_took_is_replaced(chain, sender, outbox, monkeypatch):
    dying = transactor(chain, outbox)
    monkeypatch.setattr(dying, "_broadcast", lambda *_, **__: (_ for _ in ()).throw(Crash()))
    with pytest.raises(Crash):
        dying.run("a", *mint(chain, 10))
    transactor(chain, MemoryOutbox()).run("elsewhere", *mint(chain, 100))
    chain.mine(2)
    transactor(chain, outbox).run("a", *mint(chain, 10), wait_seconds=10)
    assert minted(chain) == 110


def test_a_nonce_just_used_is_not_taken_for_somebody_elses(chain, sender, outbox, monkeypatch):
    """A node that counts our transaction but does not show its receipt yet must not make us pay twice."""
    sending = transactor(chain, outbox)
    sending.submit("a", *mint(chain))
    monkeypatch.setattr(sending, "_receipt", lambda _: None)
    monkeypatch.setattr(sending, "_lost", lambda _: True)
    assert sending.poll("a") is None
    monkeypatch.undo()
    sending.wait("a", wait_seconds=5)
    chain.mine(2)
    assert minted(chain) == 1


def test_a_node_that_forgot_gets_it_again(chain, sender, outbox):
    chain.rpc("evm_setAutomine", False)
    try:
        sending = transactor(chain, outbox)
        outgoing = sending.submit("a", *mint(chain))
        chain.rpc("anvil_dropTransaction", hex0x(outgoing.tx_hashes[0]))
        assert sending.poll("a") is None
        chain.mine()
        assert sending.poll("a").tx_hash == outgoing.tx_hashes[0]
    finally:
        chain.rpc("evm_setAutomine", True)
    assert minted(chain) == 1


def test_a_stuck_transaction_is_sent_again_dearer(chain, sender, outbox):
    chain.rpc("evm_setAutomine", False)
    try:
        now = [1_000.0]
        sending = transactor(chain, outbox, clock=lambda: now[0], stuck_seconds=30)
        cheap = sending.submit("a", *mint(chain))
        now[0] += 31
        assert sending.poll("a") is None
        dear = outbox.get(sender.address, "a")
        assert len(dear.tx_hashes) == 2
        assert dear.nonce == cheap.nonce
        assert dear.max_fee_per_gas * 100 >= cheap.max_fee_per_gas * 110
        chain.mine()
        assert sending.poll("a").tx_hash == dear.tx_hashes[1]
    finally:
        chain.rpc("evm_setAutomine", True)
    assert minted(chain) == 1


def test_nonces_that_a_node_made_us_leave_out_are_used(chain, sender, outbox, monkeypatch):
    """A node that counted too many of our transactions: what waits above the gap must not wait for ever."""
    now = [1_000.0]
    sending = transactor(chain, outbox, clock=lambda: now[0], stuck_seconds=30)
    with monkeypatch.context() as patched:
        patched.setattr(sending.web3.eth, "get_transaction_count", lambda *_: 3)
        waiting = sending.submit("a", *mint(chain))
    assert waiting.nonce == 3
    assert sending.poll("a") is None
    now[0] += 31
    assert sending.poll("a") is None
    assert sending.poll("a").tx_hash == waiting.tx_hashes[0]
    sending.run("b", *mint(chain), wait_seconds=10)
    assert minted(chain) == 2
    assert outbox.get(sender.address, "b").nonce == 4


def test_what_a_deep_reorganisation_took_from_below_is_sent_again(chain, sender, outbox):
    now = [1_000.0]
    sending = transactor(chain, outbox, clock=lambda: now[0], stuck_seconds=30)
    first = sending.run("a", *mint(chain, 10))
    chain.rpc("evm_setAutomine", False)
    try:
        sending.submit("b", *mint(chain))
        chain.reorg(1)
        assert minted(chain) == 0
        now[0] += 31
        assert sending.poll("b") is None
        chain.mine()
        assert sending.poll("b") is not None
    finally:
        chain.rpc("evm_setAutomine", True)
    assert chain.rpc("eth_getTransactionReceipt", hex0x(first.tx_hash))["status"] == "0x1"
    assert minted(chain) == 11


def test_what_stays_stuck_is_not_bid_up_for_ever(chain, sender, outbox):
    """A node that mines nothing for a day must not turn the fee into all that the account has."""
    chain.rpc("evm_setAutomine", False)
    try:
        now = [1_000.0]
        sending = transactor(chain, outbox, clock=lambda: now[0], stuck_seconds=30)
        first = sending.submit("a", *mint(chain))
        for _ in range(40):
            now[0] += 31
            assert sending.poll("a") is None
        last = outbox.get(sender.address, "a")
        assert first.max_fee_per_gas < last.max_fee_per_gas <= FEE_CEILING * first.max_fee_per_gas
        assert last.priority_fee_per_gas <= FEE_CEILING * 2 * first.priority_fee_per_gas
        assert len(last.tx_hashes) < 12
        chain.mine()
        assert sending.poll("a") is not None
    finally:
        chain.rpc("evm_setAutomine", True)
    assert minted(chain) == 1


def test_what_an_account_can_no_longer_pay_for_is_not_forgotten(chain, sender, outbox):
    """A node may hold what this one lost: forgotten, the same purpose could become two transactions."""
    now = [1_000.0]
    sending = transactor(chain, outbox, clock=lambda: now[0], stuck_seconds=30)
    chain.rpc("evm_setAutomine", False)
    try:
        outgoing = sending.submit("a", *mint(chain))
        chain.rpc("anvil_dropTransaction", hex0x(outgoing.tx_hashes[0]))
        chain.rpc("anvil_setBalance", checksum(sender.address), "0x1")
        for seconds in (1, 31):  # sent again, and replaced by a dearer one
            now[0] += seconds
            with pytest.raises(NotEnoughGasMoney) as poor:
                sending.poll("a")
            assert checksum(sender.address) in str(poor.value)
            assert outbox.get(sender.address, "a").raw == outgoing.raw
        chain.give_gas(sender.address)
        assert sending.poll("a") is None
        chain.mine()
        assert sending.poll("a").tx_hash == outgoing.tx_hashes[0]
    finally:
        chain.rpc("evm_setAutomine", True)
    assert minted(chain) == 1


def test_a_node_lost_on_the_way_is_said_with_the_transaction(chain, sender, outbox, monkeypatch):
    sending = transactor(chain, outbox)
    send = sending.web3.eth.send_raw_transaction

    def send_and_lose(raw):
        send(raw)
        raise ConnectionError

    monkeypatch.setattr(sending.web3.eth, "send_raw_transaction", send_and_lose)
    with pytest.raises(NodeUnreachable) as lost:
        sending.run("a", *mint(chain))
    assert hex0x(outbox.get(sender.address, "a").tx_hashes[0]) in lost.value.remedy
    monkeypatch.undo()
    sending.run("a", *mint(chain))
    assert minted(chain) == 1


def test_it_is_waited_for_as_many_blocks_as_asked(chain, sender, outbox):
    sending = transactor(chain, outbox, confirmations=3)
    sending.submit("a", *mint(chain))
    for _ in range(3):
        assert sending.poll("a") is None
        chain.mine()
    assert sending.poll("a") is not None
    with pytest.raises(NotConfirmed):
        sending.run("b", *mint(chain), wait_seconds=0.3)


@pytest.mark.parametrize("depth", [1, 3])
def test_a_fork_before_the_depth_is_survived(chain, sender, outbox, depth):
    sending = transactor(chain, outbox, confirmations=4)
    sending.submit("a", *mint(chain))
    chain.mine(depth - 1)
    assert sending.poll("a") is None
    chain.reorg(depth)
    assert minted(chain) == 0
    assert sending.poll("a") is None
    chain.mine(5)
    assert sending.poll("a") is not None
    assert minted(chain) == 1


def test_a_refusal_is_named_and_leaves_nothing(chain, sender, outbox):
    escrow = chain.escrow
    sending = transactor(chain, outbox)
    with pytest.raises(TransactionReverted) as refused:
        sending.run("a", escrow.address, escrow.withdraw(key("gateway").address, sender.address, 5))
    assert refused.value.error == "InferenceEscrowInsufficientCredit"
    assert refused.value.arguments == {"amount": 5, "available": 0}
    assert outbox.get(sender.address, "a") is None
    sending.run("b", *mint(chain))


def test_a_transaction_mined_and_reverted_is_named_and_can_be_tried_again(chain, sender, outbox):
    """It was fine when it was estimated; what came before it in the block changed that."""
    sending = transactor(chain, outbox)
    token = chain.contracts.token
    sending.run("mint", *mint(chain, 100))
    sending.run("approve", token.address, token.approve(chain.escrow.address, 1_000))
    chain.rpc("evm_setAutomine", False)
    channel = chain.channel("sender")
    try:
        for purpose in ("first", "second"):
            sending.submit(purpose, chain.escrow.address, chain.escrow.deposit(channel, 100))
        chain.mine()
    finally:
        chain.rpc("evm_setAutomine", True)
    sending.poll("first")
    for _ in range(2):
        with pytest.raises(TransactionReverted) as refused:
            sending.poll("second")
        assert "InsufficientBalance" in refused.value.error
    with pytest.raises(TransactionReverted):
        sending.run("second", chain.escrow.address, chain.escrow.deposit(channel, 100))
    sending.run("mint more", *mint(chain, 100))
    sending.run("second", chain.escrow.address, chain.escrow.deposit(channel, 100))
    assert chain.escrow.channel(channel.digest(chain.domain)).deposited == 200


def test_no_money_for_gas_is_said_and_leaves_nothing(chain, sender, outbox):
    chain.rpc("anvil_setBalance", checksum(sender.address), "0x1")
    sending = transactor(chain, outbox)
    with pytest.raises(NotEnoughGasMoney) as refused:
        sending.run("a", *mint(chain))
    assert checksum(sender.address) in str(refused.value)
    assert outbox.get(sender.address, "a") is None
    chain.give_gas(sender.address)
    sending.run("a", *mint(chain))
    assert minted(chain) == 1


def test_threads_share_one_sender(chain, sender, outbox):
    sending = transactor(chain, outbox)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: sending.run(f"p{n % 8}", *mint(chain), wait_seconds=30), range(16)))
    assert len({mined.tx_hash for mined in found}) == 8
    assert minted(chain) == 8


def test_processes_share_one_outbox(chain, sender, outbox):
    """Two transactors that know nothing of each other but the outbox: one effect per purpose all the same."""
    both = [transactor(chain, outbox) for _ in range(2)]
    start = threading.Barrier(2)

    def work(sending):
        start.wait()
        for n in range(4):
            sending.submit(f"p{n}", *mint(chain))
        for n in range(4):
            sending.wait(f"p{n}", wait_seconds=30)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, both))
    chain.mine(2)
    assert minted(chain) == 4


def test_a_node_that_is_away_is_named(chain):
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(NodeUnreachable) as away:
        connect(url)
    assert url in str(away.value)
    assert away.value.remedy
    with pytest.raises(WrongChain) as wrong:
        connect(chain.url, 1)
    assert "31337" in str(wrong.value)
