"""``ninelives estate``: is the declared estate sound, and the schema that editors check it with."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from ninelives.cli.common import AsJson, ExitCode, emit
from ninelives.errors import EstateError
from ninelives.home import Home

app = typer.Typer(no_args_is_help=True)

DEMO = Path("include/estates/demo/estate.yaml")


def default_estate() -> Path:
    """``$NINELIVES_ESTATE``; else the demo's where there is one below the working directory; else that of the stack."""
    if "NINELIVES_ESTATE" not in os.environ and DEMO.is_file():
        return DEMO
    return Home.from_environment().estate_file


@app.command()
def check(
    path: Annotated[
        Path | None,
        typer.Argument(help=f"Estate file; by default $NINELIVES_ESTATE, {DEMO} or .ninelives/estate.yaml."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say everything that is wrong with an estate, one problem a line; exit code 0 for a sound one, else 1."""
    from ninelives.estate.load import load_estate

    path = path or default_estate()
    try:
        estate = load_estate(path)
    except EstateError as error:
        count = len(error.problems)
        if as_json:
            problems = [asdict(problem) for problem in error.problems]
            typer.echo(json.dumps({"ok": False, "file": str(path), "problems": problems}, indent=2))
        else:
            typer.echo(f"{error}\n{count} problem{'s' * (count > 1)}", err=True)
        raise typer.Exit(ExitCode.ERROR) from None
    counts = {part: len(getattr(estate, part)) for part in ("sites", "datasets", "models", "services", "people")}
    emit(
        {"ok": True, "file": str(path), "estate": estate.name, **counts, "problems": []},
        as_json=as_json,
        text=lambda: Text(f"{path}: sound: " + ", ".join(f"{count} {part}" for part, count in counts.items())),
    )


@app.command()
def schema(
    write: Annotated[Path | None, typer.Option(help="Write the schema to this file instead of printing it.")] = None,
) -> None:
    """Print the JSON Schema that editors check an estate with."""
    from ninelives.estate.schema import format_schema

    if write is None:
        typer.echo(format_schema(), nl=False)
    else:
        write.write_text(format_schema(), "utf-8")
