"""``ninelives stack``: the local estate, real processes on this machine."""

from __future__ import annotations

import logging
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ninelives.cli.common import AsJson, ExitCode, console, emit, errors
from ninelives.home import Home

if TYPE_CHECKING:
    from rich.table import Table

    from ninelives.stack.lifecycle import Started
    from ninelives.stack.programs import Part

app = typer.Typer(no_args_is_help=True)
SiteName = Annotated[str, typer.Argument(metavar="SITE")]


@app.command()
def up(
    estate: Annotated[
        Path | None, typer.Option(help="Estate file; by default the one of the last start, else the demo's.")
    ] = None,
    without: Annotated[
        str | None, typer.Option(metavar="PART,...", help="Leave out gateway, mlflow, airflow, prober, feeder, keeper.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(metavar="PART,...", help="Besides PostgreSQL and the sites, start only these parts.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start everything that does not run yet, and wait until it answers."""
    from ninelives.stack import lifecycle

    home = Home.from_environment()
    began = time.monotonic()
    done = start(home, estate, _left_out(without, only), quiet=as_json)
    state = lifecycle.status(home)
    state |= {"started": list(done.started), "left_lost": list(done.left_lost), "seconds": time.monotonic() - began}
    if as_json:
        state["new_passwords"] = done.new_passwords
    emit(state, as_json=as_json, text=lambda: _started(state, done.new_passwords))


def start(
    home: Home, estate: Path | None = None, without: frozenset[Part] | None = None, *, quiet: bool = False
) -> Started:
    """Start the local estate and show each step on standard error."""
    from ninelives.stack import lifecycle

    # Like Ctrl-C: whoever ends us in mid-start must not be left with half of it.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    progress = _Progress(quiet=quiet)
    with progress.shown():
        return lifecycle.up(home, estate, without, report=progress)


@app.command()
def down(as_json: AsJson = False) -> None:
    """Stop everything; fails unless every process is gone."""
    from ninelives.stack import lifecycle

    stopped = lifecycle.down(Home.from_environment())
    emit(
        {"stopped": stopped},
        as_json=as_json,
        text=lambda: f"stopped {len(stopped)} processes" if stopped else "nothing ran",
    )


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show every program; exit code 1 unless all of them run."""
    from ninelives.stack import lifecycle

    state = lifecycle.status(Home.from_environment())
    emit(state, as_json=as_json, text=lambda: _table(state))
    if not state["up"]:
        raise typer.Exit(ExitCode.ERROR)


@app.command()
def lose(site: SiteName, as_json: AsJson = False) -> None:
    """Kill -9 every process of SITE, storage included, and keep its disk."""
    from ninelives.stack import lifecycle

    at = lifecycle.lose(Home.from_environment(), site)
    text = (
        f"lost {site} at {at.isoformat(timespec='milliseconds')}; bring it back with `ninelives stack restore {site}`"
    )
    emit({"site": site, "lost_at": at}, as_json=as_json, text=lambda: text)


@app.command()
def restore(site: SiteName, as_json: AsJson = False) -> None:
    """Bring SITE back and wait until its store and its replicas answer."""
    from ninelives.stack import lifecycle

    began = time.monotonic()
    lifecycle.restore(Home.from_environment(), site)
    seconds = time.monotonic() - began
    emit(
        {"site": site, "seconds": seconds}, as_json=as_json, text=lambda: f"{site} answers again after {seconds:.1f} s"
    )


@app.command()
def keep() -> None:
    """Undo faults whose time is over; the local estate runs this always."""
    from ninelives.adapters.connections import FileConnections
    from ninelives.adapters.faults import SupervisedFaults
    from ninelives.stack import keeper

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    home = Home.from_environment()
    keeper.keep(home, SupervisedFaults(FileConnections(home.connections_file), home))


def _left_out(without: str | None, only: str | None) -> frozenset[Part] | None:
    from ninelives.stack.programs import Part, parts

    if without is not None and only is not None:
        raise typer.BadParameter("--without and --only exclude each other")
    if only is not None:
        return frozenset(Part) - parts(_names(only))
    return None if without is None else parts(_names(without))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


class _Progress:
    """Prints each step when it is done, and shows on a terminal which ones are still at work."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._working: dict[str, None] = {}
        self._status = errors.status("checking ports, disk and binaries")

    def shown(self) -> Any:
        import contextlib

        return contextlib.nullcontext() if self._quiet else self._status

    def __call__(self, step: str, seconds: float | None) -> None:
        if self._quiet:
            return
        if seconds is None:
            self._working[step] = None
        else:
            self._working.pop(step, None)
            errors.print(f"  [green]✓[/] {step} [dim]{seconds:.1f} s[/]")
        self._status.update(", ".join(self._working) or "almost there")


def _started(state: dict[str, Any], new_passwords: dict[str, str]) -> Table | str:
    if not state["started"]:
        return f"already up, nothing to start ({state['seconds']:.1f} s)"
    for name, url in state["urls"].items():
        console.print(f"  {name:14} {url}")
    if new_passwords:
        console.print("Passwords for Airflow, shown only now (kept in secrets/airflow-passwords.json, mode 0600):")
        for name, password in new_passwords.items():
            console.print(f"  {name:14} {password}", markup=False)
    for site in state["left_lost"]:
        console.print(f"[yellow]{site} stays lost: a drill holds it[/]")
    return f"up: {len(state['started'])} programs started in {state['seconds']:.1f} s"


def _table(state: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table("program", "state", "pid", "port", "up for", title=f"{state['estate']} in {state['home']}")
    for row in state["programs"]:
        uptime = f"{row['uptime']:.0f} s" if row["uptime"] is not None else ""
        color = "green" if row["state"] == "RUNNING" else "red"
        table.add_row(
            row["program"], f"[{color}]{row['state']}[/]", str(row["pid"] or ""), str(row["port"] or ""), uptime
        )
    return table
