"""What every command shares: exit codes, output as text or JSON, errors as one clear message."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from datetime import datetime
from enum import IntEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table


def _console(*, stderr: bool = False) -> Console:
    """A pipe or a log has no width: rich takes 80 columns and cuts names off, which nobody can then use."""
    wide = None if (sys.stderr if stderr else sys.stdout).isatty() or "COLUMNS" in os.environ else 200
    return Console(stderr=stderr, highlight=False, width=wide)


console = _console()
errors = _console(stderr=True)

As = Annotated[
    str, typer.Option("--as", metavar="USER", help="Start it in Airflow as this person, whose password is asked for.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


class ExitCode(IntEnum):
    MET = 0
    ERROR = 1
    USAGE = 2
    MISSED = 3


def _plain(value: object) -> str:
    """What JSON has no form for; instants in ISO 8601, as the ledger writes them."""
    return value.isoformat() if isinstance(value, datetime) else str(value)


def emit(data: Any, *, as_json: bool, text: Callable[[], object]) -> None:
    """Print ``data`` as JSON, or what ``text`` returns for people: a string letter by letter, whatever is in it."""
    if as_json:
        typer.echo(json.dumps(data, default=_plain, indent=2))
    elif isinstance(found := text(), str):
        typer.echo(found)  # rich would take [brackets] for its own and break long lines, in a path or YAML too
    else:
        for table in getattr(found, "renderables", [found]):
            if isinstance(table, Table):
                for column in table.columns:
                    column.overflow = "fold"  # a narrow terminal breaks names and does not cut them off
        console.print(found)
