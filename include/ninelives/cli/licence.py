"""``ninelives licence``."""

from __future__ import annotations

from typing import Any

import typer

from ninelives.cli.common import AsJson, ExitCode, emit
from ninelives.cli.recover import connected

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


def _shown(document: dict[str, Any]) -> str:
    if not document["licences"]:
        return "the estate declares no licence"
    lines = []
    for one in document["licences"]:
        held = ", ".join(f"{place['service']} at {place['site']}" for place in one["held"])
        grace = f", grace until {one['grace_until'][:16]} UTC" if one["grace_until"] else ""
        lines += [
            f"{one['licence']} ({one['product']}): {one['verdict']}; {one['in_use']} of {one['seats']} seats, "
            f"{held or 'nobody'}; term to {one['expires']}{grace}",
            *(f"  {said}" for said in (*one["reasons"], *one["warnings"])),
        ]
    drill = document["next_drill"]
    return "\n".join([*lines, f"next planned drill: {f'{drill[:16]} UTC' if drill else 'none'}"])
