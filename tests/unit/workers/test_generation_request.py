import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.protocol.manifest import FileEntry, Manifest
from contracts.protocol.tensors import Tensor
from workers.errors import InputsRefused, ModelUnusable, UnsafePackage
from workers.models.generation.config import read_config
from workers.models.generation.request import INPUTS, OUTPUTS, read_request
from workers.models.generation.stops import StopScanner

MANIFEST = Manifest(
    task="text-generation",
    entry="genai_config.json",
    files={name: FileEntry(bytes(32), 1) for name in ("genai_config.json", "model.onnx")},
    inputs=INPUTS,
    outputs=OUTPUTS,
    options={"context_length": 100, "max_output_tokens": 7},
)


def read(prompt, manifest=MANIFEST, **parameters):
    data = prompt if isinstance(prompt, (bytes, str)) else json.dumps(prompt)
    return read_request(manifest, [Tensor.from_numpy("prompt", np.array([data], dtype=object))], parameters)


def test_a_plain_prompt_has_the_manifests_defaults():
    request = read("hello")
    assert (request.prompt, request.messages, request.max_tokens) == ("hello", None, 7)
    assert (request.temperature, request.top_p, request.top_k, request.seed, request.stop) == (1.0, 1.0, 0, None, ())


def test_a_chat_is_roles_and_texts():
    request = read(
        [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "ö"}], "name": "x"}],
        format="chat",
    )
    assert json.loads(request.messages) == [{"role": "user", "content": "aö"}]


@pytest.mark.parametrize("stop", ["[]", '["a", "b"]', '"a"'])
def test_stop_strings_are_json(stop):
    assert read("x", stop=stop).stop == tuple([json.loads(stop)] if stop == '"a"' else json.loads(stop))


BAD_PARAMETERS = {
    "colour": "red",
    "format": "xml",
    "max_tokens": 0,
    "temperature": float("nan"),
    "top_p": 1.5,
    "top_k": -1,
    "seed": 1.5,
    "stop": '[""]',
    "logprobs": 1,
}


@pytest.mark.parametrize(("name", "value"), BAD_PARAMETERS.items())
def test_a_bad_parameter_is_named(name, value):
    with pytest.raises(InputsRefused) as error:
        read("x", **{name: value})
    assert error.value.field == f"parameters.{name}"


@pytest.mark.parametrize(
    "stop", ["not json", "{}", "[1]", json.dumps(["a" * 257]), json.dumps(["a"] * 17), "[" * 100_000, '["\\ud800"]', 7]
)
def test_bad_stops_are_refused(stop):
    with pytest.raises(InputsRefused) as error:
        read("x", stop=stop)
    assert error.value.field == "parameters.stop"


@pytest.mark.parametrize("value", [True, "1", None, float("inf"), -0.1, 2.1])
def test_a_temperature_is_a_number_in_bounds(value):
    with pytest.raises(InputsRefused):
        read("x", temperature=value)


LONG = "x" * 10_000


@pytest.mark.parametrize(
    ("name", "value"), [("format", LONG), ("temperature", LONG), ("seed", LONG), ("max_tokens", LONG), (LONG, 1)]
)
def test_a_refusal_repeats_no_more_of_a_long_value_than_its_beginning(name, value):
    with pytest.raises(InputsRefused) as error:
        read("x", **{name: value})
    assert len(error.value.detail) + len(error.value.field) < 500


def test_logprobs_are_given_by_models_that_say_so():
    with pytest.raises(InputsRefused, match="gives none"):
        read("x", logprobs=True)


@pytest.mark.parametrize(
    "prompt", ["", b"\xff", "a\0b", "x" * 3_201], ids=["empty", "not UTF-8", "U+0000", "much too long"]
)
def test_a_prompt_that_is_no_text_is_refused(prompt):
    with pytest.raises(InputsRefused) as error:
        read(prompt)
    assert error.value.field == "prompt"


BAD_CHATS = {
    "not json": "hello",
    "deep": "[" * 3_000,
    "no list": {"role": "user", "content": "x"},
    "no message": [],
    "no role": [{"content": "x"}],
    "strange role": [{"role": "alien", "content": "x"}],
    "no content": [{"role": "user"}],
    "null": [{"role": "user", "content": None}],
    "picture": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}],
    "tools": [{"role": "assistant", "content": "", "tool_calls": []}],
    "surrogate": '[{"role": "user", "content": "\\ud800"}]',
    "nul": [{"role": "user", "content": "\0"}],
}


@pytest.mark.parametrize("chat", BAD_CHATS.values(), ids=BAD_CHATS.keys())
def test_a_bad_chat_is_refused(chat):
    with pytest.raises(InputsRefused) as error:
        read(chat, format="chat")
    assert error.value.field == "prompt"


def scan(pieces, stops):
    scanner = StopScanner(stops)
    shown = []
    for piece in pieces:
        shown.append(scanner.feed(piece))
        if scanner.found:
            return shown, True
    return [*shown, scanner.rest()], False


def test_a_stop_string_across_pieces_is_not_shown():
    assert scan(["ab", "cE", "N", "Dx"], ["END"]) == (["ab", "c", "", ""], True)


def test_what_only_looked_like_a_stop_string_is_shown_late():
    assert scan(["abE", "N", "x"], ["END"]) == (["ab", "", "ENx", ""], False)


def test_the_first_of_several_stop_strings_counts():
    shown, found = scan(["a\n\nb STOP"], ["STOP", "\n\n"])
    assert ("".join(shown), found) == ("a", True)


@given(st.lists(st.text("abc", max_size=4), max_size=12), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_pieces_give_what_the_whole_gives(pieces, stops):
    whole = "".join(pieces)
    at = min((found for found in (whole.find(stop) for stop in stops) if found >= 0), default=None)
    shown, found = scan(pieces, stops)
    if at is None:
        assert ("".join(shown), found) == (whole, False)
    else:
        # A stop string that ends earlier is seen first, though a longer one may begin before it.
        assert found
        assert whole.startswith("".join(shown))
        assert len("".join(shown)) >= at


def config(**model):
    decoder = {"filename": "model.onnx", "num_hidden_layers": 2, "num_key_value_heads": 3, "head_size": 4}
    return {"model": {"context_length": 64, "decoder": decoder | model.pop("decoder", {}), **model}, "search": {}}


def test_a_decoders_configuration_says_what_its_cache_takes():
    found = read_config(json.dumps(config()).encode(), MANIFEST)
    assert (found.context_length, found.cache_bytes_per_token) == (64, 2 * 4 * 2 * 3 * 4)


UNSAFE = {
    "library": config(decoder={"session_options": {"custom_ops_library": "model.onnx"}}),
    "profile": config(decoder={"session_options": {"enable_profiling": "/tmp/x"}}),
    "unknown session option": config(decoder={"session_options": {"session.x": "1"}}),
    "run options": config(decoder={"run_options": {"x": "1"}}),
    "file outside": config(decoder={"filename": "../model.onnx"}),
    "file not in the package": config(decoder={"filename": "other.onnx"}),
    "library elsewhere": config(custom_ops_library="x"),
    "library in a list": config(decoder={"pipeline": [{"custom_ops_library": "x"}]}),
    "tokenizer elsewhere": config(tokenizer_dir="/etc"),
}


@pytest.mark.parametrize("raw", UNSAFE.values(), ids=UNSAFE.keys())
def test_a_configuration_that_could_load_or_write_files_is_refused(raw):
    with pytest.raises(UnsafePackage) as error:
        read_config(json.dumps(raw).encode(), MANIFEST)
    assert error.value.field == "genai_config.json"


def test_a_name_given_twice_is_refused():
    data = json.dumps(config()).replace('"filename"', '"filename": "/etc/passwd", "filename"', 1).encode()
    with pytest.raises(UnsafePackage, match="twice"):
        read_config(data, MANIFEST)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"model": 1}',
        b"\xff",
        b"[" * 9_000,
        json.dumps(config(vision={})).encode(),
        json.dumps(config(context_length=0)).encode(),
        json.dumps(config(decoder={"head_size": "4"})).encode(),
    ],
)
def test_what_is_no_decoders_configuration_is_refused(data):
    with pytest.raises(ModelUnusable):
        read_config(data, MANIFEST)
