"""``ninelives experiment``: who is in it, may it begin, how it goes, and what it shows."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ninelives.cli.common import As, AsJson, ExitCode, emit, errors
from ninelives.cli.recover import ServiceName, check_name, connected
from ninelives.cli.release import check_four_eyes
from ninelives.errors import EstateError, NinelivesError, Refused

if TYPE_CHECKING:
    from ninelives.adapters.connected import ConnectedEstate
    from ninelives.experiments.journal import Journal
    from ninelives.ports import Record

app = typer.Typer(no_args_is_help=True)
ExperimentName = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="As the estate declares it.")]
Exposure = Annotated[str, typer.Option(help="Share of the units that see what is new, like 5%; at most a half.")]


@app.command()
def plan(name: ExperimentName, as_json: AsJson = False) -> None:
    """May EXPERIMENT begin now, with the arithmetic of what the loss of a site would need; changes nothing.

    Exit 3 if it may not.
    """
    from ninelives.experiments.run import outlook

    systems = connected()
    check_name("experiment", name, systems.estate.experiment_by_name)
    found = outlook(systems, name)

    def text() -> str:
        experiment = found.experiment
        lines = [
            f"{name}: version {experiment.version} for {experiment.exposure * 100:.4g}% of the users of "
            f"{experiment.service} (by {experiment.header}), as many are the control, until {experiment.until}",
            *map(str, found.arithmetic),
        ]
        return "\n".join([*lines, *(f"against it: {one}" for one in found.against)] if found.against else
                         [*lines, "it may begin"])  # fmt: skip

    emit(found.facts(), as_json=as_json, text=text)
    if found.against:
        raise typer.Exit(ExitCode.MISSED)


@app.command()
def run(
    name: ExperimentName,
    here: Annotated[bool, typer.Option("--here", help="In this process, without Airflow.")] = False,
    user: As = "",
    wait: Annotated[bool, typer.Option(help="Follow the run to its end, which may be days away.")] = False,
    as_json: AsJson = False,
) -> None:
    """Begin EXPERIMENT, or go on with it; the same request twice is one run. It ends by itself.

    With --here, or --wait: exit 0 better, 3 stop, worse, no difference or undecided. Where the estate asks for four
    eyes, only Airflow can ask the second pair.
    """
    from ninelives.estate import Approval
    from ninelives.experiments.judge import Verdict
    from ninelives.experiments.run import Ending, begin, end, journal_of
    from ninelives.experiments.run import run as run_here
    from ninelives.releases.promotion import approval_of

    systems = connected()
    check_name("experiment", name, systems.estate.experiment_by_name)
    journal = journal_of(systems, name)
    if journal and (over := _over(journal)):
        raise typer.Exit(_told(name, over, as_json))
    service = systems.estate.experiment_by_name[name].service
    if not here:
        check_four_eyes(systems, service, user)
        raise typer.Exit(_in_airflow(systems, name, user, wait, as_json))

    def approve() -> None:
        if approval_of(systems.estate, service) is not Approval.NONE:
            raise Refused("approval", ["the estate asks for four eyes: run it without --here, Airflow asks them"])

    begun = begin(systems, name, by=user or getpass.getuser())
    try:
        record = run_here(systems, begun, approve=approve)
    except KeyboardInterrupt:
        try:
            end(systems, begun, Ending(Verdict.STOP, ("stopped at the keyboard",)), by=begun.by)
        except NinelivesError as error:
            errors.print(f"Not all is back: {error}. Run the same command again.", style="red", markup=False)
        raise
    raise typer.Exit(_told(name, record, as_json))


def _in_airflow(systems: ConnectedEstate, name: str, user: str, wait: bool, as_json: bool) -> ExitCode:
    """The run's id is made of the experiment's name and how often it was begun: the same request twice is one run."""
    from ninelives.cli.drill import airflow_api, follow_run
    from ninelives.experiments.run import run_id

    api = airflow_api(systems, user)
    run_name = api.trigger("run_experiment", {"experiment": name}, run_id(systems, name))
    if not wait:
        emit({"dag": "run_experiment", "run": run_name}, as_json=as_json, text=lambda: f"Started as {run_name}.")
        return ExitCode.MET
    state = follow_run(api, "run_experiment", run_name, tell=lambda line: errors.print(line))
    journal = _journal(systems, name)
    ended = _ended(journal)
    if ended is None:
        emit({"run": run_name, "state": state}, as_json=as_json, text=lambda: f"run_experiment {run_name}: {state}")
        return ExitCode.MISSED
    return _told(name, ended, as_json)


def _told(name: str, record: Record, as_json: bool) -> ExitCode:
    facts = record.facts
    document = {
        "experiment": name, "verdict": facts["verdict"], "reasons": facts["reasons"], "by": facts["by"],
        "evidence": record.seq, "problems": facts["problems"], "judged": facts.get("judged"),
    }  # fmt: skip
    lines = [f"{name}: {facts['verdict']}, evidence {record.seq}", *facts["reasons"], *facts["problems"]]
    emit(document, as_json=as_json, text=lambda: "\n".join(lines))
    return ExitCode.MET if facts["verdict"] == "better" else ExitCode.MISSED


def _journal(systems: ConnectedEstate, name: str) -> Journal:
    from ninelives.experiments.run import journal_of

    found = journal_of(systems, name)
    if found is None:
        check_name("experiment", name, systems.estate.experiment_by_name)
        raise Refused(f"experiment {name}", ["it was never begun: ninelives experiment run"])
    return found


def _over(journal: Journal) -> Record | None:
    """Its end, where users were in it: one that was refused before may be tried again."""
    from ninelives.experiments.journal import Entry

    return journal.find(Entry.ENDED) if journal.find(Entry.INTENT) else None


def _ended(journal: Journal) -> Record | None:
    from ninelives.experiments.journal import Entry

    return journal.find(Entry.ENDED)


@app.command()
def status(
    name: Annotated[str, typer.Argument(metavar="[EXPERIMENT]", help="By default all.")] = "", as_json: AsJson = False
) -> None:
    """How each experiment goes: its state, what it shows by now, and whether anybody watches it.

    Exit 3 where one runs that nobody has looked at for longer than its guard-rails may take.
    """
    from ninelives.experiments.run import journal_of, standing

    systems = connected()
    if name:
        _journal(systems, name)
    journals = {one: journal_of(systems, one) for one in ([name] if name else systems.estate.experiment_by_name)}
    rows: list[dict[str, Any]] = [
        {"experiment": one, **(standing(systems, journal) if journal else {"state": "not begun", "problems": []})}
        for one, journal in journals.items()
    ]

    def text() -> str:
        lines = []
        for row in rows:
            seen = f", {row['attempts']} attempts seen until {row['looked_at']}" if row.get("looked_at") else ""
            lines += [f"{row['experiment']}: {row['state']}{seen}", *row.get("reasons", ()), *row["problems"]]
        return "\n".join(lines) or "the estate declares no experiment"

    emit(rows, as_json=as_json, text=text)
    if any(row["problems"] for row in rows):
        raise typer.Exit(ExitCode.MISSED)


@app.command()
def report(
    name: ExperimentName,
    to: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the page with the picture there.")] = None,
    as_json: AsJson = False,
) -> None:
    """What EXPERIMENT came to, once it has ended. Exit 0 better, 3 otherwise."""
    from ninelives.experiments.report import read_report

    systems = connected()
    journal = _journal(systems, name)
    ended = _ended(journal)
    if ended is None:
        raise Refused(f"experiment {name}", [f"it has not ended, it is {journal.state}: ninelives experiment status"])
    if to is not None:
        text = read_report(systems, ended)
        try:
            to.write_text(text, "utf-8")
        except OSError as error:
            raise typer.BadParameter(f"{to} cannot be written: {error.strerror}") from error
    raise typer.Exit(_told(name, ended, as_json))


@app.command()
def stop(
    name: ExperimentName,
    reason: Annotated[str, typer.Option(help="Why, for the evidence.")] = "by hand",
    by: Annotated[str, typer.Option(help="Who decides it; by default the user of this machine.")] = "",
    as_json: AsJson = False,
) -> None:
    """All users of EXPERIMENT back to the version before at once, whoever watches it."""
    from ninelives.experiments.judge import Verdict
    from ninelives.experiments.run import Ending, end

    systems = connected()
    record = end(systems, _journal(systems, name).plan, Ending(Verdict.STOP, (reason,)), by=by or getpass.getuser())
    emit(
        {"experiment": name, "verdict": record.facts["verdict"], "evidence": record.seq},
        as_json=as_json,
        text=lambda: f"{name} has ended ({record.facts['verdict']}), evidence {record.seq}",
    )


@app.command()
def assign(
    units: Annotated[list[str], typer.Argument(metavar="UNIT...", help="Keys of users or whatever is assigned.")],
    name: Annotated[str, typer.Option(help="Of the experiment; under another one units fall differently.")],
    exposure: Exposure,
    as_json: AsJson = False,
) -> None:
    """The arm of each UNIT: control, experiment, or outside of it. The same each time, and nothing is stored."""
    from ninelives.experiments.assign import Experiment
    from ninelives.experiments.assign import assign as assigned

    try:
        experiment = Experiment(name, _share(exposure))
        arms = {unit: assigned(experiment, unit).value for unit in units}
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    emit(arms, as_json=as_json, text=lambda: "\n".join(f"{unit}: {arm}" for unit, arm in arms.items()))


@app.command()
def check(
    service: ServiceName,
    exposure: Exposure,
    peak: Annotated[float, typer.Option(help="Requests per second of the whole service at its busiest.")],
    cost: Annotated[float, typer.Option(help="What a new request takes of a replica, over what an old one does.")] = 1,
    take: Annotated[
        list[str] | None, typer.Option(metavar="SITE=N", help="Replicas that the experiment has for itself.")
    ] = None,
    stop_within: Annotated[str, typer.Option(help="Until its guard-rails have stopped it, at the worst.")] = "5min",
    as_json: AsJson = False,
) -> None:
    """May an experiment on SERVICE begin: is the loss of a site borne beside it, and what of the budget may it cost.

    Exit 3 if it may not.
    """
    from ninelives.estate.units import parse_duration
    from ninelives.experiments.risk import Load, check_risk, most_exposed

    try:
        load = Load(peak, _share(exposure), cost, _taken(take or []), parse_duration(stop_within))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    systems = connected()
    check_name("service", service, systems.estate.service_by_name)
    declared = systems.estate.service_by_name[service]
    replicas = {site: len(systems.replicas(site)) for site in declared.sites}
    reasons: tuple[str, ...] = ()
    try:
        check_risk(declared, replicas, load)
    except Refused as refused:
        reasons = refused.reasons
    document = {
        "service": service, "may_begin": not reasons, "reasons": reasons,
        "most_exposed": most_exposed(declared, load.stop_within),
    }  # fmt: skip
    emit(document, as_json=as_json, text=lambda: "\n".join(reasons) or f"an experiment on {service} may begin")
    if reasons:
        raise typer.Exit(ExitCode.MISSED)


@app.command()
def judge(
    source: Annotated[Path, typer.Option("--input", metavar="FILE", help="JSON: target metric and guard-rails.")],
    report: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write report.md and effect.svg there.")] = None,
    as_json: AsJson = False,
) -> None:
    """What an experiment shows, whenever it is asked. Exit 0 better, 3 stop, worse, no difference or undecided."""
    from ninelives.experiments.judge import Verdict, read_experiment
    from ninelives.experiments.judge import judge as judged
    from ninelives.experiments.picture import write_report

    try:
        given = read_experiment(source)
    except EstateError as error:
        errors.print(str(error), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(ExitCode.USAGE) from error
    found = judged(given)
    document = found.facts()
    if report is not None:
        try:
            document["report"] = [str(path) for path in write_report(found, report)]
        except OSError as error:
            raise typer.BadParameter(f"{report} cannot be written: {error.strerror}") from error
    emit(document, as_json=as_json, text=lambda: "\n".join([found.verdict.value, *found.reasons]))
    if found.verdict is not Verdict.BETTER:
        raise typer.Exit(ExitCode.MISSED)


def _share(text: str) -> float:
    from ninelives.estate.units import parse_ratio

    try:
        return parse_ratio(float(text))
    except ValueError:
        return parse_ratio(text)


def _taken(pairs: list[str]) -> dict[str, int]:
    taken = {}
    for pair in pairs:
        site, _, count = pair.partition("=")
        if not site or not count.isdecimal() or site in taken:
            raise ValueError(f"{pair!r} is not SITE=N, once for each site")
        taken[site] = int(count)
    return taken
