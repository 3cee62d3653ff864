"""Texts in, one score a label out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.protocol.manifest import TensorSpec
from workers.errors import ModelUnusable
from workers.models.graph import Graph
from workers.models.pipelines.base import Options, check_interface
from workers.models.pipelines.texts import TEXT, TOKENS, TextPipeline, activate
from workers.models.store import Package

ACTIVATIONS = ("softmax", "sigmoid", "none")


class TextClassificationPipeline(TextPipeline):
    """Serves `text` BYTES[-1] → `scores` FP32[-1, L], `tokens` INT64[-1]."""

    preferred_outputs = ("logits", "scores", "output")

    def __init__(self, package: Package, graph: Graph) -> None:
        options = Options(package.manifest)
        super().__init__(package, graph, options)
        count = count_labels(options, graph.outputs[self._output].shape, self._output)
        self._activation = options.choice("activation", "softmax" if count > 1 else "sigmoid", ACTIVATIONS)
        options.done()
        check_interface(self.manifest, [TEXT], [TensorSpec("scores", "FP32", (-1, count)), TOKENS])

    @property
    def served_output(self) -> str:
        """Name of the output with the rows."""
        return "scores"

    def finish(self, values: NDArray[Any], mask: NDArray[np.int64]) -> NDArray[np.float32]:  # noqa: ARG002
        """Turn logits into scores."""
        return activate(values.astype(np.float32, copy=False), self._activation)


def count_labels(options: Options, shape: tuple[int | str | None, ...], output: str) -> int:
    """Return how many labels there are, from the options and the graph's output.

    Raises:
        ModelUnusable: neither says it, or they disagree.
    """
    labels = options.texts("labels")
    last = shape[-1] if len(shape) == 2 else None
    if len(shape) != 2:
        raise ModelUnusable(f"{output} is {list(shape)}, not one row of scores a request.", field="outputs")
    if isinstance(last, int):
        if labels and len(labels) != last:
            raise ModelUnusable(f"{len(labels)} labels for {last} scores of {output}.", field="options.labels")
        return last
    if not labels:
        raise ModelUnusable(f"{output} has a free size and there are no labels.", field="options.labels")
    return len(labels)
