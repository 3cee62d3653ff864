"""/v1/responses, whole and streamed: what is asked, answered, refused and charged, by the names of that route."""

import json

import httpx
import openai.types.responses as shapes
import pytest
from pydantic import TypeAdapter

from market.sdk.papers import SignedReceipt
from tests.support.gateway import payment
from tests.support.generation import PROMPT_TOKENS, words
from tests.unit.market.gateway.test_openai_completions import client_of, generating, not_taken
from tests.unit.market.gateway.test_openai_embeddings import free, refused

PRICE = 10
PATH = "/v1/responses"
ASKED = {"model": "tiny", "input": "Say hi.", "max_output_tokens": 20}
EVENT = TypeAdapter(shapes.ResponseStreamEvent)


@pytest.fixture
async def world():
    return await generating()


@pytest.fixture
async def http(world):
    async with client_of(world) as client:
        yield client


def events(answer: httpx.Response) -> list[dict]:
    """Return a stream's events; each must be one that the stock client's own types take."""
    assert answer.headers["content-type"].startswith("text/event-stream"), answer.text
    *blocks, empty = answer.text.split("\n\n")
    assert empty == ""
    found = []
    for number, block in enumerate(blocks):
        named, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert named == f"event: {event['type']}"
        assert event["sequence_number"] == number
        EVENT.validate_python(event)
        found.append(event)
    return found


async def test_a_response_is_answered_whole(http, world):
    answer = await http.post(PATH, json={**ASKED, "metadata": {"of": "me"}, "store": True, "user": "me"})
    body = answer.json()
    found = shapes.Response.model_validate(body)
    hexes = answer.headers["Market-Request-Id"][2:]
    assert (found.id, found.status, found.output_text) == (f"resp_{hexes}", "completed", words(3))
    assert (found.incomplete_details, found.error, body["store"], body["metadata"]) == (None, None, False, {"of": "me"})
    [message] = body["output"]
    assert message == {
        "id": f"msg_{hexes}",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": words(3), "annotations": [], "logprobs": []}],
    }
    assert (found.usage.input_tokens, found.usage.output_tokens) == (PROMPT_TOKENS, 3)
    assert answer.headers["Market-Charged"] == str((PROMPT_TOKENS + 3) * PRICE)
    assert world.generator.parameters == {"format": "chat", "max_tokens": 20}
    assert json.loads(world.generator.prompts[0]) == [{"role": "user", "content": "Say hi."}]


async def test_instructions_parts_and_earlier_answers_make_one_chat(http, world):
    first = (await http.post(PATH, json=ASKED)).json()
    again = [
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Say "}, {"type": "input_text", "text": "hi."}]},
        *first["output"],
        {"role": "user", "content": "Once more."},
    ]  # fmt: skip
    answer = await http.post(PATH, json={**ASKED, "instructions": "You are kind.", "input": again})
    assert (answer.status_code, answer.json()["instructions"]) == (200, "You are kind.")
    assert json.loads(world.generator.prompts[1]) == [
        {"role": "system", "content": "You are kind."},
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Say hi."},
        {"role": "assistant", "content": words(3)},
        {"role": "user", "content": "Once more."},
    ]


async def test_a_response_streams_event_by_event_with_the_receipt_at_its_end(http, world):
    answer = await http.post(PATH, json={**ASKED, "stream": True, "stream_options": {"include_obfuscation": False}})
    found = events(answer)
    assert [event["type"].removeprefix("response.") for event in found] == [
        "created", "in_progress", "output_item.added", "content_part.added",
        "output_text.delta", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert "".join(event["delta"] for event in found if "delta" in event) == words(3) == found[7]["text"]
    last = found[-1]["response"]
    market = last.pop("market")
    assert market["charged"] == str((PROMPT_TOKENS + 3) * PRICE)
    assert market["requestId"] == answer.headers["Market-Request-Id"]
    assert SignedReceipt.from_header(market["receipt"], model="tiny").receipt.price == (PROMPT_TOKENS + 3) * PRICE
    assert found[-2]["item"] == last["output"][0]
    assert {found[0]["response"]["id"], last["id"]} == {"resp_" + market["requestId"][2:]}
    whole = (await http.post(PATH, json=ASKED)).json()
    for one in (whole, last):
        for member in ("id", "created_at"):
            one.pop(member)
        one["output"][0].pop("id")
    assert last == whole
    assert world.generator.served == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_a_text_that_is_cut_is_incomplete(http, stream):
    answer = await http.post(PATH, json={**ASKED, "max_output_tokens": 2, "stream": stream})
    found = events(answer)[-1]["response"] if stream else answer.json()
    assert (found["status"], found["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert found["output"][0]["status"] == "incomplete"
    if stream:
        assert events(answer)[-1]["type"] == "response.incomplete"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_given_once_more_is_the_same(world, stream):
    async with client_of(world, payment() | {"Market-Request-Id": "0x" + "78" * 32}) as http:
        first, again = [await http.post(PATH, json={**ASKED, "stream": stream}) for _ in range(2)]
    one, other = [events(a)[-1]["response"] if stream else a.json() for a in (first, again)]
    assert one.pop("created_at") <= other.pop("created_at")
    if stream:
        assert other.pop("market").pop("repeated")
        one.pop("market")
    assert one == other
    assert world.generator.served == 1


async def test_parameters_reach_the_worker(http, world):
    asked = {
        **ASKED,
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 7,
        "seed": 3,
        "stop": "w2",
        "text": {"format": {"type": "json_schema", "name": "x", "strict": True, "schema": {"type": "object"}}},
        "reasoning": {"effort": None, "summary": "auto"},
        "truncation": "disabled",
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "max_tool_calls": 3,
        "include": ["reasoning.encrypted_content"],
    }
    body = (await http.post(PATH, json=asked)).json()
    assert world.generator.parameters == {
        "format": "chat", "max_tokens": 20, "temperature": 0, "top_p": 0.5, "top_k": 7, "seed": 3, "stop": '["w2"]',
        "json_schema": '{"type":"object"}',
    }  # fmt: skip
    assert body["text"] == asked["text"]
    assert (body["temperature"], body["top_p"], body["max_output_tokens"]) == (0, 0.5, 20)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "asked", [{"include": ["message.output_text.logprobs"], "top_logprobs": 2}, {"top_logprobs": 2}]
)
async def test_log_probabilities_stand_beside_the_text(http, stream, asked):
    answer = await http.post(PATH, json={**ASKED, **asked, "stream": stream})
    found = events(answer)[-1]["response"] if stream else answer.json()
    rows = found["output"][0]["content"][0]["logprobs"]
    assert [(row["token"], row["logprob"]) for row in rows] == [("w0 ", -0.5), ("w1 ", -0.5), ("w2 ", -0.5)]
    assert [one["token"] for one in rows[1]["top_logprobs"]] == ["w1 ", "x1 "]
    if stream:
        assert next(event for event in events(answer) if event["type"].endswith("text.done"))["logprobs"] == rows


CLOCK = {"type": "function", "name": "clock"}
CALL = {"type": "function_call", "call_id": "a", "name": "clock", "arguments": "{}"}
GIVEN = {"type": "function_call_output", "call_id": "a", "output": "noon"}
WRONG = [
    ({"input": None}, "input"),
    ({"input": []}, "input"),
    ({"input": 3}, "input"),
    ({"input": ["hi"]}, "input[0]"),
    ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
    ({"input": [{"role": ["user"], "content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "user"}]}, "input[0].content"),
    ({"input": [{"role": "user", "content": []}]}, "input[0].content"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
    ({"input": [{"role": "user", "content": [{"type": ["input_text"]}]}]}, "input[0].content[0]"),
    ({"input": [{"role": "user", "content": [3]}]}, "input[0].content[0]"),
    ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
    ({"input": [{"role": "user", "content": "x", "king": 1}]}, "input[0].king"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
    ({"input": [{"type": "reasoning", "summary": []}]}, "input[0].type"),
    ({"input": [{"type": ["message"], "role": "user", "content": "x"}]}, "input[0].type"),
    ({"instructions": 3}, "instructions"),
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"background": True}, "background"),
    ({"truncation": "auto"}, "truncation"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": "x"}, "tools"),
    ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0].function"),
    ({"tools": [CLOCK, CLOCK]}, "tools[1].name"),
    ({"tools": [{**CLOCK, "parameters": {"type": "array"}}]}, "tools[0].parameters.type"),
    ({"tools": [{**CLOCK, "defer_loading": True}]}, "tools[0].defer_loading"),
    ({"tools": [CLOCK], "tool_choice": {"type": "function", "name": "other"}}, "tool_choice.name"),
    ({"tools": [CLOCK], "tool_choice": {"type": "mcp", "server_label": "x"}}, "tool_choice"),
    ({"tools": [CLOCK], "tool_choice": {"type": "allowed_tools", "mode": "x", "tools": [CLOCK]}}, "tool_choice.mode"),
    (
        {"tools": [CLOCK], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}},
        "tool_choice.tools[0].name",
    ),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
    ({"tools": [CLOCK]}, "tools"),
    ({"input": [CALL]}, "input[0]"),
    ({"input": [{**CALL, "name": ""}]}, "input[0].name"),
    ({"input": [{**CALL, "call_id": None}]}, "input[0].call_id"),
    ({"input": [CALL, CALL]}, "input[1].call_id"),
    ({"input": [{**CALL, "arguments": "[]"}]}, "input[0].arguments"),
    ({"input": [{**CALL, "namespace": "x"}]}, "input[0].namespace"),
    ({"input": [GIVEN]}, "input[0].call_id"),
    ({"input": [CALL, {"role": "user", "content": "x"}, GIVEN]}, "input[2].call_id"),
    ({"input": [CALL, {**GIVEN, "output": None}]}, "input[1].output"),
    ({"input": [CALL, {**GIVEN, "output": [{"type": "input_image"}]}]}, "input[1].output[0]"),
    ({"reasoning": {"effort": "high"}}, "reasoning.effort"),
    ({"reasoning": "high"}, "reasoning"),
    ({"include": ["file_search_call.results"]}, "include[0]"),
    ({"include": [["x"]]}, "include[0]"),
    ({"include": "x"}, "include"),
    ({"text": "json"}, "text"),
    ({"text": {"verbosity": "low"}}, "text.verbosity"),
    ({"text": {"format": {"type": "xml"}}}, "text.format"),
    ({"text": {"format": "json"}}, "text.format"),
    ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
    ({"metadata": {"a": 1}}, "metadata"),
    ({"metadata": []}, "metadata"),
    ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
    ({"metadata": {"a": "x" * 513}}, "metadata"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"max_tokens": 9}, "max_tokens"),
    ({"temperature": 2.1}, "temperature"),
    ({"top_p": "x"}, "top_p"),
    ({"seed": 1.5}, "seed"),
    ({"stop": [""]}, "stop"),
    ({"top_logprobs": 21}, "top_logprobs"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {}}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": True}}, "stream_options"),
    ({"n": 2}, "n"),
    ({"messages": []}, "messages"),
    ({"model": ""}, "model"),
]


@pytest.mark.parametrize(("wrong", "param"), WRONG)
@pytest.mark.parametrize("stream", [False, True])
async def test_bad_requests_are_named_and_free(http, world, wrong, param, stream):
    asked = {**ASKED, **({"stream": True} if stream and "stream_options" not in wrong else {}), **wrong}
    refused(await http.post(PATH, json=asked), "invalid-request", 400, param)
    assert world.generator.served == 0
    assert await free(world)


@pytest.mark.parametrize(
    ("field", "given", "param"),
    [
        ("prompt", {}, "input"),
        ("parameters.max_tokens", {}, "max_output_tokens"),
        ("parameters.json_schema", {"text": {"format": {"type": "json_object"}}}, "text.format.schema"),
        ("parameters.logprobs", {"include": ["message.output_text.logprobs"]}, "include"),
        (None, {}, None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_a_worker_refuses_is_named_as_the_client_named_it_and_free(http, world, field, given, param, stream):
    world.generator.fail = not_taken(field)
    refused(await http.post(PATH, json={**ASKED, **given, "stream": stream}), "inputs-refused", 400, param)
    assert await free(world)


async def test_a_worker_that_fails_in_mid_stream_ends_it_with_an_error_that_costs_nothing():
    world = await generating(final_text="another text")
    async with client_of(world) as http:
        answer = await http.post(PATH, json={**ASKED, "stream": True})
    *_, delta, last = events(answer)
    assert delta["type"] == "response.output_text.delta"
    assert (last["type"], last["code"]) == ("error", "receipt-mismatch")
    assert last["error"]["message"] == last["message"]
    assert await free(world)


def nested(depth):
    return json.loads('{"a":' * depth + "1" + "}" * depth)


@pytest.mark.parametrize(
    "deep",
    [
        {"text": {"format": {"type": "json_schema", "schema": nested(1)}}},
        {"text": {"format": {"type": "text", "more": nested(1)}}},
        {"tools": [CLOCK], "tool_choice": {"type": "function", "name": "clock", "more": nested(1)}},
        {"input": nested(1)},
        {"background": nested(1)},
    ],
)
@pytest.mark.parametrize("depth", [200, 1_015])
async def test_what_is_nested_too_deep_to_be_written_again_is_refused_before_it_costs(http, world, deep, depth):
    body = json.dumps({**ASKED, **deep}).replace('{"a": 1}', '{"a":' * depth + "1" + "}" * depth)
    refused(await http.post(PATH, content=body), "invalid-request", 400, "body")
    assert world.generator.served == 0
    assert await free(world)
