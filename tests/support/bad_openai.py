"""Requests to the OpenAI routes that no model takes, and the refusal that each must get."""

import json
from typing import Any

from tests.support.bad_requests import TEXTS, WRITER_CONTEXT, Bad

CHAT, TEXT, EMBEDDINGS, RERANK = "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank"
RESPONSES = "/v1/responses"
_USER = {"role": "user", "content": "A"}
_WHOLE: dict[str, dict[str, Any]] = {
    CHAT: {"model": "writer", "messages": [_USER], "max_tokens": 4},
    TEXT: {"model": "writer", "prompt": "A", "max_tokens": 4},
    RESPONSES: {"model": "writer", "input": "A", "max_output_tokens": 4},
    EMBEDDINGS: {"model": "embedder", "input": ["the cat sat"]},
    RERANK: {"model": "ranker", "query": "the cat", "documents": ["a dog", "a cat"]},
}


def whole(path: str, **changes: Any) -> dict[str, Any]:
    """Return a body that the route takes, changed; a change to `...` leaves the member out."""
    return {key: value for key, value in {**_WHOLE[path], **changes}.items() if value is not ...}


def _bad(path: str, name: str, code: str, param: str | None, status: int = 400, **changes: Any) -> Bad:
    content = json.dumps(whole(path, **changes)).encode()
    return Bad(f"{path} {name}", code, status, param, path, content, {"Content-Type": "application/json"})


def _raw(path: str, name: str, content: bytes) -> Bad:
    return Bad(f"{path} {name}", "invalid-request", 400, "body", path, content)


def _both(name: str, code: str, param: str, **changes: Any) -> list[Bad]:
    """Return the same for chats and texts, whole and streamed."""
    return [
        _bad(path, name + (", streamed" if stream else ""), code, param, stream=stream, **changes)
        for path in (CHAT, TEXT)
        for stream in (False, True)
    ]


def _tool(**said: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **said}}


def _calling(arguments: str) -> dict[str, Any]:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


_FUNCTION, _CALLING = _tool(), _calling("{}")


def _tools(name: str, code: str, param: str, **changes: Any) -> list[Bad]:
    """Return the same of a model that calls functions, whole and streamed."""
    asked = {"model": "caller", "tools": [_FUNCTION], **changes}
    return [
        _bad(CHAT, name + how, code, param, stream=stream, **asked)
        for how, stream in (("", False), (", streamed", True))
    ]


_LONG = "x" * (WRITER_CONTEXT + 1)

OPENAI: list[Bad] = [
    *(
        _raw(path, name, content)
        for path in _WHOLE
        for name, content in (
            ("no JSON", b"{"),
            ("a list", b"[]"),
            ("wrong UTF-8", json.dumps(_WHOLE[path]).encode().replace(b'"model": "', b'"model": "\xc3(')),
            ("half a surrogate pair", json.dumps(whole(path, model="\ud800")).encode()),
            ("NaN", json.dumps(whole(path, user=float("nan"))).encode()),
            ("nested without end", b'{"model":' + b"[" * 100_000 + b"]" * 100_000),
        )
    ),
    *(_bad(path, "an unknown parameter", "invalid-request", "beams", beams=4) for path in _WHOLE),
    *(_bad(path, "no model", "invalid-request", "model", model=...) for path in _WHOLE),
    *(_bad(path, "a model that nobody listed", "unknown-model", "model", 404, model="none") for path in _WHOLE),
    *(_bad(path, "a model of another task", "wrong-task", "model", model="mixed") for path in _WHOLE),
    # prompts
    *(
        _bad(CHAT, f"longer than the context{how}", "inputs-refused", "messages", stream=stream, messages=[long])
        for how, stream in (("", False), (", streamed", True))
        for long in [{"role": "user", "content": _LONG}]
    ),
    *(
        _bad(TEXT, f"longer than the context{how}", "inputs-refused", "prompt", stream=stream, prompt=_LONG)
        for how, stream in (("", False), (", streamed", True))
    ),
    _bad(TEXT, "longer than anybody's context", "inputs-refused", "prompt", prompt="x" * (1 << 20)),
    _bad(TEXT, "U+0000", "inputs-refused", "prompt", prompt="a\0b"),
    _bad(TEXT, "an empty prompt", "invalid-request", "prompt", prompt=""),
    _bad(TEXT, "tokens", "invalid-request", "prompt", prompt=[1, 2]),
    _bad(CHAT, "no messages", "invalid-request", "messages", messages=[]),
    _bad(CHAT, "a message as a text", "invalid-request", "messages[0]", messages=["hello"]),
    _bad(CHAT, "an unknown role", "invalid-request", "messages[0].role", messages=[{"role": "king", "content": "A"}]),
    _bad(CHAT, "an image", "invalid-request", "messages[0].content[0]", messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
    _bad(CHAT, "a call of a tool", "invalid-request", "messages[0].tool_calls", messages=[{**_USER, "tool_calls": [{}]}]),
    _bad(CHAT, "U+0000", "inputs-refused", "messages", messages=[{"role": "user", "content": "a\0b"}]),
    # numbers and their bounds
    *_both("no tokens", "invalid-request", "max_tokens", max_tokens=0),
    *_both("a fraction of a token", "invalid-request", "max_tokens", max_tokens=1.5),
    *_both("more tokens than a number holds", "invalid-request", "max_tokens", max_tokens=1 << 70),
    *_both("too hot", "invalid-request", "temperature", temperature=2.5),
    *_both("a temperature as a text", "invalid-request", "temperature", temperature="1"),
    *_both("a share above one", "invalid-request", "top_p", top_p=1.01),
    *_both("a seed as a text", "invalid-request", "seed", seed="7"),
    *_both("stops that are no texts", "invalid-request", "stop", stop=[1]),
    *_both("17 stops", "invalid-request", "stop", stop=["x"] * 17),
    *_both("no texts", "invalid-request", "n", n=0),
    *_both("17 texts", "invalid-request", "n", n=17),
    *_both("a number of texts that is a truth value", "invalid-request", "n", n=True),
    _bad(CHAT, "21 likeliest", "invalid-request", "top_logprobs", logprobs=True, top_logprobs=21),
    _bad(CHAT, "the likeliest alone", "invalid-request", "top_logprobs", top_logprobs=2),
    _bad(TEXT, "21 likeliest", "invalid-request", "logprobs", logprobs=21),
    *_both("penalties", "invalid-request", "presence_penalty", presence_penalty=1),
    *(_bad(path, "stream as a text", "invalid-request", "stream", stream="yes") for path in (CHAT, TEXT)),
    *(_bad(path, "options without stream", "invalid-request", "stream_options", stream_options={}) for path in (CHAT, TEXT)),
    # functions
    _bad(CHAT, "tools for a model that calls none", "invalid-request", "tools", tools=[_FUNCTION]),
    _bad(CHAT, "a call for a model that calls none", "invalid-request", "messages[0].tool_calls", messages=[_CALLING]),
    *_tools("a name that would end a rule", "invalid-request", "tools[0].function.name", tools=[_tool(name='f"\n')]),
    *_tools("a function twice", "invalid-request", "tools[1].function.name", tools=[_FUNCTION, _FUNCTION]),
    *_tools("a schema of no object", "invalid-request", "tools[0].function.parameters.type", tools=[_tool(parameters={"type": "string"})]),
    *_tools("a strict schema that is none", "inputs-refused", "tools", tools=[_tool(parameters={"properties": {"a": {"type": "nonsense"}}}, strict=True)]),
    *_tools("a billion items", "inputs-refused", "tools", tools=[_tool(parameters={"properties": {"a": {"type": "array", "minItems": 10**9}}})]),
    *_tools("U+0000", "inputs-refused", "tools", tools=[_tool(description="a\0b")]),
    *_tools("more functions than there may be", "invalid-request", "tools", tools=[_tool(name=f"f{i}") for i in range(129)]),
    *_tools("a choice of an unknown one", "invalid-request", "tool_choice.function.name", tool_choice={"type": "function", "function": {"name": "g"}}),
    *_tools("a choice without functions", "invalid-request", "tool_choice", tools=[], tool_choice="required"),
    *_tools("arguments that are no JSON", "invalid-request", "messages[0].tool_calls[0].function.arguments", messages=[_calling("{")]),
    *_tools("U+0000 in arguments", "inputs-refused", "messages", messages=[_calling('{"a": "\\u0000"}')]),
    *_tools("an answer to no call", "invalid-request", "messages[1].tool_call_id", messages=[_CALLING, {"role": "tool", "tool_call_id": "b", "content": ""}]),
    _bad(CHAT, "an unknown format", "invalid-request", "response_format", response_format={"type": "xml"}),
    _bad(CHAT, "no schema", "invalid-request", "response_format.json_schema.schema", response_format={"type": "json_schema"}),
    _bad(CHAT, "a schema that is none", "inputs-refused", "response_format.json_schema.schema", response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "nonsense"}}}),
    # responses
    *(
        _bad(RESPONSES, f"longer than the context{how}", "inputs-refused", "input", stream=stream, input=_LONG)
        for how, stream in (("", False), (", streamed", True))
    ),
    _bad(RESPONSES, "U+0000", "inputs-refused", "input", input="a\0b"),
    _bad(RESPONSES, "no input", "invalid-request", "input", input=...),
    _bad(RESPONSES, "an image", "invalid-request", "input[0].content[0]", input=[{"role": "user", "content": [{"type": "input_image"}]}]),
    _bad(RESPONSES, "an earlier response", "invalid-request", "previous_response_id", previous_response_id="resp_1"),
    _bad(RESPONSES, "no tokens", "invalid-request", "max_output_tokens", max_output_tokens=0),
    _bad(RESPONSES, "a schema that is none", "inputs-refused", "text.format.schema", text={"format": {"type": "json_schema", "name": "a", "schema": {"type": "nonsense"}}}),
    # embeddings
    _bad(EMBEDDINGS, "nothing", "invalid-request", "input", input=[]),
    _bad(EMBEDDINGS, "an empty text", "invalid-request", "input", input=""),
    _bad(EMBEDDINGS, "an empty text among others", "invalid-request", "input[1]", input=["a", ""]),
    _bad(EMBEDDINGS, "tokens", "invalid-request", "input", input=[[1, 2]]),
    _bad(EMBEDDINGS, "too many", "payload-too-large", "input", 413, input=["a"] * (TEXTS + 1)),
    _bad(EMBEDDINGS, "other dimensions", "invalid-request", "dimensions", dimensions=3),
    _bad(EMBEDDINGS, "another form", "invalid-request", "encoding_format", encoding_format="int8"),
    # rankings
    _bad(RERANK, "no query", "invalid-request", "query", query=...),
    _bad(RERANK, "no documents", "invalid-request", "documents", documents=[]),
    _bad(RERANK, "a document of another kind", "invalid-request", "documents[0]", documents=[{"title": "a"}]),
    _bad(RERANK, "an empty document", "invalid-request", "documents[1]", documents=["a", ""]),
    _bad(RERANK, "too many", "payload-too-large", "documents", 413, documents=["a"] * (TEXTS + 1)),
    _bad(RERANK, "the best none", "invalid-request", "top_n", top_n=0),
]  # fmt: skip
