"""The Redis scripts against the pure state machine: the same story gives the same answers."""

import asyncio
import secrets
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from market.adapters.memory_ledger import MemoryLedger
from market.adapters.memory_reservations import MemoryReservations
from market.adapters.redis_reservations import RedisReservations
from market.payments.model import KeySpending
from tests.support.money import claim

pytestmark = pytest.mark.integration

stories = st.lists(
    st.one_of(
        st.tuples(
            st.just("reserve"),
            st.integers(0, 60),
            st.integers(0, 300),
            st.integers(1, 8),
            st.integers(50, 250),
            st.booleans(),
            st.sampled_from([None, KeySpending(b"\x01" * 32, 90), KeySpending(b"\x02" * 32, 40)]),
        ),
        st.tuples(st.sampled_from(["commit", "release"]), st.integers(0, 20)),
    ),
    max_size=30,
)


async def tell(reservations, channel_id, story):
    """Return everything a caller could see."""
    seen, held, total = [], [], 0
    keys = {}
    for number, (kind, *rest) in enumerate(story):
        if kind == "reserve":
            price, ceiling, request, limit, remember, key = rest
            changes = {"limit": limit, "remember": remember, "channel_id": channel_id, "key": key}
            wish = claim(price, ceiling, request=request, token=number + 1, **changes)
            try:
                made = await reservations.reserve(wish)
            except Exception as error:
                seen.append((type(error), getattr(error, "required", None), str(error)))
                continue
            held.append(made)
            # Each begins somewhere else.
            seen.append((made.seq - held[0].seq, made.cumulative, made.voucher_amount, made.voucher_signature))
        elif held:
            one = held[rest[0] % len(held)]
            if kind == "commit":
                total += one.price
                spent = 0
                if one.key is not None:
                    spent = keys[one.key.key_hash] = keys.get(one.key.key_hash, 0) + one.price
                seen.append(await reservations.commit(one, total, spent))
            else:
                seen.append(await reservations.release(one))
        account = await reservations.account(channel_id)
        seen.append(replace(account, last_seq=account.last_seq - held[0].seq if held else 0))
    return seen


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(story=stories)
def test_same_story_same_answers(redis_url, story):
    async def both():
        channel_id = secrets.token_bytes(32)
        shared = RedisReservations(redis_url, MemoryLedger())
        try:
            return (
                await tell(MemoryReservations(MemoryLedger()), channel_id, story),
                await tell(shared, channel_id, story),
            )
        finally:
            await shared.close()

    alone, shared = asyncio.run(both())
    assert shared == alone
