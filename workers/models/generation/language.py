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

from workers.models.generation.genai import og
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


def open_generator(model: Any, request: Mapping[str, Any], budget: int) -> Any:
    """Open a generator for a request, bound to its schema if it has one."""
    params = og.GeneratorParams(model)
    params.set_search_options(**search_options(request, budget))
    if request["json_schema"] is not None:
        params.set_guidance("json_schema", request["json_schema"])
    return og.Generator(model, params)


class Guide:
    """Chooses tokens of a text that keeps to its schema, from logits computed elsewhere."""

    def __init__(self, empty: Any, request: Mapping[str, Any], tokens: NDArray[np.int32], budget: int) -> None:
        self._generator = open_generator(empty, request, budget)
        self._generator.append_tokens(tokens)

    def choose(self, logits: NDArray[np.float32]) -> int:
        """Return a token."""
        self._generator.get_logits()  # else it takes none
        self._generator.set_logits(logits[None])
        self._generator.generate_next_token()
        return int(self._generator.get_next_tokens()[0])
