"""``ninelives accelerators``: what this machine's accelerators say, and whether they may serve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ninelives.cli.common import AsJson, ExitCode, emit, errors
from ninelives.errors import EstateError

if TYPE_CHECKING:
    from ninelives.ports import Accelerators

app = typer.Typer(no_args_is_help=True)


@app.callback()
def accelerators() -> None:
    """Whether this machine's accelerators may serve."""


@app.command()
def check(
    need: Annotated[Path | None, typer.Option(metavar="FILE", help="YAML or JSON: what the model needs.")] = None,
    policy: Annotated[Path | None, typer.Option(metavar="FILE", help="YAML or JSON: which findings block.")] = None,
    site: Annotated[
        str | None, typer.Option(help="This machine's site: judge by the estate, and leave that as evidence.")
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="What the estate calls this machine; its own short name unless given.")
    ] = None,
    drain: Annotated[
        bool, typer.Option("--drain", help="With --site: take this machine's replicas out where a device is faulty.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look at every accelerator of this machine. Exit 0 they may serve, 3 they may not, with each reason.

    With --site the estate says what is asked of them and what each model needs, and the answer counts for promotions
    and failovers. Without, nothing is written down.
    """
    if site:
        if need or policy:
            raise typer.BadParameter("with --site the estate says what is needed and what blocks, and no file")
        _record(site, host, drain=drain, as_json=as_json)
        return
    if host or drain:
        raise typer.BadParameter("--host and --drain are about a machine of a site: say --site, too")
    from ninelives.accelerators.check import check_accelerators
    from ninelives.accelerators.policy import read_file
    from ninelives.estate.accelerators import Need, Policy

    try:
        wanted = read_file(Need, need) if need else None
        rules = read_file(Policy, policy) if policy else Policy()
    except EstateError as error:
        errors.print(str(error), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(ExitCode.USAGE) from error
    report = check_accelerators(_probe(rules.kind), wanted, rules)
    verdict = "may serve" if report.allowed else "may not serve"
    emit(report.to_dict(), as_json=as_json, text=lambda: "\n".join([verdict, *map(str, report.findings)]))
    if not report.allowed:
        raise typer.Exit(ExitCode.MISSED)


@app.command()
def look(
    kind: Annotated[str, typer.Option(help="nvidia, amd, gaudi or an entry point; as the machine's policy has it.")],
) -> None:
    """Print what the accelerators of this machine say of themselves, as one line of JSON, and judge nothing.

    Needs no estate and no connection: it is what runs in a pod on the machine's node, and is judged elsewhere.
    """
    from ninelives.accelerators.look import as_line

    typer.echo(as_line(_probe(kind).look()))


def _probe(kind: str) -> Accelerators:
    from ninelives.adapters.nvml import probe_of
    from ninelives.errors import Refused

    try:
        return probe_of(kind)
    except Refused as refused:
        raise typer.BadParameter("; ".join(refused.reasons)) from refused


def _record(site: str, host: str | None, *, drain: bool, as_json: bool) -> None:
    import platform

    from ninelives.accelerators.drain import follow
    from ninelives.accelerators.evidence import declared_host, reasons_of, validate
    from ninelives.adapters.connected import ConnectedEstate
    from ninelives.errors import Refused
    from ninelives.estate.accelerators import STAND_IN
    from ninelives.home import Home

    systems = ConnectedEstate.of_home(Home.from_environment())
    name = host or platform.node().split(".")[0]
    try:
        declared_host(systems.estate, site, name)
    except Refused as refused:
        raise typer.BadParameter("; ".join(refused.reasons)) from refused
    record = validate(systems, site, name)
    reasons, done = reasons_of(record), follow(systems, site, name, record) if drain else []
    answer: dict[str, Any] = {"site": site, "host": name, "reasons": reasons, "evidence": record.seq, **record.facts}
    answer |= {"allowed": not reasons, "done": done}
    played = "; its device was played, and none was looked at" if record.facts["kind"] == STAND_IN else ""
    verdict = f"{'may not' if reasons else 'may'} serve; evidence {record.seq}{played}"
    emit(answer, as_json=as_json, text=lambda: "\n".join([verdict, *(reasons or record.facts["findings"]), *done]))
    if reasons:
        raise typer.Exit(ExitCode.MISSED)
