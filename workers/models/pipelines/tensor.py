"""Tensors in, tensors out: what is served is the graph itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.protocol.manifest import Manifest, TensorSpec
from contracts.protocol.tensors import BFLOAT16, NUMPY_DTYPES, Tensor
from workers.errors import ExecutionFailed, InputsRefused, JobError
from workers.models.batching import group, join, split
from workers.models.graph import Arrays, Graph
from workers.models.pipelines.base import Answer, Pipeline
from workers.models.store import Package

FREE_SIZE = 16  # a free dimension other than the batch, at warm-up


class TensorPipeline(Pipeline[Arrays]):
    """Serves a graph as it is, joined along the manifest's batch axis where every tensor's size there is free."""

    def __init__(self, package: Package, graph: Graph) -> None:
        super().__init__(package, graph)
        graph.check("inputs", self.manifest.inputs)
        graph.check("outputs", self.manifest.outputs)
        self._names = [spec.name for spec in self.manifest.outputs]
        axis = self.manifest.batch_axis
        # A tensor of another size is of all rows together, and may by chance have as many as there are in a batch.
        specs = (*self.manifest.inputs, *self.manifest.outputs)
        follows = axis is not None and all(spec.shape[axis : axis + 1] == (-1,) for spec in specs)
        self._axis = axis if follows else None

    @property
    def graph_outputs(self) -> Sequence[str]:
        """The manifest's outputs."""
        return self._names

    def prepare(self, tensors: Sequence[Tensor], parameters: Mapping[str, Any]) -> Arrays:  # noqa: ARG002
        """Return the arrays by name; parameters mean nothing to a graph."""
        return {tensor.name: _array(tensor) for tensor in tensors}

    def group(self, works: Sequence[Arrays]) -> list[list[int]]:
        """Join those that differ in the batch axis only."""
        return group(works, self._axis, self.batch_cap)

    def run(self, works: Sequence[Arrays]) -> list[Answer | JobError]:
        """Run the group at once."""
        if len(works) == 1:
            return [Answer(self.graph.run(works[0], self._names))]
        axis = self._axis
        if axis is None:
            raise ExecutionFailed("requests to this model are not joined.")
        pieces = split(self.graph.run(join(works, axis), self._names), works, axis)
        if pieces is None:
            raise ExecutionFailed("the outputs do not follow the batch.")
        return [Answer(piece) for piece in pieces]

    def sample(self, rows: int) -> Arrays:
        """Return zeros, or ones where the numbers are whole."""
        return made_up(self.manifest, rows)


def made_up(manifest: Manifest, rows: int) -> Arrays:
    """Return inputs as a manifest has them: zeros, or ones where the numbers are whole."""
    return {spec.name: _made_up(spec, manifest.batch_axis, rows) for spec in manifest.inputs}


def _array(tensor: Tensor) -> NDArray[Any]:
    array = tensor.to_marked_numpy()
    if tensor.datatype != "BYTES":
        return array
    # onnxruntime's strings are texts; of bytes it would take Python's way to print them
    try:
        texts = [item.decode() for item in array.ravel()]
    except UnicodeDecodeError as error:
        raise InputsRefused("a text is not UTF-8.", field=tensor.name) from error
    decoded = np.empty(len(texts), dtype=object)
    decoded[:] = texts
    return decoded.reshape(array.shape)


def _made_up(spec: TensorSpec, batch_axis: int | None, batch: int) -> NDArray[Any]:
    shape = tuple(
        (batch if axis == batch_axis else FREE_SIZE) if size < 0 else size for axis, size in enumerate(spec.shape)
    )
    if spec.datatype == "BYTES":
        return np.full(shape, "", dtype=object)
    if spec.datatype == "BF16":
        return np.zeros(shape, BFLOAT16)
    dtype = NUMPY_DTYPES[spec.datatype]
    return np.ones(shape, dtype) if dtype.kind in "iu" else np.zeros(shape, dtype)
