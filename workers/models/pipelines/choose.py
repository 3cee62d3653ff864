"""Which pipeline serves a task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workers.errors import ModelUnusable
from workers.models.graph import Graph
from workers.models.pipelines.base import Pipeline
from workers.models.store import Package


def open_pipeline(package: Package, graph: Graph) -> Pipeline[Any]:
    """Return the pipeline of the manifest's task over an opened graph.

    Raises:
        ModelUnusable: the graph, the options or the interface do not fit the task.
    """
    kinds = _kinds()
    kind = kinds.get(package.manifest.task)
    if kind is None:
        raise ModelUnusable(f"{package.manifest.task} is not one of {', '.join(kinds)}.", field="task")
    return kind(package, graph)


def _kinds() -> dict[str, Callable[[Package, Graph], Pipeline[Any]]]:
    from workers.models.pipelines.image_classification import ImageClassificationPipeline
    from workers.models.pipelines.tensor import TensorPipeline
    from workers.models.pipelines.text_classification import TextClassificationPipeline
    from workers.models.pipelines.text_embedding import TextEmbeddingPipeline
    from workers.models.pipelines.text_ranking import TextRankingPipeline

    return {
        "tensor": TensorPipeline,
        "text-embedding": TextEmbeddingPipeline,
        "text-classification": TextClassificationPipeline,
        "text-ranking": TextRankingPipeline,
        "image-classification": ImageClassificationPipeline,
    }
