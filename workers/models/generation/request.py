"""What a client may ask of a text generation: read, bounded, and turned into what the generating process takes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from contracts.protocol.errors import TensorError
from contracts.protocol.manifest import Manifest, TensorSpec
from contracts.protocol.metering import DEFAULT_CONTEXT_TOKENS, choices, output_tokens
from contracts.protocol.tensors import Tensor, utf8
from workers.errors import InputsRefused
from workers.models.generation.chats import read_chat, without_nul
from workers.models.generation.schemas import Weight, read_schema
from workers.models.generation.tools import read_tools

INPUTS = (TensorSpec("prompt", "BYTES", (1,)),)
OUTPUTS = (
    TensorSpec("text", "BYTES", (1,)),
    TensorSpec("finish_reason", "BYTES", (1,)),
    TensorSpec("usage", "INT64", (2,)),
)
LOGPROBS = TensorSpec("logprobs", "FP32", (-1,))
# Of each token the likeliest ones there, and their logarithms: as many columns as were asked for.
TOP = (TensorSpec("top_tokens", "BYTES", (-1, -1)), TensorSpec("top_logprobs", "FP32", (-1, -1)))

PARAMETERS = (
    "allowed_tools",
    "format",
    "json_schema",
    "logprobs",
    "max_tokens",
    "n",
    "parallel_tool_calls",
    "seed",
    "stop",
    "temperature",
    "tool_choice",
    "top_k",
    "top_logprobs",
    "top_p",
)
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256
# No tokenizer's vocabulary reaches this on average; a longer prompt is not even looked at.
BYTES_PER_TOKEN = 32
MAX_TEMPERATURE = 2.0
MAX_TOP_LOGPROBS = 20
MAX_SEED = (1 << 53) - 1


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One generation; `messages` is the JSON of the chat, or None where `prompt` is plain text; `n` texts are given.

    `tools` is the JSON of the functions that it is shown, and `grammar` holds the text to their calls: then it holds it
    to `json_schema` too.
    """

    prompt: str
    messages: str | None
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int | None
    stop: tuple[str, ...]
    logprobs: bool
    json_schema: str | None = None
    n: int = 1
    top_logprobs: int = 0
    tools: str | None = None
    grammar: str | None = None

    def each(self) -> list[GenerationRequest]:
        """Return a request for each of its texts; of one that names a seed, the seeds count up from it."""
        if self.seed is None:
            return [self] * self.n
        return [replace(self, seed=(self.seed + index) % (MAX_SEED + 1)) for index in range(self.n)]

    def to_wire(self) -> dict[str, Any]:
        """Return the fields as data."""
        return {name: getattr(self, name) for name in self.__slots__}


def read_request(
    manifest: Manifest, tensors: Sequence[Tensor], parameters: Mapping[str, Any], *, logprobs: bool = False
) -> GenerationRequest:
    """Read a request whose tensors agree with the manifest; `logprobs` as if the parameter said so.

    Raises:
        InputsRefused: names the parameter, or what is wrong with the prompt.
    """
    unknown = sorted(set(parameters) - set(PARAMETERS))
    if unknown:
        raise InputsRefused(
            f"the model knows no parameter {unknown[0]!r:.80}; it takes {', '.join(PARAMETERS)}.",
            field=f"parameters.{unknown[0][:80]}",
        )
    prompt = _prompt(manifest, tensors[0])
    chat = parameters.get("format", "text")
    if chat not in ("text", "chat"):
        raise _refused("format", f"{chat!r:.80} is neither text nor chat.")
    wants_logprobs = parameters.get("logprobs", False)
    if not isinstance(wants_logprobs, bool):
        raise _refused("logprobs", f"{wants_logprobs!r:.80} is not true or false.")
    if (wants_logprobs or logprobs) and LOGPROBS not in manifest.outputs:
        raise _refused("logprobs", "the model gives none.")
    top_logprobs = _whole(parameters, "top_logprobs", 0, 0, MAX_TOP_LOGPROBS)
    if top_logprobs and not wants_logprobs:
        raise _refused("top_logprobs", "it goes with logprobs only.")
    if top_logprobs and not set(TOP) <= set(manifest.outputs):
        raise _refused("top_logprobs", "the model gives none.")
    try:
        max_tokens, n = output_tokens(manifest, parameters), choices(parameters)
    except TensorError as error:
        raise InputsRefused(error.detail, field=f"parameters.{error.field}", remedy=error.remedy) from error
    seed = parameters.get("seed")
    if seed is not None:
        seed = _whole(parameters, "seed", 0, 0, MAX_SEED)
    weight = Weight()
    schema = read_schema(parameters.get("json_schema"), weight)
    messages, tools = read_chat(prompt, manifest.tool_format) if chat == "chat" else (None, None)
    use = read_tools(manifest, tools, parameters, schema=schema, weight=weight)
    return GenerationRequest(
        prompt="" if chat == "chat" else prompt,
        messages=messages,
        max_tokens=max_tokens,
        temperature=_real(parameters, "temperature", 1.0, 0.0, MAX_TEMPERATURE),
        top_p=_real(parameters, "top_p", 1.0, 0.0, 1.0),
        top_k=_whole(parameters, "top_k", 0, 0, 1 << 20),
        seed=seed,
        stop=_stops(parameters.get("stop")),
        logprobs=wants_logprobs or logprobs,
        json_schema=schema,
        n=n,
        top_logprobs=top_logprobs,
        tools=use.shown,
        grammar=use.grammar,
    )


def _prompt(manifest: Manifest, tensor: Tensor) -> str:
    data = bytes(tensor.to_numpy()[0])
    context = int(manifest.options.get("context_length", DEFAULT_CONTEXT_TOKENS))
    if len(data) > context * BYTES_PER_TOKEN:
        raise InputsRefused(
            f"the prompt has {len(data)} bytes; the model's context is {context} tokens.",
            field="prompt",
            remedy="Send a shorter prompt.",
        )
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InputsRefused("the prompt is not UTF-8.", field="prompt") from error
    if not text:
        raise InputsRefused("the prompt is empty.", field="prompt")
    return without_nul(text)


def _stops(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    try:
        stops = json.loads(value) if isinstance(value, str) else None
    except (ValueError, RecursionError):
        stops = None
    if isinstance(stops, str):
        stops = [stops]
    if not isinstance(stops, list) or len(stops) > MAX_STOPS:
        raise _refused("stop", f"expected the JSON of at most {MAX_STOPS} texts.")
    for stop in stops:
        if not isinstance(stop, str) or not 1 <= len(stop) <= MAX_STOP_CHARACTERS:
            raise _refused("stop", f"expected texts of 1 to {MAX_STOP_CHARACTERS} characters.")
        try:
            utf8(stop, "stop")
        except TensorError as error:
            raise _refused("stop", "a text has half a surrogate pair.") from error
    return tuple(stops)


def _real(parameters: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = parameters.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise _refused(name, f"{value!r:.80} is not a number from {low} to {high}.")
    return float(value)


def _whole(parameters: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    value = parameters.get(name, default)
    if type(value) is not int or not low <= value <= high:
        raise _refused(name, f"{value!r:.80} is not a whole number from {low} to {high}.")
    return value


def _refused(name: str, detail: str) -> InputsRefused:
    return InputsRefused(detail, field=f"parameters.{name}")
