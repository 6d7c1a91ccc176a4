"""``ninelives status``: where every service is served from, how well, and what would happen next."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ninelives.cli.common import AsJson, ExitCode, emit
from ninelives.errors import NinelivesError
from ninelives.home import Home

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ninelives.adapters.connected import ConnectedEstate

WINDOW = timedelta(seconds=60)


def status(as_json: AsJson = False) -> None:
    """Sites, services, standbys and faults at a glance. Exit 0 when every service answers correctly, 3 otherwise."""
    import typer

    from ninelives.adapters.connected import ConnectedEstate

    document = find_status(ConnectedEstate.of_home(Home.from_environment()))
    emit(document, as_json=as_json, text=lambda: _report(document))
    raise typer.Exit(ExitCode.MET if document["well"] else ExitCode.MISSED)


def find_status(systems: ConnectedEstate) -> dict[str, Any]:
    """Everything that ``ninelives status`` shows; what cannot be found out is said and is never well."""
    from ninelives.estate import Mode
    from ninelives.injections import open_injections
    from ninelives.probing.measure import steady_state
    from ninelives.probing.records import read_heartbeat, read_probes
    from ninelives.recovery.failover import find_readiness
    from ninelives.recovery.safety import current_freeze
    from ninelives.recovery.standby import kept_readiness

    kept = kept_readiness(systems).get("services", {})
    estate, state = systems.estate, systems.gateway().state()
    beat = read_heartbeat(systems.home.probes)
    services = []
    for service in estate.services:
        share = None
        if beat is not None:
            until = beat.complete_until
            rows = read_probes(systems.home.probes, until - WINDOW, until)
            share = steady_state(
                rows, since=until - WINDOW, until=until, service=service.name, interval=beat.interval_s
            ).low
        active = state.active[service.name]
        standbys = []
        for site in service.sites:
            if service.mode is Mode.ACTIVE_PASSIVE and site not in active:
                try:
                    standby = find_readiness(systems, service, site)
                    reasons, warnings = list(standby.reasons), list(standby.warnings)
                except NinelivesError as error:
                    reasons, warnings = [str(error)], []
                standbys.append({"site": site, "ready": not reasons, "reasons": reasons, "warnings": warnings})
        services.append(
            {
                "service": service.name,
                "mode": str(service.mode),
                "active": [site for site in active if site not in state.closed_sites],
                "correct_share": share,
                "well": share is not None and share >= service.objective.quality,
                "standbys": standbys,
                "readiness": {key: kept[service.name][key] for key in ("state", "reason", "checked_at")}
                if service.name in kept
                else None,
            }
        )
    frozen = current_freeze(systems.ledger(), estate)
    drills = systems.ledger().records(kind="drill", limit=1)
    return {
        "estate": estate.name,
        "well": all(service["well"] for service in services),
        "measured_until": beat.complete_until.isoformat() if beat else None,
        "closed_sites": sorted(state.closed_sites),
        "frozen": frozen.sentence if frozen else None,
        "faults": [one.model_dump(mode="json", exclude={"faults"}) for one in open_injections(systems.home)],
        "services": services,
        "last_drill": {"evidence": drills[0].seq, "at": drills[0].at.isoformat(), "verdict": drills[0].facts["verdict"]}
        if drills
        else None,
    }


def _report(document: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("service", "mode", "served from", "correct, last minute", "standby"):
        table.add_column(column)
    for service in document["services"]:
        share = "not measured" if service["correct_share"] is None else f"{service['correct_share']:.2%}"
        standbys = [
            f"{standby['site']}: {'ready' if standby['ready'] else standby['reasons'][0]}"
            + "".join(f" ({warning})" for warning in standby["warnings"])
            for standby in service["standbys"]
        ]
        table.add_row(
            service["service"],
            service["mode"],
            ", ".join(service["active"]) or "nowhere",
            f"[{'green' if service['well'] else 'red'}]{share}[/]",
            escape("; ".join(standbys)),
        )
    lines: list[Any] = [table, *(_readiness(service) for service in document["services"])]
    if document["frozen"]:
        lines.append(Text(document["frozen"], style="yellow"))
    lines += [f"[yellow]{site} is closed until it passes the gate again[/]" for site in document["closed_sites"]]
    lines += [
        Text(f"{fault['scenario']} of {fault['site'] or fault['service']} is in progress", style="yellow")
        for fault in document["faults"]
    ]
    if document["last_drill"]:
        lines.append(f"Last drill: {document['last_drill']['verdict']}, evidence {document['last_drill']['evidence']}")
    return Group(*lines)


def _readiness(service: dict[str, Any]) -> RenderableType:
    """One line: what the last look at everything that its loss would need has found."""
    from rich.text import Text

    kept = service["readiness"]
    if kept is None:
        return Text(f"{service['service']}: readiness was never checked; see ninelives readiness", style="yellow")
    said = "ready for a loss" if kept["state"] == "pass" else f"not ready for a loss: {kept['reason']}"
    style = {"pass": "green", "fail": "red"}.get(kept["state"], "yellow")
    return Text(f"{service['service']}: {said} (checked {kept['checked_at'][:19]} UTC)", style=style)
