"""``ninelives readiness`` and ``ninelives why``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ninelives.cli.common import AsJson, ExitCode, console, emit
from ninelives.cli.recover import check_name, connected

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ninelives.adapters.connected import ConnectedEstate
    from ninelives.recovery.standby import ServiceReadiness

COLOUR = {"pass": "green", "fail": "red", "unknown": "yellow"}


def readiness(
    service: Annotated[str | None, typer.Argument(metavar="SERVICE", help="By default all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Everything that a failover would need now, at each standby. Exit code 3 where a service could not be moved."""
    found = _look(connected(), service)
    document = [one.report() for one in found]
    emit(document, as_json=as_json, text=lambda: _shown(document))
    if any(one["state"] != "pass" for one in document):
        raise typer.Exit(ExitCode.MISSED)


def why(
    service: Annotated[str, typer.Argument(metavar="SERVICE")],
    as_json: AsJson = False,
) -> None:
    """Where SERVICE is served from, why, since when, and what would happen if its site were lost now."""
    from dataclasses import asdict

    from ninelives.recovery.why import explain

    systems = connected()
    (found,) = _look(systems, service)
    sentences = explain(systems, systems.estate.service_by_name[service], found)
    if as_json:
        document = {"service": service, "sentences": [asdict(one) for one in sentences], "readiness": found.report()}
        emit(document, as_json=True, text=str)
    else:
        for one in sentences:
            said = f"  (evidence {one.evidence})" if one.evidence else ""
            console.print(f"{one.text}{said}", markup=False, soft_wrap=True)


def _look(systems: ConnectedEstate, service: str | None) -> list[ServiceReadiness]:
    from ninelives.recovery.standby import check_readiness

    if service is not None:
        check_name("service", service, systems.estate.service_by_name)
    return check_readiness(systems, only=service)


def _shown(document: list[dict[str, Any]]) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = []
    for one in document:
        said = f"{one['service']} ({one['mode']}), served from {', '.join(one['serving'])}: {one['state']}"
        parts.append(Text(f"{said}{': ' + one['reason'] if one['reason'] else ''}", style=COLOUR[one["state"]]))
        table = Table("site", "needed", "", "found", "limit", "reason", box=None, header_style="dim")
        for standby in one["standbys"]:
            for item in standby["items"]:
                state = Text(item["state"], style=COLOUR[item["state"]])
                texts = (Text(str(item[key])) for key in ("value", "limit", "reason"))
                table.add_row(Text(standby["site"]), Text(item["name"]), state, *texts)
        parts.append(table)
    return Group(*parts)
