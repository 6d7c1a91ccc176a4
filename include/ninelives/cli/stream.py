"""``ninelives stream``."""

from __future__ import annotations

import socket
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ninelives.cli.common import AsJson, ExitCode, console, emit

if TYPE_CHECKING:
    from ninelives.adapters.connected import ConnectedEstate
    from ninelives.streams.ingest import Ingestion

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="As declared in the estate.")]
HOLDER = f"command line at {socket.gethostname()}"


@app.command()
def check(stream: Name, as_json: AsJson = False) -> None:
    """What has arrived and is not landed yet, against the contract; writes nothing. Exit 3 if something breaks it."""
    from ninelives.streams.ingest import look

    found = look(_systems(), stream)
    emit(found.facts(), as_json=as_json, text=lambda: _report(found, "would land"))
    if found.quarantined:
        raise typer.Exit(ExitCode.MISSED)


@app.command()
def ingest(
    stream: Name,
    accept_gap: Annotated[
        bool, typer.Option("--accept-gap", help="Go on where the broker deleted messages that were never landed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Land what has arrived. Exit 3 if something was put into quarantine; the rest was landed all the same."""
    from ninelives.streams.ingest import ingest as run

    done = run(_systems(), stream, holder=HOLDER, accept_gap=accept_gap)
    emit(done.facts(), as_json=as_json, text=lambda: _report(done, "landed"))
    if done.quarantined:
        raise typer.Exit(ExitCode.MISSED)


@app.command()
def quarantine(stream: Name, as_json: AsJson = False) -> None:
    """What is in quarantine now, and why. Exit 3 if something is."""
    from ninelives.streams.ingest import waiting

    found = waiting(_systems(), stream)
    lines = [
        "\n".join([f"{one.records} records in {one.key}", *(f"  {n}: {why}" for why, n in one.reasons.items())])
        for one in found
    ]
    emit(
        [asdict(one) for one in found],
        as_json=as_json,
        text=lambda: "\n".join(lines) or f"Nothing of {stream} is in quarantine.",
    )
    if found:
        raise typer.Exit(ExitCode.MISSED)


@app.command()
def replay(stream: Name, as_json: AsJson = False) -> None:
    """Land what keeps the present contract of what is in quarantine, once. Exit 3 if something still does not."""
    from ninelives.streams.ingest import replay as run
    from ninelives.streams.ingest import waiting

    systems = _systems()
    done = run(systems, stream, holder=HOLDER)
    left = sum(one.records for one in waiting(systems, stream))
    emit(
        {**done.facts(), "still_waiting": left},
        as_json=as_json,
        text=lambda: f"{done.landed} records of {stream} landed, {left} still in quarantine.",
    )
    if left:
        raise typer.Exit(ExitCode.MISSED)


@app.command()
def propose(stream: Name, as_json: AsJson = False) -> None:
    """The contract's next version, from the compatible changes in evidence. Exit 3 if there is one."""
    from ninelives.streams.ingest import declared_stream, proposal

    systems = _systems()
    declared = declared_stream(systems, stream)
    found = proposal(systems.ledger(), declared)
    emit(_contract(found) if found else None, as_json=as_json, text=lambda: _proposed(stream, found))
    if found:
        raise typer.Exit(ExitCode.MISSED)


def _systems() -> ConnectedEstate:
    from ninelives.adapters.connected import ConnectedEstate
    from ninelives.home import Home

    return ConnectedEstate.of_home(Home.from_environment())


def _contract(stream: Any) -> dict[str, Any]:
    written: dict[str, Any] = stream.model_dump(mode="json", exclude_defaults=True, include={"version", "fields"})
    return written


def _proposed(stream: str, found: Any) -> str:
    if found is None:
        return f"The contract of {stream} says all that arrives."
    import yaml

    written = yaml.safe_dump(_contract(found), sort_keys=False, default_flow_style=None, width=120)
    console.print(f"Put this below {stream} in the estate's streams:", markup=False)
    return written


def _report(done: Ingestion, verb: str) -> str:
    lines = [f"{done.stream} at {done.site}: {done.units} units, {done.landed:,} records {verb}"]
    lines += [f"  passed: {change}" for change in done.changes]
    lines += [f"  in quarantine: {rows} records: {reason}" for reason, rows in done.reasons.items()]
    return "\n".join(lines)
