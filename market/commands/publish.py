"""`market model publish PATH`: from a model as it was downloaded to a listing on chain, in one command.

Converts a PyTorch or GGUF checkpoint, packs what is not packed yet, makes it smaller if asked to, has the worker
program try it, and lists it. Each step is told as it happens; the first that fails ends the command, and nothing is
listed then.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from contracts.protocol.errors import ManifestError
from contracts.protocol.hexes import checksum, hex0x
from contracts.protocol.manifest import FILENAME
from contracts.protocol.money import both, check_terms, parse_money
from market.commands.acting import acting
from market.commands.amounts import AMOUNT_HELP, finish
from market.commands.model_package import (
    CHECK_SECONDS,
    MAX_NAME,
    UNIT_HELP,
    Guessing,
    ask_worker,
    check_name,
    check_uri,
    draft_package,
    problems_of,
)
from market.commands.output import errors
from market.commands.profile import Profile
from market.errors import ConfigurationError
from market.sdk import packages
from market.sdk.drafts import GENAI, Guess
from market.sdk.wallet import Wallet

if TYPE_CHECKING:
    from market.sdk.chain import Chain

# Reading, converting and writing a large checkpoint.
CONVERT_SECONDS = 7_200
_PRECISIONS = ("int8", "int4")
_CHECKPOINTS = ("*.safetensors", "pytorch_model*.bin", "*.gguf")


@acting(gateway=False)
def model_publish(
    profile: Profile,
    path: Annotated[Path, typer.Argument(help="Packed folder, folder with a model or checkpoint, .onnx or .gguf.")],
    name: Annotated[str | None, typer.Argument(help="Name of the listing; default from the path.")] = None,
    *,
    min_price: Annotated[str, typer.Option(help="Least price of a unit. " + AMOUNT_HELP)],
    max_price: Annotated[str, typer.Option(help="Highest price of a unit. " + AMOUNT_HELP)],
    royalty_ppm: Annotated[int, typer.Option(help="The owner's share in millionths.")],
    uri: Annotated[str | None, typer.Option(help="Where workers fetch the package; default this folder.")] = None,
    task: Annotated[str | None, typer.Option(help="What is served; guessed from the files if not given.")] = None,
    entry: Annotated[str | None, typer.Option(help="The ONNX file in the folder, where there are several.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="name=value of the task's options; repeat for more.")] = None,
    unit: Annotated[str | None, typer.Option(help=UNIT_HELP)] = None,
    max_batch: Annotated[int | None, typer.Option(help="Most rows that run at once.")] = None,
    license_name: Annotated[str | None, typer.Option("--license", help="SPDX name of the model's licence.")] = None,
    into: Annotated[Path | None, typer.Option(help="Folder for the package that is made.")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Keep weights in 8 bits.")] = False,
    int4: Annotated[bool, typer.Option("--int4", help="Keep weights in 4 bits.")] = False,
    sample: Annotated[Path | None, typer.Option(help="Inputs to compare both precisions on.")] = None,
    most_difference: Annotated[
        float | None, typer.Option(min=0, help="Most that an output may move, as a share of its own length.")
    ] = None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Pack a model, try it as a worker would, and list it on chain; with --int8 or --int4 make it smaller first."""
    if int8 and int4:
        raise ConfigurationError("--int8 and --int4 exclude each other.", field="int4")
    precision = _PRECISIONS[int4] if int8 or int4 else None
    low, high = parse_money(min_price, field="min-price"), parse_money(max_price, field="max-price")
    check_terms(low, high, royalty_ppm)
    called = path.resolve().stem if path.is_file() else path.resolve().name
    listed = slug(called) if name is None else name
    check_name(listed)
    if uri is not None:
        check_uri(uri)
    said: dict[str, Any] = {}
    converted: dict[str, Any] = {}
    target = into
    checkpoint = is_checkpoint(path)
    # Hours of converting must not end at a wrong password, nor at a name that another owner has.
    opened = _opened(profile, listed, dry_run=dry_run) if checkpoint else None
    with _steps(3 + (precision is not None) + checkpoint) as step, ExitStack() as stack:
        guessing = Guessing(task, entry, tuple(option or ()), unit, max_batch, license_name)
        if checkpoint:
            step("converting to ONNX")
            target = into or path.resolve().with_name(f"{called}-{precision or 'onnx'}")
            path, converted = _converted(path, target, task, precision, stack)
            if converted["precision"] == precision:
                precision = None
        if precision is not None:
            target = into or target or path.resolve().with_name(f"{called}-{precision}")
            if path.is_file():  # what is packed on the way is of no use afterwards
                scratch = stack.enter_context(TemporaryDirectory(dir=path.resolve().parent, prefix=".publish-"))
                into = Path(scratch) / called
        step("packing")
        folder, guesses = _packed(path, into, guessing)
        wallet, chain = opened or _opened(profile, listed, dry_run=dry_run)
        if precision is not None and target is not None:
            step(f"quantising to {precision}")
            folder, said = target, _quantised(folder, target, precision, sample, most_difference)
        step("trying it as a worker would")
        manifest = packages.load(folder)
        report = problems_of(folder)
        for problem in report.pop("problems"):
            raise ManifestError(problem["detail"], field=problem["field"], remedy=problem["remedy"])
        step("listing it" if not dry_run else "reckoning what listing it costs")
        chain.list_model(
            wallet,
            manifest,
            name=listed,
            min_price=low,
            max_price=high,
            royalty_ppm=royalty_ppm,
            uri=uri or folder.resolve().as_uri(),
        )
    data = {
        "name": listed,
        "modelId": hex0x(manifest.model_id),
        "owner": wallet.checksum_address,
        "folder": str(folder),
        "task": manifest.task,
        "minPrice": str(low),
        "maxPrice": str(high),
        "royaltyPpm": str(royalty_ppm),
        **({"converted": converted} if converted else {}),
        **({"quantised": said} if said else {}),
        "guesses": [{"field": one.field, "value": one.value, "why": one.why} for one in guesses],
    }
    fields = {name: value for name, value in data.items() if name not in ("guesses", "quantised", "converted")}
    fields |= {"minPrice": both(low), "maxPrice": both(high)}
    fields |= {f"guessed {one.field}": f"{one.value} ({one.why})" for one in guesses} | _told(said)
    finish(chain, data, fields, as_json=as_json)


def _opened(profile: Profile, name: str, *, dry_run: bool) -> tuple[Wallet, Chain]:
    """Open the owner's wallet and the chain; an own listing of that name may be one that was cut short.

    Raises:
        ConfigurationError: the name is another owner's.
    """
    wallet, chain = profile.wallet("owner"), profile.chain(dry_run=dry_run)
    _, known = chain.model_by_name(name)
    if any(known.owner) and known.owner != wallet.address:
        raise ConfigurationError(
            f"{name!r} is a listing of {checksum(known.owner)}.", field="name", remedy="Choose another name."
        )
    return wallet, chain


def slug(text: str) -> str:
    """Return a name for a listing: small letters, digits and `.-_`.

    Raises:
        ConfigurationError: nothing of the text can be used.
    """
    made = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:MAX_NAME]
    if not made:
        raise ConfigurationError(f"{text!r} makes no name.", field="name", remedy="Give the listing's name.")
    return made


def is_checkpoint(path: Path) -> bool:
    """Tell whether a path holds weights of PyTorch or GGUF and nothing yet that a worker serves."""
    if path.is_file():
        return path.suffix == ".gguf"
    if any((path / name).is_file() for name in (FILENAME, GENAI)) or next(path.rglob("*.onnx"), None):
        return False
    return any(next(path.glob(kind), None) for kind in _CHECKPOINTS)


def _converted(
    path: Path, target: Path, task: str | None, precision: str | None, stack: ExitStack
) -> tuple[Path, dict[str, Any]]:
    """Convert a checkpoint into `target`, or beside it where it is still to be quantised; return folder and report."""
    if target.exists() and any(target.iterdir()):
        raise ConfigurationError(f"{target} is not empty.", field="into", remedy="Name another folder by --into.")
    scratch = Path(stack.enter_context(TemporaryDirectory(dir=target.resolve().parent, prefix=".publish-")))
    made = scratch / "model"
    words = ["convert", str(path), str(made)]
    words += ["--task", task] if task is not None else []
    words += ["--precision", precision] if precision is not None else []
    report = _asked(words, field="path", seconds=CONVERT_SECONDS)
    if report["precision"] == (precision or "fp32"):
        if target.exists():
            target.rmdir()
        made.rename(target)
        made = target
    return made, report


def _packed(path: Path, into: Path | None, guessing: Guessing) -> tuple[Path, list[Guess]]:
    if path.is_dir() and (path / FILENAME).is_file():
        if guessing != Guessing():
            raise ConfigurationError(
                f"{path} is packed already: its manifest says task, unit and options.",
                field="path",
                remedy=f"Leave these options out, or delete {path / FILENAME}.",
            )
        packages.load(path)
        return path, []
    folder, made, _ = draft_package(path, into, guessing)
    return folder, made.guesses


def _quantised(folder: Path, target: Path, precision: str, sample: Path | None, most: float | None) -> dict[str, Any]:
    arguments = ["quantize", str(folder), str(target), "--precision", precision]
    arguments += ["--sample", str(sample)] if sample is not None else []
    arguments += ["--most-difference", str(most)] if most is not None else []
    return _asked(arguments, field=precision)


def _asked(arguments: list[str], *, field: str, seconds: float = CHECK_SECONDS) -> dict[str, Any]:
    report = ask_worker(arguments, seconds)
    if report is None:
        raise ConfigurationError(
            "the worker program is not installed here: it is what converts and quantises.",
            field=field,
            remedy="Install the extras [cpu] and [convert].",
        )
    if "error" in report:
        error = report["error"]
        raise ManifestError(error["detail"], field=error["field"], remedy=error["remedy"])
    return report


def _told(said: dict[str, Any]) -> dict[str, str]:
    if not said:
        return {}
    size, run = said["bytes"], said["runMs"]
    told = {
        "bytes": f"{size['before']:,} before, {size['after']:,} after",
        "one run": f"{run['before']} ms before, {run['after']} ms after",
    }
    for one in said["differences"]:
        moved = f"moved by {one['relative']:.4f} of its length, cosine {one['cosine']:.5f}"
        told[one["output"]] = f"{moved}, over {said['samples']} sample(s)"
    return told


@contextmanager
def _steps(of: int) -> Iterator[Any]:
    """Show steps as they happen, on standard error; call what is yielded with the name of each as it begins."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=errors, transient=True) as shown:
        bar = shown.add_task("", total=of)
        begun = itertools.count()

        def step(name: str) -> None:
            shown.update(bar, description=name, completed=next(begun))

        yield step
        shown.update(bar, completed=of)
