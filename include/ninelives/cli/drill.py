"""``ninelives drill``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ninelives.cli.common import As, AsJson, ExitCode, emit, errors
from ninelives.home import Home

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ninelives.adapters.airflow_api import AirflowApi
    from ninelives.adapters.connected import ConnectedEstate
    from ninelives.drills.coverage import Covered
    from ninelives.ports import Record

app = typer.Typer(no_args_is_help=True)

DAG = "run_drill"
POLL = 0.5
"""Seconds between two looks at a running drill."""


@app.command()
def run(
    scenario: Annotated[str, typer.Argument(help="What is broken; see ninelives drill scenarios.")] = "site-loss",
    service: Annotated[str, typer.Option(help="Whose recovery is measured; by default the first of the estate.")] = "",
    site: Annotated[
        str, typer.Option(help="Where; active: the site that serves now; by default where the scenario strikes.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")] = False,
    user: As = "",
    wait: Annotated[bool, typer.Option(help="Wait for the verdict.")] = True,
    as_json: AsJson = False,
) -> None:
    """Break something on purpose and measure what users feel. Exit 0 met, 1 not run or not measured, 3 missed.

    Where the estate asks for four eyes, --as says whose the first two are.
    """
    from ninelives.adapters.connected import ConnectedEstate
    from ninelives.drills.preflight import resolve_site
    from ninelives.errors import Refused

    systems = ConnectedEstate.of_home(Home.from_environment())
    chosen = service or systems.estate.services[0].name
    try:  # before Airflow is asked: a run that can only fail is no answer
        lost = resolve_site(systems.estate, systems.gateway().state(), chosen, site, scenario)
    except Refused as error:
        raise typer.BadParameter("; ".join(error.reasons)) from error
    if dry_run:
        raise typer.Exit(_dry_run(systems, scenario, chosen, lost, as_json))
    api = airflow_api(systems, user)
    run_id = start_drill(api, scenario=scenario, service=chosen, site=site)
    if not wait:
        emit(
            {"run": run_id}, as_json=as_json, text=lambda: f"Started {run_id}; ninelives drill list shows its verdict."
        )
        return
    follow_run(api, DAG, run_id, tell=lambda line: errors.print(line))
    record = find_drill(systems, run_id)
    if record is None:
        errors.print(f"The drill {run_id} left no evidence; read its tasks in Airflow.", style="red")
        raise typer.Exit(ExitCode.ERROR)
    emit(asdict(record), as_json=as_json, text=lambda: drill_report(record))
    raise typer.Exit(exit_code(record))


@app.command()
def scenarios(as_json: AsJson = False) -> None:
    """What can be broken, what must hold, and whether it strikes one site."""
    from ninelives.drills.scenarios import SCENARIOS

    found = [
        {
            "scenario": one.name.value,
            "breaks": one.breaks,
            "must_hold": [str(promise) for promise in one.promises],
            "at_a_site": one.name.at_a_site,
        }
        for one in SCENARIOS.values()
    ]
    emit(found, as_json=as_json, text=lambda: _scenarios(found))


@app.command()
def coverage(as_json: AsJson = False) -> None:
    """Which scenario was tried on which service, with what result, and what is due. Exit 3 where something is overdue.

    The estate's calendar says how often; a scenario that it does not ask for is never due.
    """
    from ninelives.adapters.connected import ConnectedEstate
    from ninelives.drills.coverage import coverage as find_coverage

    systems = ConnectedEstate.of_home(Home.from_environment())
    found = find_coverage(systems.estate, systems.ledger().records(kind="drill"), datetime.now(UTC))
    emit([one.facts() for one in found], as_json=as_json, text=lambda: _coverage(found))
    if any(one.overdue is not None for one in found):
        raise typer.Exit(ExitCode.MISSED)


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=2**31, help="At most this many.")] = 20, as_json: AsJson = False
) -> None:
    """The newest drills first."""
    records = _ledger_records(limit)
    emit([asdict(record) for record in records], as_json=as_json, text=lambda: _table(records))


@app.command()
def show(seq: Annotated[int, typer.Argument(min=1, help="Evidence number.")], as_json: AsJson = False) -> None:
    """What one drill measured. Exit 0 met, 1 not measured, 3 missed."""
    found = [record for record in _ledger_records(None) if record.seq == seq]
    if not found:
        errors.print(f"Evidence {seq} is no drill; ninelives drill list shows them.", style="red")
        raise typer.Exit(ExitCode.ERROR)
    emit(asdict(found[0]), as_json=as_json, text=lambda: drill_report(found[0]))
    raise typer.Exit(exit_code(found[0]))


def airflow_api(systems: ConnectedEstate, user: str = "") -> AirflowApi:
    """Airflow's API with the service account of this estate, or as a person, whose password is asked for."""
    from ninelives.adapters.airflow_api import AirflowApi

    api = AirflowApi.from_connection(systems.connections.get("ninelives_airflow_api"))
    if user:
        return AirflowApi(api.url, user, typer.prompt(f"Password of {user} in Airflow", hide_input=True, err=True))
    return api


def start_drill(api: AirflowApi, *, scenario: str, service: str, site: str) -> str:
    """Start ``run_drill`` and return the run's id."""
    run_id = f"drill-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"
    return api.trigger(DAG, {"scenario": scenario, "service": service, "site": site, "dry_run": False}, run_id)


def follow_run(api: AirflowApi, dag_id: str, run_id: str, *, tell: Callable[[str], object]) -> str:
    """Tell each change of a task's state until the run has ended; return the run's state."""
    known: dict[str, str | None] = {}
    started = time.monotonic()
    while True:
        state = api.run_state(dag_id, run_id)
        for task, now in api.task_states(dag_id, run_id).items():
            if now != known.get(task) and now in _TOLD:
                tell(f"  {time.monotonic() - started:6.1f} s  {task.replace('_', ' ')}: {_TOLD[now]}")
            known[task] = now
        if state in {"success", "failed"}:
            return state
        time.sleep(POLL)


_TOLD = {
    "running": "started",
    "deferred": "waiting",
    "awaiting_input": "waiting for a person in Airflow; `ninelives tasks` says for what, unless it is an approval",
    "success": "done",
    "failed": "failed",
    "up_for_retry": "failed, will be tried again",
    "upstream_failed": "not run",
}


def find_drill(systems: ConnectedEstate, run_id: str) -> Record | None:
    """The evidence that a drill left."""
    records = systems.ledger().records(kind="drill", limit=50)
    return next((record for record in records if record.facts.get("run") == run_id), None)


def exit_code(record: Record) -> ExitCode:
    verdict = record.facts.get("verdict")
    return {"met": ExitCode.MET, "missed": ExitCode.MISSED}.get(str(verdict), ExitCode.ERROR)


def drill_report(record: Record) -> RenderableType:
    """What a drill measured, for people."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    scenario, service, *at = record.subject.split("/")
    facts = record.facts
    lines: list[Any] = [f"[bold]{escape(scenario + (f' of {at[0]}' if at else ''))}, measured on {service}[/bold]"]
    if facts["outcome"] != "measured":
        reasons = facts.get("reasons", [facts.get("problem") or ""])
        lines += [escape(f"{facts['outcome']}: {reason}") for reason in reasons]
        return Group(*lines)
    felt = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("service", "sent", "correct", "of which slow", "degraded", "wrong", "failed", "unknown", "outage"):
        felt.add_column(column, justify="left" if column == "service" else "right")
    for name, impact in facts["felt"].items():
        felt.add_row(
            name,
            *(str(value) for value in _counts(impact)),
            f"{impact['outage_seconds']:.2f} s",
        )
    promise, verdicts = facts["objective"], facts["verdicts"]
    promises = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("promise", "measured", "objective", "verdict"):
        promises.add_column(column, justify="left" if column in {"promise", "verdict"} else "right")
    impact = facts["felt"][service]
    measured = {
        "rto": (_rto(impact), f"{promise['rto_seconds']:.0f} s"),
        "rpo": (_seconds(facts["rpo_seconds"]), f"{promise['rpo_seconds']:.0f} s"),
        "users": (f"{sum(1 for one in facts['felt'].values() if one['interrupted'])} services felt it", "none"),
        "repaired": _checked(facts),
        "quarantined": _checked(facts),
        "restored": _checked(facts),
        "drained": _checked(facts),
    }
    for name, verdict in verdicts.items():
        promises.add_row(
            name.upper() if name in {"rto", "rpo"} else name, *measured.get(name, ("", "")), _colour(verdict)
        )
    if state := facts.get("state"):
        left = [one for one in state["differences"] if one["explained"] is None]
        promises.add_row("as before", f"{len(left)} differences", "0", _colour(state["verdict"]))
        behind = [escape(f"left behind: {one['what']}: {one['before']} → {one['after']}") for one in left]
        lines += [f"[red]{line}[/red]" for line in behind]
    steps = [f"{name.replace('_', ' ')} after {step['seconds']:.1f} s" for name, step in facts["recovery"].items()]
    lines += [*_brought_back(facts), felt, promises, f"[dim]{'; '.join(steps)}[/dim]"]
    if phases := facts["recovery"].get("failed_over", {}).get("phases"):
        told = ", ".join(f"{name} {phases[name]:.1f} s" for name in ("detection", "decision", "activation", "shift"))
        lines.append(f"[dim]failover: {told}; of these Airflow's {phases['airflow']:.1f} s[/dim]")
    if facts.get("problem"):
        lines.append(f"[red]{escape(facts['problem'])}[/red]")
    lines.append(f"Verdict: {_colour(facts['verdict'])}    evidence {record.seq}: ninelives evidence show {record.seq}")
    return Group(*lines)


def _counts(impact: Mapping[str, Any]) -> tuple[int, ...]:
    correct = impact["good"] + impact["slow"]
    return (
        impact["sent"],
        correct,
        impact["slow"],
        *(impact[key] for key in ("degraded", "wrong", "failed", "unknown")),
    )


def _checked(facts: Mapping[str, Any]) -> tuple[str, str]:
    """What the estate's own check took, and who did it."""
    check = facts.get("check")
    return (f"{check['seconds']:.1f} s by {check['by']}", "") if check else ("not checked", "")


def _brought_back(facts: Mapping[str, Any]) -> list[str]:
    """What is wrong with what came back. Of a drill from the vault also what becomes of each run and what is not there;
    of a faulty accelerator what was found and drained, of an experiment what failed.
    """
    from rich.markup import escape

    check = facts.get("check") or {}
    restored = check.get("restored") or {}
    wrong = [*(one for one in (*check.get("problems", ()), check.get("late")) if one), *_of_experiment(facts)]
    found = [
        *(f"run {one['run']} of {one['dag']} {one['fate']}: {one['why']}" for one in restored.get("runs", ())),
        *([f"records of evidence lost: {restored['records_lost']}"] if "records_lost" in restored else []),
        *(f"not in the vault: {one}" for one in restored.get("lacking", ())),
        *(f"{check['machine']}: {one}" for one in ((*check["found"], *check["done"]) if "machine" in check else ())),
    ]
    return [*(f"[red]{escape(line)}[/red]" for line in wrong), *map(escape, found)]


def _of_experiment(facts: Mapping[str, Any]) -> list[str]:
    """What of a user's experiment did not go as it says."""
    experiment = facts.get("experiment") or {}
    held = experiment.get("hypothesis_held", {})
    return [
        *(f"its hypothesis did not hold {when}" for when in held if held[when] is False),
        *(f"activity {one['name']} failed" for one in experiment.get("activities", ()) if not one["succeeded"]),
    ]


def _scenarios(found: list[dict[str, Any]]) -> RenderableType:
    from rich.table import Table

    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("scenario", "what happens", "what must hold"):
        table.add_column(column)
    for one in found:
        table.add_row(one["scenario"], one["breaks"], ", ".join(one["must_hold"]))
    return table


def _coverage(found: list[Covered]) -> RenderableType:
    from rich.table import Table

    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("scenario", "service", "site", "last run", "result", "evidence", "due"):
        table.add_column(column)
    for one in found:
        due = "" if one.due is None else "now" if one.overdue is not None else f"{one.due:%Y-%m-%d %H:%M}"
        table.add_row(
            one.scenario,
            one.service,
            one.site or "",
            f"{one.last_run:%Y-%m-%d %H:%M}" if one.last_run else "",
            "never" if one.last_run is None else _colour(one.result),
            str(one.evidence or ""),
            f"[red]{due}[/red]" if one.overdue is not None else due,
        )
    return table


def _rto(impact: Mapping[str, Any]) -> str:
    if impact["interrupted"] is False:
        return "0 s, no interruption"
    return _seconds(impact["rto_seconds"])


def _seconds(value: float | None) -> str:
    return "not seen" if value is None else f"{value:.2f} s"


def _colour(verdict: str) -> str:
    return f"[{ {'met': 'green', 'missed': 'red'}.get(verdict, 'yellow') }]{verdict}[/]"


def _table(records: list[Record]) -> RenderableType:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="dim")
    for column in ("evidence", "at", "drill", "outcome", "RTO", "RPO", "verdict"):
        table.add_column(column)
    for record in records:
        facts = record.facts
        impact = facts.get("felt", {}).get(record.subject.split("/")[1])
        table.add_row(
            str(record.seq),
            f"{record.at:%Y-%m-%d %H:%M:%S}",
            escape(record.subject),
            facts["outcome"],
            _rto(impact) if impact else "",
            _seconds(facts["rpo_seconds"]) if impact else "",
            _colour(facts["verdict"]),
        )
    return table


def _ledger_records(limit: int | None) -> list[Record]:
    from ninelives.adapters.connected import ConnectedEstate

    return ConnectedEstate.of_home(Home.from_environment()).ledger().records(kind="drill", limit=limit)


def _dry_run(systems: ConnectedEstate, scenario: str, service: str, lost: str, as_json: bool) -> ExitCode:
    """Preflight without Airflow: what would happen, and every reason against it."""
    from ninelives.drills.preflight import check_preflight
    from ninelives.drills.scenario import Drill
    from ninelives.drills.scenarios import find_scenario

    preflight = check_preflight(systems, Drill("dry-run", scenario, service, lost))
    document = {
        "scenario": scenario,
        "service": service,
        "site": lost,
        "survivors": list(preflight.survivors),
        "may_start": not preflight.reasons,
        "reasons": list(preflight.reasons),
        "approval": str(systems.estate.drills.approval),
    }

    def text() -> str:
        survivors = ", ".join(preflight.survivors) or "no service"
        where = f" at {lost}" if lost else ""
        plan = (
            f"{scenario}{where}: {find_scenario(scenario).breaks}. {service} would be measured; "
            f"{survivors} must stay correct throughout.\n"
            f"Approval: {systems.estate.drills.approval}. Nothing was changed."
        )
        return plan + "".join(f"\nNot now: {reason}" for reason in preflight.reasons)

    emit(document, as_json=as_json, text=text)
    return ExitCode.ERROR if preflight.reasons else ExitCode.MET
