"""A gateway whose settled receipts are challenged: it shows the batch in time, keeps its reserve and gets the bond."""

import pytest
from structlog.testing import capture_logs

from contracts.bindings.dispute_manager import Status
from contracts.bindings.errors import TransactionReverted
from contracts.protocol.hexes import checksum
from market.errors import ChainUnreachable
from market.settlement.answer import AnswerRefused
from tests.support.settling import GATEWAY, assert_money_adds_up
from workers import audit
from workers.papers import Signed

pytestmark = pytest.mark.integration

RESERVE = 50_000_000


@pytest.fixture
def disputed(chain, gateway):
    """A gateway with a reserve and five receipts of a while ago, one of them to be challenged."""
    chain.give_tokens("gateway", RESERVE)
    chain.send("gateway", chain.escrow.address, chain.escrow.fund_reserve(GATEWAY, RESERVE))
    channel = chain.deposit(10_000)
    now = int(chain.web3.eth.get_block("latest")["timestamp"])
    charges = [chain.charge(channel, 100, 100 * (n + 1), served_at=now) for n in range(5)]
    chain.pass_seconds(chain.contracts.disputes.window() + 1)
    return charges


def challenge(chain, charge):
    disputes = chain.contracts.disputes
    chain.give_tokens("operator", disputes.bond())
    signed = Signed(charge.receipt, charge.worker_signature, charge.gateway_signature)
    audit.challenge(chain.contracts, disputes, chain.sender("operator"), signed, chain.domain)
    return charge.digest


def answer(gateway) -> bool:
    gateway.index()
    waits = gateway.answerer.step()
    gateway.index()
    return waits


def assert_answered(chain, gateway, digest):
    disputes = chain.contracts.disputes
    assert disputes.challenge_of(digest).status == Status.ANSWERED
    assert gateway.view.challenges(GATEWAY) == []
    chain.pass_seconds(disputes.window() + 1)
    with pytest.raises(TransactionReverted, match="NotOpen"):
        chain.send("operator", disputes.address, disputes.uphold_inclusion(digest))
    assert chain.contracts.token.balance_of(disputes.address) == 0
    assert_money_adds_up(chain, gateway.view)


def test_a_settled_receipt_is_shown_in_its_batch(chain, gateway, disputed):
    gateway.record(*disputed)
    gateway.settle()
    reserve = chain.escrow.reserve(GATEWAY)[0]
    digest = challenge(chain, disputed[3])
    gateway.index()
    (seen,) = gateway.view.challenges(GATEWAY)
    assert (seen.digest, seen.answer_by) == (digest, chain.contracts.disputes.challenge_of(digest).answer_by)
    before = chain.contracts.token.balance_of(GATEWAY)
    assert not answer(gateway)
    assert chain.contracts.token.balance_of(GATEWAY) - before == chain.contracts.disputes.bond()
    assert chain.escrow.reserve(GATEWAY)[0] == reserve
    assert_answered(chain, gateway, digest)


def test_what_waits_is_settled_and_then_shown(chain, gateway, disputed):
    gateway.record(*disputed)
    digest = challenge(chain, disputed[0])
    assert answer(gateway), "to be settled at once"
    gateway.settle()
    assert not answer(gateway)
    assert_answered(chain, gateway, digest)


def test_a_receipt_that_the_ledger_does_not_have_is_said_and_looked_for_again(chain, gateway, disputed):
    gateway.record(*disputed[:4])
    gateway.settle()
    digest = challenge(chain, disputed[4])
    with capture_logs() as logs:
        assert not answer(gateway)
        assert not answer(gateway)
    assert [line["receipt"] for line in logs if line["event"] == "challenge-of-unknown-receipt"] == [digest.hex()]
    gateway.record(disputed[4])  # as from a restored backup
    gateway.settle()
    chain.pass_seconds(61)
    assert not answer(gateway)
    assert_answered(chain, gateway, digest)


def test_an_answer_is_one_transaction_through_crashes_and_reorganisations(chain, gateway, disputed):
    gateway.record(*disputed)
    gateway.settle()
    chain.mine(5)
    digest = challenge(chain, disputed[2])
    gateway.index()
    chain.rpc("evm_setAutomine", False)
    try:
        assert not gateway.answerer.step()
        gateway.restart()
        gateway.index()
        assert gateway.transactor.resume() == [f"answer:{digest.hex()}"]
        nonce = chain.web3.eth.get_transaction_count(checksum(GATEWAY), "pending")
        assert not gateway.answerer.step()
        assert chain.web3.eth.get_transaction_count(checksum(GATEWAY), "pending") == nonce
        chain.mine()
    finally:
        chain.rpc("evm_setAutomine", True)
    gateway.index()
    assert gateway.view.challenges(GATEWAY) == []
    chain.reorg(1)
    gateway.index()
    assert len(gateway.view.challenges(GATEWAY)) == 1
    for _ in range(2):
        answer(gateway)
    assert_answered(chain, gateway, digest)


def test_an_answer_that_somebody_else_gave_first_is_no_loss(chain, gateway, disputed):
    gateway.record(*disputed)
    gateway.settle()
    digest = challenge(chain, disputed[1])
    gateway.index()
    proof = gateway.answerer._proofs.of_digests([digest])[digest]
    disputes = chain.contracts.disputes
    chain.send("anybody", disputes.address, disputes.answer_inclusion(digest, proof.epoch, proof.path))
    with pytest.raises(AnswerRefused, match="NotOpen"):
        gateway.answerer.step()
    gateway.index()
    assert not gateway.answerer.step()
    assert_answered(chain, gateway, digest)


def test_a_gateway_without_gas_money_says_so_and_answers_when_it_has_some(chain, gateway, disputed):
    gateway.record(*disputed)
    gateway.settle()
    digest = challenge(chain, disputed[1])
    chain.rpc("anvil_setBalance", checksum(GATEWAY), "0x0")
    with pytest.raises(ChainUnreachable) as error:
        answer(gateway)
    assert "currency" in error.value.remedy
    chain.give_gas(GATEWAY)
    answer(gateway)
    assert_answered(chain, gateway, digest)
