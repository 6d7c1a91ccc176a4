"""``ninelives recover``: what a person starts by hand, as the playbooks say."""

from __future__ import annotations

import getpass
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ninelives.cli.common import As, AsJson, ExitCode, emit, errors
from ninelives.home import Home

if TYPE_CHECKING:
    from ninelives.adapters.connected import ConnectedEstate

app = typer.Typer(no_args_is_help=True)

SiteName = Annotated[str, typer.Argument(metavar="SITE")]
ServiceName = Annotated[str, typer.Argument(metavar="SERVICE")]
Wait = Annotated[bool, typer.Option(help="Follow the run to its end.")]


@app.command("fail-over")
def fail_over(
    site: SiteName,
    service: Annotated[str, typer.Option(help="Only this service; by default all that SITE serves.")] = "",
    here: Annotated[bool, typer.Option("--here", help="In this process, for when Airflow is what was lost.")] = False,
    by: Annotated[str, typer.Option(help="With --here: who declares it; by default the user of this machine.")] = "",
    user: As = "",
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Declare SITE lost and move what it serves. Safety rules for automation do not bind whoever starts this."""
    systems = connected()
    check_name("site", site, systems.estate.site_names)
    if service:
        check_name("service", service, systems.estate.service_by_name)
    if here:
        raise typer.Exit(_fail_over_here(systems, site, service, by or getpass.getuser(), as_json))
    raise typer.Exit(_start(systems, "fail_over", {"site": site, "service": service}, user, wait, as_json))


@app.command("return-site")
def return_site(site: SiteName, user: As = "", wait: Wait = True, as_json: AsJson = False) -> None:
    """Take a closed SITE back: reconciled, judged by the gate, its replicas asked, and only then opened."""
    systems = connected()
    check_name("site", site, systems.estate.site_names)
    raise typer.Exit(_start(systems, "return_site", {"site": site}, user, wait, as_json))


@app.command("fail-back")
def fail_back(service: ServiceName, user: As = "", wait: Wait = True, as_json: AsJson = False) -> None:
    """Send SERVICE back to the first of its sites step by step, once the reason for its failover is over.

    Where the estate asks for four eyes, --as says whose the first two are.
    """
    systems = connected()
    check_name("service", service, systems.estate.service_by_name)
    raise typer.Exit(_start(systems, "fail_back", {"service": service}, user, wait, as_json))


def connected() -> ConnectedEstate:
    from ninelives.adapters.connected import ConnectedEstate

    return ConnectedEstate.of_home(Home.from_environment())


def check_name(what: str, name: str, known: Iterable[str]) -> None:
    """Wrong usage unless the estate has it."""
    if name not in (names := tuple(known)):
        raise typer.BadParameter(f"the estate has no {what} {name}; it has {', '.join(names) or 'none'}")


def _start(systems: ConnectedEstate, dag: str, conf: dict[str, Any], user: str, wait: bool, as_json: bool) -> ExitCode:
    """Start a run in Airflow, as a person or with the estate's own account, and follow it to its end."""
    from ninelives.cli.drill import airflow_api, follow_run

    api = airflow_api(systems, user)
    run = api.trigger(dag, conf, f"by-hand-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}")
    if not wait:
        emit({"dag": dag, "run": run}, as_json=as_json, text=lambda: f"Started {dag} as {run}.")
        return ExitCode.MET
    state = follow_run(api, dag, run, tell=lambda line: errors.print(line))
    emit({"dag": dag, "run": run, "state": state}, as_json=as_json, text=lambda: f"{dag} {run}: {state}")
    return ExitCode.MET if state == "success" else ExitCode.ERROR


def _fail_over_here(systems: ConnectedEstate, site: str, service: str, by: str, as_json: bool) -> ExitCode:
    from ninelives.recovery.failover import fail_over_here

    holder = f"by-hand-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"
    results = fail_over_here(systems, lost_site=site, holder=holder, by=by, only=service or None)
    document = [
        {"service": record.subject, "to": record.facts["to"], "outcome": record.facts["outcome"],
         "evidence": record.seq, "problem": problem}
        for record, problem in results
    ]  # fmt: skip

    def text() -> str:
        lines = [f"{one['service']}: {one['outcome']} to {one['to']}, evidence {one['evidence']}" for one in document]
        return "\n".join(lines or [f"{site} is closed; nothing that it served has to be moved"])

    emit(document, as_json=as_json, text=text)
    for one in document:
        if one["problem"]:
            errors.print(one["problem"], style="red", markup=False, soft_wrap=True)
    return ExitCode.MET if all(one["outcome"] == "moved" for one in document) else ExitCode.ERROR
