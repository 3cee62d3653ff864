"""`worker check` and `worker tune`: what an owner or operator asks of a package without serving it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from workers import node as nodes
from workers.commands.output import EXIT_REFUSED, AsJson, EnvFile, messages, print_json
from workers.errors import ModelUnusable
from workers.settings import WorkerSettings, load_settings
from workers.telemetry import configure_logging


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


def _check(folder: Path, env_file: Path | None, *, as_json: bool) -> bool:
    """Check a package's folder and print what was found; tells whether it would be served."""
    from workers import checking
    from workers.models.runtime import choose_provider

    settings = load_settings(env_file)
    configure_logging("error", settings.log_format)
    sessions = nodes.open_sessions(settings, choose_provider(settings.provider))
    try:
        report = checking.check(folder, sessions)
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
    package = _package(model, settings)

    def say(row: tuning.Measured) -> None:
        if not as_json:
            what = f"{row.entry}  {row.provider}  {row.threads} thread(s)  batch {row.batch}".ljust(56)
            typer.echo(what + (f"  {row.fault}" if row.fault else f"  {row.rate:10.1f}/s {row.run_ms:9.2f} ms a run"))

    rows = tuning.measure(package, say=say)
    best = tuning.best(rows)
    if best is None:
        raise ModelUnusable("it did not run in any way that this machine has.", field="model")
    path = TunedStore(settings.state_dir).put(package.model_id, best)
    if as_json:
        print_json({"measured": [asdict(row) for row in rows], "best": asdict(best), "file": str(path)})
    else:
        typer.echo(f"best: {best.entry} on {best.provider}, {best.threads} thread(s), batch {best.batch}")
        typer.echo(f"kept in {path}; the next `worker run` uses it")


def _package(model: str, settings: WorkerSettings) -> Any:
    """Return the package in a folder, or that of a listed model."""
    from workers import checking

    if Path(model).is_dir():
        package = checking.open_folder(Path(model))
        for name in package.manifest.files:
            package.verify(name)
        return package
    side = nodes.open_chain(settings)
    ((model_id, listing, _),) = nodes.find_models(side, settings.model_copy(update={"models": model}))
    return nodes.open_store(settings).get(model_id, listing.uri)
