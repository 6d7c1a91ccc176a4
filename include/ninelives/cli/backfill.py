"""``ninelives backfill``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ninelives.cli.common import AsJson, ExitCode, emit, errors
from ninelives.home import Home

if TYPE_CHECKING:
    from ninelives.adapters.connected import ConnectedEstate
    from ninelives.backfill.report import DagPlan

app = typer.Typer(no_args_is_help=True)

DAG = "backfill_downtime"
Dag = Annotated[str, typer.Argument(metavar="DAG", help="One that the estate names; by default all of them.")]


def _instant(text: str) -> str:
    try:
        if text:
            datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a time; write it like 2026-01-31T06:00") from None
    return text


_TIME = {"parser": _instant, "metavar": "TIME"}
Start = Annotated[
    str, typer.Option("--from", **_TIME, help="Like 2026-01-31T06:00 (UTC); by default as the estate says.")
]
End = Annotated[str, typer.Option("--to", **_TIME, help="Up to when; by default now.")]


@app.command()
def plan(dag: Dag = "", start: Start = "", end: End = "", as_json: AsJson = False) -> None:
    """Show what was missed and what a run would do about it; writes nothing. Exit 1 if a DAG cannot be filled."""
    from ninelives.adapters.connected import ConnectedEstate

    if not _show(ConnectedEstate.of_home(Home.from_environment()), dag, start, end, as_json):
        raise typer.Exit(ExitCode.ERROR)


@app.command()
def run(
    dag: Dag = "",
    start: Start = "",
    end: End = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, and change nothing.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait for the outcome.")] = True,
    as_json: AsJson = False,
) -> None:
    """Fill what was missed, in order and after live runs. Exit 0 filled or parked, 1 not run, 3 intervals failed."""
    from ninelives.adapters.connected import ConnectedEstate
    from ninelives.backfill.fill import declared_backfill
    from ninelives.cli.drill import airflow_api, follow_run

    systems = ConnectedEstate.of_home(Home.from_environment())
    if dag:
        declared_backfill(systems.estate, dag)
    if dry_run:
        raise typer.Exit(ExitCode.MET if _show(systems, dag, start, end, as_json) else ExitCode.ERROR)
    api = airflow_api(systems)
    run_id = api.trigger(
        DAG, {"dag": dag, "start": start, "end": end, "dry_run": False}, f"cli-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"
    )
    if not wait:
        emit({"run": run_id}, as_json=as_json, text=lambda: f"Started {run_id}; its progress is in Airflow.")
        return
    state = follow_run(api, DAG, run_id, tell=lambda line: errors.print(line))
    records = [one for one in systems.ledger().records(kind="backfill", limit=50) if one.facts.get("run") == run_id]
    dags = [{"dag": one.subject, "evidence": one.seq, **one.facts} for one in reversed(records)]
    emit(
        {"run": run_id, "state": state, "dags": dags},
        as_json=as_json,
        text=lambda: "\n".join(map(_report, dags)) or _nothing(state),
    )
    if any(one.facts["outcome"] in {"failed", "late"} for one in records):
        raise typer.Exit(ExitCode.MISSED)
    if state != "success":
        errors.print(f"The run {run_id} failed; read its tasks in Airflow.", style="red", markup=False)
        raise typer.Exit(ExitCode.ERROR)


def _show(systems: ConnectedEstate, dag: str, start: str, end: str, as_json: bool) -> bool:
    """Show the plan; whether every DAG can be filled."""
    from ninelives.backfill.report import plan_all

    found: list[DagPlan] = plan_all(systems, now=datetime.now(UTC), dag=dag, start=start, end=end)
    emit(
        [one.as_json() for one in found],
        as_json=as_json,
        text=lambda: "\n".join(map(str, found)) or "The estate names no DAG below backfills.",
    )
    return not any(one.problem for one in found)


def _report(facts: dict[str, Any]) -> str:
    lines = [f"{facts['dag']}: {facts['outcome']}, {facts['intervals']} intervals, {facts['seconds']:.0f} s, evidence "
             f"{facts['evidence']}"]  # fmt: skip
    for state in ("filled", "running", "failed"):
        if facts[state]:
            lines.append(f"  {state}: {', '.join(facts[state])}")
    for word in ("parked", "gate"):
        lines += [f"  {word}: {', '.join(one['intervals'])}: {one['reason']}" for one in facts[word]]
    return "\n".join(lines)


def _nothing(state: str) -> str:
    return "Nothing was missed." if state == "success" else "No evidence was left."
