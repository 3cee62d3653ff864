"""A Telegram bot whose answers a model of the market writes, paid by an API key: stock `openai` and `httpx`, nothing else.

    TELEGRAM_TOKEN=…  MARKET_KEY=mk_…  MARKET_MODEL=writer  python telegram_bot.py

The key bounds what the bot spends in all, CHAT_TOKENS_A_DAY what one chat does. A message is acknowledged after it was
answered, and asked under an id made of all that is sent: what is sent again after a lost connection is paid once.
"""

import asyncio
import hashlib
import json
import os
import sys
from collections import Counter, defaultdict, deque
from datetime import UTC, datetime

import httpx
import openai

TELEGRAM = f"{os.environ.get('TELEGRAM_API', 'https://api.telegram.org')}/bot{os.environ['TELEGRAM_TOKEN']}"
MARKET, MODEL = os.environ.get("MARKET_URL", "http://127.0.0.1:8080"), os.environ["MARKET_MODEL"]
CHAT_TOKENS_A_DAY = int(os.environ.get("CHAT_TOKENS_A_DAY", "20000"))
POLL_SECONDS = 50

market = openai.AsyncOpenAI(base_url=f"{MARKET}/v1", api_key=os.environ["MARKET_KEY"])
history: defaultdict[int, deque[dict[str, str]]] = defaultdict(lambda: deque(maxlen=8))
spent: Counter[tuple[int, str]] = Counter()  # tokens by chat and day


async def telegram(http: httpx.AsyncClient, method: str, **given: object) -> list[dict]:
    """Call the Bot API until it has done it. Its addresses hold the bot's token, so none is ever shown."""
    while True:
        try:
            answer = (await http.post(f"{TELEGRAM}/{method}", json=given)).json()
        except (httpx.HTTPError, ValueError) as error:
            answer = {"description": type(error).__name__}
        if answer.get("ok"):
            return answer["result"]
        sys.stderr.write(f"{method}: {answer.get('description')}\n")
        if answer.get("error_code") in (401, 404):
            sys.exit("TELEGRAM_TOKEN is not the token of a bot.")
        if answer.get("error_code") in (400, 403):  # the chat is gone, or has blocked the bot
            return []
        await asyncio.sleep(answer.get("parameters", {}).get("retry_after", 3))


async def answer_to(update: int, chat: int, text: str) -> str:
    """Return what to say to a message; what the market refuses costs nothing."""
    day = (chat, datetime.now(UTC).date().isoformat())
    if spent[day] >= CHAT_TOKENS_A_DAY:
        return "That is all for today. Ask me again tomorrow."
    messages = [*history[chat], {"role": "user", "content": text}]
    once = {"Market-Request-Id": "0x" + hashlib.sha256(json.dumps([TELEGRAM, update, messages]).encode()).hexdigest()}
    try:
        made = await market.chat.completions.create(model=MODEL, messages=messages, max_tokens=300, extra_headers=once)
    except openai.APIError as refused:
        sys.stderr.write(f"{refused.code}: {refused.message}\n")
        history[chat].clear()  # it may have grown beyond the model's context
        over = isinstance(refused, openai.AuthenticationError | openai.PermissionDeniedError)
        return "My budget is used up." if over or refused.code == "key-unfunded" else "I cannot answer that now."
    spent[day] += made.usage.total_tokens
    history[chat].extend([messages[-1], {"role": "assistant", "content": made.choices[0].message.content}])
    return made.choices[0].message.content.strip()[:4096] or "…"


async def answer_chat(http: httpx.AsyncClient, chat: int, updates: list[dict]) -> None:
    """Answer the messages of one chat in their order."""
    for one in updates:
        said = await answer_to(one["update_id"], chat, one["message"]["text"])
        await telegram(http, "sendMessage", chat_id=chat, text=said)


async def main() -> None:
    """Fetch messages and answer the chats side by side."""
    wanted = {"offset": 0, "timeout": POLL_SECONDS, "allowed_updates": ["message"]}
    async with httpx.AsyncClient(timeout=POLL_SECONDS + 10) as http:
        while True:
            chats: defaultdict[int, list[dict]] = defaultdict(list)
            for one in await telegram(http, "getUpdates", **wanted):
                wanted["offset"] = one["update_id"] + 1  # acknowledges it, when it is sent
                if "text" in one.get("message", {}):
                    chats[one["message"]["chat"]["id"]].append(one)
            await asyncio.gather(*(answer_chat(http, *chat) for chat in chats.items()))


if __name__ == "__main__":
    asyncio.run(main())
