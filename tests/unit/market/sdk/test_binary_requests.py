import json

import numpy as np

from contracts.protocol.tensors import Tensor, content_hash, encode_tensors
from market.sdk.exchange import ModelInfo, payment_headers, prepare


def call(*items):
    info = ModelInfo.__new__(ModelInfo)
    object.__setattr__(info, "name", "m")
    object.__setattr__(info, "model_id", bytes(32))
    return prepare(info, {"image": np.array(items, dtype=object)}, parameters={"k": 1})


def test_bytes_that_are_no_text_follow_the_json():
    made = call(b"\xff\x00", b"png")
    tensor = Tensor.from_numpy("image", np.array([b"\xff\x00", b"png"], dtype=object))
    head = json.loads(made.body[: made.header_bytes])
    assert head["inputs"] == [
        {"name": "image", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(tensor.data)}}
    ]
    assert made.body[made.header_bytes :] == tensor.data
    assert made.input_hash == content_hash(encode_tensors([tensor], {"k": 1}))
    headers = payment_headers(made, "0x…")
    assert headers["Inference-Header-Content-Length"] == str(made.header_bytes)
    assert headers["Content-Type"] == "application/octet-stream"


def test_texts_stay_json():
    made = call("grün", b"ok")
    assert made.header_bytes is None
    assert json.loads(made.body)["inputs"][0]["data"] == ["grün", "ok"]
    assert "Inference-Header-Content-Length" not in payment_headers(made, "0x…")
