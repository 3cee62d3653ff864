"""The manifest of a model package: what its files are, what goes in and comes out, what is priced.

A package is a folder with `manifest.json` and the files it names. The SHA-256 of the manifest's canonical JSON is the
model id on chain, and the manifest holds every file's SHA-256: one id covers every byte. Never reads a file itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from contracts.protocol.errors import ManifestError, TensorError
from contracts.protocol.hashing import sha256
from contracts.protocol.pricing import AUDIO_INPUT, SAMPLE_RATE, Unit
from contracts.protocol.tensors import DATATYPES, MAX_RANK, canonical_json
from contracts.protocol.tool_formats import TOOL_FORMAT, TOOL_FORMATS, ToolFormat

FILENAME = "manifest.json"
FORMAT = 1
MAX_MANIFEST_BYTES = 1 << 20
MAX_FILES = 1024
MAX_SAMPLE_RATE = 1 << 24
MAX_DIMENSION = 1 << 32
# What is deeper, or no number of 64 bits, other programs cannot write or read, such as those that list all models.
MAX_OPTION_DEPTH = 16
MAX_OPTION_NUMBER = 1 << 63
# A description that is longer stands in no list.
LISTED_BYTES = 1 << 16
TEXT_TASKS = ("text-embedding", "text-generation", "text-classification", "text-ranking")
TASKS = ("tensor", *TEXT_TASKS, "image-classification")
# Options that both sides count tokens by, so that they must be numbers.
TOKEN_OPTIONS = ("max_tokens", "max_output_tokens", "context_length", "template_tokens")
# How far honest answers of the model lie apart, relative L2; 0: so far that answers cannot be held against each other.
AUDIT_TOLERANCE = "audit_tolerance"
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of the package: SHA-256 (32 bytes) and size in bytes."""

    sha256: bytes
    size: int


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor the model takes or gives; -1 in `shape` is any size of at least one."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the OIP v2 metadata form."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


@dataclass(frozen=True)
class Manifest:
    """A parsed manifest; `max_elements` bounds each input tensor, `options` is free per task (say `max_tokens`)."""

    task: str
    entry: str
    files: Mapping[str, FileEntry]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    unit: Unit = Unit.REQUEST
    batch_axis: int | None = None
    max_batch: int = 64
    max_elements: int = 1 << 22
    tokenizer: str | None = None
    license: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the canonical JSON whose SHA-256 is the model id."""
        return canonical_json(
            {
                "format": FORMAT,
                "task": self.task,
                "entry": self.entry,
                "files": {path: {"sha256": f.sha256.hex(), "size": f.size} for path, f in self.files.items()},
                "inputs": [spec.to_json() for spec in self.inputs],
                "outputs": [spec.to_json() for spec in self.outputs],
                "unit": self.unit.name.lower(),
                "batch_axis": self.batch_axis,
                "max_batch": self.max_batch,
                "max_elements": self.max_elements,
                "tokenizer": self.tokenizer,
                "license": self.license,
                "options": dict(self.options),
            }
        )

    @cached_property
    def model_id(self) -> bytes:
        """The 32 bytes that name this model on chain."""
        return sha256(self.to_bytes())

    @cached_property
    def is_listed_whole(self) -> bool:
        """Tell whether what is said of inputs, outputs and options is short enough for a list of all models."""
        described = {
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
            "options": dict(self.options),
        }
        return len(canonical_json(described)) <= LISTED_BYTES

    @property
    def is_metered(self) -> bool:
        """Tell whether only serving a request shows how many units it takes: a text's tokens."""
        return self.unit.is_tokens and self.task in TEXT_TASKS

    @property
    def tool_format(self) -> ToolFormat | None:
        """How the model writes calls of functions, None if it writes none."""
        name = self.options.get(TOOL_FORMAT)
        return None if name is None else TOOL_FORMATS[name]

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Read and check a manifest.

        Raises:
            ManifestError: not canonical, an unknown field or task, an unsafe path, a wrong type; names the field.
        """
        if len(data) > MAX_MANIFEST_BYTES:
            raise ManifestError(f"{len(data)} bytes, {MAX_MANIFEST_BYTES} allowed.", field=FILENAME)
        try:
            raw = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ManifestError("not JSON.", field=FILENAME) from error
        if not isinstance(raw, dict):
            raise ManifestError("not a JSON object.", field=FILENAME)
        if raw.get("format") != FORMAT:
            raise ManifestError(f"format {raw.get('format')!r} is not {FORMAT}.", field="format")
        manifest = cls(
            task=_choice(raw, "task", TASKS),
            entry=_text(raw, "entry"),
            files=_files(raw.get("files")),
            inputs=_specs(raw, "inputs"),
            outputs=_specs(raw, "outputs"),
            unit=Unit[_choice(raw, "unit", tuple(unit.name.lower() for unit in Unit)).upper()],
            batch_axis=None if raw.get("batch_axis") is None else _number(raw, "batch_axis", 0, MAX_RANK),
            max_batch=_number(raw, "max_batch", 1, 1 << 20),
            max_elements=_number(raw, "max_elements", 1, 1 << 32),
            tokenizer=None if raw.get("tokenizer") is None else _text(raw, "tokenizer"),
            license=_text(raw, "license"),
            options=_options(raw),
        )
        for name in (manifest.entry, manifest.tokenizer):
            if name is not None and name not in manifest.files:
                raise ManifestError(f"{name!r} is not among the files.", field="entry")
        if manifest.unit is Unit.SECOND:
            _check_seconds(manifest)
        _check_tool_format(manifest)
        try:
            is_canonical = manifest.to_bytes() == data
        except TensorError as error:  # half a character, or a number that is none
            raise ManifestError(error.detail, field=FILENAME) from error
        if not is_canonical:
            raise ManifestError("not in canonical form, or has unknown fields.", field=FILENAME)
        return manifest


def check_path(path: str) -> str:
    """Return `path` if it is a plain relative path inside a package.

    Raises:
        ManifestError: absolute, `..`, hidden, or odd characters.
    """
    parts = path.split("/")
    if not 1 <= len(parts) <= 8 or not all(_PART.fullmatch(part) for part in parts) or path == FILENAME:
        raise ManifestError(f"{path!r} is not a plain relative path.", field="files")
    return path


def _check_seconds(manifest: Manifest) -> None:
    """Hold a model that is priced by the second to what seconds are counted by."""
    rate = manifest.options.get(SAMPLE_RATE)
    if type(rate) is not int or not 1 <= rate <= MAX_SAMPLE_RATE:
        raise ManifestError(
            f"a price by the second needs the samples a second, 1 to {MAX_SAMPLE_RATE}.", field=f"options.{SAMPLE_RATE}"
        )
    audio = {spec.name for spec in manifest.inputs if spec.datatype != "BYTES"}
    named = manifest.options.get(AUDIO_INPUT)
    if named is None and len(manifest.inputs) == 1:
        named = manifest.inputs[0].name
    if not isinstance(named, str) or named not in audio:
        raise ManifestError(
            f"a price by the second needs the name of the input that has the samples, one of {sorted(audio)}.",
            field=f"options.{AUDIO_INPUT}",
        )


def _check_tool_format(manifest: Manifest) -> None:
    """Hold the way in which a model calls functions to those that both sides know."""
    if TOOL_FORMAT not in manifest.options:
        return
    named = manifest.options[TOOL_FORMAT]
    if manifest.task != "text-generation":
        raise ManifestError("only a model that generates text calls functions.", field=f"options.{TOOL_FORMAT}")
    if not isinstance(named, str) or named not in TOOL_FORMATS:
        raise ManifestError(f"{named!r:.80} is not one of {', '.join(TOOL_FORMATS)}.", field=f"options.{TOOL_FORMAT}")


def _files(raw: Any) -> dict[str, FileEntry]:
    if not isinstance(raw, dict) or not 1 <= len(raw) <= MAX_FILES:
        raise ManifestError(f"expected 1 to {MAX_FILES} files.", field="files")
    files = {}
    for path, entry in raw.items():
        check_path(path)
        digest = entry.get("sha256") if isinstance(entry, dict) else None
        size = entry.get("size") if isinstance(entry, dict) else None
        if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise ManifestError("sha256 is not 64 lower-case hex digits.", field=f"files.{path}")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 48:
            raise ManifestError("size is not a byte count.", field=f"files.{path}")
        files[path] = FileEntry(bytes.fromhex(digest), size)
    # Where letters' cases are one, the second file would be written over the first.
    folded = {path.lower() for path in files}
    for path in files:
        parts = path.lower().split("/")
        if any("/".join(parts[:depth]) in folded for depth in range(1, len(parts))):
            raise ManifestError(f"{path!r} lies in a folder that has the name of a file.", field="files")
    if len(folded) != len(files):
        raise ManifestError("names of files differ in the case of letters only.", field="files")
    return files


def _specs(raw: Mapping[str, Any], key: str) -> tuple[TensorSpec, ...]:
    rows = raw.get(key)
    if not isinstance(rows, list) or not 1 <= len(rows) <= 256:
        raise ManifestError("expected a list of tensors.", field=key)
    specs = []
    for i, row in enumerate(rows):
        where = f"{key}[{i}]"
        if not isinstance(row, dict):
            raise ManifestError("expected an object.", field=where)
        shape = row.get("shape")
        if (
            not isinstance(shape, list)
            or len(shape) > MAX_RANK
            or not all(type(n) is int and -1 <= n <= MAX_DIMENSION for n in shape)
        ):
            raise ManifestError(f"shape is not a list of sizes up to {MAX_DIMENSION} or -1.", field=f"{where}.shape")
        specs.append(TensorSpec(_text(row, "name"), _choice(row, "datatype", DATATYPES), tuple(shape)))
    if len({spec.name for spec in specs}) != len(specs):
        raise ManifestError("a name is given twice.", field=key)
    return tuple(specs)


def _text(raw: Mapping[str, Any], key: str) -> str:
    value = raw.get(key)
    if not isinstance(value, str) or len(value) > 4096:
        raise ManifestError("expected a text.", field=key)
    return value


def _choice(raw: Mapping[str, Any], key: str, choices: tuple[str, ...]) -> str:
    value = _text(raw, key)
    if value not in choices:
        raise ManifestError(f"{value!r} is not one of {', '.join(choices)}.", field=key)
    return value


def _number(raw: Mapping[str, Any], key: str, low: int, high: int) -> int:
    value = raw.get(key)
    if type(value) is not int or not low <= value <= high:
        raise ManifestError(f"expected a whole number from {low} to {high}.", field=key)
    return value


def _check_plain(value: Any, depth: int) -> None:
    if isinstance(value, (dict, list)):
        if not depth:
            raise ManifestError(f"lists and objects are more than {MAX_OPTION_DEPTH} deep.", field="options")
        for one in value.values() if isinstance(value, dict) else value:
            _check_plain(one, depth - 1)
    elif isinstance(value, int) and not -MAX_OPTION_NUMBER <= value < MAX_OPTION_NUMBER:
        raise ManifestError("a whole number has more than 64 bits.", field="options")


def _options(raw: Mapping[str, Any]) -> dict[str, Any]:
    value = raw.get("options")
    if not isinstance(value, dict):
        raise ManifestError("expected an object.", field="options")
    _check_plain(value, MAX_OPTION_DEPTH)
    for name in TOKEN_OPTIONS:
        count = value.get(name, 1)
        if type(count) is not int or not 0 <= count <= 1 << 24:
            raise ManifestError("expected a whole number from 0 to 16777216.", field=f"options.{name}")
    tolerance = value.get(AUDIT_TOLERANCE, 0)
    if type(tolerance) not in (int, float) or not 0 <= tolerance <= 1:
        raise ManifestError("expected a number from 0 to 1.", field=f"options.{AUDIT_TOLERANCE}")
    return value
