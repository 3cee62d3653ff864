import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.protocol.errors import ManifestError, MessageError, Retry
from contracts.protocol.manifest import FileEntry, Manifest, TensorSpec
from contracts.protocol.messages import (
    Announcement,
    Job,
    Pack,
    Papers,
    Result,
    decode_announcement,
    decode_pack,
    decode_papers,
    decode_results,
    encode_announcement,
    encode_pack,
    encode_papers,
    encode_results,
)
from contracts.protocol.pricing import Unit
from contracts.protocol.typed_data import Channel, CreditNote, Offer

MANIFEST = Manifest(
    task="tensor",
    entry="model.onnx",
    files={"model.onnx": FileEntry(b"\1" * 32, 10), "data/tokenizer.json": FileEntry(b"\2" * 32, 3)},
    inputs=(TensorSpec("x", "FP32", (-1, 4)),),
    outputs=(TensorSpec("y", "FP32", (-1, 3)),),
    unit=Unit.ROW,
    batch_axis=0,
    tokenizer="data/tokenizer.json",
    license="Apache-2.0",
)
CHANNEL = Channel(b"\1" * 20, b"\2" * 20, b"\3" * 20, 4)
JOB = Job(
    request_id=b"r" * 32,
    attempt="1",
    channel=CHANNEL,
    seq=3,
    model_id=b"m" * 32,
    units=1,
    price=10,
    worker_amount=8,
    owner_amount=1,
    royalty_ppm=100_000,
    fee_ppm=50_000,
    cumulative=30,
    voucher_amount=40,
    voucher_signature=b"v" * 65,
    deadline_at=1.5,
    input_hash=b"i" * 32,
    inputs=b"IMT1",
    inputs_ref=None,
    outputs=("y",),
    reply_to="reply:1",
)


def test_manifest_round_trip_and_id():
    data = MANIFEST.to_bytes()
    assert Manifest.parse(data) == MANIFEST
    assert Manifest.parse(data).model_id == MANIFEST.model_id
    assert dataclasses.replace(MANIFEST, license="MIT").model_id != MANIFEST.model_id


ENTRY = {"sha256": "01" * 32, "size": 1}


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


def test_options_may_be_as_deep_and_large_as_other_programs_read():
    most = dataclasses.replace(MANIFEST, options={"a": nested(15), "b": [(1 << 63) - 1, -(1 << 63), 1e308, True, None]})
    assert Manifest.parse(most.to_bytes()) == most


def test_a_way_to_call_functions_is_one_of_those_that_are_known():
    calling = dataclasses.replace(MANIFEST, task="text-generation", options={"tool_format": "hermes"})
    assert Manifest.parse(calling.to_bytes()) == calling


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"format": 2}, "format"),
        ({"task": "dance"}, "task"),
        ({"entry": "other.onnx"}, "entry"),
        ({"files": {}}, "files"),
        ({"files": {"../model.onnx": {"sha256": "01" * 32, "size": 1}}}, "files"),
        ({"files": {"/etc/passwd": {"sha256": "01" * 32, "size": 1}}}, "files"),
        ({"files": {"model.onnx": {"sha256": "01", "size": 1}}}, "files.model.onnx"),
        ({"files": {"model.onnx": {"sha256": "01" * 32, "size": -1}}}, "files.model.onnx"),
        ({"files": dict.fromkeys(("model.onnx", "Model.onnx"), ENTRY)}, "files"),
        ({"files": dict.fromkeys(("model.onnx", "model.onnx/a"), ENTRY)}, "files"),
        ({"files": dict.fromkeys(("model.onnx", "a/b", "a/B/c"), ENTRY)}, "files"),
        ({"inputs": []}, "inputs"),
        ({"inputs": [{"name": "x", "datatype": "FP31", "shape": []}]}, "datatype"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [-2]}]}, "inputs[0].shape"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": []}] * 2}, "inputs"),
        ({"unit": "mile"}, "unit"),
        ({"max_batch": True}, "max_batch"),
        ({"extra": 1}, "manifest.json"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [(1 << 32) + 1]}]}, "inputs[0].shape"),
        ({"options": {"a": {"b": [nested(14)]}}}, "options"),
        ({"options": {"a": nested(900)}}, "options"),
        ({"options": {"a": [1 << 63]}}, "options"),
        ({"options": {"a": -(1 << 63) - 1}}, "options"),
        ({"license": "\ud800"}, "manifest.json"),
        ({"options": {"a": float("inf")}}, "manifest.json"),
        ({"options": {"tool_format": "hermes"}}, "options.tool_format"),
        ({"task": "text-generation", "options": {"tool_format": "smoke-signals"}}, "options.tool_format"),
        ({"task": "text-generation", "options": {"tool_format": None}}, "options.tool_format"),
    ],
)
def test_bad_manifests_name_the_field(change, field):
    raw = json.loads(MANIFEST.to_bytes()) | change
    data = json.dumps(raw, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(ManifestError) as caught:
        Manifest.parse(data)
    assert caught.value.field == field


@given(st.binary(max_size=100))
def test_garbage_never_escapes_as_another_error(data):
    for decode, error in (
        (Manifest.parse, ManifestError),
        (decode_pack, MessageError),
        (decode_papers, MessageError),
        (decode_results, MessageError),
        (decode_announcement, MessageError),
    ):
        try:
            decode(data)
        except error:
            continue


SPEECH = dataclasses.replace(
    MANIFEST,
    inputs=(
        TensorSpec("audio", "FP32", (-1, -1)),
        TensorSpec("state", "FP32", (2, -1, 128)),
        TensorSpec("t", "BYTES", (1,)),
    ),
    unit=Unit.SECOND,
    options={"sample_rate": 16_000, "audio_input": "audio"},
)


def test_a_price_by_the_second_says_what_a_second_is():
    assert Manifest.parse(SPEECH.to_bytes()) == SPEECH
    alone = dataclasses.replace(SPEECH, inputs=SPEECH.inputs[:1], options={"sample_rate": 8_000})
    assert Manifest.parse(alone.to_bytes()) == alone


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"audio_input": "audio"}, "sample_rate"),
        ({"audio_input": "audio", "sample_rate": 0}, "sample_rate"),
        ({"audio_input": "audio", "sample_rate": 16e3}, "sample_rate"),
        ({"sample_rate": 16_000}, "audio_input"),
        ({"sample_rate": 16_000, "audio_input": "y"}, "audio_input"),
        ({"sample_rate": 16_000, "audio_input": "t"}, "audio_input"),
    ],
)
def test_a_price_by_the_second_of_nothing_is_refused(options, where):
    with pytest.raises(ManifestError) as error:
        Manifest.parse(dataclasses.replace(SPEECH, options=options).to_bytes())
    assert error.value.field == f"options.{where}"


def test_pack_results_and_papers_round_trip():
    papers = Papers(((b"r" * 32, b"s" * 65),), CreditNote(b"\1" * 20, b"\2" * 20, 9), b"n" * 65)
    pack = Pack(
        (JOB, dataclasses.replace(JOB, inputs=None, inputs_ref="blob:in:1")), papers, (("traceparent", "00-1"),)
    )
    assert decode_pack(encode_pack(pack)) == pack
    assert decode_papers(encode_papers(papers)) == papers
    assert decode_papers(encode_papers(Papers())) == Papers()
    results = [
        Result(b"r" * 32, "1", ok=True, outputs=b"IMT1", output_hash=b"o" * 32, served_at=5, signature=b"s" * 65),
        Result(b"q" * 32, "2", ok=False, code="tensor-shape", retry=Retry.NEVER, detail="bad", field="x"),
    ]
    assert decode_results(encode_results(results)) == results


def test_announcement_round_trip():
    offer = Offer(b"\1" * 20, b"m" * 32, b"\3" * 20, 5, 50_000, 99)
    said = Announcement(
        b"\1" * 20, ((offer, b"s" * 65),), (MANIFEST.to_bytes(),), 2, ((b"m" * 32, 8),), "cpu", 1.5, b"p" * 8
    )
    assert decode_announcement(encode_announcement(said)) == said


@pytest.mark.parametrize("process", [b"", b"p" * 9, "p" * 8, 8, None])
def test_an_announcement_names_its_process_in_eight_bytes(process):
    said = Announcement(b"\1" * 20, (), (), 0, (), "cpu", 1.5, process)
    with pytest.raises(MessageError):
        decode_announcement(encode_announcement(said))


def test_a_field_of_the_wrong_type_is_named():
    with pytest.raises(MessageError) as caught:
        decode_pack(encode_pack(Pack((dataclasses.replace(JOB, price="ten"),))))
    assert caught.value.field == "price"
