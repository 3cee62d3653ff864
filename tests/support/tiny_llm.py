"""A language model of some hundred kB in onnxruntime-genai's layout: each byte is a token, and one follows the other.

After a token of SCRIPT the likeliest is the next of SCRIPT, then the end. What came before moves the other tokens'
chances a little, so that the attention cache matters.
"""

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from contracts.protocol.manifest import Manifest
from contracts.protocol.pricing import Unit
from tests.support import models
from workers.models.generation.request import INPUTS, LOGPROBS, OUTPUTS, TOP

SCRIPT = "ABCDEFGHIJKLMNOPQRSTUVWXYZ é日🎉abcdefghijklmnopqrstuvwxyz0123456789"
END = 256
VOCABULARY = 258
CONTEXT = 256


def _byte_characters():
    """GPT-2's way to write each byte as a printable character."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {**{byte: chr(byte) for byte in plain}, **{byte: chr(256 + i) for i, byte in enumerate(others)}}


def tokenizer_json() -> bytes:
    special = [
        {
            "id": END + i,
            "content": word,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i, word in enumerate(("<|end|>", "<|user|>"))
    ]
    whole = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "vocab": {character: byte for byte, character in _byte_characters().items()}
            | {one["content"]: one["id"] for one in special},
            "merges": [],
        },
    }
    return json.dumps(whole).encode()


TOKENIZER_CONFIG = {
    "add_prefix_space": False,
    "clean_up_tokenization_spaces": False,
    "eos_token": "<|end|>",
    "model_max_length": CONTEXT,
    "tokenizer_class": "GPT2Tokenizer",
    "chat_template": "{% for message in messages %}<|user|>{{ message['content'] }}{% endfor %}",
}


# As models do that write calls between the marks of the format "hermes".
TOOL_TEMPLATE = """
{%- if tools %}{{- '<|user|>Functions:' }}{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}{%- endif %}
{%- for message in messages %}
{{- '<|user|>' + message.role + ': ' + message.content }}
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) + '}\\n</tool_call>' }}
{%- endfor %}
{%- endfor %}
"""
TOOL_CONTEXT = 4_096


def config(*, context: int = CONTEXT, **changes) -> dict:
    return {
        "model": {
            "bos_token_id": END,
            "context_length": context,
            "decoder": {
                "session_options": {"log_id": "tiny", "provider_options": []},
                "filename": "model.onnx",
                "head_size": 16,
                "hidden_size": 16,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
                "num_attention_heads": 1,
                "num_hidden_layers": 1,
                "num_key_value_heads": 1,
            },
            "eos_token_id": END,
            "pad_token_id": END,
            "type": "llama",
            "vocab_size": VOCABULARY,
        },
        "search": {"max_length": context, "past_present_share_buffer": False},
        **changes,
    }


def model(*, together: bool = False, endless: bool = False, work: int = 0) -> bytes:
    """Return the decoder; with `together` its attention is GroupQueryAttention, whose rows may stand anywhere.

    An `endless` one begins SCRIPT anew; `work` is the side of a square matrix that is multiplied for each token.
    """
    rng = np.random.default_rng(5)
    follow = rng.normal(scale=0.5, size=(VOCABULARY, VOCABULARY)).astype("f4")
    script = list(SCRIPT.encode())
    for token, following in zip(script, [*script[1:], script[0] if endless else END], strict=True):
        follow[token, following] += 9
    keys = rng.normal(size=(VOCABULARY, 16)).astype("f4")
    past = ["batch", 1, "past", 16]
    total = ["batch", 1, "total", 16]
    floats = TensorProto.FLOAT
    gqa = [
        helper.make_node("ReduceSum", ["attention_mask", "head"], ["lengths"], keepdims=0),
        helper.make_node("Sub", ["lengths", "head"], ["before"]),
        helper.make_node("Cast", ["before"], ["before32"], to=TensorProto.INT32),
        helper.make_node("Shape", ["attention_mask"], ["whole"], start=1, end=2),
        helper.make_node("Cast", ["whole"], ["whole32"], to=TensorProto.INT32),
        helper.make_node("Squeeze", ["whole32"], ["total"]),
        helper.make_node("Gather", ["keys", "input_ids"], ["new"]),
        helper.make_node(
            "GroupQueryAttention",
            ["new", "new", "new", "past_key_values.0.key", "past_key_values.0.value", "before32", "total"],
            ["seen", "present.0.key", "present.0.value"],
            domain="com.microsoft",
            num_heads=1,
            kv_num_heads=1,
        ),
        helper.make_node("MatMul", ["seen", "read"], ["nudge"]),
        helper.make_node("Gather", ["follow", "input_ids"], ["next"]),
        helper.make_node("Add", ["next", "nudge"], ["logits"]),
    ]
    nodes = (
        gqa
        if together
        else [
            helper.make_node("Gather", ["keys", "input_ids"], ["new"]),
            helper.make_node("Unsqueeze", ["new", "head"], ["new_heads"]),
            helper.make_node("Concat", ["past_key_values.0.key", "new_heads"], ["present.0.key"], axis=2),
            helper.make_node("Concat", ["past_key_values.0.value", "new_heads"], ["present.0.value"], axis=2),
            helper.make_node("ReduceMean", ["present.0.value"], ["seen"], axes=[2], keepdims=0),  # [batch, 1, 16]
            helper.make_node("MatMul", ["seen", "read"], ["nudge"]),
            helper.make_node("Gather", ["follow", "input_ids"], ["next"]),
            helper.make_node("Add", ["next", "nudge"], ["logits"]),
        ]
    )
    weights = {
        "keys": keys,
        "follow": follow,
        "read": rng.normal(scale=0.2, size=(16, VOCABULARY)).astype("f4"),
        "head": np.array([1]),
    }
    if work:
        nodes[-1] = helper.make_node("Add", ["next", "nudge"], ["quick"])
        nodes += [
            helper.make_node("ReduceMax", ["quick"], ["largest"], keepdims=0),
            helper.make_node("Expand", ["largest", "square"], ["matrix"]),
            helper.make_node("MatMul", ["matrix", "matrix"], ["product"]),
            helper.make_node("ReduceMax", ["product"], ["much"], keepdims=0),
            helper.make_node("Mul", ["much", "nothing"], ["delay"]),
            helper.make_node("Add", ["quick", "delay"], ["logits"]),
        ]
        weights |= {"square": np.array([work, work]), "nothing": np.zeros((), "f4")}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"]),
            helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "total"]),
            helper.make_tensor_value_info("past_key_values.0.key", floats, past),
            helper.make_tensor_value_info("past_key_values.0.value", floats, past),
        ],
        [
            helper.make_tensor_value_info("logits", floats, ["batch", "sequence", VOCABULARY]),
            helper.make_tensor_value_info("present.0.key", floats, total),
            helper.make_tensor_value_info("present.0.value", floats, total),
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)], ir_version=8
    )
    onnx.checker.check_model(made)
    return made.SerializeToString()


def files(*, together: bool = False, **changes) -> dict[str, bytes]:
    return {
        "model.onnx": model(together=together),
        "genai_config.json": json.dumps(config(**changes)).encode(),
        "tokenizer.json": tokenizer_json(),
        "tokenizer_config.json": json.dumps(TOKENIZER_CONFIG).encode(),
    }


def tool_files(**changes) -> dict[str, bytes]:
    """Return the files of a model whose chat template shows functions, and which has room for them."""
    tokenizer_config = {**TOKENIZER_CONFIG, "chat_template": TOOL_TEMPLATE, "model_max_length": TOOL_CONTEXT}
    return {**files(context=TOOL_CONTEXT, **changes), "tokenizer_config.json": json.dumps(tokenizer_config).encode()}


def tool_package(folder, contents=None, **options) -> Manifest:
    """Write the package of a model that calls functions."""
    said = {"context_length": TOOL_CONTEXT, "max_output_tokens": 200, "template_tokens": 64, "tool_format": "hermes"}
    return package(folder, contents or tool_files(), options={**said, **options})


def package(folder, contents=None, **changes) -> Manifest:
    return models.write(
        folder,
        contents or files(),
        **{
            "task": "text-generation",
            "entry": "genai_config.json",
            "inputs": INPUTS,
            "outputs": (*OUTPUTS, LOGPROBS, *TOP),
            "unit": Unit.TOKEN,
            "batch_axis": None,
            "max_batch": 1,
            "tokenizer": "tokenizer.json",
            "options": {"context_length": CONTEXT, "max_output_tokens": 40, "template_tokens": 8},
            **changes,
        },
    )
