"""One whole market as real processes for the stock clients: MiniLM, and a model that hands every datatype back."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from contracts.protocol.money import ATOMIC_PER_TOKEN
from contracts.protocol.tensors import NUMPY_DTYPES
from market.demo import minilm
from market.demo.network import LocalMarket, Options
from market.sdk import packages
from market.sdk.client import Market
from market.sdk.packages import parse_spec
from market.sdk.tritonclient import Payment
from tests.support import models

DEPOSIT = 5 * ATOMIC_PER_TOKEN
BUDGET = 2 * ATOMIC_PER_TOKEN
_ONNX = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
DATATYPES = tuple(_ONNX)


def build_echo(folder: Path) -> Path:
    """Lay out a model with one input and one output of each datatype, the output being the input."""
    folder.mkdir(parents=True)
    nodes, inputs, outputs = [], [], []
    for name, code in _ONNX.items():
        nodes.append(helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]))
        inputs.append(helper.make_tensor_value_info(f"in_{name}", code, ["N", 2]))
        outputs.append(helper.make_tensor_value_info(f"out_{name}", code, ["N", 2]))
    model = helper.make_model(
        helper.make_graph(nodes, "echo", inputs, outputs), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    onnx.save(model, folder / "model.onnx")
    packages.pack(
        folder,
        inputs=tuple(parse_spec(f"in_{name}:{name}:-1,2") for name in _ONNX),
        outputs=tuple(parse_spec(f"out_{name}:{name}:-1,2") for name in _ONNX),
        batch_axis=0,
        max_batch=8,
    )
    return folder


def example(datatype: str) -> np.ndarray:
    """Return two rows of two elements, extremes among them."""
    if datatype == "BYTES":
        return np.array([["", "a"], ["žluťoučký kůň", "😀"]], dtype=object)
    dtype = NUMPY_DTYPES[datatype]
    if dtype.kind == "b":
        return np.array([[True, False], [False, True]])
    if dtype.kind == "f":
        return np.array([[0.1, -1.5], [np.finfo(dtype).max, np.finfo(dtype).tiny]], dtype=dtype)
    info = np.iinfo(dtype)
    return np.array([[0, 1], [info.min, info.max]], dtype=dtype)


@dataclass(frozen=True)
class Running:
    """Where the market is, and who pays."""

    local: LocalMarket
    market: Market
    payment: Payment
    http: str
    grpc: str
    weights: Path

    def charged(self) -> int:
        channel = self.market.channel().channel_id
        return int(self.market.get(f"/market/v1/channels/0x{channel.hex()}")["charged"])


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("clients")
    echo = build_echo(folder / "packages" / "echo")
    brief = folder / "packages" / "brief"
    brief.mkdir()
    models.bfloat16_package(brief)
    options = Options(data_dir=folder / "net", keep_state=False, packages=(echo, brief), grpc=True)
    with LocalMarket(options) as local:
        local.start()
        with local.client(DEPOSIT) as market:
            address = local.gateway_url.removeprefix("http://")
            weights = local.data_dir / "packages" / minilm.NAME / "model.onnx"
            yield Running(local, market, Payment(market, budget=BUDGET), address, local.grpc_address, weights)


@pytest.fixture(scope="session")
def sentences() -> dict[str, np.ndarray]:
    return minilm.tokenize(minilm.load_tokenizer(), ["A man is eating.", "How do I reset my password?"])


@pytest.fixture(scope="session")
def reference(running: Running, sentences: dict[str, np.ndarray]) -> np.ndarray:
    """The same sentences through onnxruntime in this process."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    session = onnxruntime.InferenceSession(running.weights, providers=["CPUExecutionProvider"])
    return session.run(["last_hidden_state"], sentences)[0]
