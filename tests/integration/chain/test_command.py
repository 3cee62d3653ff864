"""A command that was cut short: given again it is one effect, and another of its kind does not go out unasked."""

import pytest

from contracts.bindings.command import EarlierCommand, act
from contracts.bindings.errors import TransactionReverted
from contracts.bindings.outbox_file import FileOutbox, OutboxUnreadable
from contracts.bindings.rpc import connect
from contracts.bindings.transactor import Transactor
from tests.support.chain import key

pytestmark = pytest.mark.integration


class Crash(BaseException):
    """The process dies here."""


@pytest.fixture
def command(chain, tmp_path):
    """A run of the command line in a process of its own, as far as the outbox can tell."""
    chain.give_gas(key("person").address)
    token = chain.contracts.token

    def run(amount, *, what="mint", dies_at=None, to=None):
        sender = Transactor(connect(chain.url), key("person"), outbox=FileOutbox(tmp_path / "deep" / "outbox.json"))
        if dies_at is not None:
            sender.web3.eth.get_transaction_receipt = crash
            if dies_at == "before-broadcast":
                sender.web3.eth.send_raw_transaction = crash
        return act(sender, what, token.address, token.mint(to or key("person").address, amount))

    return run


def crash(*_):
    raise Crash


def held(chain):
    return chain.contracts.token.balance_of(key("person").address)


def test_a_command_given_twice_is_two_effects(chain, command, tmp_path):
    before = held(chain)
    assert command(5).tx_hash != command(5).tx_hash
    assert held(chain) - before == 10
    assert FileOutbox(tmp_path / "deep" / "outbox.json").pending(key("person").address) == []


@pytest.mark.parametrize("dies_at", ["before-broadcast", "after-broadcast"])
def test_a_command_cut_short_and_given_again_is_one_effect(chain, command, dies_at):
    before = held(chain)
    with pytest.raises(Crash):
        command(7, dies_at=dies_at)
    command(7)
    assert held(chain) - before == 7
    command(7)
    assert held(chain) - before == 14


def test_another_command_finishes_the_earlier_one_first_and_says_so_if_it_is_of_its_kind(chain, command):
    before = held(chain)
    with pytest.raises(Crash):
        command(1, dies_at="before-broadcast")
    command(10, what="stake")
    assert held(chain) - before == 11
    with pytest.raises(Crash):
        command(100, dies_at="before-broadcast")
    with pytest.raises(EarlierCommand, match="nothing else was sent"):
        command(1_000)
    assert held(chain) - before == 111
    command(1_000)
    assert held(chain) - before == 1_111


def test_a_refused_command_leaves_nothing_behind(chain, command, tmp_path):
    with pytest.raises(TransactionReverted):
        command(1, to=bytes(20))
    assert FileOutbox(tmp_path / "deep" / "outbox.json").pending(key("person").address) == []


def test_a_file_that_cannot_be_read_is_never_overwritten(command, tmp_path):
    path = tmp_path / "deep" / "outbox.json"
    path.parent.mkdir()
    path.write_text('{"half": ')
    with pytest.raises(OutboxUnreadable, match="cannot be used"):
        command(1)
    assert path.read_text() == '{"half": '
