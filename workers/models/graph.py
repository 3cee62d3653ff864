"""An opened ONNX graph: what it takes and gives, held against what a manifest or a pipeline says of it, and run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.protocol.manifest import TensorSpec
from contracts.protocol.tensors import NUMPY_DTYPES
from workers.errors import ExecutionFailed, ModelUnusable, OutOfMemory, OutOfTime
from workers.models.runtime import CudaGraphRunner, InferenceSession, run_bfloat16
from workers.models.watch import WATCH

ORT_TYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
    "tensor(bfloat16)": "BF16",
}

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Node:
    """One input or output of a graph; a free dimension has its name or None. `datatype` is "" if OIP has none."""

    name: str
    datatype: str
    shape: tuple[int | str | None, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy dtype of a numeric node."""
        return NUMPY_DTYPES[self.datatype]


class Graph:
    """A session with its nodes by name. A run that lasts to `until`, of `time.monotonic()`, is ended."""

    def __init__(self, session: InferenceSession, *, cuda_graphs: bool = False) -> None:
        self.session = session
        self._cuda = CudaGraphRunner(session) if cuda_graphs else None
        self.inputs = {node.name: node for node in map(_node, session.get_inputs())}
        self.outputs = {node.name: node for node in map(_node, session.get_outputs())}
        self.until = math.inf
        self._bfloat16 = any(node.datatype == "BF16" for node in (*self.inputs.values(), *self.outputs.values()))

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Run the graph once.

        Raises:
            OutOfTime: it was still running at `until`.
            OutOfMemory: there is not enough for these inputs.
            ExecutionFailed: onnxruntime refuses these inputs.
        """
        with WATCH.run(self.until) as options:
            try:
                if self._bfloat16:
                    values = run_bfloat16(self.session, inputs, outputs, options)
                elif self._cuda is not None:
                    values = self._cuda.run(inputs, outputs)
                else:
                    values = self.session.run(list(outputs), dict(inputs), options)
            except Exception as error:  # onnxruntime raises its own unrelated classes
                if options is not None and options.terminate:
                    raise OutOfTime("it was still running when its deadline came.") from error
                detail = first_line(error)
                raise (OutOfMemory if "alloc" in detail else ExecutionFailed)(detail) from error
        return dict(zip(outputs, (np.asarray(value) for value in values), strict=True))

    def check(self, what: str, specs: Sequence[TensorSpec]) -> None:
        """Hold a manifest's tensors against the graph's; `what` is `inputs` or `outputs`.

        Raises:
            ModelUnusable: a name, datatype or size disagrees.
        """
        nodes = self.inputs if what == "inputs" else self.outputs
        if what == "inputs" and set(nodes) != {spec.name for spec in specs}:
            raise ModelUnusable(
                f"the model takes {sorted(nodes)}, its manifest says {sorted(spec.name for spec in specs)}.",
                field=what,
            )
        for spec in specs:
            node = nodes.get(spec.name)
            if node is None:
                raise ModelUnusable(f"the model has no {spec.name}.", field=what)
            if node.datatype != spec.datatype:
                raise ModelUnusable(
                    f"{spec.name} is {node.datatype} in the model, {spec.datatype} in the manifest.", field=what
                )
            if len(node.shape) != len(spec.shape) or any(
                isinstance(size, int) and said not in (size, -1)
                for size, said in zip(node.shape, spec.shape, strict=True)
            ):
                raise ModelUnusable(
                    f"{spec.name} is {list(node.shape)} in the model, {list(spec.shape)} in the manifest.", field=what
                )


def first_line(error: Exception) -> str:
    """Return the first line of what the runtime said, of bounded length."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _node(node: Any) -> Node:
    return Node(node.name, ORT_TYPES.get(node.type, ""), tuple(node.shape))
