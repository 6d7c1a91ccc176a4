"""What every command shares: exit codes, output as text or JSON, errors as one clear message."""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import IntEnum
from typing import Annotated, Any

import typer
from rich.console import Console

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

As = Annotated[
    str, typer.Option("--as", metavar="USER", help="Start it in Airflow as this person, whose password is asked for.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


class ExitCode(IntEnum):
    MET = 0
    ERROR = 1
    USAGE = 2
    MISSED = 3


def emit(data: Any, *, as_json: bool, text: Callable[[], object]) -> None:
    """Print ``data`` as JSON, or what ``text`` returns for people."""
    if as_json:
        typer.echo(json.dumps(data, default=str, indent=2))
    else:
        console.print(text())
