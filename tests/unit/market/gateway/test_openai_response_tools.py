"""/v1/responses with functions: what is asked of the worker, and the items and events that its text becomes."""

import json
import time

import openai.types.responses as shapes
import pytest

from market.gateway.openai.response_input import read_input
from tests.unit.market.gateway.test_openai_completions import client_of
from tests.unit.market.gateway.test_openai_responses import events
from tests.unit.market.gateway.test_openai_tools import ARGUMENTS, CALL, SECOND, WEATHER, calling

PATH = "/v1/responses"
TOOLS = [{"type": "function", "strict": False, **WEATHER}, {"type": "function", "name": "clock", "strict": None}]
ASKED = {"model": "tiny", "input": "How is the weather?", "max_output_tokens": 60, "tools": TOOLS}


async def ask(world, **changes):
    async with client_of(world) as client:
        answer = await client.post(PATH, json={**ASKED, **changes})
    assert answer.status_code == 200, answer.text
    return answer


async def test_functions_and_the_choice_are_sent_as_those_of_a_chat():
    world = await calling("Hi.")
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "clock"}]}
    body = (await ask(world, tool_choice=choice, parallel_tool_calls=False)).json()
    sent = json.loads(world.generator.prompts[0])
    assert sent["tools"] == [
        {"type": "function", "function": WEATHER},
        {"type": "function", "function": {"name": "clock"}},
    ]
    assert world.generator.parameters == {
        "format": "chat", "max_tokens": 60, "tool_choice": "required", "allowed_tools": '["clock"]',
        "parallel_tool_calls": False,
    }  # fmt: skip
    found = shapes.Response.model_validate(body)
    assert [tool.name for tool in found.tools] == ["get_weather", "clock"]
    assert (body["tool_choice"], body["parallel_tool_calls"]) == (choice, False)


async def test_a_named_function_is_called_once():
    world = await calling("Hi.")
    await ask(world, tool_choice={"type": "function", "name": "clock"})
    assert world.generator.parameters["allowed_tools"] == '["clock"]'
    assert world.generator.parameters["parallel_tool_calls"] is False


async def test_text_and_calls_are_items():
    world = await calling("Let me see.", *CALL, *SECOND)
    body = (await ask(world)).json()
    found = shapes.Response.model_validate(body)
    text, one, other = body["output"]
    assert (found.status, found.output_text) == ("completed", "Let me see.")
    assert (one["type"], one["name"], one["arguments"], one["status"]) == (
        "function_call", "get_weather", ARGUMENTS, "completed",
    )  # fmt: skip
    assert (other["name"], other["arguments"]) == ("clock", "{}")
    assert len({one["id"], other["id"], one["call_id"], other["call_id"]}) == 4
    assert text["type"] == "message"
    assert body["market"]["texts"] == ["Let me see." + "".join(CALL) + "".join(SECOND)]


@pytest.mark.parametrize("script", [CALL, ["So. ", *CALL], [*CALL, *SECOND], ["Text."], [], [*CALL, "\nmore"]])
@pytest.mark.parametrize("most", [60, 5])
async def test_a_stream_ends_in_what_is_answered_whole(script, most):
    world = await calling(*script)
    whole = (await ask(world, max_output_tokens=most)).json()
    found = events(await ask(world, max_output_tokens=most, stream=True))
    last = found[-1]["response"]
    assert last.pop("market")["texts"] == whole.pop("market")["texts"]

    def plain(response):
        return [
            (one["type"], one["status"], one.get("arguments") or one.get("content")[0]["text"])
            for one in response["output"]
        ]

    if script[-1:] != ["\nmore"]:
        assert plain(last) == plain(whole)
    assert (last["status"], last["incomplete_details"]) == (whole["status"], whole["incomplete_details"])
    done = [event["item"] for event in found if event["type"] == "response.output_item.done"]
    begun = [event["item"]["id"] for event in found if event["type"] == "response.output_item.added"]
    assert done == last["output"]
    assert [one["id"] for one in done] == begun
    assert len(set(begun)) == len(begun)
    for item in done:
        if item["type"] == "function_call":
            deltas = [event["delta"] for event in found if event.get("item_id") == item["id"] and "delta" in event]
            assert "".join(deltas) == item["arguments"]


async def test_a_call_is_streamed_event_by_event():
    found = events(await ask(await calling(*CALL), stream=True))
    assert [event["type"].removeprefix("response.") for event in found] == [
        "created", "in_progress", "output_item.added", "function_call_arguments.delta", "function_call_arguments.delta",
        "function_call_arguments.delta", "function_call_arguments.done", "output_item.done", "completed",
    ]  # fmt: skip
    added = found[2]["item"]
    assert (added["name"], added["arguments"], added["status"]) == ("get_weather", "", "in_progress")


async def test_what_was_called_and_given_goes_back_as_it_came():
    world = await calling("I see.", *CALL, *SECOND)
    first = (await ask(world)).json()["output"]
    calls = [one["call_id"] for one in first if one["type"] == "function_call"]
    given = [
        {"type": "function_call_output", "call_id": calls[1], "output": "noon"},
        {"type": "function_call_output", "call_id": calls[0], "output": [{"type": "input_text", "text": "rain"}]},
    ]
    await ask(world, input=[{"role": "user", "content": "?"}, *first, *given])
    user, assistant, one, other = json.loads(world.generator.prompts[1])["messages"]
    assert assistant == {
        "role": "assistant",
        "content": "I see.",
        "tool_calls": [
            {"type": "function", "id": calls[0], "function": {"name": "get_weather", "arguments": {"city": "Köln"}}},
            {"type": "function", "id": calls[1], "function": {"name": "clock", "arguments": {}}},
        ],
    }
    assert [(row["name"], row["content"]) for row in (one, other)] == [("clock", "noon"), ("get_weather", "rain")]
    assert user["role"] == "user"


async def test_calls_one_after_the_other_are_messages_of_their_own():
    world = await calling("Done.")
    call = {
        "type": "function_call",
        "call_id": "a",
        "name": "clock",
        "arguments": "",
        "id": "fc_1",
        "status": "completed",
    }
    given = {"type": "function_call_output", "call_id": "a", "output": "1"}
    again = [{**call, "call_id": "b"}, {**given, "call_id": "b"}]
    await ask(world, input=[call, given, *again])
    rows = json.loads(world.generator.prompts[0])["messages"]
    assert [row["role"] for row in rows] == ["assistant", "tool", "assistant", "tool"]


def test_what_a_call_gave_is_found_without_looking_at_all_before_it():
    call = {"type": "function_call", "call_id": "a", "name": "clock", "arguments": "{}"}
    given = {"type": "function_call_output", "call_id": "a", "output": ""}
    took = []
    for count in (1_000, 16_000):
        started = time.process_time()
        assert len(read_input([call, *[given] * count]).messages) == count + 1
        took.append(time.process_time() - started)
    assert took[1] < 100 * max(took[0], 0.001)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_a_stop_string_cuts_is_incomplete(stream):
    answer = await ask(await calling(*SECOND, *CALL), stop=["Kö"], stream=stream)
    found = events(answer)[-1]["response"] if stream else answer.json()
    shapes.Response.model_validate(found)
    whole, cut = found["output"]
    assert (whole["status"], whole["arguments"]) == ("completed", "{}")
    assert (cut["status"], cut["arguments"].startswith('{"city": "')) == ("incomplete", True)
