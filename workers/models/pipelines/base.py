"""What every pipeline does: read a request, say which requests run together, run them.

A pipeline raises only job errors for what a client sent and `ModelUnusable` while it is opened. One request's fault is
that request's answer, never its neighbours'.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray

from contracts.protocol.manifest import AUDIT_TOLERANCE, Manifest, TensorSpec
from contracts.protocol.tensors import Tensor
from contracts.protocol.values import value_class
from workers.errors import InputsRefused, JobError, ModelUnusable
from workers.models.graph import Arrays, Graph
from workers.models.store import Package

W = TypeVar("W")


@value_class(frozen=True, slots=True)
class Answer:
    """The outputs of one request; `units` is what it took, where only serving shows that, else 0."""

    outputs: Mapping[str, NDArray[Any]]
    units: int = 0


class Pipeline(ABC, Generic[W]):
    """A model ready to serve; `W` is a request as this pipeline runs it, `batch_cap` rows run at once."""

    def __init__(self, package: Package, graph: Graph) -> None:
        self.package = package
        self.graph = graph
        self.batch_cap = 1

    @property
    def manifest(self) -> Manifest:
        """The package's manifest."""
        return self.package.manifest

    @abstractmethod
    def prepare(self, tensors: Sequence[Tensor], parameters: Mapping[str, Any]) -> W:
        """Read a request whose names, datatypes and shapes agree with the manifest.

        Raises:
            InputsRefused: names the tensor or parameter and what is wrong with it.
        """

    @abstractmethod
    def group(self, works: Sequence[W]) -> list[list[int]]:
        """Return the positions of the requests that run together."""

    @abstractmethod
    def run(self, works: Sequence[W]) -> list[Answer | JobError]:
        """Run one group, an answer for each.

        Raises:
            ExecutionFailed: the group cannot run as one; of a group of one, it failed.
        """

    @abstractmethod
    def sample(self, rows: int) -> Arrays:
        """Return made-up inputs of the graph, by which its speed is measured."""

    @property
    @abstractmethod
    def graph_outputs(self) -> Sequence[str]:
        """The outputs of the graph that are computed."""


class Options:
    """Reads a manifest's options, each with its type; what is left over is unknown.

    Raises, by each method:
        ModelUnusable: the option is of another kind; names it.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._options = manifest.options
        # The gateway reads this one.
        self._known = {AUDIT_TOLERANCE}
        for name in self.texts("variants"):
            if name not in manifest.files:
                raise _wrong("variants", f"{name!r} is not among the files.")

    def number(self, name: str, default: int, low: int, high: int) -> int:
        """Return a whole number within bounds."""
        value = self._take(name, default)
        if type(value) is not int or not low <= value <= high:
            raise _wrong(name, f"{value!r} is not a whole number from {low} to {high}.")
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        """Return true or false."""
        value = self._take(name, default)
        if not isinstance(value, bool):
            raise _wrong(name, f"{value!r} is not true or false.")
        return value

    def text(self, name: str, default: str) -> str:
        """Return a text."""
        value = self._take(name, default)
        if not isinstance(value, str):
            raise _wrong(name, f"{value!r} is not a text.")
        return value

    def choice(self, name: str, default: str, choices: Sequence[str]) -> str:
        """Return one of some words."""
        value = self.text(name, default)
        if value not in choices:
            raise _wrong(name, f"{value!r} is not one of {', '.join(choices)}.")
        return value

    def texts(self, name: str) -> list[str]:
        """Return a list of texts, empty if not given."""
        value = self._take(name, [])
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise _wrong(name, "expected a list of texts.")
        return value

    def floats(self, name: str, default: Sequence[float]) -> list[float]:
        """Return a list of numbers, as many as the default has."""
        value = self._take(name, list(default))
        if (
            not isinstance(value, list)
            or len(value) != len(default)
            or not all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in value)
        ):
            raise _wrong(name, f"expected {len(default)} numbers.")
        return [float(one) for one in value]

    def done(self) -> None:
        """Refuse options that nothing has asked for."""
        unknown = set(self._options) - self._known
        if unknown:
            raise _wrong(min(unknown), f"this task has no such option; it has {', '.join(sorted(self._known))}.")

    def _take(self, name: str, default: Any) -> Any:
        self._known.add(name)
        return self._options.get(name, default)


def _wrong(name: str, detail: str) -> ModelUnusable:
    return ModelUnusable(detail, field=f"options.{name}")


def check_interface(manifest: Manifest, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Hold the manifest's tensors against what its task serves; order does not matter.

    Raises:
        ModelUnusable: names what the manifest must say.
    """
    for what, said, due in (("inputs", manifest.inputs, inputs), ("outputs", manifest.outputs, outputs)):
        if set(said) != set(due):
            raise ModelUnusable(
                f"the manifest says {_specs(said)}, a {manifest.task} of this model has {_specs(due)}.",
                field=what,
                remedy="`market model init` writes a manifest that fits.",
            )


def _specs(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {spec.datatype}{list(spec.shape)}" for spec in specs)


def check_parameters(parameters: Mapping[str, Any], known: Sequence[str] = ()) -> None:
    """Refuse parameters that mean nothing here.

    Raises:
        InputsRefused: names the first of them.
    """
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        takes = f"it takes {', '.join(known)}" if known else "it takes none"
        raise InputsRefused(f"the model knows no parameter {unknown[0]!r}; {takes}.", field=f"parameters.{unknown[0]}")
