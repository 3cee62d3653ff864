"""Whether a package would be served here: files, load, interface, and one request of each kind tried on it.

No chain, no broker, no key: what `worker check` does before a model is listed. Says every problem it can see.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.protocol.errors import CodedError, ManifestError
from contracts.protocol.manifest import FILENAME, MAX_MANIFEST_BYTES, Manifest, TensorSpec
from contracts.protocol.metering import ceiling_units
from contracts.protocol.tensors import Tensor
from workers.errors import JobError, ModelUnusable, UnsafePackage
from workers.models.generation.model import GenerationModel
from workers.models.generation.request import read_request
from workers.models.generation.trial import run_trials
from workers.models.isolated.model import IsolatedModel
from workers.models.pipelines.base import Answer, Pipeline
from workers.models.pipelines.tensor import made_up
from workers.models.sandbox import Confinement
from workers.models.serving import Request, check_inputs, serve
from workers.models.sessions import SessionCache
from workers.models.store import Package

GENERATION_SECONDS = 120
TRIAL_SECONDS = 120
MADE_UP_SAMPLES = 4
SENTENCES = ("The quick brown fox jumps over the lazy dog.", "Grüße, 世界 🌍", "A")
CHAT = [{"role": "user", "content": "Say hello."}]


@dataclass
class Report:
    """What was found."""

    problems: list[CodedError] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def open_folder(folder: Path) -> Package:
    """Return a package where it lies, its manifest checked and its files not yet.

    Raises:
        UnsafePackage: there is no manifest, or it is malformed.
    """
    path = folder / FILENAME
    if not path.is_file():
        raise UnsafePackage(f"{path} does not exist.", field=FILENAME, remedy="Run `market model init`.")
    with path.open("rb") as stream:
        data = stream.read(MAX_MANIFEST_BYTES + 1)
    try:
        manifest = Manifest.parse(data)
    except ManifestError as error:
        raise UnsafePackage(error.detail, field=error.field, remedy=error.remedy) from error
    return Package(manifest.model_id, manifest, folder)


def check(folder: Path, sessions: SessionCache, *, confinement: Confinement | None = None) -> Report:
    """Check a package, run as a stranger's if it is given a confinement; never raises for what is wrong with it."""
    report = Report()
    try:
        package = open_folder(folder)
    except CodedError as error:
        report.problems.append(error)
        return report
    report.facts = {"modelId": f"0x{package.model_id.hex()}", "task": package.manifest.task}
    for name in package.manifest.files:
        try:
            package.verify(name)
        except (CodedError, OSError):
            problem = UnsafePackage(
                f"{name} is not as the manifest says.", field=f"files.{name}", remedy="Run `market model init` again."
            )
            report.problems.append(problem)
    if report.problems:
        return report
    started = time.monotonic()
    if confinement is not None:
        sessions.confine(package.model_id, confinement)
    try:
        model = sessions.get(package)
    except CodedError as error:
        report.problems.append(error)
        return report
    report.facts |= {"loadSeconds": round(time.monotonic() - started, 2), "batch": sessions.cap(package.model_id)}
    try:
        _generate(model, report) if isinstance(model, GenerationModel) else _run(model, report)
    except CodedError as error:
        report.problems.append(error)
    return report


def sample_tensors(manifest: Manifest, arrays: Mapping[str, NDArray[Any]] | None = None) -> list[Tensor]:
    """Return a request such as a client might send; of tensors it takes those given, or made-up ones."""
    if manifest.task in ("text-embedding", "text-classification"):
        return [Tensor.from_numpy("text", np.array(SENTENCES, dtype=object))]
    if manifest.task == "text-ranking":
        return [Tensor.from_numpy(spec.name, np.array(SENTENCES, dtype=object)) for spec in manifest.inputs]
    if manifest.task == "image-classification":
        return [Tensor.from_numpy("image", np.array([_picture()], dtype=object))]
    return [Tensor.from_numpy(name, array) for name, array in (arrays or made_up(manifest, 1)).items()]


def read_samples(model: Pipeline[Any], path: Path | None) -> list[list[Tensor]]:
    """Return the requests of a file: a text a line, one picture, or the tensors of an `.npz`; without it, usual ones.

    Raises:
        ModelUnusable: the file is not there, or is nothing for this task.
    """
    manifest = model.manifest
    texts = manifest.task in ("text-embedding", "text-classification")
    if path is None:
        if texts:
            return [[Tensor.from_numpy("text", np.array([text], dtype=object))] for text in SENTENCES]
        return [sample_tensors(manifest, _noise(model.sample(1), seed)) for seed in range(MADE_UP_SAMPLES)]
    try:
        if texts:
            lines = [line for line in path.read_text().splitlines() if line.strip()]
            read = [[Tensor.from_numpy("text", np.array([line], dtype=object))] for line in lines]
        elif manifest.task == "image-classification":
            read = [[Tensor.from_numpy("image", np.array([path.read_bytes()], dtype=object))]]
        else:
            with np.load(path, allow_pickle=False) as arrays:
                read = [[Tensor.from_numpy(name, arrays[name]) for name in arrays.files]]
    except (OSError, ValueError) as error:
        raise ModelUnusable(f"{path}: {error}", field="sample") from error
    if not read:
        raise ModelUnusable(f"{path} holds no sample.", field="sample")
    for tensors in read:
        check_inputs(manifest, tensors)
    return read


def _noise(arrays: Mapping[str, NDArray[Any]], seed: int) -> dict[str, NDArray[Any]]:
    """Return arrays of the same shapes with normal random numbers where they are of floating point."""
    random = np.random.default_rng(seed)
    return {
        name: random.normal(size=array.shape).astype(array.dtype) if array.dtype.kind == "f" else array
        for name, array in arrays.items()
    }


def seconds_of(model: Pipeline[Any], tensors: Sequence[Tensor], runs: int = 5) -> float:
    """Return how long a request takes, the quickest of some runs after one that warms up."""
    times = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        model.run([model.prepare(tensors, {})])
        times.append(time.perf_counter() - started)
    return min(times[1:])


def _run(model: Pipeline[Any] | IsolatedModel, report: Report) -> None:
    manifest = model.manifest
    tensors = sample_tensors(manifest)
    check_inputs(manifest, tensors)
    started = time.perf_counter()
    answer = _answer(model, tensors)
    report.facts["trialSeconds"] = round(time.perf_counter() - started, 4)
    if isinstance(answer, CodedError):
        raise answer
    _compare(manifest.outputs, answer)
    if manifest.is_metered:
        most = ceiling_units(manifest, tensors, {})
        report.facts["trialTokens"] = answer.units
        if answer.units > most:
            raise ModelUnusable(
                f"a trial took {answer.units} tokens where clients reckon with {most} at most; the rest earns nothing.",
                field="options.template_tokens",
                remedy="Raise it by what the tokenizer adds to a text.",
            )


def _answer(model: Pipeline[Any] | IsolatedModel, tensors: Sequence[Tensor]) -> Answer | CodedError:
    request = [Request(tensors, {}, time.time() + TRIAL_SECONDS)]
    served = model.serve(request) if isinstance(model, IsolatedModel) else serve(model, request)
    return {i: outcome for outcomes, _ in served for i, outcome in outcomes.items()}[0]


def _compare(specs: Sequence[TensorSpec], answer: Answer) -> None:
    for spec in specs:
        if spec.name not in answer.outputs:
            continue
        given = Tensor.from_numpy(spec.name, answer.outputs[spec.name])
        if (
            given.datatype != spec.datatype
            or len(given.shape) != len(spec.shape)
            or any(said not in (-1, size) for said, size in zip(spec.shape, given.shape, strict=True))
        ):
            raise ModelUnusable(
                f"{spec.name} came out as {given.datatype}{list(given.shape)}, "
                f"the manifest says {spec.datatype}{list(spec.shape)}.",
                field="outputs",
            )


def _generate(model: GenerationModel, report: Report) -> None:
    trials = [("text", "Once upon a time", {}), ("chat", json.dumps(CHAT), {"format": "chat"})]
    if model.manifest.tool_format is not None:
        offered = json.dumps({"messages": CHAT, "tools": [{"type": "function", "function": {"name": "f"}}]})
        trials.append(("tools", offered, {"format": "chat", "tool_choice": "required"}))
    for kind, prompt, how in trials:
        tensors = [Tensor.from_numpy("prompt", np.array([prompt], dtype=object))]
        parameters = {**how, "max_tokens": 16, "temperature": 0}
        request = read_request(model.manifest, tensors, parameters)
        try:
            (trial,) = run_trials(model, request, seconds=GENERATION_SECONDS)
        except JobError as error:
            remedy = "Add a chat template: chat_template.jinja beside the model." if kind == "chat" else None
            raise ModelUnusable(f"a {kind} trial: {error.detail}", field=error.field, remedy=remedy) from error
        assert trial.end is not None
        made = trial.end.completion_tokens
        first_at = trial.first_at or trial.ended_at
        report.facts[f"{kind}Trial"] = trial.text
        report.facts[f"{kind}FirstTokenSeconds"] = round(first_at - trial.started_at, 3)
        report.facts[f"{kind}TokensPerSecond"] = round((made - 1) / max(trial.ended_at - first_at, 1e-6), 1)
        units, most = trial.end.prompt_tokens + made, ceiling_units(model.manifest, tensors, parameters)
        if units > most:
            raise ModelUnusable(
                f"a {kind} trial took {units} tokens where clients reckon with {most} at most; the rest earns nothing.",
                field="options.template_tokens",
                remedy=f"Set it to {int(model.manifest.options.get('template_tokens', 64)) + units - most} or more.",
            )


def _picture() -> bytes:
    from PIL import Image

    data = io.BytesIO()
    Image.effect_noise((320, 240), 64).convert("RGB").save(data, "PNG")
    return data.getvalue()
