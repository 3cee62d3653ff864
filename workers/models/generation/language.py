"""A model's tokenizer, chat template and grammars by onnxruntime-genai, without its weights.

onnxruntime-genai has these only beside a loaded decoder. Where another runs the decoder, it is given an empty graph:
one that takes tokens, gives zeros for logits, and keeps a cache of one number a token.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.protocol.tool_formats import ToolFormat
from workers.models.generation.genai import og
from workers.models.generation.tools import mark_rules
from workers.models.runtime import cuda_options

# tests/unit/workers/test_generation_parts.py builds it anew, from seven nodes, and compares. The size of the vocabulary
# stands in it as VOCABULARY_MARK.
EMPTY_GRAPH = base64.b64decode(
    "CAg6/QQKGQoJaW5wdXRfaWRzEgVzaGFwZSIFU2hhcGUKLwoFc2hhcGUKCnZvY2FidWxhcnkSBXdob2xlIgZDb25jYXQqCwoEYXhp"
    "cxgAoAECCiAKBXdob2xlEgZsb2dpdHMiD0NvbnN0YW50T2ZTaGFwZQokCglpbnB1dF9pZHMSBmZsb2F0cyIEQ2FzdCoJCgJ0bxgB"
    "oAECCh4KBmZsb2F0cwoEYXhlcxIDbmV3IglVbnNxdWVlemUKQAoVcGFzdF9rZXlfdmFsdWVzLjAua2V5CgNuZXcSDXByZXNlbnQu"
    "MC5rZXkiBkNvbmNhdCoLCgRheGlzGAKgAQIKRAoXcGFzdF9rZXlfdmFsdWVzLjAudmFsdWUKA25ldxIPcHJlc2VudC4wLnZhbHVl"
    "IgZDb25jYXQqCwoEYXhpcxgCoAECEgV3b3JkcyoaCAEQB0IKdm9jYWJ1bGFyeUoI782riWdFIwEqHAgCEAdCBGF4ZXNKEAEAAAAA"
    "AAAAAwAAAAAAAABaHQoJaW5wdXRfaWRzEhAKDggHEgoKAxIBYgoDEgFzWjEKFXBhc3Rfa2V5X3ZhbHVlcy4wLmtleRIYChYIARIS"
    "CgMSAWIKAggBCgMSAXAKAggBWjMKF3Bhc3Rfa2V5X3ZhbHVlcy4wLnZhbHVlEhgKFggBEhIKAxIBYgoCCAEKAxIBcAoCCAFiHwoG"
    "bG9naXRzEhUKEwgBEg8KAxIBYgoDEgFzCgMSAXZiKQoNcHJlc2VudC4wLmtleRIYChYIARISCgMSAWIKAggBCgMSAXEKAggBYisK"
    "D3ByZXNlbnQuMC52YWx1ZRIYChYIARISCgMSAWIKAggBCgMSAXEKAggBQgQKABAR"
)
VOCABULARY_MARK = struct.pack("<q", 0x0123456789ABCDEF)
_EMPTY: dict[str, Any] = {
    "model": {
        "decoder": {
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
            "head_size": 1,
            "hidden_size": 1,
            "inputs": {
                "input_ids": "input_ids",
                "past_key_names": "past_key_values.%d.key",
                "past_value_names": "past_key_values.%d.value",
            },
            "outputs": {
                "logits": "logits",
                "present_key_names": "present.%d.key",
                "present_value_names": "present.%d.value",
            },
        }
    },
    "search": {"past_present_share_buffer": False},
}

# A chat in which a function was called, and what of it must be in the prompt.
_TRIAL_MARKS = {
    "functions": "weather_of_today",
    "what they take": "name_of_a_town",
    "calls": "calls_for_Zanzibar",
    "what they gave": "rain_and_wind",
}
_TRIAL_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather_of_today",
            "description": "Says how the weather is.",
            "parameters": {"type": "object", "properties": {"name_of_a_town": {"type": "string"}}},
        },
    }
]
_TRIAL_CALL = {"name": "weather_of_today", "arguments": {"where": "calls_for_Zanzibar"}}
_TRIAL_CHAT = [
    {"role": "user", "content": "How is the weather?"},
    {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "id": "call_1", "function": _TRIAL_CALL}]},
    {"role": "tool", "tool_call_id": "call_1", "name": "weather_of_today", "content": "rain_and_wind"},
]


class UnfitTemplate(Exception):
    """This package's words are not those of a model that calls functions; the message says why."""


def open_model(folder: str, provider: str, threads: int, memory_bytes: int = 0) -> Any:
    """Load the model for a provider, whatever its configuration says of providers.

    `memory_bytes` is the most that it may take of a card, 0 for no limit.
    """
    config = og.Config(folder)
    config.clear_providers()
    if provider != "cpu":
        config.append_provider(provider)
    if provider == "cuda":
        for name, value in cuda_options(memory_bytes=memory_bytes).items():
            config.set_provider_option(provider, name, value)
    if threads:
        config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    return og.Model(config)


def open_empty(folder: str, filename: str, vocabulary: int) -> Any:
    """Load the model's words, with an empty graph in place of its decoder's file."""
    config = og.Config(folder)
    config.clear_providers()
    config.overlay(json.dumps(_EMPTY))
    config.add_model_data(filename, EMPTY_GRAPH.replace(VOCABULARY_MARK, struct.pack("<q", vocabulary)))
    return og.Model(config)


def search_options(request: Mapping[str, Any], budget: int) -> dict[str, Any]:
    """Return a request's options as onnxruntime-genai takes them; `budget` bounds prompt and text, tokens."""
    options: dict[str, Any] = {"max_length": budget, "batch_size": 1, "num_beams": 1, "do_sample": False}
    if request["temperature"] > 0:
        options |= {"do_sample": True} | {name: request[name] for name in ("temperature", "top_p", "top_k")}
        if request["seed"] is not None:
            options["random_seed"] = request["seed"] % (1 << 31)
    return options


def is_guided(request: Mapping[str, Any]) -> bool:
    """Tell whether a request holds its text to something."""
    return request["json_schema"] is not None or request["grammar"] is not None


def open_generator(model: Any, request: Mapping[str, Any], budget: int) -> Any:
    """Open a generator for a request, bound to its grammar or schema if it has one."""
    params = og.GeneratorParams(model)
    params.set_search_options(**search_options(request, budget))
    if request["grammar"] is not None:
        params.set_guidance("lark_grammar", request["grammar"])
    elif request["json_schema"] is not None:
        params.set_guidance("json_schema", request["json_schema"])
    return og.Generator(model, params)


class ToolWords:
    """What a tokenizer and its chat template make of a chat with functions.

    Raises:
        UnfitTemplate: the template leaves them out, or the tokenizer a mark of a call.
    """

    def __init__(self, tokenizer: Any, form: ToolFormat) -> None:
        self._tokenizer = tokenizer
        self._rules = mark_rules(form, self._token_of)
        self._check_template()

    def whole(self, grammar: str) -> str:
        """Return a request's grammar with the rules that are this tokenizer's."""
        return f"{grammar}{self._rules}"

    def _token_of(self, mark: str) -> int | None:
        token = int(self._tokenizer.to_token_id(mark))
        if token < 0:
            return None
        if self._tokenizer.create_stream().decode(token) != mark:
            raise UnfitTemplate(f"the tokenizer leaves {mark} out of texts, so that no call is seen.")
        return token

    def _check_template(self) -> None:
        messages, tools = json.dumps(_TRIAL_CHAT), json.dumps(_TRIAL_TOOLS)
        try:
            prompt = self._tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=True)
        except RuntimeError as error:
            raise UnfitTemplate(f"the chat template fails with functions: {str(error)[:200]}") from error
        for what, mark in _TRIAL_MARKS.items():
            if mark not in prompt:
                raise UnfitTemplate(f"the chat template leaves out {what}, though the option tool_format is set.")


class Guide:
    """Chooses tokens of a text that keeps to its grammar or schema, from logits computed elsewhere."""

    def __init__(self, empty: Any, request: Mapping[str, Any], tokens: NDArray[np.int32], budget: int) -> None:
        self._generator = open_generator(empty, request, budget)
        self._generator.append_tokens(tokens)

    def choose(self, logits: NDArray[np.float32]) -> int:
        """Return a token."""
        self._generator.get_logits()  # else it takes none
        self._generator.set_logits(logits[None])
        self._generator.generate_next_token()
        return int(self._generator.get_next_tokens()[0])
