"""Chats with functions: what is asked of the worker, and how its text becomes calls, whole and streamed."""

import json
import time
from dataclasses import replace
from types import SimpleNamespace

import httpx
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.protocol.manifest import TensorSpec
from contracts.protocol.tensors import Tensor, content_hash, encode_tensors
from market.errors import InvalidRequest
from market.gateway.openai.completions import Completion
from market.gateway.openai.generation import read_chat
from market.gateway.openai.responses import read_response
from market.sdk.papers import SignedReceipt
from tests.support.gateway import app_of, payment
from tests.support.generation import add_generator, chat_manifest
from tests.support.junk import junk
from tests.support.money import World
from tests.unit.market.gateway.test_openai_completions import client_of, events
from tests.unit.market.gateway.test_openai_embeddings import free, refused

URL = "/v1/chat/completions"
WEATHER = {
    "name": "get_weather",
    "description": "Says the weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TOOLS = [{"type": "function", "function": WEATHER}, {"type": "function", "function": {"name": "clock"}}]
USER = {"role": "user", "content": "How is the weather?"}
CHAT = {"model": "tiny", "messages": [USER], "max_tokens": 60, "tools": TOOLS}
CALL = ["<tool", '_call>\n{"na', 'me": "get_weather", "argu', 'ments": {"ci', 'ty": "Kö', 'ln"}', "}\n</tool", "_call>"]
ARGUMENTS = '{"city": "Köln"}'
SECOND = ["\n", '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>']


async def calling(*script, **options):
    world = World(model=chat_manifest(**{"tool_format": "hermes", **options}))
    world.generator = await add_generator(world, "w1", script=list(script))
    return world


async def ask(world, **changes):
    async with client_of(world) as client:
        return await client.post(URL, json={**CHAT, **changes})


async def whole(world, **changes):
    answer = await ask(world, **changes)
    assert answer.status_code == 200, answer.text
    return answer.json()


def put_together(chunks):
    """Return of each text the message that a client puts together, and the finish reason."""
    found = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            message = found.setdefault(choice["index"], {"content": None, "tool_calls": [], "reason": None})
            delta = choice["delta"]
            if delta.get("content") is not None:
                message["content"] = (message["content"] or "") + delta["content"]
            for call in delta.get("tool_calls", ()):
                if call["index"] == len(message["tool_calls"]):
                    assert call["id"].startswith("call_")
                    message["tool_calls"].append({**call, "function": dict(call["function"])})
                else:
                    assert set(call) == {"index", "function"}
                    message["tool_calls"][call["index"]]["function"]["arguments"] += call["function"]["arguments"]
            message["reason"] = choice["finish_reason"] or message["reason"]
    return found


# --- what is asked ------------------------------------------------------------------------------------------------


async def test_the_functions_are_sent_beside_the_messages_where_their_tokens_are_paid():
    world = await calling("Hi.")
    await whole(world)
    assert json.loads(world.generator.prompts[0]) == {"messages": [USER], "tools": TOOLS}
    assert world.generator.parameters == {"format": "chat", "max_tokens": 60}


NAMED = {"type": "function", "function": {"name": "clock"}}
CHOICES = [
    ("auto", {}),
    (None, {}),
    ("required", {"tool_choice": "required"}),
    (NAMED, {"tool_choice": "required", "allowed_tools": '["clock"]', "parallel_tool_calls": False}),
    ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]}}, {"allowed_tools": '["clock"]'}),
    (
        {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}},
        {"allowed_tools": '["clock"]', "tool_choice": "required"},
    ),
]


@pytest.mark.parametrize(("choice", "sent"), CHOICES)
async def test_the_choice_is_sent_as_parameters(choice, sent):
    world = await calling("Hi.")
    await whole(world, tool_choice=choice)
    assert world.generator.parameters == {"format": "chat", "max_tokens": 60, **sent}


async def test_one_call_at_most_is_asked_for():
    world = await calling("Hi.")
    await whole(world, parallel_tool_calls=False)
    assert world.generator.parameters["parallel_tool_calls"] is False


async def test_who_chooses_none_pays_for_no_functions_and_gets_no_calls():
    world = await calling(*CALL)
    body = await whole(world, tool_choice="none")
    assert json.loads(world.generator.prompts[0]) == [USER]
    assert world.generator.parameters["tool_choice"] == "none"
    assert body["choices"][0]["message"]["content"] == "".join(CALL)
    assert "market" not in body


async def test_what_was_called_and_given_is_told_to_the_model():
    history = [
        USER,
        {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "tool_calls": [
                {
                    "id": "a",
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": ARGUMENTS},
                    "index": 0,
                },
                {"id": "b", "type": "function", "function": {"name": "clock", "arguments": ""}},
            ],
        },
        {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "noon"}]},
        {"role": "tool", "tool_call_id": "a", "content": "rain"},
    ]
    world = await calling("It rains.")
    body = await whole(world, messages=history, tools=None)
    assert body["choices"][0]["message"]["content"] == "It rains."
    assert json.loads(world.generator.prompts[0]) == [
        USER,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"type": "function", "id": "a", "function": {"name": "get_weather", "arguments": {"city": "Köln"}}},
                {"type": "function", "id": "b", "function": {"name": "clock", "arguments": {}}},
            ],
        },
        {"role": "tool", "content": "noon", "tool_call_id": "b", "name": "clock"},
        {"role": "tool", "content": "rain", "tool_call_id": "a", "name": "get_weather"},
    ]


# --- what is answered ---------------------------------------------------------------------------------------------


async def test_a_call_is_answered_whole():
    world = await calling(*CALL)
    body = await whole(world)
    [choice] = body["choices"]
    assert choice["finish_reason"] == "tool_calls"
    [call] = choice["message"].pop("tool_calls")
    assert choice["message"] == {"role": "assistant", "content": None, "refusal": None}
    assert call.pop("id").startswith("call_")
    assert call == {"type": "function", "function": {"name": "get_weather", "arguments": ARGUMENTS}}
    assert body["usage"]["completion_tokens"] == len(CALL)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_that_writes_no_marks(stream):
    script = ['{"name": "get_weather", "para', 'meters": {"city": "Kö', 'ln"}}']
    answer = await ask(await calling(*script, tool_format="llama3_json"), stream=stream)
    message = put_together(events(answer))[0] if stream else answer.json()["choices"][0]["message"]
    assert [one["function"] for one in message["tool_calls"]] == [{"name": "get_weather", "arguments": ARGUMENTS}]
    text = ["Hm, ", '{"name": "get_weather", ', '"parameters": {}}']
    answer = await ask(await calling(*text, tool_format="llama3_json"), stream=stream)
    message = put_together(events(answer))[0] if stream else answer.json()["choices"][0]["message"]
    assert (message["content"], message.get("tool_calls", [])) == ("".join(text), [])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "choice", [NAMED, {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]}}]
)
async def test_a_call_of_a_function_that_was_not_allowed_is_text(stream, choice):
    answer = await ask(await calling(*CALL, *SECOND), tool_choice=choice, stream=stream)
    message = put_together(events(answer))[0] if stream else answer.json()["choices"][0]["message"]
    assert [one["function"] for one in message["tool_calls"]] == [{"name": "clock", "arguments": "{}"}]
    assert message["content"] == "".join(CALL) + "\n"


def test_many_calls_are_written_in_one_go():
    took = []
    for count in (500, 8_000):
        call = read_chat(CHAT)
        completion = Completion(call)
        completion.decode(chat_manifest(tool_format="hermes"))
        text = ("".join(SECOND) * count).encode()
        outputs = (
            Tensor.from_numpy("text", np.array([text], dtype=object)),
            Tensor.from_numpy("finish_reason", np.array([b"stop"], dtype=object)),
            Tensor.from_numpy("usage", np.array([5, 9], np.int64)),
        )
        started = time.process_time()
        [choice] = completion.whole(SimpleNamespace(tensors=outputs, request_id=bytes(32), pieces=()))["choices"]
        took.append(time.process_time() - started)
        assert len(choice["message"]["tool_calls"]) == count
    assert took[1] < 100 * took[0]


async def test_text_and_several_calls():
    message = (await whole(await calling("Let me see.", *CALL, *SECOND)))["choices"][0]["message"]
    assert message["content"] == "Let me see."
    assert [(one["function"]["name"], one["function"]["arguments"]) for one in message["tool_calls"]] == [
        ("get_weather", ARGUMENTS),
        ("clock", "{}"),
    ]
    assert len({one["id"] for one in message["tool_calls"]}) == 2


async def test_a_call_is_streamed_as_it_comes():
    answer = await ask(await calling(*CALL), stream=True)
    *chunks, last = events(answer)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    first, *more = deltas
    id_ = first["tool_calls"][0]["id"]
    called = {"index": 0, "id": id_, "type": "function", "function": {"name": "get_weather", "arguments": ""}}
    assert first == {"role": "assistant", "content": None, "tool_calls": [called]}
    assert more == [
        {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in ('{"ci', 'ty": "Kö', 'ln"}')
    ]
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "tool_calls")


@pytest.mark.parametrize(
    "script",
    [CALL, ["So.", *CALL], [*CALL, *SECOND], ["Just ", "text <to", "ol>"], [], [*CALL[:5]], [*CALL[:2]], ["a <too"]],
)
@pytest.mark.parametrize("n", [1, 2])
async def test_streamed_and_whole_say_the_same(script, n):
    world = await calling(*script)
    most = max(len(script), 1) if script != CALL[:5] else 5
    body = await whole(world, n=n, max_tokens=most)
    chunks = events(await ask(world, n=n, max_tokens=most, stream=True))
    found = put_together(chunks)
    assert len(found) == len(body["choices"]) == n
    for choice in body["choices"]:
        message, streamed = choice["message"], found[choice["index"]]
        calls = [one["function"] for one in message.get("tool_calls", ())]
        assert [one["function"] for one in streamed["tool_calls"]] == calls
        assert (streamed["content"], streamed["reason"]) == (message["content"], choice["finish_reason"])
    ids = [one["id"] for choice in body["choices"] for one in choice["message"].get("tool_calls", ())]
    assert len(set(ids)) == len(ids)


async def test_a_call_that_the_limit_cuts_is_given_as_far_as_it_came():
    world = await calling(*CALL)
    [choice] = (await whole(world, max_tokens=5))["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": '{"city": "Kö'}
    [choice] = (await whole(world, max_tokens=2))["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("length", "")
    assert "tool_calls" not in choice["message"]


async def test_a_call_that_a_stop_string_cuts_is_none_that_ended():
    [choice] = (await whole(await calling(*CALL), stop="Kö"))["choices"]
    assert choice["finish_reason"] == "stop"


async def test_without_tools_a_mark_is_text():
    [choice] = (await whole(await calling(*CALL), tools=None))["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("".join(CALL), "stop")


@pytest.mark.parametrize("stream", [False, True])
async def test_the_receipt_is_that_of_the_text_which_is_told_too(stream):
    world = await calling("Hm.", *CALL)
    answer = await ask(world, stream=stream)
    if stream:
        told = events(answer)[-1]["market"]
        paper, texts = told["receipt"], told["texts"]
    else:
        paper, texts = answer.headers["Market-Receipt"], answer.json()["market"]["texts"]
    assert texts == ["Hm." + "".join(CALL)]
    outputs = [
        Tensor.from_numpy("text", np.array([texts[0].encode()], dtype=object)),
        Tensor.from_numpy("finish_reason", np.array([b"stop"], dtype=object)),
        Tensor.from_numpy("usage", np.array([5, 9], np.int64)),
    ]
    receipt = SignedReceipt.from_header(paper, model="tiny").receipt
    assert receipt.output_hash == content_hash(encode_tensors(outputs))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_repeated_request_has_the_same_ids(stream):
    world = await calling(*CALL)
    headers = {**payment(), "Market-Request-Id": "0x" + "5a" * 32}
    transport = httpx.ASGITransport(app_of(world), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=headers) as client:
        answers = [await client.post(URL, json={**CHAT, "stream": stream}) for _ in range(2)]
    assert world.generator.served == 1
    if stream:
        one, other = (put_together(events(answer))[0]["tool_calls"] for answer in answers)
    else:
        one, other = (answer.json()["choices"][0]["message"]["tool_calls"] for answer in answers)
    assert one == other


async def test_probabilities_are_of_all_tokens():
    model = chat_manifest(tool_format="hermes")
    world = World(model=replace(model, outputs=(*model.outputs, TensorSpec("logprobs", "FP32", (-1,)))))
    world.generator = await add_generator(world, "w1", script=CALL)
    [choice] = (await whole(world, logprobs=True))["choices"]
    assert [row["token"] for row in choice["logprobs"]["content"]] == CALL
    assert choice["message"]["tool_calls"]


async def test_models_say_whether_they_call_functions():
    for options, says in (({}, True), ({"tool_format": None}, False)):
        model = chat_manifest(**{"tool_format": "hermes"} if says else {})
        world = World(model=model)
        await add_generator(world, "w1")
        async with client_of(world) as client:
            assert (await client.get("/v1/models/tiny")).json()["tool_calls"] is says, options


# --- what is refused ----------------------------------------------------------------------------------------------


def tool(**changes):
    return [{"type": "function", "function": {**WEATHER, **changes}}]


def history(*calls, after=()):
    return [USER, {"role": "assistant", "content": None, "tool_calls": list(calls)}, *after]


def made(id_="a", name="clock", arguments="{}"):
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


DEEP = '{"a":' * 70 + "1" + "}" * 70
WRONG = {
    "tools as a text": ({"tools": "clock"}, "tools"),
    "129 tools": ({"tools": [tool(name=f"f{i}")[0] for i in range(129)]}, "tools"),
    "much text": ({"tools": tool(description="x" * 70_000)}, "tools"),
    "a number": ({"tools": [1]}, "tools[0].type"),
    "another type": ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
    "no function": ({"tools": [{"type": "function"}]}, "tools[0].function"),
    "more members": ({"tools": [{**TOOLS[0], "cache": 1}]}, "tools[0].cache"),
    "more members of it": ({"tools": tool(returns={})}, "tools[0].function.returns"),
    "no name": ({"tools": tool(name=None)}, "tools[0].function.name"),
    "a name with blanks": ({"tools": tool(name="a b")}, "tools[0].function.name"),
    "a long name": ({"tools": tool(name="a" * 65)}, "tools[0].function.name"),
    "a name that would end a rule": ({"tools": tool(name='a"\nstart: /.*/')}, "tools[0].function.name"),
    "a name twice": ({"tools": [*TOOLS, TOOLS[1]]}, "tools[2].function.name"),
    "a description that is none": ({"tools": tool(description=1)}, "tools[0].function.description"),
    "no schema": ({"tools": tool(parameters=[])}, "tools[0].function.parameters"),
    "a schema of no object": ({"tools": tool(parameters={"type": "array"})}, "tools[0].function.parameters.type"),
    "strict as a text": ({"tools": tool(strict="yes")}, "tools[0].function.strict"),
    "an unknown choice": ({"tool_choice": "any"}, "tool_choice"),
    "a choice that is a number": ({"tool_choice": 1}, "tool_choice"),
    "a choice of an unknown function": (
        {"tool_choice": {"type": "function", "function": {"name": "other"}}},
        "tool_choice.function.name",
    ),
    "a choice without a name": ({"tool_choice": {"type": "function"}}, "tool_choice.function.name"),
    "a choice of nothing": (
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}},
        "tool_choice.allowed_tools.tools",
    ),
    "a choice without a mode": (
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"tools": [NAMED]}}},
        "tool_choice.allowed_tools.mode",
    ),
    "a choice of too many": (
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED] * 129}}},
        "tool_choice.allowed_tools.tools",
    ),
    "a choice of an unknown one": (
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED, {"name": "x"}]}}},
        "tool_choice.allowed_tools.tools[1].function.name",
    ),
    "a choice without tools": ({"tools": [], "tool_choice": "required"}, "tool_choice"),
    "several as a text": ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
    "calls as a text": ({"messages": [{"role": "assistant", "tool_calls": "x"}]}, "messages[0].tool_calls"),
    "a call that is none": ({"messages": history(1)}, "messages[1].tool_calls[0]"),
    "a call of another type": ({"messages": history({**made(), "type": "custom"})}, "messages[1].tool_calls[0]"),
    "a call without id": ({"messages": history(made(id_=""))}, "messages[1].tool_calls[0].id"),
    "an id twice": ({"messages": history(made(), made())}, "messages[1].tool_calls[1].id"),
    "a call of nothing": (
        {"messages": history({"id": "a", "type": "function"})},
        "messages[1].tool_calls[0].function",
    ),
    "a call without a name": ({"messages": history(made(name=""))}, "messages[1].tool_calls[0].function.name"),
    **{
        f"arguments {name}": (
            {"messages": history(made(arguments=text))},
            "messages[1].tool_calls[0].function.arguments",
        )
        for name, text in {
            "that are no text": {},
            "that are no JSON": "{",
            "that are no object": "[]",
            "with half a surrogate pair": '{"a": "\\ud800"}',
            "that are no number": '{"a": NaN}',
            "that are deep": DEEP,
        }.items()
    },
    "an answer to nothing": ({"messages": [USER, {"role": "tool", "content": "x"}]}, "messages[1].tool_call_id"),
    "an answer to another": (
        {"messages": history(made(), after=[{"role": "tool", "tool_call_id": "b", "content": "x"}])},
        "messages[2].tool_call_id",
    ),
    "an answer too late": (
        {"messages": history(made(), after=[USER, {"role": "tool", "tool_call_id": "a", "content": "x"}])},
        "messages[3].tool_call_id",
    ),
    "an answer without content": (
        {"messages": history(made(), after=[{"role": "tool", "tool_call_id": "a"}])},
        "messages[2].content",
    ),
    "a user's calls": ({"messages": [{**USER, "tool_calls": [made()]}]}, "messages[0].tool_calls"),
}


@pytest.mark.parametrize(("changes", "param"), WRONG.values(), ids=WRONG.keys())
async def test_what_is_wrong_is_named_and_free(changes, param):
    world = await calling("Hi.")
    refused(await ask(world, **changes), "invalid-request", 400, param)
    assert world.generator.served == 0
    await free(world)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_that_calls_nothing_says_so(stream):
    world = World(model=chat_manifest())
    world.generator = await add_generator(world, "w1", script=["Hi."])
    error = refused(await ask(world, stream=stream), "invalid-request", 400, "tools")
    assert "tool_calls" in error["remedy"]
    past = history(made(), after=[{"role": "tool", "tool_call_id": "a", "content": "x"}])
    refused(await ask(world, messages=past, tools=[], stream=stream), "invalid-request", 400, "messages[1].tool_calls")
    await free(world)
    assert (await whole(world, tool_choice="none"))["choices"][0]["message"]["content"] == "Hi."
    assert world.generator.parameters == {"format": "chat", "max_tokens": 60}


WORDS = [
    "type",
    "function",
    "name",
    "parameters",
    "strict",
    "tool_calls",
    "id",
    "arguments",
    "role",
    "content",
    "call_id",
    "tool_call_id",
    "assistant",
    "tool",
    "user",
    "f",
    "auto",
    "object",
    "{}",
    "allowed_tools",
    "tools",
    "mode",
    "output",
    "function_call",
    "function_call_output",
    "message",
    "\x00",
]
JUNK = junk(WORDS, st.integers())


def field_refused(read, body):
    """Return the field that a request is refused for, None if it is taken."""
    try:
        read(orjson.loads(json.dumps({"model": "tiny", **body})))
    except InvalidRequest as error:
        return error.field or ""
    return None


@given(st.dictionaries(st.sampled_from(["messages", "tools", "tool_choice", "parallel_tool_calls"]), JUNK))
def test_whatever_is_sent_is_read_or_refused_by_name(changes):
    assert field_refused(read_chat, {"messages": [USER], **changes}) != ""
    said = {"input" if name == "messages" else name: value for name, value in changes.items()}
    assert field_refused(read_response, {"input": [USER], **said}) != ""
