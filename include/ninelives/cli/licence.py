"""``ninelives licence``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from ninelives.cli.common import AsJson, ExitCode, emit
from ninelives.cli.recover import connected

if TYPE_CHECKING:
    from rich.console import RenderableType

app = typer.Typer(no_args_is_help=True)


@app.callback()
def licence() -> None:
    """What vendors license: seats, terms and grace."""


@app.command()
def status(as_json: AsJson = False) -> None:
    """Who has which seats, and what ends before the next planned drill. Exit code 3 where more is used than allowed."""
    from datetime import UTC, datetime

    from ninelives.recovery.licences import licence_status, next_drill

    systems, now = connected(), datetime.now(UTC)
    found = [one.report() for one in licence_status(systems.estate, systems.ledger(), now)]
    drill = next_drill(systems.estate, now)
    document = {"next_drill": drill and drill.isoformat(), "licences": found}
    emit(document, as_json=as_json, text=lambda: _shown(document))
    if any(one["verdict"] == "missed" for one in found):
        raise typer.Exit(ExitCode.MISSED)


def _shown(document: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    if not document["licences"]:
        return Text("the estate declares no licence")
    table = Table("licence", "product", "seats", "held by", "term", "grace until", "verdict", "what")
    for one in document["licences"]:
        held = ", ".join(f"{place['service']} at {place['site']}" for place in one["held"])
        cells = (
            one["licence"], one["product"], f"{one['in_use']} of {one['seats']}", held, one["expires"],
            one["grace_until"] or "", one["verdict"], "; ".join([*one["reasons"], *one["warnings"]]),
        )  # fmt: skip
        table.add_row(*(Text(cell) for cell in cells))
    return Group(table, Text(f"next planned drill: {document['next_drill'] or 'none'}", style="dim"))
