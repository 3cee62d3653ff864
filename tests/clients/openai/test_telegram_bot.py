"""docs/examples/telegram_bot.py as it stands, run as a program: Telegram is played, the market and the money are real."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from market.demo.network import TOKEN_PRICE
from market.sdk.keys import Keys
from tests.clients.openai.conftest import TINY
from tests.support.bot_api import TOKEN, BotApi

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]

BOT = Path(__file__).parents[3] / "docs" / "examples" / "telegram_bot.py"
ANN, BEN = 11, 22


@pytest.fixture(scope="module")
def keys(paying):
    local = paying.local
    with local.client(5_000_000, role="house") as market:
        yield Keys(market)


@pytest.fixture
def api():
    with BotApi() as found:
        yield found


@pytest.fixture
def bot(paying, api, tmp_path):
    @contextmanager
    def run(key, *, ends=None, **settings):
        given = {
            "TELEGRAM_API": api.url,
            "TELEGRAM_TOKEN": TOKEN,
            "MARKET_URL": paying.local.gateway_url,
            "MARKET_KEY": key,
            "MARKET_MODEL": TINY,
            **settings,
        }
        log = tmp_path / "bot.log"
        with log.open("ab") as out:
            child = subprocess.Popen([sys.executable, BOT], env={**os.environ, **given}, stdout=out, stderr=out)
        try:
            yield log
            assert child.poll() is None, log.read_text()
        finally:
            child.kill()
            child.wait()
        assert TOKEN not in log.read_text()

    return run


def spent(keys, key) -> int:
    return next(row.spent for row in keys.all() if row.key_hash == key.state.key_hash)


def written(sent) -> list[int]:
    """Return the chats of what the model wrote; nothing of it is the bot's own."""
    assert not [text for _, text in sent if text.startswith(("That is all", "My budget", "I cannot"))]
    return [chat for chat, _ in sent]


def test_chats_are_answered_and_paid_for_within_their_limits(keys, api, bot):
    key = keys.create(limit=1_000_000, models=(TINY,), name="bot")
    with bot(key.secret, CHAT_TOKENS_A_DAY="150"):
        api.say(ANN, photo=[])
        api.say(ANN, text="A")
        assert written(api.until(lambda it: it.sent)) == [ANN]
        once = spent(keys, key)
        assert once > 2 * TOKEN_PRICE
        for _ in range(30):
            api.say(ANN, text="A")
        api.say(BEN, text="M")
        api.until(lambda it: len(it.sent) == 32 and not it.waiting)
    enough = "That is all for today. Ask me again tomorrow."
    assert api.sent[-1] == (ANN, enough) or api.sent[-2] == (ANN, enough)
    answers = written([one for one in api.sent if one[1] != enough])
    assert BEN in answers
    # One answer can be as long as a day's allowance; where the first was shorter there is another.
    assert (2 if once >= 150 * TOKEN_PRICE else 3) <= len(answers) < 20
    assert once < spent(keys, key) < (150 + 3 * 350) * TOKEN_PRICE


def test_a_message_that_was_not_acknowledged_is_answered_again_and_paid_once(keys, api, bot):
    key = keys.create(limit=1_000_000, name="crashing bot")
    api.refusals.append((429, {"ok": False, "error_code": 429, "parameters": {"retry_after": 60}}))
    with bot(key.secret):
        api.say(ANN, text="A")
        api.until(lambda it: not it.refusals)
    paid = spent(keys, key)
    assert paid > 0
    assert api.sent == []
    with bot(key.secret):
        assert written(api.until(lambda it: it.sent and not it.waiting)) == [ANN]
    assert spent(keys, key) == paid


def test_a_key_at_its_limit_ends_the_answers_and_not_the_bot(keys, api, bot):
    key = keys.create(limit=10 * TOKEN_PRICE, name="poor bot")
    with bot(key.secret) as log:
        api.say(ANN, text="A")
        assert api.until(lambda it: it.sent) == [(ANN, "My budget is used up.")]
        api.refusals.append((403, {"ok": False, "error_code": 403, "description": "Forbidden: blocked by the user"}))
        api.say(BEN, text="A")
        api.until(lambda it: not it.refusals and not it.waiting)
        assert "key-limit" in log.read_text()
    assert spent(keys, key) == 0


def test_what_the_model_does_not_take_is_told(keys, api, bot):
    key = keys.create(limit=1_000_000, name="long bot")
    with bot(key.secret):
        api.say(ANN, text="A" * 4_000)
        api.say(ANN, text="A")
        refused, answered = api.until(lambda it: len(it.sent) == 2)
    assert refused == (ANN, "I cannot answer that now.")
    assert written([answered]) == [ANN]


def test_a_wrong_token_ends_it(paying, api):
    given = {"TELEGRAM_API": api.url, "TELEGRAM_TOKEN": "1:x", "MARKET_KEY": "mk_x", "MARKET_MODEL": TINY}
    done = subprocess.run(
        [sys.executable, BOT], env={**os.environ, **given}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "TELEGRAM_TOKEN is not the token of a bot."
