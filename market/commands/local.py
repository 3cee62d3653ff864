"""`market demo` and `market up`: the whole market on this machine, shown step by step."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.panel import Panel

from market.commands.output import JsonOption, console, emit, errors_as_messages, print_fields, print_table
from market.commands.profile import DataDirOption
from market.demo import minilm
from market.demo.network import LocalMarket, Options
from market.demo.steps import Demonstration, Step
from market.devnet.process import check_interrupt, terminate_as_interrupt
from market.errors import ConfigurationError
from market.sdk.papers import PaperStore
from market.settings import DEFAULT_DATA_DIR

_EXIT_BAD_RECEIPTS = 1


def demo(
    *,
    keep: Annotated[Path | None, typer.Option(help="Folder to keep logs, keys and papers in.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a whole paid inference on real parts, and leave nothing running."""
    with errors_as_messages(as_json=as_json), terminate_as_interrupt(), _folder(keep) as folder:
        started = time.monotonic()
        papers = PaperStore(folder / "client" / "papers.db")
        with LocalMarket(Options(folder, keep_state=False, settle_interval_seconds=2.0)) as local:
            show = Demonstration(local, papers)
            _run(show, quiet=as_json)
        papers.close()
        show.report["seconds"] = round(time.monotonic() - started, 1)
        show.report["ok"] = _ok(show)
        emit(show.report, as_json=as_json, text=lambda: _summary(show))
        if not show.report["ok"]:
            raise typer.Exit(_EXIT_BAD_RECEIPTS)


def up(
    *,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    port: Annotated[int, typer.Option(help="Gateway's port; 0 takes a free one.")] = 8_080,
    settle_interval: Annotated[float, typer.Option(help="Seconds between settlements.")] = 15.0,
    as_json: JsonOption = False,
) -> None:
    """Run a local market until Ctrl-C; its state stays in the data folder."""
    with errors_as_messages(as_json=as_json), terminate_as_interrupt():
        text_package = data_dir / "packages" / minilm.TEXT_NAME
        options = Options(
            data_dir,
            keep_state=True,
            port=port,
            settle_interval_seconds=settle_interval,
            packages=(text_package,),
        )
        with _locked(data_dir), LocalMarket(options) as local:
            minilm.build_text_package(text_package)
            steps = (
                ("services", local.start_services),
                ("contracts and accounts", local.deploy),
                ("model", local.list_model),
                ("worker's stake", local.register_worker),
                ("gateway, jobs and worker", local.start_programs),
            )
            with _status(quiet=as_json) as status:
                for name, step in steps:
                    status(f"{name} …")
                    step()
            network = local.save_network_file()
            keystores = {f"key of {role}": path for role, path in network.keystores.items()}
            fields = {
                "gateway": network.gateway_url,
                "chain": f"{network.rpc_url} (id {network.chain_id})",
                "redis": network.redis_url,
                "database": network.database_url,
                "contracts": network.deployment,
                **keystores,
                "password": network.password_file,
                "logs": str(local.data_dir / "logs"),
            }

            def text() -> None:
                print_fields(fields)
                where = "" if data_dir == DEFAULT_DATA_DIR else f" --data-dir {quote(str(data_dir))}"
                console.print(
                    f"\nIn a second terminal:\n  market status{where}\n  market channel open 5{where}", soft_wrap=True
                )
                console.print(f'  market infer {minilm.NAME} --text "A cat." --text "A kitten."{where}', soft_wrap=True)
                console.print(
                    f"  market receipts verify --wait 60{where}\n\nCtrl-C stops it; the state stays in {data_dir}.",
                    soft_wrap=True,
                )

            emit({"network": _plain(network)}, as_json=as_json, text=text)
            with suppress(KeyboardInterrupt):  # the way to end it
                local.wait_until_stopped()


def _plain(network: Any) -> dict[str, Any]:
    return {name: getattr(network, name) for name in network.__slots__}


def _run(show: Demonstration, *, quiet: bool) -> None:
    with _status(quiet=quiet) as status:
        for item in show.run():
            check_interrupt()
            if isinstance(item, Step):
                if not quiet:
                    console.print(
                        f"[green]✓[/green] [bold]{item.number}. {item.title}[/bold]  [dim]{item.seconds} s[/dim]"
                    )
                    _facts(item)
            else:
                status(f"{item[0]}. {item[1]} …")


def _facts(step: Step) -> None:
    for name, value in step.facts.items():
        if name == "requests":
            for row in value:
                _request(row)
        elif name == "contracts":
            for contract, address in value.items():
                _fact(contract.replace("_", " "), address)
        elif isinstance(value, dict):
            _fact(_words(name), ", ".join(f"{key} {inner}" for key, inner in value.items()))
        elif isinstance(value, list):
            _fact(_words(name), ", ".join(map(str, value)))
        elif isinstance(value, bool):
            _fact(_words(name), "yes" if value else "NO")
        else:
            _fact(_words(name), str(value))


def _fact(name: str, value: str) -> None:
    if value:
        console.print(f"     {name}: {value}", soft_wrap=True, markup=False)


def _words(name: str) -> str:
    """Turn a JSON name into words: `gasPerReceipt` into `gas per receipt`."""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name)


def _request(row: dict[str, Any]) -> None:
    first, *others = row["sentences"]
    console.print(f"     {first!r}  [paid {row['paid']}, {row['milliseconds']} ms]", markup=False, soft_wrap=True)
    for similarity, sentence in zip(row["similarities"], others, strict=True):
        console.print(f"       {similarity:6.3f}  {sentence!r}", markup=False, soft_wrap=True)


def _ok(show: Demonstration) -> bool:
    last = show.report["steps"][-1]
    return bool(last["verified"] == last["of"] and last["chainAgrees"])


def _summary(show: Demonstration) -> None:
    steps = show.report["steps"]
    paid, settled, verified = steps[5], steps[6], steps[7]
    rows = [[who, amount] for who, amount in verified["earned"].items()]
    print_table("who earned what", ["party", "tokens"], rows)
    verdict = "all receipts verified from the chain" if show.report["ok"] else "SOMETHING DID NOT VERIFY"
    lines = (
        f"{len(paid['requests'])} requests paid {paid['paid']}; {verdict} ({verified['verified']}/{verified['of']}).",
        f"Settled with {settled['gas']} gas, {settled['gasPerReceipt']} per receipt; root {settled['root']}.",
        f"Took {show.report['seconds']} s; nothing is left running.",
    )
    console.print(Panel("\n".join(lines), title="demo", title_align="left", expand=False))


@contextmanager
def _status(*, quiet: bool) -> Iterator[Any]:
    if quiet:
        yield lambda _: None
        return
    with Console(stderr=True).status("starting …") as spinner:
        yield spinner.update


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        if keep.exists() and any(keep.iterdir()):
            raise ConfigurationError(f"{keep} is not empty.", field="keep", remedy="Name a new or empty folder.")
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    folder = Path(tempfile.mkdtemp(prefix="market-demo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    """Hold the data folder, so that two networks never share its state."""
    import fcntl

    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigurationError(
                f"another `market up` uses {data_dir}.", field="data-dir", remedy="Stop it, or name another folder."
            ) from error
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        try:
            yield
        finally:
            (data_dir / "network.json").unlink(missing_ok=True)
