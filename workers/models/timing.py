"""Runs a model on made-up rows: what one row gives, and how long a run of some takes.

The same in the worker's own process and in a model's process of its own.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.models.pipelines.base import Pipeline

MIN_RUNS = 3


def give(model: Pipeline[Any]) -> dict[str, NDArray[Any]]:
    """Return the graph's outputs of one made-up row.

    Raises:
        ExecutionFailed: the graph refuses it.
    """
    return model.graph.run(model.sample(1), model.graph_outputs)


def median_seconds(model: Pipeline[Any], rows: int, seconds: float) -> float:
    """Return how long a run of `rows` takes: the median of what fits into `seconds`, of three runs at least.

    Raises:
        ExecutionFailed: the graph refuses them.
    """
    inputs, outputs = model.sample(rows), model.graph_outputs
    model.graph.run(inputs, outputs)
    taken: list[float] = []
    until = time.perf_counter() + seconds
    while len(taken) < MIN_RUNS or time.perf_counter() < until:
        started = time.perf_counter()
        model.graph.run(inputs, outputs)
        taken.append(time.perf_counter() - started)
    return max(float(np.median(taken)), 1e-9)
