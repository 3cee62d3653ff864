"""I13: one `exact` authorization is one transaction and one job, however it is presented, and all money adds up.

The door, its book, ledger, outbox and housekeeping on a real database, the SDK's facilitator on a real node. Payments
come in parallel, again, with another request's inputs and by strangers on chain; the process dies at any step.
"""

import asyncio
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from contracts.bindings.errors import TransactionReverted
from contracts.bindings.rpc import connect
from contracts.bindings.transactor import Transactor
from contracts.protocol.hexes import checksum
from market.adapters.database.engine import open_engine
from market.adapters.database.ledger import DatabaseLedger
from market.adapters.database.migrate import upgrade
from market.adapters.database.outbox import DatabaseOutbox
from market.adapters.database.x402_book import DatabaseBook
from market.adapters.x402_facilitator import InProcessFacilitator
from market.adapters.x402_housekeeping import Housekeeping
from market.adapters.x402_signer import HouseSigner
from market.errors import CreditSpent, NoCapacity, PaymentUndecided, RequestIdReused, RequestInProgress, WorkerFailed
from market.gateway.x402 import sign_in
from market.gateway.x402.background import settle_background
from market.gateway.x402.door import Door
from market.gateway.x402.refunds import refund_credit
from market.gateway.x402.wire import X402Headers
from market.payments.x402_model import Authorization, PaymentRefused
from market.payments.x402_ports import SettlementPending, X402Desk
from tests.support.chain import key
from tests.support.money import CHANNEL_ID, GATEWAY, World, tensor, voucher
from tests.support.mortal import Crash, Life, Mortal
from tests.support.x402_chain import cancellation, running_shop, transfer
from tests.unit.market.x402.payers import ORIGIN, Payer, paying

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

PRICE, PACK, PURSE = 100, 250, 10_000
PAYERS = ("ida", "jon")
# Beyond what a settlement may take, within what a request may.
LATER_SECONDS = 300
# No worker answers, or none is asked as it did not answer before.
UNSERVED = (WorkerFailed, NoCapacity)


@dataclass(eq=False)
class Signed:
    """One authorization and what a test knows of it."""

    payer: str
    payment: dict
    authorization: Authorization
    cancelled: bool = False
    crashes: int = 0
    receipts: set[bytes] = field(default_factory=set)


class House:
    """The house's channel of the small market."""

    channel_id = CHANNEL_ID

    def voucher(self):
        return voucher(10**9)


class Process:
    """What one gateway process joins, over the database that outlives it."""

    def __init__(self, shop, engine, world: World) -> None:
        self.life = life = Life()
        self.book = DatabaseBook(engine)
        web3 = connect(shop.chain.url)
        web3.eth.send_raw_transaction = life.bound(web3.eth.send_raw_transaction)
        transactor = Transactor(web3, key("house"), outbox=Mortal(DatabaseOutbox(engine), life))
        facilitator = InProcessFacilitator(
            HouseSigner(web3, key("house"), transactor, confirm_seconds=0.2),
            transactor,
            shop.chain.contracts.token,
            shop.merchant,
        )
        book = Mortal(self.book, life)
        self.desk = X402Desk(
            shop.merchant, facilitator, book, House(), shop.token_name, shop.token_version, PACK, ORIGIN
        )
        self.ledger = DatabaseLedger(engine, GATEWAY.address)
        world.ledger = SimpleNamespace(
            **{
                name: getattr(self.ledger, name)
                for name in ("answer", "account", "receipt", "earned", "key_spent", "keep_evidence")
            },
            record=life.bound(self.ledger.record),
        )
        world.join()
        self.later = 0
        self.keeper = Housekeeping(
            self.desk,
            house=House(),
            ledger=self.ledger,
            claim_interval_seconds=300,
            clock=lambda: time.time() + self.later,
        )
        transactor.resume()
        self.book.inherit()


class OneJob(RuleBasedStateMachine):
    shop: object
    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="exact-"))
        shutil.copy(self.template, self.folder / "book.db")
        self.engine = open_engine(f"sqlite:///{self.folder}/book.db")
        self.chain = self.shop.chain
        self.snapshot = self.chain.rpc("evm_snapshot")
        self.mining = True
        self.all: list[Signed] = []
        self.proofs: list[tuple[str, bytes]] = []
        self.jobs: Counter[bytes] = Counter()
        self.payers = {name: Payer(key(name).secret_bytes()) for name in PAYERS}
        self.world = World()
        self.loop.run_until_complete(self.world.add_worker("w1", price=PRICE))
        (worker,) = self.world.workers

        async def counted(job):
            self.jobs[job.request_id] += 1
            return await worker(job)

        self.worker = worker.key.address
        self.world.dispatcher.handlers[self.worker] = counted
        self.process = Process(self.shop, self.engine, self.world)

    def teardown(self) -> None:
        try:
            self.mine()
            self.restart()
            self.process.later = LATER_SECONDS
            self.together([self.process.keeper.tidy()])
            for one in self.all:
                if self.process.book.authorization(one.authorization) is None:
                    # What a stranger sent is credit as soon as its payer shows it.
                    self.together([self.serve(paying(one.payment), 1)])
            self.together([self.process.keeper.tidy()])
            self.everything_adds_up()
        finally:
            self.end_process()
            self.loop.close()
            self.engine.dispose()
            shutil.rmtree(self.folder, ignore_errors=True)
            self.chain.rpc("evm_setAutomine", True)
            assert self.chain.rpc("evm_revert", self.snapshot)
            self.chain.forget_senders()

    # --- what happens -----------------------------------------------------------------------------------------

    def signed(self, place: int) -> Signed:
        """The authorization at this place; the next new one if there are not so many."""
        if place < len(self.all):
            return self.all[place]
        payer = PAYERS[len(self.all) % len(PAYERS)]
        payment = self.payers[payer].exact(self.process.desk, PRICE)
        merchant = self.shop.merchant
        made = Signed(payer, payment, Authorization.from_wire(payment["payload"], merchant.chain_id, merchant.token))
        self.all.append(made)
        return made

    @rule(
        place=st.integers(0, 5),
        inputs=st.lists(st.sampled_from([1, 2]), min_size=1, max_size=4),
        dies_after=st.sampled_from([None] * 9 + list(range(17))),
        tidying=st.booleans(),
        away=st.booleans(),
    )
    def present(self, place, inputs, dies_after, tidying, away):
        """The same header several times at once, with one request or two, in a process that may die meanwhile.

        With `tidying` housekeeping takes the settlement under way for one that was left behind; with `away` no worker
        answers, so that what is paid stays credit.
        """
        one = self.signed(place)
        handlers = self.world.dispatcher.handlers
        handler = handlers.pop(self.worker) if away else None
        self.process.life.ends_after(dies_after)
        self.process.later = LATER_SECONDS if tidying else 0
        work = [self.serve(paying(one.payment), number) for number in inputs]
        outcomes = self.together([*work, *([self.process.keeper.tidy()] if tidying else [])])[: len(inputs)]
        if handler is not None:
            handlers[self.worker] = handler
        for number, outcome in zip(inputs, outcomes, strict=True):
            if not isinstance(outcome, BaseException):
                known = self.process.book.authorization(one.authorization)
                assert known.inputs == bytes([number]) * 32, "answered is what it was first sent with"
                one.receipts.add(outcome.answer.receipt.digest(self.world.papers._domain))
                continue
            allowed = (RequestInProgress, PaymentUndecided, RequestIdReused, CreditSpent, Crash, PaymentRefused)
            assert isinstance(outcome, (*allowed, *UNSERVED)), outcome
            assert one.cancelled or not isinstance(outcome, PaymentRefused), outcome
            assert dies_after is not None or not isinstance(outcome, Crash)
        self.bury(one)

    @rule(
        payer=st.sampled_from(PAYERS),
        copies=st.integers(1, 3),
        dies_after=st.sampled_from([None, None, None, 0, 1, 2, 3, 4]),
    )
    def use_credit(self, payer, copies, dies_after):
        header = self.payers[payer].sign_in()
        proof = sign_in.verify(header, origin=ORIGIN, network=self.shop.merchant.network, now=time.time())
        self.proofs.append((payer, proof.request_id))
        self.process.life.ends_after(dies_after)
        outcomes = self.together([self.serve(X402Headers(None, False, header), 1) for _ in range(copies)])
        for outcome in outcomes:
            assert not isinstance(outcome, BaseException) or isinstance(
                outcome, (CreditSpent, RequestInProgress, Crash, *UNSERVED)
            )
        assert self.jobs[proof.request_id] <= 1
        self.bury(None)

    @rule(
        what=st.sampled_from(
            [
                "refund",
                "refund-cut-short",
                "stranger",
                "cancel",
                "mine-nothing",
                "mine",
                "mine",
                "restart",
                "tidy",
                "late",
            ]
        ),
        place=st.integers(0, 5),
    )
    def meanwhile(self, what, place):
        match what:
            case "mine-nothing":
                self.mining = False
                self.chain.rpc("evm_setAutomine", False)
            case "mine":
                self.mine()
            case "restart":
                self.restart()
            case "tidy" | "late":
                self.process.later = LATER_SECONDS if what == "late" else 0
                (outcome,) = self.together([self.process.keeper.tidy()])
                assert outcome is None or isinstance(outcome, SettlementPending), outcome
            case "refund" | "refund-cut-short" if self.mining:
                self.take_credit_back(PAYERS[place % 2], place if what == "refund-cut-short" else None)
            case "stranger" if self.mining:
                self.by_others("stranger", transfer(self.signed(place).payment["payload"]))
            case "cancel" if self.mining:
                one = self.signed(place)
                data = cancellation(self.shop, one.payer, one.payment["payload"])
                one.cancelled = self.by_others(one.payer, data) or one.cancelled

    def take_credit_back(self, payer, dies_after):
        header = self.payers[payer].sign_in()
        proof = sign_in.verify(header, origin=ORIGIN, network=self.shop.merchant.network, now=time.time())
        self.process.life.ends_after(dies_after)
        (outcome,) = self.together([refund_credit(self.process.desk, proof)])
        assert not isinstance(outcome, BaseException) or isinstance(outcome, Crash), outcome
        self.bury(None)

    def mine(self):
        self.mining = True
        self.chain.rpc("evm_setAutomine", True)
        self.chain.mine()

    def restart(self):
        self.end_process()
        self.process = Process(self.shop, self.engine, self.world)

    # --- what holds -------------------------------------------------------------------------------------------

    @invariant()
    def one_job_each(self):
        for one in self.all:
            assert self.jobs[one.authorization.request_id] <= 1 + one.crashes
            assert len(one.receipts) <= 1

    @invariant()
    def no_credit_without_money(self):
        for payer in PAYERS:
            credit = self.process.book.credit(key(payer).address)
            assert credit.bought <= self.paid_in(payer)
            assert 0 <= credit.held <= credit.balance <= credit.bought
            assert credit.bought == sum(
                one.authorization.value for one in self.of(payer) if self.process.book.authorization(one.authorization)
            )

    def everything_adds_up(self) -> None:
        """At the end: what left each purse is credit, or was served, or came back; each job is paid for once."""
        assert self.process.book.undecided(float("inf")) == []
        for payer in PAYERS:
            credit = self.process.book.credit(key(payer).address)
            ids = [one.authorization.request_id for one in self.of(payer)]
            ids += [request_id for name, request_id in self.proofs if name == payer]
            found = [self.loop.run_until_complete(self.process.ledger.receipt(one, CHANNEL_ID)) for one in ids]
            served = sum(one.receipt.price for one in found if one is not None)
            assert credit.held == 0
            assert credit.bought == self.paid_in(payer), "all that was paid became credit, once"
            assert credit.bought == credit.balance + served + credit.refunded
            assert self.shop.balance(payer) == PURSE - credit.bought + credit.refunded
        house = self.loop.run_until_complete(self.process.ledger.account(CHANNEL_ID))
        seen = [one.authorization.request_id for one in self.all] + [request_id for _, request_id in self.proofs]
        assert (0 if house is None else house.charged) == PRICE * sum(
            self.jobs[one] > 0 and self.charged(one) for one in seen
        )

    # --- parts ------------------------------------------------------------------------------------------------

    def of(self, payer):
        return [one for one in self.all if one.payer == payer]

    def charged(self, request_id) -> bool:
        return self.process.book.charged(request_id) is not None

    def paid_in(self, payer) -> int:
        """What the chain says has left the purse for the house."""
        transfers = self.chain.web3.eth.get_logs(
            {
                "fromBlock": 0,
                "address": checksum(self.shop.merchant.token),
                "topics": [TRANSFER, topic(key(payer).address), topic(self.shop.merchant.receiver)],
            }
        )
        return sum(int.from_bytes(bytes(one["data"]), "big") for one in transfers)

    def serve(self, headers, number):
        async def infer(parsed, request_id, limit, payer):
            request = self.world.request(
                voucher=parsed,
                request_id=request_id,
                max_price=limit,
                payer=payer,
                tensors=(tensor(1, float(number)),),
            )
            return await self.world.service.infer(request)

        return Door(self.process.desk, headers, PRICE, PRICE, infer, lambda: bytes([number]) * 32).serve()

    def together(self, work):
        async def all_of_it():
            outcomes = await asyncio.gather(*work, return_exceptions=True)
            await settle_background()
            await self.world.service.close()
            return outcomes

        return self.loop.run_until_complete(all_of_it())

    def bury(self, one: Signed | None) -> None:
        """Start the next process if this one died."""
        if self.process.life.over:
            if one is not None:
                one.crashes += 1
            self.restart()
        self.process.life.ends_after(None)

    def end_process(self) -> None:
        self.process.life.ends_after(0)
        self.process.ledger.close()

    def by_others(self, name, data: bytes) -> bool:
        try:
            self.chain.send(name, self.shop.merchant.token, data)
        except TransactionReverted:
            return False
        return True


def topic(address: bytes) -> str:
    return "0x" + address.rjust(32, b"\0").hex()


TRANSFER = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"


def test_one_authorization_is_one_job_and_all_money_adds_up(tmp_path):
    template = tmp_path / "empty.db"
    engine = open_engine(f"sqlite:///{template}")
    upgrade(engine)
    engine.dispose()
    with running_shop(tmp_path) as shop:
        for name in PAYERS:
            shop.chain.give_tokens(name, PURSE)
        machine = type("OneJob", (OneJob,), {"shop": shop, "template": template})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=10,
                stateful_step_count=25,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
