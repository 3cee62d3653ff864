"""What is made, and what is told of it: plain data, as it may come from another process.

Called by `workers.making.host` in a sandbox, or by `workers.making.process` where nobody is confined.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from workers.errors import ModelUnusable


def convert(orders: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a checkpoint: see `workers.models.converting.convert`."""
    from workers.models import converting

    made = converting.convert(
        Path(orders["source"]), Path(orders["into"]), task=orders["task"], precision=orders["precision"]
    )
    return {name: value for name, value in asdict(made).items() if name != "folder"}


def quantize(orders: Mapping[str, Any]) -> dict[str, Any]:
    """Write a package with smaller weights, and run both on the same inputs.

    Raises:
        ModelUnusable: it cannot be quantised, or an output moves by more than `most_difference` of its length.
    """
    from workers import checking
    from workers.models import quantizing
    from workers.models.opening import open_model

    package = checking.open_folder(Path(orders["source"]))
    made = quantizing.quantize(package, Path(orders["into"]), orders["precision"])
    models = [open_model(one, entry=one.manifest.entry, provider="cpu", threads=0) for one in (package, made)]
    sample = None if orders["sample"] is None else Path(orders["sample"])
    samples = checking.read_samples(models[0], sample)
    moved = quantizing.differences(models[0], models[1], samples)
    before, after = (checking.seconds_of(model, samples[0]) for model in models)
    worst = max(moved, key=lambda one: one.relative)
    if worst.relative > orders["most_difference"]:
        raise ModelUnusable(
            f"{worst.output} moves by {worst.relative:.4f} of its length, more than {orders['most_difference']:g}.",
            field="most-difference",
            remedy="Take int8 instead of int4, or publish it as it is, or allow more.",
        )
    return {
        "run_ms": [1_000 * before, 1_000 * after],
        "samples": len(samples),
        "differences": [asdict(one) for one in moved],
    }


DOING: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {"convert": convert, "quantize": quantize}
