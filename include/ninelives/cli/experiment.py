"""``ninelives experiment``: who is in it, may it begin, and what it shows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ninelives.cli.common import AsJson, ExitCode, emit, errors
from ninelives.cli.recover import ServiceName, check_name, connected
from ninelives.errors import EstateError, Refused

app = typer.Typer(no_args_is_help=True)
Exposure = Annotated[str, typer.Option(help="Share of the units that see what is new, like 5%; at most a half.")]


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
