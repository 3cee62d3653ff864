"""A payee adds up its receipts in a gateway's batches on chain: an honest gateway is short of nothing, and one that
credits less, or does not show its batches as it settled them, is found out with a proof that anybody can check."""

import asyncio
from dataclasses import replace

import pytest

from contracts.bindings.escrow import Credit, Debit
from contracts.protocol.commitments import MerkleTree, verify
from market.sdk.audit import audit
from market.sdk.chain import Chain as Books
from tests.support.chain import key
from tests.support.settling import GATEWAY, OPERATOR, OWNER, assert_money_adds_up

pytestmark = pytest.mark.integration

PRICE = 1_000


@pytest.fixture
def books(chain):
    chain.list_model()
    chain.register_worker()
    return Books(chain.web3, chain.deployment)


def shown(gateway):
    """What an honest gateway shows of a batch, in pages of two."""

    def leaves(epoch):
        found = []
        while page := asyncio.run(gateway.ledger.batch(epoch, after=len(found) - 1, limit=2)):
            found += [stored.receipt for stored in page]
        return found

    return leaves


def serve(chain, gateway, channel, count):
    gateway.record(*(chain.charge(channel, PRICE, PRICE * (n + 1)) for n in range(count)))


def test_an_honest_gateway_is_short_of_nothing(chain, gateway, books):
    channel = chain.deposit(100 * PRICE)
    serve(chain, gateway, channel, 5)
    gateway.settle()
    gateway.record(*(chain.charge(channel, PRICE, PRICE * n) for n in (6, 7)))
    gateway.settle()
    for payee, amount in ((OWNER, PRICE // 10), (OPERATOR, PRICE * 8 // 10), (key("nobody").address, 0)):
        found = audit(books, shown(gateway), GATEWAY, payee)
        assert (found.epochs, found.withheld, found.short) == (2, (), 0)
        assert found.due == found.credited == 7 * amount
        assert len(found.receipts) == (7 if amount else 0)
    assert_money_adds_up(chain, gateway.view)


def test_what_waits_for_its_batch_is_not_due(chain, gateway, books):
    channel = chain.deposit(100 * PRICE)
    serve(chain, gateway, channel, 3)
    found = audit(books, shown(gateway), GATEWAY, OWNER)
    assert (found.epochs, found.withheld, found.receipts) == (0, (), ())
    assert (found.due, found.credited, found.short) == (0, 0, 0)


def test_a_payer_in_default_leaves_a_shortfall_until_it_is_made_good(chain, gateway, books):
    channel = chain.deposit(PRICE)
    serve(chain, gateway, channel, 3)
    gateway.settle()
    assert audit(books, shown(gateway), GATEWAY, OWNER).due == 3 * PRICE // 10
    short = sum(audit(books, shown(gateway), GATEWAY, payee).short for payee in (OWNER, OPERATOR))
    assert short == 3 * (PRICE * 9 // 10) - PRICE
    chain.deposit(10 * PRICE, channel)
    gateway.settle()
    for payee in (OWNER, OPERATOR):  # by a batch without receipts
        found = audit(books, shown(gateway), GATEWAY, payee)
        assert (found.epochs, found.withheld, found.short) == (2, (), 0)


def test_a_gateway_that_credits_less_than_its_leaves_say_is_short_by_proof(chain, gateway, books):
    channel = chain.deposit(100 * PRICE)
    charges = [chain.charge(channel, PRICE, PRICE * (n + 1)) for n in range(4)]
    tree = MerkleTree([charge.digest for charge in charges])
    newest = charges[-1]
    debit = Debit(
        payer=channel.payer,
        signer=channel.signer,
        salt=channel.salt,
        claim_total=4 * PRICE,
        voucher_amount=newest.voucher_amount,
        voucher_signature=newest.voucher_signature,
    )
    cheated = [Credit(OPERATOR, 4 * PRICE * 8 // 10), Credit(OWNER, 1)]
    chain.send("gateway", chain.escrow.address, chain.escrow.settle_batch(1, tree.root, 4, [debit], cheated))
    leaves = [charge.receipt for charge in charges]
    assert audit(books, lambda _: leaves, GATEWAY, OPERATOR).short == 0
    found = audit(books, lambda _: leaves, GATEWAY, OWNER)
    assert (found.due, found.credited, found.short) == (4 * PRICE // 10, 1, 4 * PRICE // 10 - 1)
    for one in found.receipts:
        assert verify(tree.root, one.digest, one.proof)
        assert chain.escrow.verify_receipt(GATEWAY, one.epoch, one.digest, one.proof)


@pytest.mark.parametrize("hides", ["one", "all", "an amount"])
def test_a_batch_that_is_not_shown_as_it_was_settled_is_said_and_counts_for_nothing(chain, gateway, books, hides):
    channel = chain.deposit(100 * PRICE)
    serve(chain, gateway, channel, 3)
    gateway.settle()
    gateway.record(chain.charge(channel, PRICE, 4 * PRICE))
    gateway.settle()

    def leaves(epoch):
        found = shown(gateway)(epoch)
        if epoch != 1:
            return found
        if hides == "an amount":
            return [replace(found[0], owner_amount=0), *found[1:]]
        return found[:-1] if hides == "one" else []

    found = audit(books, leaves, GATEWAY, OWNER)
    assert (found.epochs, found.withheld) == (2, (1,))
    assert found.due == PRICE // 10
