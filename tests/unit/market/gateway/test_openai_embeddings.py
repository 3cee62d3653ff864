"""/v1/models and /v1/embeddings: what they take and answer, what they refuse, and that refusals cost nothing."""

import base64

import httpx
import numpy as np
import pytest

from contracts.protocol.errors import Retry
from contracts.protocol.hexes import checksum, hex0x
from contracts.protocol.messages import Result
from market.sdk.papers import SignedReceipt
from tests.support.gateway import app_of, payment
from tests.support.generation import WIDTH, add_embedder, embedding_manifest
from tests.support.money import DOMAIN, OWNER, World

PRICE = 10


@pytest.fixture
async def world():
    made = World(model=embedding_manifest())
    made.embedder = await add_embedder(made, "w1")
    return made


@pytest.fixture
async def http(world):
    transport = httpx.ASGITransport(app_of(world), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=payment()) as client:
        yield client


async def embed(http, **body) -> httpx.Response:
    return await http.post("/v1/embeddings", json={"model": "tiny", "input": "two words", **body})


async def free(world) -> bool:
    await world.service.close()
    account = await world.account()
    return (account.charged, account.reserved) == (0, 0)


def refused(answer: httpx.Response, code: str, status: int, param: str | None) -> dict:
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param), answer.text
    assert error["message"]
    assert error["type"]
    assert answer.headers["content-type"] == "application/json"
    return error


async def test_texts_are_embedded_and_their_tokens_paid(http, world):
    answer = await embed(http, input=["two words", "here are four words"], user="me")
    body = answer.json()
    assert (body["object"], body["model"]) == ("list", "tiny")
    assert [row["index"] for row in body["data"]] == [0, 1]
    assert body["data"][1]["embedding"] == [19.0, 0.5, -1.0, 0.0]
    assert body["usage"] == {"prompt_tokens": 10, "total_tokens": 10}
    assert answer.headers["Market-Charged"] == str(10 * PRICE)
    paper = SignedReceipt.from_header(answer.headers["Market-Receipt"], model="tiny")
    assert (paper.receipt.price, paper.receipt.worker) == (10 * PRICE, world.embedder.key.address)
    assert paper.receipt.digest(DOMAIN)


async def test_base64_is_the_same_numbers(http):
    found = (await embed(http, encoding_format="base64")).json()["data"][0]["embedding"]
    plain = (await embed(http)).json()["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(found), "<f4").tolist() == plain


async def test_the_models_own_dimensions_may_be_asked_for(http):
    assert (await embed(http, dimensions=WIDTH)).status_code == 200


@pytest.mark.parametrize(
    ("body", "code", "status", "param"),
    [
        ({"input": [1, 2, 3]}, "invalid-request", 400, "input"),
        ({"input": [[1, 2], [3]]}, "invalid-request", 400, "input"),
        ({"input": []}, "invalid-request", 400, "input"),
        ({"input": ""}, "invalid-request", 400, "input"),
        ({"input": ["a", ""]}, "invalid-request", 400, "input[1]"),
        ({"input": ["a", 1]}, "invalid-request", 400, "input[1]"),
        ({"input": None}, "invalid-request", 400, "input"),
        ({"input": {"a": 1}}, "invalid-request", 400, "input"),
        ({"input": ["a"] * 9}, "payload-too-large", 413, "input"),
        ({"dimensions": WIDTH + 1}, "invalid-request", 400, "dimensions"),
        ({"dimensions": "4"}, "invalid-request", 400, "dimensions"),
        ({"encoding_format": "hex"}, "invalid-request", 400, "encoding_format"),
        ({"encoding_format": ["float"]}, "invalid-request", 400, "encoding_format"),
        ({"model": "nobody"}, "unknown-model", 404, "model"),
        ({"model": 3}, "invalid-request", 400, "model"),
        ({"nonsense": 1}, "invalid-request", 400, "nonsense"),
    ],
)
async def test_bad_requests_are_named_and_free(http, world, body, code, status, param):
    refused(await embed(http, **body), code, status, param)
    assert await free(world)
    assert world.embedder.served == 0


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"model":"tiny","input":"\\ud800"}', b"[" * 50_000])
async def test_what_is_no_json_object_is_named_and_free(http, world, content):
    refused(await http.post("/v1/embeddings", content=content), "invalid-request", 400, "body")
    assert await free(world)


async def test_a_huge_body_is_refused(http):
    refused(await embed(http, input="x" * 100_001), "payload-too-large", 413, "body")


async def test_without_payment_the_402_says_what_to_pay(http, world):
    del http.headers["Market-Voucher"]
    answer = await embed(http, input="abc")
    error = refused(answer, "payment-required", 402, None)
    assert error["type"] == "payment_required"
    body = answer.json()
    assert body["offers"][0]["price"] == str(5 * PRICE), "three bytes and what the tokenizer puts around them"
    assert body["gateway"]
    assert await free(world)


async def test_a_key_of_somebody_elses_is_said_to_be_none(world):
    transport = httpx.ASGITransport(app_of(world), raise_app_exceptions=False)
    for headers, told in (({"Authorization": "Bearer sk-1234"}, True), ({}, False)):
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=headers) as http:
            answer = await http.post("/v1/embeddings", json={"model": "tiny", "input": "a"})
            message = refused(answer, "payment-required", 402, None)["message"]
            assert ("no API key of this market" in message) is told
            assert "sk-1234" not in answer.text


async def test_a_voucher_too_small_tells_what_it_must_reach(http):
    http.headers.update(payment(49))
    answer = await embed(http, input="abc")
    refused(answer, "insufficient-voucher", 402, "Market-Voucher")
    assert answer.json()["required"] == "50"


async def test_what_the_worker_refuses_is_the_clients_fault_and_free(http, world):
    world.embedder.fail = Result(
        b"", "0", ok=False, code="inputs-refused", retry=Retry.NEVER, detail="the text is too long.", field="text"
    )
    error = refused(await embed(http), "inputs-refused", 400, "input")
    assert error["message"] == "input: the text is too long. Correct it, or send less."
    assert await free(world)


async def test_a_model_of_another_task_is_refused(http, world):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
    refused(await http.post("/v1/chat/completions", json=body), "wrong-task", 400, "model")
    assert await free(world)


async def test_the_models_are_listed(http, world):
    listed = (await http.get("/v1/models")).json()
    assert listed["object"] == "list"
    [found] = listed["data"]
    assert found == (await http.get("/v1/models/tiny")).json()
    assert found == (await http.get(f"/v1/models/{hex0x(world.model.model_id)}")).json()
    assert (found["id"], found["object"], found["owned_by"]) == ("tiny", "model", checksum(OWNER))
    assert (found["task"], found["unit"], found["price"], found["ready"]) == ("text-embedding", "token", "10", True)
    refused(await http.get("/v1/models/nobody"), "unknown-model", 404, "model")


async def test_unknown_routes_and_methods_are_refused_in_the_same_shape(http):
    refused(await http.get("/v1/nowhere"), "no-route", 404, None)
    refused(await http.get("/v1/embeddings"), "no-route", 405, None)


async def test_faults_of_ours_say_nothing_of_the_inside(http, world, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(world.offers, "manifest", broken)
    answer = await embed(http)
    refused(answer, "internal-error", 500, None)
    assert "secret" not in answer.text


async def test_the_routes_are_described(http):
    described = (await http.get("/openapi.json")).json()
    body = described["paths"]["/v1/embeddings"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]) >= {"model", "input", "encoding_format", "dimensions"}
    assert set(described["paths"]) >= {"/v1/models", "/v1/models/{model}", "/v1/chat/completions", "/v1/completions"}
    for route in ("/v1/chat/completions", "/v1/completions"):
        post = described["paths"][route]["post"]
        assert set(post["responses"]) >= {"200", "400", "401", "402", "403", "404", "413", "429", "502", "503", "504"}
        assert set(post["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
        assert post["security"] == [{"HTTPBearer": []}]
        assert "Market-Voucher" in {parameter["name"] for parameter in post["parameters"]}
