"""What commands print: text for people, one JSON document for machines, and one message per error.

Decides exit statuses: 1 for a refusal, 2 for a wrong setting or a service that is not there, 130 when interrupted.
Called by every command.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from contracts import local_files
from contracts.interrupts import INTERRUPTED
from contracts.protocol.errors import CodedError
from market.errors import OperationError

EXIT_REFUSED = 1
EXIT_UNUSABLE = 2
_SHORT = 20

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def emit(data: Mapping[str, Any] | Sequence[Any], *, as_json: bool, text: Callable[[], None]) -> None:
    """Print `data` as JSON, or let `text` print it for people."""
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        sys.stdout.flush()
    else:
        text()


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a title; short names and ids that begin them are copied from there, so they are kept whole."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for place, column in enumerate(columns):
        kept_whole = place == 0 and max((len(row[0]) for row in rows), default=0) <= _SHORT
        table.add_column(column, overflow="fold", no_wrap=kept_whole)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def print_fields(fields: Mapping[str, Any]) -> None:
    """Print names and values in two columns."""
    width = max((len(name) for name in fields), default=0)
    for name, value in fields.items():
        console.print(f"[bold]{name.ljust(width)}[/bold]  {escape(str(value))}", soft_wrap=True)


@contextmanager
def errors_as_messages(*, as_json: bool = False) -> Iterator[None]:
    """Turn a coded error into one message with its code and remedy, and the right exit status."""
    try:
        with local_files.named():
            yield
    except CodedError as error:
        if as_json:
            document = {
                "error": {
                    "code": error.code,
                    "detail": error.detail,
                    "field": error.field,
                    "remedy": error.remedy,
                    "retry": str(error.retry),
                }
            }
            sys.stdout.buffer.write(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        else:
            show_error(error)
        raise typer.Exit(EXIT_UNUSABLE if isinstance(error, OperationError) else EXIT_REFUSED) from None
    except KeyboardInterrupt:
        errors.print("interrupted")
        raise typer.Exit(INTERRUPTED) from None


def show_error(error: CodedError) -> None:
    """Print an error for people: what, where, and how to mend it."""
    where = f"{error.field}: " if error.field else ""
    errors.print(f"[bold red]error[/bold red] ({error.code}) {where}", end="")
    errors.print(error.detail, markup=False, soft_wrap=True)
    if error.remedy:
        errors.print(f"  {error.remedy}", markup=False, soft_wrap=True)
