"""What the routes share that take texts and answer numbers: a model of the right task, no more texts than it takes.

Decides nothing of what a text is; reads the rows and tokens of the answer. Called by embeddings and rerank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.protocol.manifest import Manifest
from contracts.protocol.tensors import Tensor
from market.errors import PayloadTooLarge, WorkerFailed, WrongTask
from market.inference.model import Answer

_TOKENS = "tokens"


def check_task(model: str, manifest: Manifest, task: str) -> None:
    """Hold a model against the route's task.

    Raises:
        WrongTask: it does another.
    """
    if manifest.task != task:
        raise WrongTask(f"{model} does {manifest.task}, not {task}.", field="model")


def check_count(count: int, manifest: Manifest, what: str, field: str) -> None:
    """Hold a number of texts against what the model takes in one request.

    Raises:
        PayloadTooLarge: more.
    """
    most = min(manifest.max_batch, manifest.max_elements)
    if count > most:
        raise PayloadTooLarge(
            f"{count} {what}; the model takes at most {most}.",
            field=field,
            remedy=f"Send at most {most} {what} in a request.",
        )


def tensor(name: str, texts: Sequence[str]) -> Tensor:
    """Return texts as a BYTES tensor."""
    return Tensor.from_numpy(name, np.array([text.encode() for text in texts], dtype=object))


def rows(answer: Answer, name: str, count: int) -> tuple[NDArray[np.float32], int]:
    """Return an output of a row a text, float32[count, D], and how many tokens all texts were.

    Raises:
        WorkerFailed: the worker gave none, or not of so many texts.
    """
    outputs = {tensor.name: tensor for tensor in answer.tensors}
    try:
        found = np.ascontiguousarray(outputs[name].to_numpy(), dtype="<f4")
        tokens = int(outputs[_TOKENS].to_numpy().sum())
    except (KeyError, ValueError, TypeError) as error:
        raise WorkerFailed(f"The worker gave no {name}.") from error
    if found.ndim != 2 or len(found) != count:
        raise WorkerFailed(f"The worker gave {name} of shape {list(found.shape)} for {count} texts.")
    return found, tokens


def usage(tokens: int) -> dict[str, Any]:
    """Return OpenAI's member of that name."""
    return {"prompt_tokens": tokens, "total_tokens": tokens}
