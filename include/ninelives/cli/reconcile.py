"""``ninelives reconcile``."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ninelives.cli.common import AsJson, ExitCode, emit, errors
from ninelives.cli.replicate import Record, recording_wanted
from ninelives.errors import NinelivesError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

    from ninelives.adapters.connected import ConnectedEstate
    from ninelives.replication.questions import Decision

app = typer.Typer(no_args_is_help=True)

DatasetName = Annotated[str | None, typer.Argument(metavar="DATASET", help="By default all, with their models.")]
SiteName = Annotated[str | None, typer.Option("--site", help="Only pairs with this site.")]
Thorough = Annotated[bool, typer.Option(help="Read every object, not only those that look changed.")]


@app.command()
def plan(
    dataset: DatasetName = None, site: SiteName = None, thorough: Thorough = False, as_json: AsJson = False
) -> None:
    """Show what each pair of sites would merge, and what a person must decide. Writes nothing.

    Exit code 3 when a person has to decide.
    """
    from ninelives.replication.reconcile import meet

    connected = _connected()
    _finish(
        connected,
        dataset,
        site,
        as_json,
        lambda pair: meet(connected, *pair, thorough=thorough).plan().report(),
    )


@app.command()
def apply(
    dataset: DatasetName = None,
    site: SiteName = None,
    decide: Annotated[
        list[str] | None, typer.Option(metavar="ID=CHOICE", help="Answer a question that the plan shows.")
    ] = None,
    by: Annotated[str, typer.Option(help="Who decides: an operator of the estate.")] = "",
    thorough: Thorough = False,
    record: Record = None,
    as_json: AsJson = False,
) -> None:
    """Merge what only one side changed, carry out decisions, keep both versions of the rest.

    Repeating it changes nothing; killed, run it again. Exit code 3 when a person still has to decide.
    """
    from ninelives.replication.reconcile import apply_and_record, meet

    connected, who = _connected(), by or getpass.getuser()
    decisions = _decisions(connected, decide or [], who)
    recording = recording_wanted(connected, record)
    if decisions:
        _refuse_unasked(connected, _pairs(connected, dataset, site), decisions)

    def merge(pair: tuple[str, str, str]) -> dict[str, Any]:
        reconciliation = meet(connected, *pair, decisions=decisions, thorough=thorough)
        if not recording:
            return reconciliation.apply().report()
        result, written = apply_and_record(connected, reconciliation, holder=f"{who} at the command line")
        return result.report() | {"evidence": written.seq}

    _finish(connected, dataset, site, as_json, merge)


def _connected() -> ConnectedEstate:
    from ninelives.adapters.connected import ConnectedEstate
    from ninelives.home import Home

    return ConnectedEstate.of_home(Home.from_environment())


def _decisions(connected: ConnectedEstate, given: list[str], who: str) -> dict[str, Decision]:
    from datetime import UTC, datetime

    from ninelives.estate import Role
    from ninelives.replication.questions import Decision

    operators = connected.estate.people_with(Role.OPERATOR)
    if given and who not in operators:
        raise typer.BadParameter(f"{who} may not decide; --by names an operator of the estate: {', '.join(operators)}")
    decisions = {}
    for one in given:
        question, found, choice = one.partition("=")
        if not found:
            raise typer.BadParameter(f"--decide {one}: write ID=CHOICE, as the plan shows them")
        if question in decisions:
            raise typer.BadParameter(f"--decide {question} is given twice; a question has one answer")
        decisions[question] = Decision(choice=choice, by=who, at=datetime.now(UTC))
    return decisions


def _refuse_unasked(
    connected: ConnectedEstate, chosen: list[tuple[str, str, str]], decisions: Mapping[str, Decision]
) -> None:
    """Before anything is merged: an answer to nothing is a slip of the pen in an answer to something."""
    from ninelives.replication.questions import read_questions
    from ninelives.replication.reconcile import meet

    known: set[str] = set()
    for pair in chosen:
        met = meet(connected, *pair)
        known.update(question.id for question in met.plan().questions)
        for store in met.meeting.stores:
            known.update(read_questions(store, pair[0]))
    if unknown := sorted(set(decisions) - known):
        raise typer.BadParameter(f"nobody asked {', '.join(unknown)}: `ninelives reconcile plan` shows what is open")


def _pairs(connected: ConnectedEstate, dataset: str | None, site: str | None) -> list[tuple[str, str, str]]:
    from ninelives.replication.reconcile import pairs

    chosen = [
        pair for pair in pairs(connected.estate) if dataset in (None, pair[0]) and (site is None or site in pair[1:])
    ]
    if not chosen:
        known = ", ".join(f"{name} at {a} and {b}" for name, a, b in pairs(connected.estate))
        raise typer.BadParameter(f"the estate keeps no such dataset at two such sites; it keeps {known or 'none'}")
    return chosen


def _finish(connected: ConnectedEstate, dataset: str | None, site: str | None, as_json: bool, act: Any) -> None:
    """Do it for each pair; one that fails does not keep the others behind."""
    chosen = _pairs(connected, dataset, site)
    reports: list[dict[str, Any]] = []
    failures: list[str] = []
    for pair in chosen:
        try:
            reports.append(act(pair))
        except NinelivesError as error:
            failures.append(f"{pair[0]} at {pair[1]} and {pair[2]}: {type(error).__name__}: {error}")
    emit({"results": reports, "failures": failures}, as_json=as_json, text=lambda: _shown(reports))
    for failure in failures:
        errors.print(failure, style="red", markup=False, soft_wrap=True)
    if failures:
        raise typer.Exit(ExitCode.ERROR)
    if any(report["questions"] for report in reports):
        raise typer.Exit(ExitCode.MISSED)


def _shown(reports: list[dict[str, Any]]) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table("dataset", "sites", "copied", "deleted", "brought back", "healed", "decided", "open", "agreement")
    lines: list[RenderableType] = [table]
    for one in reports:
        table.add_row(
            one["dataset"],
            f"{one['site']}, {one['other']}",
            f"{one['copied_to_site']}, {one['copied_to_other']}",
            f"{len(one['deleted_at_site'])}, {len(one['deleted_at_other'])}",
            *(str(len(one[name])) for name in ("restored", "healed", "decided", "questions")),
            str(one["epoch"] or "none yet"),
        )
        for question in one["questions"]:
            lines.append(Text(f"{question['id']}  {question['kind']} {question['subject']}", style="yellow"))
            lines += [Text(f"    {v['site']}: {v['written']}, sha256 {v['sha256']}") for v in question["versions"]]
            lines += [Text(f"    gone there: {key}") for key in question["keys"][:5]]
            lines.append(Text(f"    answer with --decide {question['id']}={'|'.join(question['options'])}"))
    return Group(*lines)
