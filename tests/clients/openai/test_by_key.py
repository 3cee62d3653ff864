"""The stock `openai` client as most people use it: a base URL and a key. Whole, streamed, left, and at its limit."""

import asyncio

import openai
import pytest

from market.demo.network import TOKEN_PRICE
from market.sdk.keys import Keys
from tests.clients.openai.conftest import CHAT, EMBEDDER, TINY
from tests.clients.openai.test_stock_openai import ALPHABET, MESSAGES, settled

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]
CHANNEL_DEPOSIT = 5_000_000
CHAT_ASKED = {"model": TINY, "messages": MESSAGES, "temperature": 0}


@pytest.fixture(scope="module")
def keyed(paying):
    """A channel of its own for keys, beside the one that vouchers spend."""
    local = paying.local
    with local.client(CHANNEL_DEPOSIT, role="house") as market:
        yield Keys(market)


def spent(keyed, created) -> int:
    return next(row.spent for row in keyed.all() if row.key_hash == created.state.key_hash)


@pytest.fixture
def key(keyed, request):
    return keyed.create(limit=1_000_000, name=request.node.name)


@pytest.fixture
def client(paying, key):
    return openai.OpenAI(base_url=paying.base_url, api_key=key.secret, max_retries=0)


def test_a_key_is_all_a_program_needs(client, keyed, key):
    embedded = client.embeddings.create(model=EMBEDDER, input="by key")
    whole = client.chat.completions.create(**CHAT_ASKED, max_tokens=5)
    assert whole.choices[0].message.content == ALPHABET[:5]
    assert spent(keyed, key) == (embedded.usage.total_tokens + whole.usage.total_tokens) * TOKEN_PRICE


async def test_streams_side_by_side_count_against_the_key(paying, keyed, key):
    client = openai.AsyncOpenAI(base_url=paying.base_url, api_key=key.secret, max_retries=0)

    async def ask() -> int:
        stream = await client.chat.completions.create(
            **CHAT_ASKED, max_tokens=10, stream=True, stream_options={"include_usage": True}
        )
        return [chunk async for chunk in stream][-1].usage.total_tokens

    tokens = await asyncio.gather(*(ask() for _ in range(4)))
    assert spent(keyed, key) == sum(tokens) * TOKEN_PRICE


async def test_a_left_stream_counts_what_was_sent(paying, keyed, key):
    if not paying.has_chat:
        pytest.skip("needs a model that writes for long: set MARKET_TEST_LLM to its folder")
    client = openai.AsyncOpenAI(base_url=paying.base_url, api_key=key.secret, max_retries=0)
    asked = [{"role": "user", "content": "Count from one to five hundred in words."}]
    stream = await client.chat.completions.create(model=CHAT, messages=asked, stream=True, max_tokens=600)
    async for _ in stream:
        break
    await stream.response.aclose()
    for _ in range(100):
        if spent(keyed, key):
            break
        await asyncio.sleep(0.1)
    assert 0 < spent(keyed, key) < 250 * TOKEN_PRICE


def test_a_key_that_cannot_pay_the_most_it_could_cost_is_refused_before_any_work(paying, keyed):
    small = keyed.create(limit=20 * TOKEN_PRICE, name="small")
    client = openai.OpenAI(base_url=paying.base_url, api_key=small.secret, max_retries=0)
    for stream in (False, True):
        with pytest.raises(openai.PermissionDeniedError) as refused:
            client.chat.completions.create(**CHAT_ASKED, max_tokens=200, stream=stream)
        assert refused.value.code == "key-limit"
    assert spent(keyed, small) == 0


def test_a_revoked_key_ends(paying, keyed, client, key):
    before = settled(paying)
    keyed.revoke(key.state.key_hash)
    with pytest.raises(openai.AuthenticationError) as refused:
        client.chat.completions.create(**CHAT_ASKED, max_tokens=5, stream=True)
    assert refused.value.code == "key-revoked"
    assert settled(paying) == before
