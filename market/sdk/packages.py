"""Model packages from the owner's side: hash the files of a folder and write the manifest that names them.

Decides nothing about the model: inputs, outputs and pricing unit are the owner's words, or what `market.sdk.drafts`
made of the files, and workers check them against the model. Called by `market model` and the demonstration.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contracts.folders import homes_of, lies_in
from contracts.protocol.errors import ManifestError
from contracts.protocol.manifest import FILENAME, FileEntry, Manifest, TensorSpec, check_path
from contracts.protocol.pricing import Unit
from contracts.protocol.tensors import DATATYPES

_CHUNK_BYTES = 1 << 20


def hash_files(folder: Path) -> dict[str, FileEntry]:
    """Hash every file of a folder but the manifest itself and what is hidden.

    Raises:
        ManifestError: the folder is missing or empty, a name is not a plain relative path, or a link leads out.
    """
    if not folder.is_dir():
        raise ManifestError(f"{folder} is not a folder.", field="package", remedy="Name a folder that is there.")
    found = {}
    homes = homes_of(folder)
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != FILENAME and not any(part.startswith(".") for part in name.split("/")):
            if path.is_symlink() and not lies_in(path, homes):
                raise ManifestError(
                    f"{name} is a link out of the folder; what it leads to would be published.",
                    field=f"files.{name}",
                    remedy="Put the file itself there, or remove the link.",
                )
            found[check_path(name)] = _hash_file(path)
    if not found:
        raise ManifestError(f"{folder} holds no files.", field="package")
    return found


def _hash_file(path: Path) -> FileEntry:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as source:
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return FileEntry(digest.digest(), size)


def pack(
    folder: Path,
    *,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    entry: str = "model.onnx",
    task: str = "tensor",
    unit: Unit = Unit.REQUEST,
    batch_axis: int | None = None,
    max_batch: int = 64,
    max_elements: int = 1 << 22,
    tokenizer: str | None = None,
    license_name: str = "",
    options: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write the folder's `manifest.json` and return it.

    Raises:
        ManifestError: what is said contradicts itself or the files.
    """
    manifest = Manifest(
        task=task,
        entry=entry,
        files=hash_files(folder),
        inputs=inputs,
        outputs=outputs,
        unit=unit,
        batch_axis=batch_axis,
        max_batch=max_batch,
        max_elements=max_elements,
        tokenizer=tokenizer,
        license=license_name,
        options=options or {},
    )
    checked = Manifest.parse(manifest.to_bytes())
    (folder / FILENAME).write_bytes(checked.to_bytes())
    return checked


def load(folder: Path) -> Manifest:
    """Read a packed folder's manifest and check every file against it.

    Raises:
        ManifestError: there is no manifest, or a file is missing, extra or changed.
    """
    manifest, faults = inspect(folder)
    for fault in faults:
        raise fault
    return manifest


def inspect(folder: Path) -> tuple[Manifest, list[ManifestError]]:
    """Read a packed folder's manifest; returns it with everything about the files that does not agree with it.

    Raises:
        ManifestError: there is no manifest, or it is malformed.
    """
    path = folder / FILENAME
    if not path.is_file():
        raise ManifestError(f"{path} does not exist.", field="package", remedy="Run `market model init` first.")
    manifest = Manifest.parse(path.read_bytes())
    found = hash_files(folder)
    faults = []
    for name in sorted(manifest.files.keys() | found.keys()):
        said, is_there = manifest.files.get(name), found.get(name)
        if said != is_there:
            what = "is missing" if is_there is None else "is not in the manifest" if said is None else "was changed"
            faults.append(
                ManifestError(f"{name} {what}.", field=f"files.{name}", remedy="Run `market model init` again.")
            )
    return manifest, faults


def parse_spec(text: str) -> TensorSpec:
    """Read `name:DATATYPE:dim,dim`, such as `input_ids:INT64:-1,-1`; no dimensions mean a scalar.

    Raises:
        ManifestError: not of this form.
    """
    parts = text.split(":")
    try:
        name, datatype, dims = parts
        shape = tuple(int(dim) for dim in dims.split(",")) if dims else ()
    except ValueError as error:
        raise ManifestError(f"{text!r} is not name:DATATYPE:dim,dim.", field="tensor") from error
    if not name or datatype not in DATATYPES or any(dim < -1 for dim in shape):
        raise ManifestError(f"{text!r} names no datatype of {', '.join(DATATYPES)}.", field="tensor")
    return TensorSpec(name, datatype, shape)
