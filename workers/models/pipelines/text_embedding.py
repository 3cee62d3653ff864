"""Texts in, one vector each out: pooled, cut to the dimensions served, normalised."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.protocol.manifest import TensorSpec
from workers.errors import ModelUnusable
from workers.models.graph import Graph
from workers.models.pipelines.base import Options, check_interface
from workers.models.pipelines.texts import TEXT, TOKENS, TextPipeline
from workers.models.store import Package

POOLINGS = ("mean", "cls", "last", "none")


class TextEmbeddingPipeline(TextPipeline):
    """Serves `text` BYTES[-1] → `embedding` FP32[-1, D], `tokens` INT64[-1]."""

    preferred_outputs = ("sentence_embedding", "embedding", "last_hidden_state", "token_embeddings")

    def __init__(self, package: Package, graph: Graph) -> None:
        options = Options(package.manifest)
        super().__init__(package, graph, options)
        shape = graph.outputs[self._output].shape
        pooled = len(shape) == 2
        self._pooling = options.choice("pooling", "none" if pooled else "mean", POOLINGS)
        if len(shape) not in (2, 3) or pooled is not (self._pooling == "none"):
            raise ModelUnusable(
                f"{self._output} is {list(shape)}: pooling {self._pooling} does not fit it.",
                field="options.pooling",
                remedy="Pool an output of one vector a token by mean, cls or last; one of one vector a text by none.",
            )
        self._normalize = options.flag("normalize", default=True)
        served = next((spec.shape[-1] for spec in self.manifest.outputs if spec.name == "embedding" and spec.shape), 0)
        width = shape[-1] if isinstance(shape[-1], int) else max(served, 1)
        self._dimensions = options.number("dimensions", width, 1, width)
        options.done()
        check_interface(self.manifest, [TEXT], [TensorSpec("embedding", "FP32", (-1, self._dimensions)), TOKENS])

    @property
    def served_output(self) -> str:
        """Name of the output with the rows."""
        return "embedding"

    def finish(self, values: NDArray[Any], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Pool the tokens of each text."""
        rows = values.astype(np.float32, copy=False)
        if self._pooling == "mean":
            weights = mask[..., None].astype(np.float32)
            rows = (rows * weights).sum(axis=1) / weights.sum(axis=1)
        elif self._pooling == "cls":
            rows = rows[:, 0]
        elif self._pooling == "last":
            rows = rows[np.arange(len(rows)), mask.sum(axis=1) - 1]
        rows = rows[:, : self._dimensions]
        if self._normalize:
            rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        return np.asarray(rows, np.float32)
