"""`market model init|check`: from a folder or an ONNX file to a package, and whether a worker would serve it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from contracts.protocol.errors import CodedError, ManifestError
from contracts.protocol.hexes import hex0x
from contracts.protocol.manifest import Manifest
from contracts.protocol.pricing import Unit
from market.commands.output import EXIT_REFUSED, JsonOption, emit, errors_as_messages, print_fields, print_table
from market.errors import ConfigurationError
from market.sdk import drafts, packages
from market.sdk.onnx_file import read_onnx

# Loading a large model and trying it.
CHECK_SECONDS = 1_800
MAX_NAME = 63
_NAME = re.compile(rf"[a-z0-9][a-z0-9._-]{{,{MAX_NAME - 1}}}", re.ASCII)
_BLANK = re.compile(r"[\s\x00-\x1f\x7f]")
_COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "config.json",
    "preprocessor_config.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    "README.md",
    "LICENSE",
)


@dataclass(frozen=True, slots=True)
class Guessing:
    """What the owner says of a model instead of having it guessed."""

    task: str | None = None
    entry: str | None = None
    options: tuple[str, ...] = ()
    unit: str | None = None
    max_batch: int | None = None
    license_name: str | None = None


# As they are typed, with what is said of them.
UNIT_NAMES = "request, row, image, token, million-tokens, second or byte"
UNIT_HELP = f"What is priced: {UNIT_NAMES}."


def unit_named(text: str) -> Unit:
    """Return the unit of a name."""
    try:
        return Unit[text.upper().replace("-", "_")]
    except KeyError as error:
        raise ConfigurationError(
            f"{text!r} is no unit.",
            field="unit",
            remedy=f"Use {UNIT_NAMES}.",
        ) from error


def model_init(
    path: Annotated[Path, typer.Argument(help="Folder with a model, or an ONNX file.")],
    *,
    task: Annotated[str | None, typer.Option(help="What is served; guessed from the files if not given.")] = None,
    entry: Annotated[str | None, typer.Option(help="The ONNX file in the folder, where there are several.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="name=value of the task's options; repeat for more.")] = None,
    unit: Annotated[str | None, typer.Option(help=UNIT_HELP)] = None,
    max_batch: Annotated[int | None, typer.Option(help="Most rows that run at once.")] = None,
    license_name: Annotated[str | None, typer.Option("--license", help="SPDX name of the model's licence.")] = None,
    into: Annotated[Path | None, typer.Option(help="Folder for the package of an ONNX file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a package's manifest from what its files say; tell each guess and where it comes from."""
    with errors_as_messages(as_json=as_json):
        guessing = Guessing(task, entry, tuple(option or ()), unit, max_batch, license_name)
        folder, made, manifest = draft_package(path, into, guessing)
        rows = [{"field": one.field, "value": one.value, "why": one.why} for one in made.guesses]
        data = {
            "modelId": hex0x(manifest.model_id),
            "folder": str(folder),
            "task": manifest.task,
            "files": len(manifest.files),
            "guesses": rows,
        }

        def text() -> None:
            print_table("What was guessed", ("field", "value", "because"), [tuple(row.values()) for row in rows])
            print_fields({name: str(value) for name, value in data.items() if name != "guesses"})
            print_fields({"next": f"market model check {folder}"})

        emit(data, as_json=as_json, text=text)


def model_check(
    folder: Annotated[Path, typer.Argument(help="Folder of a package.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Check a package as a worker would: files, manifest, graph; and by the `worker` program, load and try it."""
    with errors_as_messages(as_json=as_json):
        report = problems_of(folder)
        rows = report["problems"]
        data = {"folder": str(folder), **report}

        def text() -> None:
            if rows:
                shown = [(row["field"] or "", row["detail"], row["remedy"] or "") for row in rows]
                print_table("Problems", ("where", "what", "remedy"), shown)
            print_fields({name: str(value) for name, value in data.items() if name != "problems"})
            print_fields({"problems": len(rows)})

        emit(data, as_json=as_json, text=text)
        if rows:
            raise typer.Exit(EXIT_REFUSED)


def draft_package(path: Path, into: Path | None, guessing: Guessing) -> tuple[Path, drafts.Draft, Manifest]:
    """Write the manifest of a folder, or of an ONNX file in a folder of its own; returns folder, draft and manifest.

    Raises:
        ManifestError: there is no model, or several, or the draft contradicts itself; no folder is left behind.
        ConfigurationError: something is there already where the folder would be, or an option is none.
    """
    if not path.is_file():
        return path, *_drafted(path, guessing)
    folder = into or path.with_suffix("")
    if folder.exists() and any(folder.iterdir()):
        raise ConfigurationError(f"{folder} is not empty.", field="into", remedy="Name another folder by --into.")
    try:
        _copy_into(folder, path)
        return folder, *_drafted(folder, guessing)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _drafted(folder: Path, guessing: Guessing) -> tuple[drafts.Draft, Manifest]:
    made = drafts.draft(folder, task=guessing.task, entry=guessing.entry, options=_options(guessing.options))
    if guessing.unit is not None:
        made.unit = unit_named(guessing.unit)
        made.say("unit", guessing.unit, "you said so")
    if guessing.max_batch is not None:
        made.max_batch = guessing.max_batch
    if guessing.license_name is not None:
        made.license_name = guessing.license_name
    return made, made.write()


def problems_of(folder: Path) -> dict[str, Any]:
    """Return what is known of a package, its `problems` among it: of its files, else of trying it."""
    rows = _faults(folder)
    if rows:
        return {"problems": rows}
    report = ask_worker(["check", str(folder)])
    if report is None:
        return {"problems": [], "tried": "no: the worker program is not installed here"}
    return {"problems": [report["error"]]} if "error" in report else report


def _faults(folder: Path) -> list[dict[str, Any]]:
    try:
        manifest, faults = packages.inspect(folder)
        if manifest.entry.endswith(".onnx"):
            graph = read_onnx(folder / manifest.entry)
            parent = manifest.entry.rpartition("/")[0]
            faults += [
                ManifestError(f"{manifest.entry} keeps weights in {name}, which is not in the package.", field="files")
                for name in sorted(graph.external)
                if (f"{parent}/" if parent else "") + name not in manifest.files
            ]
    except ManifestError as error:
        return [_row(error)]
    return [_row(fault) for fault in faults]


def _row(error: CodedError) -> dict[str, Any]:
    return {"code": error.code, "field": error.field, "detail": error.detail, "remedy": error.remedy}


def ask_worker(arguments: list[str], seconds: float = CHECK_SECONDS) -> dict[str, Any] | None:
    """Run the worker program, which knows the runtime as this program does not; None where it is not installed.

    Raises:
        ConfigurationError: it said nothing that can be read.
    """
    beside = Path(sys.executable).with_name("worker")
    program = str(beside) if beside.is_file() else shutil.which("worker")
    if program is None:
        return None
    command = [program, *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    try:
        return dict(json.loads(done.stdout))
    except ValueError as error:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ConfigurationError(f"`worker {arguments[0]}` failed: {last[:300]}", field="worker") from error


def _options(items: Sequence[str]) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise ConfigurationError(
                f"{item!r} is not name=value.",
                field="option",
                remedy="Write one of docs/owners.md, such as max_tokens=128.",
            )
        try:
            said[name] = json.loads(value)
        except ValueError:
            said[name] = value
    return said


def _copy_into(folder: Path, path: Path) -> None:
    """Copy an ONNX file and what lies beside it and belongs to it into a folder of its own."""
    names = [*_COMPANIONS, *read_onnx(path).external]
    (folder / path.name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, folder / "model.onnx")
    for name in names:
        source = path.parent / name
        if source.is_file() and source.resolve().is_relative_to(path.parent.resolve()):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / name)


def check_name(name: str) -> None:
    """Refuse a name that the registry would refuse, before anything is made for it.

    Raises:
        ConfigurationError: it is one.
    """
    if _NAME.fullmatch(name) is None:
        raise ConfigurationError(
            f"{name[: MAX_NAME + 1]!r} is no name of a listing.",
            field="name",
            remedy=f"Use 1 to {MAX_NAME} of a-z, 0-9, and inside also `.`, `_` and `-`.",
        )


def check_uri(uri: str) -> None:
    """Refuse an address that no worker fetches a package from; whether the files are there is not asked.

    Raises:
        ConfigurationError: it is one.
    """
    try:
        parts = urlsplit(uri)
        of_web = parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.query or parts.fragment)
    except ValueError:
        of_web = False
    if not (of_web or uri.startswith("file:///")) or _BLANK.search(uri) is not None:
        raise ConfigurationError(
            f"workers fetch no package from {uri[:200]!r}.",
            field="uri",
            remedy="Name the https:// address of the folder that manifest.json lies in, without a query; "
            "file:///… on one machine only.",
        )
