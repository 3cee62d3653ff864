"""I11: a payee adds up its own leaves and compares with its credit; what is missing is proved and made good.

A worker's journal and its audit, a gateway's ledger, indexer and settler on a real database and a real node. The gateway
is honest, or leaves receipts out, or settles true receipts at less, or books others than it countersigned; it
crashes, blocks are taken back, countersignatures do not arrive.
"""

import asyncio
import contextlib
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from contracts.bindings.dispute_manager import DisputeManager, Status
from contracts.bindings.errors import TransactionReverted
from contracts.protocol.commitments import verify
from contracts.protocol.messages import Papers
from contracts.protocol.typed_data import Receipt
from market.adapters.database.proofs import DatabaseProofs
from market.sdk.audit import audit as payee_audit
from market.sdk.chain import Chain as Books
from market.settlement.settle import SettlementRefused
from tests.support.chain import Chain, running_anvil
from tests.support.settling import GATEWAY, OPERATOR, OWNER, Gateway, assert_money_adds_up
from workers import audit
from workers.papers import Journal, SignedWork
from workers.rescue import collect

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

PRICE = 100
FOR_WORKER, FOR_OWNER = 80, 10
FOR_EVER = 10**12
CHANNELS = 2
RESERVE = 50_000_000


@dataclass(eq=False)
class Served:
    """What the worker signed, and what became of it at the gateway."""

    receipt: Receipt
    digest: bytes
    told: bool
    kept_back: bool  # no batch will hold its leaf


class PayeesSums(RuleBasedStateMachine):
    chain: Chain

    def __init__(self) -> None:
        super().__init__()
        self.snapshot = self.chain.rpc("evm_snapshot")
        self.chain.forget_senders()
        self.folder = Path(tempfile.mkdtemp(prefix="payees-"))
        self.gateway = Gateway(self.chain, self.folder)
        self.chain.list_model()
        self.disputes = DisputeManager(self.chain.web3, self.chain.deployment.disputes)
        self.journal = self.open_journal()
        self.channels = [self.chain.deposit(10**6, self.chain.channel(salt=n)) for n in range(CHANNELS)]
        self.chain.mine(12)  # below what is ever taken back
        self.charged = [0] * CHANNELS
        self.served: list[Served] = []
        self.promised = 0
        self.shortened = 0  # how much less than earned the gateway booked under true leaves

    def teardown(self) -> None:
        try:
            self.in_the_end()
        finally:
            self.journal.close()
            self.gateway.close()
            shutil.rmtree(self.folder, ignore_errors=True)
            assert self.chain.rpc("evm_revert", self.snapshot)
            self.chain.forget_senders()

    # --- what happens -----------------------------------------------------------------------------------------

    @rule(
        at=st.integers(0, CHANNELS - 1),
        count=st.integers(1, 4),
        told=st.booleans(),
        books=st.sampled_from(["all", "all", "all", "nothing", "less", "another"]),
    )
    def serve(self, at, count, told, books):
        """Requests of one channel; `told` brings the worker countersignatures and a note over all it was promised."""
        made = []
        for _ in range(count):
            self.charged[at] += PRICE
            now = int(self.chain.web3.eth.get_block("latest")["timestamp"])
            made.append(self.chain.charge(self.channels[at], PRICE, self.charged[at], ceiling=10**6, served_at=now))
        self.journal.keep(
            [SignedWork(c.receipt, c.worker_signature, c.channel, c.voucher_amount, c.voucher_signature) for c in made]
        )
        for charge in made:
            self.served.append(Served(charge.receipt, charge.digest, told, books in ("nothing", "another")))
        if told:
            self.promised = sum(one.receipt.worker_amount for one in self.served if one.told)
            note = self.chain.credit_note("operator", self.promised)
            signed = tuple((c.receipt.request_id, c.gateway_signature) for c in made)
            self.journal.keep((), Papers(signed, *note))
        if books == "nothing":
            return
        if books == "less":
            made = [replace(c, receipt=replace(c.receipt, worker_amount=FOR_WORKER // 2)) for c in made]
            self.shortened += count * FOR_WORKER // 2
        if books == "another":
            changed = [replace(c.receipt, worker_amount=FOR_WORKER // 2) for c in made]
            made = [
                replace(c, receipt=receipt, digest=receipt.digest(self.chain.domain))
                for c, receipt in zip(made, changed, strict=True)
            ]
        self.gateway.record(*made)

    @rule()
    def settle(self):
        self.gateway.settle()

    @rule()
    def the_gateway_starts_anew(self):
        self.gateway.ledger.close()
        self.gateway.restart()
        self.gateway.transactor.resume()

    @rule(depth=st.integers(1, 3))
    def blocks_are_taken_back(self, depth):
        self.chain.mine()
        self.chain.reorg(depth)
        self.chain.forget_senders()
        self.gateway.index()

    @rule()
    def the_worker_starts_anew(self):
        self.journal.close()
        self.journal = self.open_journal()

    @rule()
    @precondition(lambda self: self.credit().credited > self.credit().withdrawn)
    def withdraw(self):
        credit = self.credit()
        escrow = self.chain.escrow
        self.chain.send(
            "operator", escrow.address, escrow.withdraw(GATEWAY, OPERATOR, credit.credited - credit.withdrawn)
        )

    # --- what holds -------------------------------------------------------------------------------------------

    @invariant()
    def the_sum_is_right(self):
        for one in self.standings():
            assert (one.receipts, one.earned) == (len(self.served), FOR_WORKER * len(self.served))
            assert one.overdue == sum(served.receipt.worker_amount for served in self.served if served.told)
            assert one.promised == self.promised
            credited, withdrawn = self.chain.escrow.credits(GATEWAY, OPERATOR)
            assert (one.credited, one.withdrawn) == (credited, withdrawn)
            assert one.short == max(0, one.overdue - credited)

    def in_the_end(self) -> None:
        for _ in range(4):
            with contextlib.suppress(SettlementRefused):
                self.gateway.settle()
        assert self.gateway.book.backlog(GATEWAY).receipts == 0
        self.the_sum_is_right()
        self.the_owner_adds_up()
        kept_back = [one for one in self.served if one.kept_back]
        credited = self.credit().credited
        if not kept_back and not self.shortened:
            assert credited == FOR_WORKER * len(self.served), "an honest gateway is short of nothing"
        assert credited <= FOR_WORKER * len(self.served)
        self.every_leaf_is_told_apart()
        self.an_answer_keeps_the_reserve(next((one for one in self.served if one.told and not one.kept_back), None))
        self.silence_costs(next((one for one in kept_back if one.told), None))
        self.papers_bring_the_rest()
        self.gateway.index()
        assert_money_adds_up(self.chain, self.gateway.view)

    def every_leaf_is_told_apart(self) -> None:
        """A receipt is proved in its batch exactly if the gateway settled it as it countersigned it."""
        proven = self.proven()
        for one in self.served:
            assert (one.digest in proven) == (not one.kept_back)

    def an_answer_keeps_the_reserve(self, settled: Served | None) -> None:
        if settled is None:
            return
        chain, reserve = self.chain, self.chain.escrow.reserve(GATEWAY)[0]
        self.challenge(settled)
        self.gateway.index()
        before = chain.contracts.token.balance_of(GATEWAY)
        self.gateway.answerer.step()
        assert self.disputes.challenge_of(settled.digest).status == Status.ANSWERED
        assert chain.contracts.token.balance_of(GATEWAY) - before == self.disputes.bond()
        assert chain.escrow.reserve(GATEWAY)[0] == reserve

    def challenge(self, one: Served) -> None:
        chain = self.chain
        chain.give_tokens("operator", self.disputes.bond())
        chain.pass_seconds(self.disputes.window() + 1)
        signed = audit.find([self.journal], one.receipt.request_id)
        audit.challenge(chain.contracts, self.disputes, chain.sender("operator"), signed, chain.domain)

    def silence_costs(self, missing: Served | None) -> None:
        if missing is None:
            return
        chain, operator = self.chain, self.chain.sender("operator")
        chain.give_tokens("gateway", RESERVE)
        chain.send("gateway", chain.escrow.address, chain.escrow.fund_reserve(GATEWAY, RESERVE))
        self.challenge(missing)
        self.gateway.index()
        assert not self.gateway.answerer.step(), "it has nothing to show"
        with pytest.raises(TransactionReverted, match="InvalidProof"):
            data = self.disputes.encode("answerInclusion", missing.digest, 1, [])
            chain.send("gateway", self.disputes.address, data)
        chain.pass_seconds(self.disputes.window() + 1)
        before, reserve = chain.contracts.token.balance_of(OPERATOR), chain.escrow.reserve(GATEWAY)[0]
        audit.uphold(self.disputes, operator, missing.receipt, chain.domain)
        assert self.disputes.challenge_of(missing.digest).status == Status.UPHELD
        penalty = self.disputes.bond() + missing.receipt.price
        assert chain.escrow.reserve(GATEWAY)[0] == reserve - penalty
        assert chain.contracts.token.balance_of(OPERATOR) - before == self.disputes.bond() + penalty // 2

    def papers_bring_the_rest(self) -> None:
        """Whatever the gateway booked, what it promised is paid: from the channels, by its note, out of its reserve."""
        chain = self.chain
        chain.give_tokens("gateway", RESERVE)
        chain.send("gateway", chain.escrow.address, chain.escrow.fund_reserve(GATEWAY, RESERVE))
        collect(chain.contracts, chain.sender("operator"), self.journal)
        found = self.credit()
        assert found.credited >= self.promised
        assert found.withdrawn == found.credited or not self.promised
        assert all(one.short == 0 for one in self.standings())

    def the_owner_adds_up(self) -> None:
        """It holds no papers: the gateway shows the leaves of its batches, and each root proves that these are all."""
        proven = self.proven()
        assert self.chain.escrow.credits(GATEWAY, OWNER)[0] == FOR_OWNER * len(proven)
        found = payee_audit(Books(self.chain.web3, self.chain.deployment), self.leaves, GATEWAY, OWNER)
        assert found.short == 0
        assert bool(found.withheld) == bool(self.shortened), "receipts that were changed rebuild no root"
        if not self.shortened:
            assert found.due == found.credited
            assert {one.digest for one in found.receipts} == proven

    def leaves(self, epoch):
        return [stored.receipt for stored in asyncio.run(self.gateway.ledger.batch(epoch, limit=1_000))]

    # --- parts ------------------------------------------------------------------------------------------------

    def open_journal(self) -> Journal:
        return Journal(self.folder / "papers.db", domain=self.chain.domain, operator=OPERATOR)

    def credit(self):
        self.gateway.index()
        return self.gateway.view.credits(GATEWAY, OPERATOR)

    def standings(self):
        return audit.add_up(self.chain.contracts, self.disputes, [self.journal], OPERATOR, now=FOR_EVER)

    def receipts(self, channel):
        return asyncio.run(self.gateway.ledger.receipts(channel.digest(self.chain.domain), limit=1_000))

    def proven(self) -> set[bytes]:
        """The leaves that the gateway can prove in batches on chain."""
        self.gateway.index()
        proofs, found = DatabaseProofs(self.gateway.engine, self.gateway.view), set()
        for channel in self.channels:
            for stored in self.receipts(channel):
                proof = proofs.of(stored)
                path = [bytes.fromhex(node[2:]) for node in proof["proof"]]
                assert verify(bytes.fromhex(proof["root"][2:]), stored.digest, path)
                assert self.chain.escrow.verify_receipt(GATEWAY, int(proof["epoch"]), stored.digest, path)
                found.add(stored.digest)
        return found


def test_a_payee_adds_up_its_leaves_and_proves_what_is_missing(tmp_path):
    with running_anvil(tmp_path) as url:
        machine = type("PayeesSums", (PayeesSums,), {"chain": Chain(url)})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=10, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )
