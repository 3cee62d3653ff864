"""API keys: who may make, list and end them, what they open, and how fast a revocation is seen."""

import asyncio
from dataclasses import replace

import pytest

from contracts.protocol.capability import is_key, key_hash, new_key, terms_hash
from contracts.protocol.errors import ProtocolError
from contracts.protocol.typed_data import KeyListing, KeyRevocation
from market.adapters.memory_keys import MemoryKeyBook
from market.errors import (
    ChannelNotFound,
    InsufficientVoucher,
    InvalidKey,
    InvalidRequest,
    InvalidSignature,
    KeyExists,
    KeyExpired,
    KeyLimit,
    KeyModel,
    KeyNotFound,
    KeyRevoked,
    KeySignature,
    KeyUnfunded,
    MarketError,
    TooManyFailures,
    TooManyKeys,
    WrongGateway,
)
from market.inference.channel_facts import RegistryChannels
from market.payments import capabilities as module
from market.payments.capabilities import Capabilities
from tests.support.keys import grant_of
from tests.support.money import CHANNEL_ID, DOMAIN, GATEWAY, PAYER, SIGNER, World, voucher
from tests.support.plain import put_lane_before

NOW = 1_000_000.0
SECRET = new_key()


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Counting(MemoryKeyBook):
    finds = 0

    async def find(self, key_hash):
        self.finds += 1
        await asyncio.sleep(0)
        return await super().find(key_hash)


@pytest.fixture
def world():
    return World()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def book(world):
    return Counting(world.ledger)


@pytest.fixture
def processes(world, clock, book):
    """Two processes of one gateway."""
    return [
        Capabilities(
            domain=DOMAIN,
            gateway=GATEWAY.address,
            channels=RegistryChannels(world.registry),
            reservations=world.reservations,
            book=book,
            clock=clock,
            wall_clock=clock,
        )
        for _ in range(2)
    ]


@pytest.fixture
def desk(processes):
    return processes[0]


def signed(statement, key=SIGNER):
    return key.sign_digest(statement.digest(DOMAIN))


# --- the form -------------------------------------------------------------------------------------------------------


def test_a_key_is_random_and_known_by_its_form():
    assert new_key() != new_key()
    assert is_key(SECRET)
    assert len(SECRET) == 46
    for wrong in ("", "mk_", SECRET[:-1], SECRET + "a", SECRET[:-1] + "+", "sk_" + SECRET[3:], SECRET + "\n"):
        assert not is_key(wrong)


@pytest.mark.parametrize(
    ("name", "models"), [("a\nb", ()), ("x" * 65, ()), ("", ("",)), ("", ("a\nb",)), ("", ("m",) * 65)]
)
def test_terms_that_could_be_read_in_two_ways_have_no_hash(name, models):
    with pytest.raises(ProtocolError):
        terms_hash(name, models)


# --- making ---------------------------------------------------------------------------------------------------------


async def test_the_signers_grant_makes_a_key_that_pays(desk):
    made = await desk.create(grant_of(SECRET, limit=700), voucher(700))
    assert (made.spent, made.revoked_at, made.created_at) == (0, None, NOW)
    capability = await desk.authenticate(SECRET, ("tiny",))
    assert capability.voucher == voucher(700)
    assert (capability.spending.key_hash, capability.spending.limit) == (key_hash(SECRET), 700)


async def test_the_same_grant_again_is_the_same_key(desk):
    grant = grant_of(SECRET, limit=700)
    first = await desk.create(grant, voucher(700))
    assert (await desk.create(grant, voucher(900))).grant == first.grant
    assert (await desk.authenticate(SECRET, ())).voucher.cumulative_amount == 900
    with pytest.raises(KeyExists):
        await desk.create(grant_of(SECRET, limit=701), voucher(900))


@pytest.mark.parametrize("limit", [0, -1, 2**63])
async def test_a_limit_out_of_bounds_is_refused(desk, limit):
    with pytest.raises(InvalidRequest) as caught:
        await desk.create(replace(grant_of(SECRET), spending_limit=limit), voucher(700))
    assert caught.value.field == "spendingLimit"


async def test_what_was_not_signed_is_not_granted(desk):
    grant = grant_of(SECRET, limit=700, models=("tiny",), name="n")
    changes = [
        {"spending_limit": 701},
        {"expires_at": int(NOW) + 5},
        {"models": ()},
        {"name": "m"},
        {"key_hash": key_hash(new_key())},
    ]
    for change in changes:
        with pytest.raises(KeySignature):
            await desk.create(replace(grant, **change), voucher(10**6))
    with pytest.raises(KeySignature):
        await desk.create(grant_of(SECRET, signer=PAYER), voucher(10**6))
    with pytest.raises(InvalidSignature):
        await desk.create(grant, voucher(10**6, key=PAYER))
    with pytest.raises(InvalidRequest):
        await desk.create(grant_of(SECRET, expires_at=int(NOW)), voucher(10**6))


async def test_only_a_channel_to_this_gateway_has_keys(desk, world):
    with pytest.raises(ChannelNotFound):
        await desk.create(grant_of(SECRET, channel_id=b"\1" * 32), voucher(10**6, channel_id=b"\1" * 32))
    world.open_channel(gateway=b"\7" * 20)
    with pytest.raises(WrongGateway):
        await desk.create(grant_of(SECRET), voucher(10**6))


async def test_the_voucher_must_cover_what_all_keys_may_still_spend(desk, world):
    await world.add_worker("w", price=100)
    await world.service.infer(world.request(pay=300))
    secrets = [new_key() for _ in range(3)]
    for refused, enough, secret in ((499, 500, secrets[0]), (999, 1_000, secrets[1])):
        grant = grant_of(secret, limit=enough - 100 if secret is secrets[0] else 500)
        with pytest.raises(InsufficientVoucher) as caught:
            await desk.create(grant, voucher(refused))
        assert caught.value.required == enough
        await desk.create(grant, voucher(enough))
    # An ended key needs nothing more.
    await desk.revoke(key_hash(secrets[1]), signed(KeyRevocation(CHANNEL_ID, key_hash(secrets[1]))))
    await desk.create(grant_of(secrets[2], limit=500), voucher(1_000))


# --- use ------------------------------------------------------------------------------------------------------------


async def test_an_unknown_or_malformed_key_opens_nothing(desk):
    for wrong in (new_key(), "mk_", "mk_ä", SECRET.upper()):
        with pytest.raises(InvalidKey):
            await desk.authenticate(wrong, ())


async def test_a_key_is_for_its_models_and_its_time(desk, clock):
    await desk.create(grant_of(SECRET, models=("tiny", "0xabc"), expires_at=int(NOW) + 60), voucher(10**6))
    await desk.authenticate(SECRET, ("tiny", "0x123"))
    await desk.authenticate(SECRET, ("other", "0xabc"))
    with pytest.raises(KeyModel):
        await desk.authenticate(SECRET, ("other", "0x123"))
    clock.now += 60
    with pytest.raises(KeyExpired):
        await desk.authenticate(SECRET, ("tiny",))


async def test_what_the_database_said_is_believed_for_a_second(desk, clock, book):
    await desk.create(grant_of(SECRET), voucher(10**6))
    book.finds = 0
    for _ in range(50):
        await desk.authenticate(SECRET, ())
    assert book.finds == 0
    clock.now += module.BELIEVED_SECONDS
    await asyncio.gather(*(desk.authenticate(SECRET, ()) for _ in range(50)))
    assert book.finds == 1


async def test_a_revocation_is_seen_at_once_here_and_within_a_second_elsewhere(processes, clock):
    here, elsewhere = processes
    await here.create(grant_of(SECRET), voucher(10**6))
    await elsewhere.authenticate(SECRET, ())
    await here.revoke(key_hash(SECRET), signed(KeyRevocation(CHANNEL_ID, key_hash(SECRET))))
    with pytest.raises(KeyRevoked):
        await here.authenticate(SECRET, ())
    clock.now += module.BELIEVED_SECONDS
    with pytest.raises(KeyRevoked):
        await elsewhere.authenticate(SECRET, ())


async def test_a_look_up_under_way_does_not_undo_a_revocation(desk, clock):
    await desk.create(grant_of(SECRET), voucher(10**6))
    clock.now += module.BELIEVED_SECONDS
    looking = asyncio.create_task(desk.authenticate(SECRET, ()))
    await asyncio.sleep(0)
    clock.now += 0.01
    await desk.revoke(key_hash(SECRET), signed(KeyRevocation(CHANNEL_ID, key_hash(SECRET))))
    await asyncio.gather(looking, return_exceptions=True)
    with pytest.raises(KeyRevoked):
        await desk.authenticate(SECRET, ())


async def test_unknown_keys_are_slowed_down_and_known_ones_are_not(desk, clock):
    await desk.create(grant_of(SECRET), voucher(10**6))
    for _ in range(int(module.FAILURES_AT_ONCE)):
        with pytest.raises(InvalidKey):
            await desk.authenticate(new_key(), ())
    with pytest.raises(TooManyFailures):
        await desk.authenticate(new_key(), ())
    clock.now += module.BELIEVED_SECONDS
    await desk.authenticate(SECRET, ())
    with pytest.raises(InvalidKey):
        await desk.authenticate("mk_" + "A" * 43, ())


# --- listing and ending ---------------------------------------------------------------------------------------------


async def test_only_the_signer_lists_and_only_lately(desk):
    await desk.create(grant_of(SECRET), voucher(10**6))
    at = int(NOW)
    [found] = await desk.keys_of(CHANNEL_ID, at, signed(KeyListing(CHANNEL_ID, at)))
    assert found.grant.key_hash == key_hash(SECRET)
    for issued_at, signature in (
        (at, signed(KeyListing(CHANNEL_ID, at), PAYER)),
        (at, bytes(65)),
        (at - 301, signed(KeyListing(CHANNEL_ID, at - 301))),
        (at + 301, signed(KeyListing(CHANNEL_ID, at + 301))),
        (at, signed(KeyListing(CHANNEL_ID, at + 1))),
    ):
        with pytest.raises(KeySignature):
            await desk.keys_of(CHANNEL_ID, issued_at, signature)


async def test_the_signer_or_the_holder_ends_a_key_and_nobody_else(desk):
    other = new_key()
    for secret in (SECRET, other):
        await desk.create(grant_of(secret), voucher(10**6))
    name = key_hash(SECRET)
    attempts = [
        (signed(KeyRevocation(CHANNEL_ID, name), PAYER), None),
        (signed(KeyRevocation(CHANNEL_ID, key_hash(other))), None),
        (None, None),
        (None, other),
    ]
    for signature, bearer in attempts:
        with pytest.raises(KeySignature):
            await desk.revoke(name, signature, bearer)
    with pytest.raises(KeyNotFound):
        await desk.revoke(b"\0" * 32, signed(KeyRevocation(CHANNEL_ID, b"\0" * 32)))
    assert (await desk.revoke(name, None, SECRET)).revoked_at == NOW
    assert (await desk.authenticate(other, ())).spending.key_hash == key_hash(other)


# --- spending -------------------------------------------------------------------------------------------------------


async def test_a_channel_has_so_many_keys_in_all(desk, monkeypatch):
    """Made and ended again and again they cost their maker nothing, and stay for ever."""
    monkeypatch.setattr(module, "MAX_KEYS", 3)
    grants = [grant_of(new_key(), limit=10) for _ in range(4)]
    for grant in grants[:3]:
        await desk.create(grant, voucher(100))
        await desk.revoke(grant.key_hash, signed(KeyRevocation(CHANNEL_ID, grant.key_hash)))
    with pytest.raises(TooManyKeys) as refused:
        await desk.create(grants[3], voucher(100))
    assert (refused.value.field, refused.value.remedy) == ("channelId", "Open another channel.")
    assert (await desk.create(grants[0], voucher(100))).revoked_at is not None, "the same grant again is the same key"


async def with_key(world, desk, secret, **changes):
    capability = await desk.authenticate(secret, ("tiny",))
    request = world.request(pay=None, **changes)
    return await world.service.infer(replace(request, voucher=capability.voucher, key=capability.spending))


@pytest.mark.usefixtures("either_lane")
async def test_a_key_spends_up_to_its_limit_and_the_owner_beside_it(desk, world):
    await world.add_worker("w", price=100)
    await desk.create(grant_of(SECRET, limit=250), voucher(250))
    assert (await with_key(world, desk, SECRET)).charged == 100
    await world.service.infer(world.request(pay=10_000))
    assert (await with_key(world, desk, SECRET)).charged == 100
    with pytest.raises(KeyLimit, match=r"may spend 0\.000250 \(250u\) in all; 0\.000200 \(200u\) is spent"):
        await with_key(world, desk, SECRET)
    assert world.ledger.spent == {key_hash(SECRET): 200}
    assert (await world.account()).charged == 300


@pytest.mark.usefixtures("either_lane")
async def test_concurrent_requests_do_not_overrun_a_key(desk, world):
    await world.add_worker("w", price=100, pause=0.01)
    await desk.create(grant_of(SECRET, limit=550), voucher(550))
    done = await asyncio.gather(*(with_key(world, desk, SECRET) for _ in range(20)), return_exceptions=True)
    assert sum(not isinstance(one, Exception) for one in done) == 5
    assert all(isinstance(one, KeyLimit) for one in done if isinstance(one, Exception))
    assert world.ledger.spent[key_hash(SECRET)] == 500


@pytest.mark.usefixtures("either_lane")
async def test_a_restart_forgets_nothing_that_a_key_spent(desk, world):
    await world.add_worker("w", price=100)
    await desk.create(grant_of(SECRET, limit=250), voucher(250))
    await with_key(world, desk, SECRET)
    world.join()
    await with_key(world, desk, SECRET)
    with pytest.raises(KeyLimit):
        await with_key(world, desk, SECRET)


@pytest.mark.usefixtures("either_lane")
async def test_a_failed_request_costs_a_key_nothing(desk, world):
    worker = await world.add_worker("w", price=100)
    await desk.create(grant_of(SECRET, limit=100), voucher(100))
    handler = world.dispatcher.handlers.pop(worker.key.address)
    with pytest.raises(MarketError):
        await with_key(world, desk, SECRET)
    world.dispatcher.handlers[worker.key.address] = handler
    assert (await with_key(world, desk, SECRET)).charged == 100


@pytest.mark.usefixtures("either_lane")
async def test_when_the_owner_used_the_ceiling_up_the_keys_wait_for_its_next_voucher(desk, world):
    await world.add_worker("w", price=100)
    await desk.create(grant_of(SECRET, limit=250), voucher(250))
    for _ in range(2):
        await world.service.infer(world.request(pay=200))
    with pytest.raises(KeyUnfunded) as caught:
        await with_key(world, desk, SECRET)
    assert caught.value.required == 300
    await desk.fund(voucher(450))
    assert (await with_key(world, desk, SECRET)).charged == 100


# --- the short lane -------------------------------------------------------------------------------------------------


async def test_the_short_lane_takes_keys_whose_spending_is_known(desk, world):
    put_lane_before(world)
    await world.add_worker("w", price=100)
    await desk.create(grant_of(SECRET, limit=250), voucher(250))
    await with_key(world, desk, SECRET)
    assert world.took == 0, "what it spent before is asked of the ledger"
    await with_key(world, desk, SECRET)
    assert world.took == 1
    with pytest.raises(KeyLimit):
        await with_key(world, desk, SECRET)
    assert (world.took, world.ledger.spent) == (1, {key_hash(SECRET): 200})


async def test_a_key_is_at_hand_while_it_is_believed_and_may_be_used(desk, clock):
    name = key_hash(SECRET)
    assert desk.at_hand(name, ("tiny",)) is None
    made = await desk.create(grant_of(SECRET, models=("tiny",), expires_at=int(NOW) + 10), voucher(1_000))
    found = desk.at_hand(name, ("tiny", "0x01"))
    assert (found.voucher, found.spending) == (made.voucher, made.spending)
    assert desk.at_hand(name, ("other",)) is None
    clock.now += module.BELIEVED_SECONDS
    assert desk.at_hand(name, ("tiny",)) is None
    await desk.authenticate(SECRET, ("tiny",))
    assert desk.at_hand(name, ("tiny",)) is not None
    await desk.revoke(name, None, SECRET)
    assert desk.at_hand(name, ("tiny",)) is None


async def test_an_expired_key_is_not_at_hand(desk, clock):
    await desk.create(grant_of(SECRET, expires_at=int(NOW) + 1), voucher(1_000))
    clock.now += module.BELIEVED_SECONDS / 2
    assert desk.at_hand(key_hash(SECRET), ("tiny",)) is not None
    clock.now += module.BELIEVED_SECONDS
    with pytest.raises(KeyExpired):
        await desk.authenticate(SECRET, ("tiny",))
    assert desk.at_hand(key_hash(SECRET), ("tiny",)) is None
