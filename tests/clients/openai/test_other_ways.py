"""The same models by other doors: x402 clients on /v1, streams over gRPC; and a worker that dies in mid-stream."""

import asyncio
import json
import os
import signal
import time

import httpx
import numpy as np
import openai
import pytest
import tritonclient.grpc as triton
from x402.http.clients import x402HttpxClient
from x402.http.utils import decode_payment_response_header

from market.demo.network import TOKEN_PRICE
from tests.clients.openai.conftest import CHAT, EMBEDDER, TINY
from tests.clients.openai.test_stock_openai import ALPHABET, MESSAGES, settled
from tests.clients.x402.shop import Shop

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]


@pytest.mark.parametrize("scheme", ["exact", "batch-settlement"])
async def test_an_x402_client_pays_for_what_was_served(paying, scheme):
    shop = Shop(paying.local, {})
    account = shop.payer()
    body = {"model": EMBEDDER, "input": "Paid by another protocol."}
    async with x402HttpxClient(shop.client(account, scheme), timeout=60.0) as http:
        answer = await http.post(f"{paying.base_url}/embeddings", json=body)
        assert answer.status_code == 200, answer.text
        charged = answer.json()["usage"]["total_tokens"] * TOKEN_PRICE
        assert int(answer.headers["market-charged"]) == charged
        assert decode_payment_response_header(answer.headers["payment-response"]).success


async def test_an_x402_client_gets_its_stream_whole(paying):
    shop = Shop(paying.local, {})
    body = {"model": TINY, "messages": MESSAGES, "temperature": 0, "max_tokens": 10, "stream": True}
    async with x402HttpxClient(shop.client(shop.payer(), "exact"), timeout=60.0) as http:
        answer = await http.post(f"{paying.base_url}/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert decode_payment_response_header(answer.headers["payment-response"]).success
    chunks = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == ALPHABET[:10]
    assert int(chunks[-1]["market"]["charged"]) % TOKEN_PRICE == 0


def test_a_stream_of_requests_over_grpc(paying):
    """One answer a request, whole, as that protocol's clients expect."""
    before = settled(paying)
    voucher = paying.header()["Market-Voucher"]
    answers = []
    client = triton.InferenceServerClient(paying.local.grpc_address)
    client.start_stream(
        callback=lambda result, error: answers.append((result, error)), headers={"market-voucher": voucher}
    )
    for number, prompt in enumerate(("A", "C")):
        given = triton.InferInput("prompt", [1], "BYTES")
        given.set_data_from_numpy(np.array([prompt.encode()], dtype=object))
        client.async_stream_infer(TINY, [given], request_id=str(number), parameters={"max_tokens": 4})
    until = time.monotonic() + 30
    while len(answers) < 2 and time.monotonic() < until:
        time.sleep(0.02)
    client.stop_stream()
    client.close()
    assert [error for _, error in answers] == [None, None]
    spent = sum(int(result.as_numpy("usage").sum()) for result, _ in answers)
    assert all(result.as_numpy("finish_reason")[0] in (b"stop", b"length") for result, _ in answers)
    assert settled(paying) == before + spent * TOKEN_PRICE


def test_a_client_that_stalls_keeps_nothing_reserved(paying):
    if not paying.has_chat:
        pytest.skip("needs a model that writes for long: set MARKET_TEST_LLM to its folder")
    before = settled(paying)
    body = {
        "model": CHAT,
        "messages": [{"role": "user", "content": "Count to a thousand."}],
        "max_tokens": 60,
        "stream": True,
    }
    with httpx.stream(
        "POST", f"{paying.base_url}/chat/completions", json=body, headers=paying.header(), timeout=60
    ) as answer:
        assert answer.status_code == 200
        time.sleep(5)
        assert settled(paying, seconds=60) > before, "the generation ended though nobody read it"


async def test_a_worker_that_dies_in_mid_stream_ends_it_with_an_error_and_costs_nothing(paying):
    if not paying.has_chat:
        pytest.skip("needs a model that writes for long: set MARKET_TEST_LLM to its folder")
    before = settled(paying)
    stream = await paying.async_client(timeout=90).chat.completions.create(
        model=CHAT,
        messages=[{"role": "user", "content": "Count from one to five hundred in words."}],
        max_tokens=1_000,
        stream=True,
    )
    taken = 0
    with pytest.raises(openai.APIError) as died:
        async for _ in stream:
            taken += 1
            if taken == 3:
                [worker] = [child for child in paying.local.supervisor.children if child.name == "worker"]
                os.kill(worker.pid, signal.SIGKILL)
    assert died.value.code == "worker-failed"
    assert settled(paying) == before
    paying.local.supervisor.children.remove(worker)
    paying.local.start_worker()
    until = time.monotonic() + 60
    while not paying.client().models.retrieve(TINY).model_extra["ready"]:
        assert time.monotonic() < until
        await asyncio.sleep(0.2)
    answer = paying.client().chat.completions.create(model=TINY, messages=MESSAGES, temperature=0, max_tokens=3)
    assert answer.choices[0].message.content == ALPHABET[:3]
