"""``ninelives release``."""

from __future__ import annotations

import getpass
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ninelives.cli import judge
from ninelives.cli.common import As, AsJson, ExitCode, emit, errors
from ninelives.cli.recover import ServiceName, Wait, check_name, connected

if TYPE_CHECKING:
    from ninelives.adapters.connected import ConnectedEstate

app = typer.Typer(no_args_is_help=True)
app.command()(judge.judge)
app.command()(judge.sample)
app.command()(judge.label)


def _version(text: str) -> str:
    from ninelives.releases.publish import VERSION

    if not re.fullmatch(VERSION, text):
        raise typer.BadParameter(f"{text[:40]!r} is none: a version is a number of the registry, from 1")
    return text


Version = Annotated[str, typer.Option("--version", callback=_version, help="The model's version in the registry.")]


@app.command()
def stage(
    service: ServiceName,
    version: Version,
    onnx: Annotated[Path, typer.Option("--onnx", exists=True, dir_okay=False, help="The model.")],
    data: Annotated[str, typer.Option(help="The data version that it was trained on.")] = "unknown",
    as_json: AsJson = False,
) -> None:
    """Put a new version of SERVICE's model where it can be promoted from; nobody is answered by it yet.

    Its golden answers are what it answers now to the service's golden requests.
    """
    from ninelives.adapters.redeploy import record_redeployment
    from ninelives.releases.staging import stage_file

    systems = connected()
    check_name("service", service, systems.estate.service_by_name)
    release = stage_file(systems, service, version, onnx.read_bytes(), data_version=data)
    record = record_redeployment(systems, release)
    document = {
        "service": service, "model": release.model, "version": version, "digest": release.digest,
        "redeployment": record.seq,
    }  # fmt: skip
    emit(document, as_json=as_json, text=lambda: f"{release.model} version {version} is staged: {release.digest}")


@app.command()
def promote(
    service: ServiceName,
    version: Version,
    here: Annotated[bool, typer.Option("--here", help="In this process, without Airflow.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Although this version was rolled back before.")] = False,
    user: As = "",
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Bring a staged version into service step by step, or back; the same request twice is one run.

    Exit code 3 when it was rejected or rolled back. Where the estate asks for four eyes, only Airflow can ask the
    second pair.
    """
    from ninelives.errors import NinelivesError, Refused
    from ninelives.estate import Approval
    from ninelives.releases.promotion import approval_of, begin, roll_back
    from ninelives.releases.promotion import promote as run

    systems = connected()
    check_name("service", service, systems.estate.service_by_name)
    if not here:
        check_four_eyes(systems, service, user)
        raise typer.Exit(_in_airflow(systems, service, version, user, again, wait, as_json))

    def approve() -> None:
        if approval_of(systems.estate, service) is not Approval.NONE:
            raise Refused("approval", ["the estate asks for four eyes: promote without --here, Airflow asks them"])

    plan = begin(systems, service, version, by=user or getpass.getuser(), again=again)
    try:
        record = run(systems, plan, approve=approve)
    except KeyboardInterrupt:
        try:
            roll_back(systems, plan, by=plan.by, reasons=["stopped at the keyboard"])
        except NinelivesError as error:
            errors.print(f"Not all is back: {error}. Run the same command again.", style="red", markup=False)
        raise
    facts = record.facts
    document = {"run": plan.run, "outcome": facts["outcome"], "why": facts["why"], "evidence": record.seq}
    emit(
        document, as_json=as_json, text=lambda: f"{service}: {facts['outcome']} ({facts['why']}), evidence {record.seq}"
    )
    raise typer.Exit(ExitCode.MET if facts["outcome"] == "promoted" else ExitCode.MISSED)


@app.command()
def rehearse(service: ServiceName, as_json: AsJson = False) -> None:
    """Serve SERVICE's release in a clean environment, built from its record alone, and compare its golden answers.

    Exit code 3 when a clean machine could not serve it.
    """
    from ninelives.adapters.clean_room import clean_room
    from ninelives.releases.rehearse import rehearse as run

    systems = connected()
    check_name("service", service, systems.estate.service_by_name)
    record = run(systems, service, clean_room, run=f"by-hand-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}")
    facts = record.facts

    def text() -> str:
        took = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in facts["seconds"].items())
        line = (
            f"{service}: {facts['model']} version {facts['version']} {facts['verdict']}, {took}, evidence {record.seq}"
        )
        return "\n".join([line, *facts["reasons"]])

    emit({"service": service, **facts, "evidence": record.seq}, as_json=as_json, text=text)
    raise typer.Exit(ExitCode.MET if facts["verdict"] == "met" else ExitCode.MISSED)


@app.command()
def rollback(
    service: ServiceName,
    version: Annotated[
        str, typer.Option("--version", help="The one that is taken back; by default the newest that was tried.")
    ] = "",
    reason: Annotated[str, typer.Option(help="Why, for the evidence.")] = "by hand",
    by: Annotated[str, typer.Option(help="Who decides it; by default the user of this machine.")] = "",
    as_json: AsJson = False,
) -> None:
    """All requests of SERVICE to the version before at once, whether its promotion goes on or is done."""
    from ninelives.releases.journal import Outcome, newest, read
    from ninelives.releases.promotion import roll_back

    systems = connected()
    check_name("service", service, systems.estate.service_by_name)
    journals = [one for one in read(systems.ledger(), service) if version in ("", one.plan.new)]
    if not journals:
        raise typer.BadParameter(f"no version {version or 'at all'} of {service} was ever promoted")
    plan = journals[-1].plan if version else newest(journals).plan
    record = roll_back(systems, plan, by=by or getpass.getuser(), reasons=[reason])
    journals = read(systems.ledger(), service)
    answers = newest(journals).serves
    # A repeated command takes no second version back; who wants that says so.
    kept = [one.plan for one in journals if one.outcome is Outcome.PROMOTED and not one.retired]
    further = f"; version {kept[-1].new} can be taken back too: --version {kept[-1].new}" if kept else ""
    emit(
        {"service": service, "version": answers, "evidence": record.seq},
        as_json=as_json,
        text=lambda: f"{service} is answered by version {answers}, evidence {record.seq}{further}",
    )


@app.command()
def status(service: ServiceName, as_json: AsJson = False) -> None:
    """Which versions answer SERVICE now, and whether ledger, gateway, stores and registry say the same.

    Exit code 3 when they do not, or when an old version is kept for longer than declared.
    """
    from ninelives.releases.status import release_status

    systems = connected()
    check_name("service", service, systems.estate.service_by_name)
    found = release_status(systems, service)

    def text() -> str:
        shares = ", ".join(f"version {version} {share}%" for version, share in found["shares"].items())
        run = found["run"]
        lines = [f"{service}: {shares or 'as its sites serve'}"]
        lines += [f"the experiment {found['experiment']} is under way"] if found["experiment"] else []
        lines += [f"{run['run']}: {run['state']}, done: {', '.join(run['done'])}"] if run else []
        return "\n".join([*lines, *found["problems"]])

    emit(found, as_json=as_json, text=text)
    if found["problems"]:
        raise typer.Exit(ExitCode.MISSED)


@app.command()
def retire(service: ServiceName, as_json: AsJson = False) -> None:
    """Let old versions of SERVICE go that were kept for as long as declared; exit code 3 while one still is kept.

    So are others that nobody asks for any more; those that a consumer is declared to stay on stay. While a promotion or
    an experiment goes on nothing is touched.
    """
    from ninelives.artefacts.retire import retire_overdue
    from ninelives.releases.journal import Outcome, read

    systems = connected()
    check_name("service", service, systems.estate.service_by_name)
    done = retire_overdue(systems, datetime.now(UTC), [systems.estate.service_by_name[service]])
    done.raise_problems()
    journals = read(systems.ledger(), service)
    kept = [
        f"{one.plan.model}@{one.plan.old}"
        for one in journals
        if one.outcome is Outcome.PROMOTED and not (one.rolling_back or one.retired)
    ]

    def text() -> str:
        lines = [f"retired {one}" for one in done.retired] + [f"let go {one}" for one in done.forgotten]
        lines += [f"left alone: {one}" for one in done.waiting] + [f"still kept: {one}" for one in kept]
        return "\n".join(lines) or "nothing to retire"

    document = {**done.facts(), "service": service, "kept": kept}
    emit(document, as_json=as_json, text=text)
    raise typer.Exit(ExitCode.MISSED if kept or done.waiting else ExitCode.MET)


@app.command()
def history(
    service: ServiceName,
    at: Annotated[str, typer.Option("--at", help="Only what answered then: ISO time, or HH:MM of today, UTC.")] = "",
    as_json: AsJson = False,
) -> None:
    """Which version answered SERVICE when, who decided that, and the evidence for it."""
    from ninelives.releases.status import release_history

    systems = connected()
    check_name("service", service, systems.estate.service_by_name)
    instant = _instant(at) if at else None
    rows = release_history(systems, service, instant)

    def text() -> str:
        return "\n".join(
            f"{row['since'] or 'before'}  {row['shares']}  {'(changing) ' if row['changing'] else ''}"
            f"decided by {row['decided_by']}{', approved by ' + row['approved_by'] if row['approved_by'] else ''}: "
            f"{row['why']} (evidence {row['evidence'] or 'none'})"
            for row in rows
        )

    emit(rows, as_json=as_json, text=text)


def check_four_eyes(systems: ConnectedEstate, service: str, user: str) -> None:
    """Before a run is begun that nobody could approve.

    :raises Refused: nobody could be the second pair of eyes that the service's policy asks for
    """
    from ninelives.drills.approval import eligible_approvers
    from ninelives.errors import Refused
    from ninelives.estate import Approval, Role
    from ninelives.releases.promotion import approval_of

    if approval_of(systems.estate, service) is Approval.NONE:
        return
    if not user:
        raise Refused("approval", ["the estate asks for four eyes, and its own account has none: --as USER"])
    eligible_approvers(systems.estate.people_with(Role.APPROVER), user)


def _instant(text: str) -> datetime:
    try:
        if len(text) <= len("HH:MM:SS"):
            text = f"{datetime.now(UTC):%Y-%m-%d}T{text}"
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no time; like 14:03 or 2026-11-26T14:03Z") from error
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    if found > datetime.now(UTC):
        raise typer.BadParameter(f"{found:%Y-%m-%d %H:%M} UTC has not come yet; name a day, like 2026-11-26T14:03Z")
    return found


def _in_airflow(
    systems: ConnectedEstate, service: str, version: str, user: str, again: bool, wait: bool, as_json: bool
) -> ExitCode:
    """The run's id is made of service and version: the same request twice is one run."""
    from ninelives.cli.drill import airflow_api, follow_run
    from ninelives.releases.journal import Outcome, read

    api = airflow_api(systems, user)
    name = f"promote-{service}-{version}" + (f"-{datetime.now(UTC):%Y%m%dT%H%M%S}" if again else "")
    conf: dict[str, Any] = {"service": service, "version": version, "again": again}
    run = api.trigger("promote_model", conf, name)
    if not wait:
        emit({"dag": "promote_model", "run": run}, as_json=as_json, text=lambda: f"Started promote_model as {run}.")
        return ExitCode.MET
    state = follow_run(api, "promote_model", run, tell=lambda line: errors.print(line))
    # A run that somebody rejected is a success of Airflow's; only the ledger knows whether the version came in.
    journal = next((one for one in reversed(read(systems.ledger(), service)) if one.plan.new == version), None)
    ended = journal.ended if journal else None
    if journal is None or ended is None:
        errors.print(f"{run} is {state} and left no end in the ledger; read its failed tasks in Airflow.", style="red")
        return ExitCode.ERROR
    outcome, why = ended.facts["outcome"], ended.facts["why"]
    emit(
        {"run": run, "state": state, "outcome": outcome, "why": why, "evidence": ended.seq},
        as_json=as_json,
        text=lambda: f"{service}: {outcome} ({why}), evidence {ended.seq}",
    )
    return ExitCode.MET if state == "success" and journal.outcome is Outcome.PROMOTED else ExitCode.MISSED
