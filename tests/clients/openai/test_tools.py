"""Tool calls by the stock `openai` client: asked for, streamed, answered, and read by the client's own helpers."""

import json
from typing import Literal

import numpy as np
import openai
import pydantic
import pytest

from contracts.protocol.tensors import Tensor, content_hash, encode_tensors
from market.demo.network import TOKEN_PRICE
from market.sdk.papers import SignedReceipt
from tests.clients.openai.conftest import AGENT, TINY
from tests.clients.openai.test_stock_openai import settled

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]

MESSAGES = [{"role": "user", "content": "How is the weather in Rome?"}]


class Weather(pydantic.BaseModel):
    """Says how the weather is in a town."""

    model_config = pydantic.ConfigDict(extra="forbid")
    town: Literal["Rome", "Paris"]
    days: Literal[1, 7]


WEATHER = openai.pydantic_function_tool(Weather, name="get_weather")
CLOCK = {"type": "function", "function": {"name": "clock", "description": "Says the time."}}
ASKED = {
    "model": AGENT,
    "messages": MESSAGES,
    "tools": [WEATHER, CLOCK],
    "temperature": 0,
    "seed": 1,
    "max_tokens": 120,
}
NAMED = {"type": "function", "function": {"name": "get_weather"}}


def test_a_call_that_is_demanded_is_made_and_paid_as_a_text(paying, client):
    before = settled(paying)
    answer = client.chat.completions.create(**ASKED, tool_choice="required", parallel_tool_calls=False)
    [choice] = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    [call] = choice.message.tool_calls
    assert call.id.startswith("call_")
    assert call.function.name in ("get_weather", "clock")
    arguments = json.loads(call.function.arguments)
    assert arguments == {} if call.function.name == "clock" else Weather(**arguments)
    assert settled(paying) == before + answer.usage.total_tokens * TOKEN_PRICE


def test_the_function_that_is_named_is_called_streamed_as_whole(client):
    [whole] = client.chat.completions.create(**ASKED, tool_choice=NAMED).choices
    arguments, names, reason = "", [], None
    for chunk in client.chat.completions.create(**ASKED, tool_choice=NAMED, stream=True):
        [choice] = chunk.choices
        assert not choice.delta.content
        for call in choice.delta.tool_calls or []:
            assert call.index == 0
            names += [call.function.name] if call.function.name else []
            arguments += call.function.arguments or ""
        reason = choice.finish_reason or reason
    assert (names, reason) == (["get_weather"], "tool_calls")
    assert arguments == whole.message.tool_calls[0].function.arguments


def test_the_clients_own_helpers_read_calls(client):
    asked = {**ASKED, "tools": [WEATHER], "tool_choice": NAMED}
    parsed = client.chat.completions.parse(**asked).choices[0].message.tool_calls[0].function.parsed_arguments
    assert isinstance(parsed, Weather)
    with client.chat.completions.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_completion().choices[0].message
    assert "tool_calls.function.arguments.delta" in kinds
    assert message.tool_calls[0].function.parsed_arguments == parsed


def test_an_agents_round_call_tool_answer(client):
    messages = list(MESSAGES)
    first = client.chat.completions.create(**{**ASKED, "messages": messages}, tool_choice=NAMED).choices[0].message
    messages.append(first)
    messages += [{"role": "tool", "tool_call_id": one.id, "content": "It rains in Rome."} for one in first.tool_calls]
    last = client.chat.completions.create(**{**ASKED, "messages": messages, "max_tokens": 30})
    assert last.choices[0].finish_reason in ("stop", "length", "tool_calls")
    closed = client.chat.completions.create(**{**ASKED, "messages": messages, "max_tokens": 30}, tool_choice="none")
    assert closed.choices[0].message.content
    assert not closed.choices[0].message.tool_calls
    assert closed.usage.prompt_tokens < last.usage.prompt_tokens, "the functions were not sent"


def test_where_it_may_call_every_text_is_text_or_whole_calls(client):
    answer = client.chat.completions.create(**{**ASKED, "temperature": 1.5, "max_tokens": 60}, n=4)
    for choice in answer.choices:
        for call in choice.message.tool_calls or []:
            assert call.function.name in ("get_weather", "clock")
            assert choice.finish_reason == "length" or json.loads(call.function.arguments) is not None
        assert "<tool_call>" not in (choice.message.content or "")


def test_responses_call_too_whole_streamed_and_round(paying, client):
    before = settled(paying)
    tool = {"type": "function", "strict": True, **{k: v for k, v in WEATHER["function"].items() if k != "strict"}}
    choice = {"type": "function", "name": "get_weather"}
    asked = {"model": AGENT, "tools": [tool], "temperature": 0, "max_output_tokens": 120, "extra_body": {"seed": 1}}
    first = client.responses.create(**asked, input=MESSAGES, tool_choice=choice)
    [call] = first.output
    assert (call.type, call.name, call.status, first.status) == ("function_call", "get_weather", *["completed"] * 2)
    Weather(**json.loads(call.arguments))
    with client.responses.stream(**asked, input=MESSAGES, tool_choice=choice) as stream:
        kinds = [event.type for event in stream]
        [streamed] = stream.get_final_response().output
    assert "response.function_call_arguments.delta" in kinds
    assert streamed.arguments == call.arguments
    given = {"type": "function_call_output", "call_id": call.call_id, "output": "It rains in Rome."}
    last = client.responses.create(**asked, input=[*MESSAGES, call, given], tool_choice="none")
    assert last.output_text
    spent = 2 * first.usage.total_tokens + last.usage.total_tokens
    assert settled(paying) == before + spent * TOKEN_PRICE


def test_the_receipt_is_that_of_the_text_beside(client):
    raw = client.chat.completions.with_raw_response.create(**ASKED, tool_choice="required", parallel_tool_calls=False)
    answer = raw.parse()
    [text] = answer.model_extra["market"]["texts"]
    assert text.startswith("<tool_call>\n")
    outputs = [
        Tensor.from_numpy("text", np.array([text.encode()], dtype=object)),
        Tensor.from_numpy("finish_reason", np.array([b"stop"], dtype=object)),
        Tensor.from_numpy("usage", np.array([answer.usage.prompt_tokens, answer.usage.completion_tokens], np.int64)),
    ]
    receipt = SignedReceipt.from_header(raw.headers["Market-Receipt"], model=AGENT).receipt
    assert receipt.output_hash == content_hash(encode_tensors(outputs))


def test_models_say_whether_they_call(client):
    found = {model.id: model.model_extra["tool_calls"] for model in client.models.list()}
    assert found[AGENT] is True
    assert found[TINY] is False


def test_refusals_name_the_tool_and_are_free(paying, client):
    before = settled(paying)
    unknown = {"type": "object", "properties": {"a": {"type": "string", "format": "of-ours"}}}
    bad = {
        "tools[0].function.name": {"tools": [{"type": "function", "function": {"name": "a b"}}]},
        "tool_choice.function.name": {"tool_choice": {"type": "function", "function": {"name": "other"}}},
        "tools": {"tools": [{"type": "function", "function": {"name": "f", "strict": True, "parameters": unknown}}]},
        "messages[0].tool_call_id": {"messages": [{"role": "tool", "tool_call_id": "x", "content": "y"}]},
    }
    for param, changes in bad.items():
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError) as refused:
                client.chat.completions.create(**{**ASKED, **changes, "stream": stream})
            assert refused.value.param == param
    with pytest.raises(openai.BadRequestError, match="calls no functions") as refused:
        client.chat.completions.create(**{**ASKED, "model": TINY})
    assert refused.value.param == "tools"
    assert settled(paying) == before
