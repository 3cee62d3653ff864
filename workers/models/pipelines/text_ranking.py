"""Pairs of a query and a text in, how well the text answers the query out: a cross-encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.protocol.manifest import TensorSpec
from contracts.protocol.tensors import Tensor
from workers.errors import ModelUnusable
from workers.models.graph import Graph
from workers.models.pipelines.base import Options, check_interface
from workers.models.pipelines.text_classification import ACTIVATIONS
from workers.models.pipelines.texts import TEXT, TOKENS, TextPipeline, activate
from workers.models.store import Package

QUERY = TensorSpec("query", "BYTES", (-1,))
SCORES = TensorSpec("scores", "FP32", (-1, 1))


class TextRankingPipeline(TextPipeline):
    """Serves `query` BYTES[-1], `text` BYTES[-1] → `scores` FP32[-1, 1], `tokens` INT64[-1], a row for each pair."""

    preferred_outputs = ("logits", "scores", "output")

    def __init__(self, package: Package, graph: Graph) -> None:
        options = Options(package.manifest)
        super().__init__(package, graph, options)
        shape = graph.outputs[self._output].shape
        if len(shape) != 2 or (isinstance(shape[-1], int) and shape[-1] != 1):
            raise ModelUnusable(f"{self._output} is {list(shape)}, not one score a pair.", field="outputs")
        self._activation = options.choice("activation", "sigmoid", ACTIVATIONS)
        options.done()
        check_interface(self.manifest, [QUERY, TEXT], [SCORES, TOKENS])

    @property
    def served_output(self) -> str:
        """Name of the output with the rows."""
        return SCORES.name

    def read(self, tensors: Sequence[Tensor]) -> list[tuple[str, str]]:
        """Return the pairs."""
        given = {tensor.name: self.read_tensor(tensor) for tensor in tensors}
        return list(zip(given[QUERY.name], given[TEXT.name], strict=True))

    def finish(self, values: NDArray[Any], mask: NDArray[np.int64]) -> NDArray[np.float32]:  # noqa: ARG002
        """Turn logits into scores."""
        return activate(values.astype(np.float32, copy=False), self._activation)
