"""/v1/chat/completions and /v1/completions, whole and streamed: what is asked, answered, refused and charged."""

import asyncio
import json
import time
from dataclasses import replace
from types import SimpleNamespace

import httpx
import numpy as np
import pytest

from contracts.protocol.errors import Retry
from contracts.protocol.manifest import TensorSpec
from contracts.protocol.messages import Result
from contracts.protocol.tensors import Tensor, encode_tensors
from market.gateway.openai.completions import Completion
from market.gateway.openai.generation import read_text
from market.inference.kept import keep, kept, pieces
from market.inference.model import Partial
from market.sdk.papers import SignedReceipt
from tests.support.gateway import app_of, payment
from tests.support.generation import PROMPT_TOKENS, add_generator, chat_manifest, signed, texts, words
from tests.support.money import World
from tests.unit.market.gateway.test_openai_embeddings import free, refused

PRICE = 10
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Say hi."}], "max_tokens": 20}
TEXT = {"model": "tiny", "prompt": "Once", "max_tokens": 20}
ROUTES = [("/v1/chat/completions", CHAT), ("/v1/completions", TEXT)]
BOTH = pytest.mark.parametrize(("path", "body"), ROUTES, ids=["chat", "text"])


async def generating(**worker) -> World:
    model = chat_manifest()
    chances = (("logprobs", "FP32", (-1,)), ("top_tokens", "BYTES", (-1, -1)), ("top_logprobs", "FP32", (-1, -1)))
    model = replace(model, outputs=(*model.outputs, *(TensorSpec(*one) for one in chances)))
    world = World(model=model)
    world.generator = await add_generator(world, "w1", **{"length": 3, **worker})
    return world


@pytest.fixture
async def world():
    return await generating()


def client_of(world, headers=None):
    transport = httpx.ASGITransport(app_of(world), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=headers or payment())


@pytest.fixture
async def http(world):
    async with client_of(world) as client:
        yield client


def events(answer: httpx.Response) -> list[dict]:
    assert answer.headers["content-type"].startswith("text/event-stream"), answer.text
    *found, empty = answer.text.split("\n\n")
    assert empty == ""
    assert all(event.startswith("data: ") for event in found)
    bodies = [event.removeprefix("data: ") for event in found]
    if bodies[-1] == "[DONE]":
        bodies.pop()
    return [json.loads(body) for body in bodies]


async def test_a_chat_is_answered_whole(http, world):
    answer = await http.post("/v1/chat/completions", json=CHAT)
    body = answer.json()
    assert body["object"] == "chat.completion"
    assert body["id"] == "chatcmpl-" + answer.headers["Market-Request-Id"][2:]
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": words(3), "refusal": None},
            "finish_reason": "stop",
            "logprobs": None,
        }
    ]
    assert body["usage"] == {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": 3, "total_tokens": PROMPT_TOKENS + 3}
    assert answer.headers["Market-Charged"] == str((PROMPT_TOKENS + 3) * PRICE)
    assert world.generator.parameters == {"format": "chat", "max_tokens": 20}
    assert json.loads(world.generator.prompts[0]) == CHAT["messages"]


async def test_a_text_is_answered_whole(http, world):
    body = (await http.post("/v1/completions", json=TEXT)).json()
    assert (body["object"], body["choices"][0]["text"]) == ("text_completion", words(3))
    assert world.generator.prompts == ["Once"]
    assert world.generator.parameters == {"max_tokens": 20}


async def test_a_chat_streams_chunk_by_chunk_with_the_receipt_at_its_end(http):
    answer = await http.post("/v1/chat/completions", json={**CHAT, "stream": True})
    *chunks, last = events(answer)
    assert {chunk["object"] for chunk in (*chunks, last)} == {"chat.completion.chunk"}
    assert len({(chunk["id"], chunk["created"]) for chunk in (*chunks, last)}) == 1
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [{"role": "assistant", "content": "w0 "}, {"content": "w1 "}, {"content": "w2 "}]
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "stop")
    assert last["market"]["charged"] == str((PROMPT_TOKENS + 3) * PRICE)
    assert last["market"]["requestId"] == answer.headers["Market-Request-Id"]
    paper = SignedReceipt.from_header(last["market"]["receipt"], model="tiny")
    assert paper.receipt.price == (PROMPT_TOKENS + 3) * PRICE
    assert all("usage" not in chunk for chunk in (*chunks, last))
    assert answer.text.endswith("data: [DONE]\n\n")


async def test_a_text_streams_and_brings_its_usage_if_asked(http):
    asked = {**TEXT, "stream": True, "stream_options": {"include_usage": True}}
    *chunks, last, usage = events(await http.post("/v1/completions", json=asked))
    assert "".join(chunk["choices"][0]["text"] for chunk in (*chunks, last)) == words(3)
    assert all(chunk["usage"] is None for chunk in (*chunks, last))
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 3


@BOTH
async def test_parameters_reach_the_worker(http, world, path, body):
    asked = {
        **body,
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 7,
        "seed": -1,
        "stop": "w2",
        "n": 1,
        "user": "me",
        "store": None,
    }
    found = (await http.post(path, json=asked)).json()
    assert found["choices"][0]["finish_reason"] == "stop"
    seen = dict(world.generator.parameters)
    seen.pop("format", None)
    assert seen == {
        "max_tokens": 20, "temperature": 0, "top_p": 0.5, "top_k": 7, "seed": (1 << 53) - 1, "stop": '["w2"]',
    }  # fmt: skip


async def test_the_newer_name_of_the_limit_and_the_length_it_sets(http, world):
    body = {name: value for name, value in CHAT.items() if name != "max_tokens"}
    found = (await http.post("/v1/chat/completions", json={**body, "max_completion_tokens": 2})).json()
    assert found["choices"][0]["finish_reason"] == "length"
    assert found["usage"]["completion_tokens"] == 2


async def test_parts_of_text_and_developers_are_understood(http, world):
    messages = [
        {"role": "developer", "content": "Be brief.", "name": "x"},
        {"role": "user", "content": [{"type": "text", "text": "Say "}, {"type": "text", "text": "hi."}]},
        {"role": "assistant", "content": "hi", "tool_calls": None},
        {"role": "user", "content": ""},
    ]
    assert (await http.post("/v1/chat/completions", json={**CHAT, "messages": messages})).status_code == 200
    assert json.loads(world.generator.prompts[0]) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Say hi."},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": ""},
    ]


async def test_log_probabilities_come_with_the_tokens_texts(http):
    whole = (await http.post("/v1/chat/completions", json={**CHAT, "logprobs": True})).json()
    rows = whole["choices"][0]["logprobs"]["content"]
    assert [(row["token"], row["logprob"]) for row in rows] == [("w0 ", -0.5), ("w1 ", -0.5), ("w2 ", -0.5)]
    *_, last = events(await http.post("/v1/chat/completions", json={**CHAT, "logprobs": True, "stream": True}))
    assert last["choices"][0]["logprobs"]["content"] == rows
    text = (await http.post("/v1/completions", json={**TEXT, "logprobs": 0})).json()["choices"][0]["logprobs"]
    assert text == {
        "tokens": ["w0 ", "w1 ", "w2 "], "token_logprobs": [-0.5] * 3, "top_logprobs": None, "text_offset": [0, 3, 6],
    }  # fmt: skip


def test_the_offsets_of_a_long_text_keep_nobody_waiting():
    tokens, text = 30_000, b"word "
    values = {
        "text": np.array([text * tokens], dtype=object),
        "finish_reason": np.array([b"length"], dtype=object),
        "usage": np.array([1, tokens]),
        "logprobs": np.zeros(tokens, "f4"),
    }
    answer = SimpleNamespace(
        tensors=[Tensor.from_numpy(name, array) for name, array in values.items()], request_id=bytes(32), pieces=()
    )
    completion = Completion(read_text({**TEXT, "logprobs": 0}))
    for _ in range(tokens):
        completion.collect(Partial(bytes(32), text, 1))
    started = time.process_time()
    (choice,) = completion.whole(answer)["choices"]
    assert time.process_time() - started < 1.5
    assert choice["logprobs"]["text_offset"] == list(range(0, tokens * len(text), len(text)))


async def test_the_likeliest_tokens_come_as_openai_writes_them(http, world):
    chat = {**CHAT, "logprobs": True, "top_logprobs": 2}
    rows = (await http.post("/v1/chat/completions", json=chat)).json()["choices"][0]["logprobs"]["content"]
    assert [[(one["token"], one["logprob"]) for one in row["top_logprobs"]] for row in rows] == [
        [(f"w{token} ", -0.5), (f"x{token} ", -1.0)] for token in range(3)
    ]
    assert rows[1]["top_logprobs"][1]["bytes"] == list(b"x1 ")
    *_, last = events(await http.post("/v1/chat/completions", json={**chat, "stream": True}))
    assert last["choices"][0]["logprobs"]["content"] == rows
    text = (await http.post("/v1/completions", json={**TEXT, "logprobs": 2})).json()["choices"][0]["logprobs"]
    assert text["top_logprobs"] == [{f"w{token} ": -0.5, f"x{token} ": -1.0} for token in range(3)]
    assert world.generator.parameters == {"max_tokens": 20, "logprobs": True, "top_logprobs": 2}


SEVERAL = PROMPT_TOKENS + 3 + 3 + 2


@BOTH
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("streamed", [(False, False), (True, False), (False, True), (True, True)])
async def test_an_answer_given_once_more_says_of_which_tokens_its_logprobs_are(world, path, body, n, streamed):
    asked = {**body, "n": n, "logprobs": True if path == ROUTES[0][0] else 0}

    def read(answer, stream):
        if not stream:
            return [one["logprobs"] for one in answer.json()["choices"]]
        found = [choice for event in events(answer) for choice in event["choices"]]
        return [choice["logprobs"] for choice in found if choice["finish_reason"]]

    async with client_of(world, payment() | {"Market-Request-Id": "0x" + "77" * 32}) as http:
        first, again = [await http.post(path, json={**asked, "stream": stream}) for stream in streamed]
    said = read(first, streamed[0])
    assert read(again, streamed[1]) == said
    tokens = [[one["token"] for one in row["content"]] if "content" in row else row["tokens"] for row in said]
    assert ["".join(row) for row in tokens] == [words(3)] * (n - (n > 1)) + [words(2)] * (n > 1)
    assert world.generator.served == 1


def test_a_stream_that_was_ended_early_is_cut_as_far_as_it_goes():
    """Its reader took two tokens of three; what is signed is a beginning of what was streamed."""
    texts = Tensor.from_numpy("text", np.array([b"w0 w1 "], dtype=object))
    chances = Tensor.from_numpy("logprobs", np.zeros(2, "f4"))
    outputs, cuts = [chances, texts], [(0, 1, 0, 3), (0, 1, 3, 3), (0, 1, 6, 3)]
    blob, found = kept(keep(encode_tensors(outputs), outputs, cuts))
    assert (blob, found) == (encode_tensors(outputs), cuts)
    assert [piece.text for piece in pieces(bytes(32), outputs, found)] == [b"w0 ", b"w1 ", b""]
    assert kept(keep(encode_tensors([texts]), [texts], cuts)) == (encode_tensors([texts]), [])


@BOTH
async def test_several_texts_are_one_request_that_pays_its_prompt_once(http, world, path, body):
    answer = await http.post(path, json={**body, "n": 3, "logprobs": 0 if path == ROUTES[1][0] else True})
    found = answer.json()
    texts = [one["text"] if "text" in one else one["message"]["content"] for one in found["choices"]]
    assert ([one["index"] for one in found["choices"]], texts) == ([0, 1, 2], [words(3), words(3), words(2)])
    rows = [one["logprobs"] for one in found["choices"]]
    values = [row.get("token_logprobs") or [one["logprob"] for one in row["content"]] for row in rows]
    assert values == [[0, -1, -2], [-3, -4, -5], [-6, -7]]
    assert found["usage"] == {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": 8, "total_tokens": SEVERAL}
    assert answer.headers["Market-Charged"] == str(SEVERAL * PRICE)
    assert world.generator.parameters["n"] == 3
    assert (await world.account()).charged == SEVERAL * PRICE


@BOTH
async def test_several_texts_stream_side_by_side(http, path, body):
    asked = {**body, "n": 2, "stream": True, "stream_options": {"include_usage": True}}
    *chunks, usage = events(await http.post(path, json=asked))
    texts = ["", ""]
    for chunk in chunks:
        [choice] = chunk["choices"]
        texts[choice["index"]] += choice["text"] if "text" in choice else choice["delta"].get("content", "")
    assert texts == [words(3), words(2)]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[-2:]] == ["stop", "stop"]
    assert ["market" in chunk for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert usage["usage"]["total_tokens"] == PROMPT_TOKENS + 5
    if path == ROUTES[0][0]:
        roles = [chunk["choices"][0] for chunk in chunks if "role" in chunk["choices"][0]["delta"]]
        assert [one["index"] for one in roles] == [0, 1]


async def test_the_most_that_all_texts_can_cost_is_set_aside_first(world):
    ceiling = (len(json.dumps(CHAT["messages"], separators=(",", ":"))) + 4 + 64 + 3 * 20) * PRICE
    for pay, status in ((ceiling - 1, 402), (ceiling, 200)):
        async with client_of(world, payment(pay)) as client:
            answer = await client.post("/v1/chat/completions", json={**CHAT, "n": 3})
        assert answer.status_code == status, answer.text
    assert (await world.account()).charged == SEVERAL * PRICE


SCHEMA = {"type": "object", "properties": {"ä": {"type": "integer"}}}
FORMATS = [
    ({"type": "text"}, None),
    ({"type": "json_object"}, {"type": "object"}),
    ({"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}, SCHEMA),
]


@pytest.mark.parametrize(("form", "schema"), FORMATS)
async def test_the_form_of_an_answer_reaches_the_worker_as_a_schema(http, world, form, schema):
    assert (await http.post("/v1/chat/completions", json={**CHAT, "response_format": form})).status_code == 200
    assert json.loads(world.generator.parameters.get("json_schema", "null")) == schema


WRONG_BOTH = [
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": "9"}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_tokens": 1 << 40}, "max_tokens"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": -0.1}, "top_p"),
    ({"seed": 1.5}, "seed"),
    ({"stop": 3}, "stop"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop": [""]}, "stop"),
    ({"stop": ["x" * 257]}, "stop"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"nonsense": 1}}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "include_usage"),
    ({"n": 17}, "n"),
    ({"n": 0}, "n"),
    ({"n": True}, "n"),
    ({"presence_penalty": 1}, "presence_penalty"),
    ({"logit_bias": {"5": 1}}, "logit_bias"),
    ({"nonsense": 1}, "nonsense"),
    ({"model": ""}, "model"),
]
WRONG_CHAT = [
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [3]}, "messages[0]"),
    ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [3]}]}, "messages[0].content[0]"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": []}}}, "response_format.json_schema.schema"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"const": "x" * 70_000}}}},
        "response_format.json_schema.schema",
    ),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logprobs": 1}, "logprobs"),
    ({"prompt": "x"}, "prompt"),
]
WRONG_TEXT = [
    ({"prompt": ""}, "prompt"),
    ({"prompt": [1, 2]}, "prompt"),
    ({"prompt": ["a", "b"]}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"echo": True}, "echo"),
    ({"suffix": "x"}, "suffix"),
    ({"best_of": 2}, "best_of"),
    ({"logprobs": 21}, "logprobs"),
    ({"messages": []}, "messages"),
]
WRONG = [
    *((path, body, wrong, param) for path, body in ROUTES for wrong, param in WRONG_BOTH),
    *((*ROUTES[0], wrong, param) for wrong, param in WRONG_CHAT),
    *((*ROUTES[1], wrong, param) for wrong, param in WRONG_TEXT),
]


@pytest.mark.parametrize(("path", "body", "wrong", "param"), WRONG)
@pytest.mark.parametrize("stream", [False, True])
async def test_bad_requests_are_named_and_free(http, world, path, body, wrong, param, stream):
    asked = {**body, **({"stream": True} if stream and "stream_options" not in wrong else {}), **wrong}
    refused(await http.post(path, json=asked), "invalid-request", 400, param)
    assert world.generator.served == 0
    assert await free(world)


@BOTH
@pytest.mark.parametrize("stream", [False, True])
async def test_refusals_of_payment_come_as_402_before_any_event(world, path, body, stream):
    async with client_of(world, {"x": "y"}) as http:
        answer = await http.post(path, json={**body, "stream": stream})
    refused(answer, "payment-required", 402, None)
    assert int(answer.json()["offers"][0]["price"]) > 20 * PRICE
    assert world.generator.served == 0


def not_taken(field: str | None) -> Result:
    """What a worker answers that takes no such inputs."""
    return Result(b"", "0", ok=False, code="inputs-refused", retry=Retry.NEVER, detail="not this.", field=field)


CHAT_NAMES = [
    ("prompt", {}, "messages"),
    ("inputs", {}, "messages"),
    ("parameters.max_tokens", {}, "max_tokens"),
    ("parameters.max_tokens", {"max_tokens": None, "max_completion_tokens": 9}, "max_completion_tokens"),
    ("parameters.json_schema", {"response_format": {"type": "json_object"}}, "response_format.json_schema.schema"),
    ("parameters.top_logprobs", {"logprobs": True, "top_logprobs": 2}, "top_logprobs"),
    ("parameters.stop", {"stop": "x"}, "stop"),
    ("parameters.elsewhere", {}, "parameters.elsewhere"),
    (None, {}, None),
]
TEXT_NAMES = [
    ("prompt", {}, "prompt"),
    ("inputs", {}, "prompt"),
    ("parameters.max_tokens", {}, "max_tokens"),
    ("parameters.top_logprobs", {"logprobs": 2}, "logprobs"),
]
NAMES = [(*ROUTES[0], *row) for row in CHAT_NAMES] + [(*ROUTES[1], *row) for row in TEXT_NAMES]


@pytest.mark.parametrize(("path", "body", "field", "given", "param"), NAMES)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_a_worker_refuses_is_named_as_the_client_named_it_and_free(
    http, world, path, body, field, given, param, stream
):
    world.generator.fail = not_taken(field)
    answer = await http.post(path, json={**body, **given, "stream": stream})
    error = refused(answer, "inputs-refused", 400, param)
    if param is not None:
        assert error["message"].startswith(f"{param}: not this. ")
        assert ("/v2/models" in error["message"]) == (param == field == "parameters.elsewhere")
    assert await free(world)


MESSAGES = [
    (CHAT, {"max_token": 5}, "max_token: there is no such parameter here. Did you mean max_tokens?"),
    (CHAT, {"beams": 5}, "beams: there is no such parameter here. Leave it out."),
    (CHAT, {"functions": [1]}, "functions: [1] is not offered here. Leave it out."),
    (CHAT, {"messages": [{"content": "x"}]}, "messages[0].role: expected one of system, developer, user, assistant, tool, got nothing. "),
    (CHAT, {"messages": [{"role": "user"}]}, "messages[0].content: expected a text, or a list of text parts, got nothing. "),
    (CHAT, {"messages": "x"}, "messages: expected a list of at least one message, got 'x'. "),
    (CHAT, {"messages": ["x"]}, "messages[0]: expected an object with role and content, got 'x'. "),
    (CHAT, {"max_tokens": True}, "max_tokens: expected a whole number from 1 to 1048576, got true. "),
    (TEXT, {"prompt": ["a", "b"]}, "prompt: expected one text, got a list of 2. Send each in a request of its own; "),
    (TEXT, {"prompt": [1, 2]}, "prompt: token arrays are not taken. Send text."),
    (TEXT, {"prompt": None}, "prompt: expected one text that is not empty, got nothing. "),
    (TEXT, {"echo": True}, "echo: true is not offered here. Leave it out."),
]  # fmt: skip


@pytest.mark.parametrize(("body", "wrong", "message"), MESSAGES)
async def test_a_message_says_by_itself_what_was_wrong_where(http, body, wrong, message):
    path = next(path for path, known in ROUTES if known is body)
    found = (await http.post(path, json={**body, **wrong})).json()["error"]["message"]
    assert found.startswith(message), found


async def test_probabilities_a_model_does_not_give_are_refused():
    world = World(model=chat_manifest())
    await add_generator(world, "w1")
    async with client_of(world) as http:
        refused(
            await http.post("/v1/chat/completions", json={**CHAT, "logprobs": True}), "invalid-request", 400, "logprobs"
        )


async def test_a_failure_in_mid_stream_is_the_last_event_and_free():
    world = await generating(final_text="another text")
    async with client_of(world) as http:
        answer = await http.post("/v1/chat/completions", json={**CHAT, "stream": True})
    *_, last = events(answer)
    assert (last["error"]["code"], last["error"]["type"]) == ("receipt-mismatch", "server_error")
    assert "[DONE]" not in answer.text
    assert await free(world)


def answered(**changes):
    """Return the outputs of one text of a token, with its probability, and changes to them."""
    sound = {
        "text": texts("text", "x"),
        "finish_reason": texts("finish_reason", "stop"),
        "usage": Tensor.from_numpy("usage", np.array([1, 1], np.int64)),
        "logprobs": Tensor.from_numpy("logprobs", np.array([-1], np.float32)),
        "top_tokens": replace(texts("top_tokens", "x"), shape=(1, 1)),
        "top_logprobs": Tensor.from_numpy("top_logprobs", np.array([[-1]], np.float32)),
    }
    return [tensor for tensor in {**sound, **changes}.values() if tensor is not None]


def numbers(name, values, kind):
    return Tensor.from_numpy(name, np.array(values, kind))


ODD = {
    "a reason that nobody knows": {"finish_reason": texts("finish_reason", "whim")},
    "two reasons": {"finish_reason": texts("finish_reason", "stop", "stop")},
    "reasons that are numbers": {"finish_reason": numbers("finish_reason", [1], np.int64)},
    "no reason": {"finish_reason": None},
    "no usage": {"usage": None},
    "usage of another text": {"usage": numbers("usage", [1, 1, 1], np.int64)},
    "usage in rows": {"usage": numbers("usage", [[1, 1]], np.int64)},
    "usage below nothing": {"usage": numbers("usage", [-1, 1], np.int64)},
    "usage with a point": {"usage": numbers("usage", [1, 1], np.float32)},
    "too many probabilities": {"logprobs": numbers("logprobs", [-1, -1], np.float32)},
    "probabilities that are texts": {"logprobs": texts("logprobs", "x")},
    "tokens that are numbers": {"top_tokens": numbers("top_tokens", [[1]], np.float32)},
    "tokens of no place": {"top_tokens": texts("top_tokens", "x")},
    "fewer probabilities than tokens": {"top_logprobs": numbers("top_logprobs", [[-1, -1]], np.float32)},
}


@pytest.mark.parametrize("odd", [{}, *ODD.values()], ids=["none", *ODD])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_is_none_is_a_fault_of_the_worker_and_free(odd, stream):
    world = await generating()

    async def answer(job, partial, stopped):
        return signed(job, world.generator.key, answered(**odd), 2)

    world.dispatcher.stream_handlers[world.generator.key.address] = answer
    async with client_of(world) as http:
        got = await http.post(
            "/v1/chat/completions", json={**CHAT, "logprobs": True, "top_logprobs": 1, "stream": stream}
        )
    if not odd:
        assert got.status_code == 200, got.text
        return
    refused(got, "receipt-mismatch", 502, None)
    assert await free(world)


async def test_a_stream_is_closed_when_its_reader_goes(world):
    """As a server tells the application: `http.disconnect`, in the middle of a send."""
    world.generator.length, world.generator.pause = 10_000, 0.001
    gone, sent = asyncio.Event(), []
    body = json.dumps({**CHAT, "max_tokens": 1_000, "stream": True}).encode()
    told = [{"type": "http.request", "body": body}]

    async def receive():
        if told:
            return told.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)
        if len(sent) == 6:
            gone.set()
            await asyncio.sleep(3_600)

    headers = [
        (b"content-type", b"application/json"),
        *((k.lower().encode(), v.encode()) for k, v in payment().items()),
    ]
    scope = {
        "type": "http", "method": "POST", "path": "/v1/chat/completions", "raw_path": b"/v1/chat/completions",
        "query_string": b"", "headers": headers, "http_version": "1.1", "scheme": "http", "root_path": "",
        "server": ("gateway", 80), "client": ("client", 1), "asgi": {"version": "3.0"},
    }  # fmt: skip
    await app_of(world)(scope, receive, send)
    await world.service.close()
    account = await world.account()
    # The start and four whole pieces were sent; the fifth was under way.
    assert (account.charged, account.reserved) == ((PROMPT_TOKENS + 4) * PRICE, 0)
    assert world.generator.stopped_at == 4


async def test_a_whole_answer_whose_client_goes_is_stopped_and_free(world):
    world.generator.length, world.generator.pause = 10_000, 0.001
    gone = asyncio.Event()
    body = json.dumps({**CHAT, "max_tokens": 1_000}).encode()
    told = [{"type": "http.request", "body": body}]

    async def receive():
        if told:
            return told.pop()
        while not world.generator.served:
            await asyncio.sleep(0.001)
        gone.set()
        return {"type": "http.disconnect"}

    async def send(_):
        return None

    headers = [(k.lower().encode(), v.encode()) for k, v in payment().items()]
    scope = {
        "type": "http", "method": "POST", "path": "/v1/chat/completions", "raw_path": b"/v1/chat/completions",
        "query_string": b"", "headers": headers, "http_version": "1.1", "scheme": "http", "root_path": "",
        "server": ("gateway", 80), "client": ("client", 1), "asgi": {"version": "3.0"},
    }  # fmt: skip
    await app_of(world)(scope, receive, send)
    assert list(world.dispatcher.stops.values()) == [0]
    assert await free(world)
