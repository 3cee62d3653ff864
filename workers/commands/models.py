"""`worker check`, `tune`, `quantize` and `convert`: what an owner or operator asks of a package without serving it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from workers.commands.output import EXIT_REFUSED, AsJson, EnvFile, messages, print_json
from workers.errors import ModelUnusable
from workers.isolation import confinement_for, confinement_of_folder
from workers.models.sandbox import Confinement, find_bubblewrap
from workers.settings import WorkerSettings, load_settings
from workers.telemetry import configure_logging

# An int8 embedding moves by about 0.1 of its length, which leaves neighbours neighbours.
MOST_DIFFERENCE = 0.2


def check(
    folder: Annotated[Path, typer.Argument(help="Folder of a model package.")],
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Load a package as this worker would and try a request on it; say every problem and its remedy."""
    with messages(as_json=as_json):
        if not _check(folder, env_file, as_json=as_json):
            raise typer.Exit(EXIT_REFUSED)


def tune(
    model: Annotated[str, typer.Argument(help="Name or id of a listed model, or the folder of a package.")],
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model here by precision, provider, threads and batch, and keep the best for `worker run`."""
    with messages(as_json=as_json):
        _tune(model, env_file, as_json=as_json)


def quantize(
    folder: Annotated[Path, typer.Argument(help="Folder of a package.")],
    into: Annotated[Path, typer.Argument(help="Folder for the smaller package; it must be empty or not there.")],
    precision: Annotated[str, typer.Option(help="int8 or int4.")] = "int8",
    sample: Annotated[
        Path | None,
        typer.Option(
            help="Inputs to compare both on: a text a line, a picture, or an .npz of tensors; default made up."
        ),
    ] = None,
    most_difference: Annotated[
        float, typer.Option(min=0, help="Most that an output may move, as a share of its own length.")
    ] = MOST_DIFFERENCE,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Write a package with 8 or 4 bit weights, and show what that costs in accuracy and brings in size and time."""
    with messages(as_json=as_json):
        _quantize(folder, into, precision, sample, most_difference, env_file, as_json=as_json)


def convert(
    path: Annotated[Path, typer.Argument(help="Folder with a PyTorch checkpoint, or a .gguf file.")],
    into: Annotated[Path, typer.Argument(help="Folder for what is made; it must be empty or not there.")],
    task: Annotated[str | None, typer.Option(help="What it is for; read from config.json if not given.")] = None,
    precision: Annotated[
        str, typer.Option(help="fp32; for text generation also int8 or int4. `worker quantize` is for the others.")
    ] = "fp32",
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a PyTorch or GGUF checkpoint into what `market model init` packs and a worker serves."""
    with messages(as_json=as_json):
        from workers.making.process import make
        from workers.making.told import read_converted

        settings = load_settings(env_file)
        configure_logging("error", "text")
        made = make(
            "convert",
            path,
            into,
            read=read_converted,
            confinement=_of_folder(settings),
            task=task,
            precision=precision,
        )
        if as_json:
            print_json(asdict(made) | {"folder": str(into)})
            return
        held = "" if made.apart is None else f", outputs within {made.apart:.1g} of PyTorch's"
        typer.echo(f"{made.architecture} for {made.task} in {made.precision}{held}")
        typer.echo(f"in {into}; next: market model publish {into}")


def _check(folder: Path, env_file: Path | None, *, as_json: bool) -> bool:
    """Check a package's folder and print what was found; tells whether it would be served."""
    from workers import checking
    from workers.models.runtime import choose_provider
    from workers.models.sessions import open_sessions

    settings = load_settings(env_file)
    configure_logging("error", settings.log_format)
    sessions = open_sessions(settings, choose_provider(settings.provider))
    try:
        report = checking.check(folder, sessions, confinement=_of_folder(settings))
    finally:
        sessions.close()
    problems = [
        {"code": error.code, "field": error.field, "detail": error.detail, "remedy": error.remedy}
        for error in report.problems
    ]
    if as_json:
        print_json(report.facts | {"problems": problems})
    else:
        for name, value in report.facts.items():
            typer.echo(f"{name.ljust(24)} {value}")
        for problem in problems:
            typer.echo(f"FAULT {problem['field'] or ''}: {problem['detail']} {problem['remedy'] or ''}")
        typer.echo(f"{len(problems)} problem(s)")
    return not problems


def _tune(model: str, env_file: Path | None, *, as_json: bool) -> None:
    """Measure a model on this machine, keep the best, and print what was measured.

    Raises:
        ModelUnusable: nothing ran.
    """
    from workers.models import tuning
    from workers.models.tuned import TunedStore

    settings = load_settings(env_file)
    configure_logging("error", settings.log_format)
    package, confinement = _package(model, settings)

    def say(row: tuning.Measured) -> None:
        if not as_json:
            what = f"{row.entry}  {row.provider}  {row.threads} thread(s)  batch {row.batch}".ljust(56)
            typer.echo(what + (f"  {row.fault}" if row.fault else f"  {row.rate:10.1f}/s {row.run_ms:9.2f} ms a run"))

    rows = tuning.measure(package, say=say, confinement=confinement)
    best = tuning.best(rows)
    if best is None:
        raise ModelUnusable("it did not run in any way that this machine has.", field="model")
    path = TunedStore(settings.state_dir).put(package.model_id, best)
    if as_json:
        print_json({"measured": [asdict(row) for row in rows], "best": asdict(best), "file": str(path)})
    else:
        typer.echo(f"best: {best.entry} on {best.provider}, {best.threads} thread(s), batch {best.batch}")
        typer.echo(f"kept in {path}; the next `worker run` uses it")


def _quantize(
    folder: Path,
    into: Path,
    precision: str,
    sample: Path | None,
    most_difference: float,
    env_file: Path | None,
    *,
    as_json: bool,
) -> None:
    """Quantise a package, compare it with its original, and print both; what moves too far is not kept.

    Raises:
        ModelUnusable: it cannot be quantised, or moves further than allowed.
    """
    from workers.making.process import make
    from workers.making.told import read_quantised
    from workers.models import quantizing

    settings = load_settings(env_file)
    configure_logging("error", "text")
    if precision not in quantizing.PRECISIONS:
        raise ModelUnusable(f"{precision!r} is not int8 or int4.", field="precision")
    package = _package_in(folder)
    told = make(
        "quantize",
        folder,
        into,
        read=read_quantised,
        confinement=_of_folder(settings),
        sample=sample,
        precision=precision,
        most_difference=most_difference,
    )
    made = _package_in(into)
    facts = {
        "modelId": f"0x{made.model_id.hex()}",
        "folder": str(into),
        "precision": precision,
        "bytes": {"before": package.size, "after": made.size},
        "runMs": {"before": round(told.before_ms, 3), "after": round(told.after_ms, 3)},
        "samples": told.samples,
        "differences": [asdict(one) for one in told.differences],
    }
    if as_json:
        print_json(facts)
        return
    typer.echo(f"bytes        {package.size:>12,} -> {made.size:>12,}   {made.size / package.size:.2f} of it")
    share = told.after_ms / told.before_ms
    typer.echo(f"one run, ms  {told.before_ms:12.2f} -> {told.after_ms:12.2f}   {share:.2f} of it")
    for one in told.differences:
        moved = f"moved by {one.relative:.4f} of its length, cosine {one.cosine:.5f}, a value by {one.largest:.4g}"
        typer.echo(f"{one.output}: {moved} at most, over {told.samples} sample(s)")
    typer.echo(f"model id     0x{made.model_id.hex()}\nin           {into}")


def _package_in(folder: Path) -> Any:
    """Return the package in a folder, every file checked."""
    from workers import checking

    package = checking.open_folder(folder)
    for name in package.manifest.files:
        package.verify(name)
    return package


def _package(model: str, settings: WorkerSettings) -> tuple[Any, Confinement | None]:
    """Return the package in a folder, or that of a listed model, and how it is confined.

    Raises:
        SandboxMissing: the model is a stranger's, and there is no sandbox here.
    """
    if Path(model).is_dir():
        return _package_in(Path(model)), _of_folder(settings)
    from workers import node as nodes

    side = nodes.open_chain(settings)
    model_id, listing = nodes.find_listing(side, model)
    confinement = confinement_for(listing.owner, ours=nodes.own_addresses(side), settings=settings)
    return nodes.open_store(settings).get(model_id, listing.uri), confinement


def _of_folder(settings: WorkerSettings) -> Confinement | None:
    """Return how a package in a folder is confined, and say so where that is no boundary."""
    confinement = confinement_of_folder(settings)
    if confinement is not None and confinement.bubblewrap is None:
        typer.echo(
            f"{find_bubblewrap().fault}: this runs with limits, which keep faults in but are no sandbox.", err=True
        )
    return confinement
