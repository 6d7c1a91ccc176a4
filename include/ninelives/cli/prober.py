"""``ninelives prober``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ninelives.cli.common import AsJson, emit
from ninelives.home import Home

if TYPE_CHECKING:
    from rich.table import Table

app = typer.Typer(no_args_is_help=True)


@app.command()
def run(
    rate: Annotated[
        float,
        typer.Option(help="Probes per second and service.", envvar="NINELIVES_PROBE_RATE", min=0.01, max=1000),
    ] = 20.0,
    services: Annotated[str, typer.Option(help="Only these, with commas between them.")] = "",
    keep: Annotated[int, typer.Option(help="Days for which probes are kept.", min=1)] = 7,
) -> None:
    """Probe every service of the estate until stopped by SIGTERM; a service of its own, always on."""
    import asyncio
    import contextlib
    import logging
    import os
    import signal

    from ninelives.adapters.connections import FileConnections
    from ninelives.adapters.probe_client import ProbeClient
    from ninelives.probing.service import ProberService

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with contextlib.suppress(PermissionError):  # a measuring instrument goes first where it may: it uses little
        os.setpriority(os.PRIO_PROCESS, 0, -10)

    async def probe() -> None:
        stop = asyncio.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(name, stop.set)
        home = Home.from_environment()
        only = tuple(filter(None, services.split(",")))
        async with ProbeClient() as client:
            await ProberService(
                home,
                FileConnections(home.connections_file),
                client.send,
                rate=rate,
                services=only,
                retention=timedelta(days=keep),
            ).run(stop)

    asyncio.run(probe())


@app.command()
def report(
    since: Annotated[str, typer.Option(help="How far back, like 90s, 15min or 2h.")] = "5min",
    service: Annotated[str | None, typer.Option(help="Only this one.")] = None,
    as_json: AsJson = False,
) -> None:
    """What users of each service got, and whether an outage is going on."""
    from ninelives.estate.units import parse_duration
    from ninelives.probing.measure import steady_state
    from ninelives.probing.records import read_heartbeat, read_probes

    try:
        back = parse_duration(since)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--since") from None
    folder = Home.from_environment().probes
    beat = read_heartbeat(folder)
    now = datetime.now(UTC)
    alive = beat is not None and now - beat.at < timedelta(seconds=5)
    until = beat.complete_until if alive and beat else now  # what a dead prober did not look at is unknown
    rows = read_probes(folder, now - back, until, service)
    names = sorted({*rows.column("service").unique().to_pylist(), *(beat.services if beat else ())})
    lines = []
    for name in names:
        if service in (None, name):
            interval = beat.interval_s if beat else None
            state = steady_state(rows, since=now - back, until=until, service=name, interval=interval)
            lines.append({"service": name, "sent": state.sent, **vars(state), "share": [state.low, state.high]})
    emit(
        {"since": now - back, "until": until, "alive": alive, "services": lines},
        as_json=as_json,
        text=lambda: _table(lines, alive=alive),
    )


def _table(lines: list[dict[str, Any]], *, alive: bool) -> Table | str:
    from rich.table import Table

    if not lines:
        return "There are no probes yet: `ninelives prober run` makes them."
    table = Table(caption=None if alive else "The prober is not running: start `ninelives prober run`.")
    columns = ("sent", "good", "slow", "degraded", "wrong", "failed", "unknown")
    for heading in ("service", *columns, "correct", "outage since"):
        table.add_column(heading, justify="left" if heading == "service" else "right")
    for line in lines:
        (low, high), down = line["share"], line["outage_since"]
        table.add_row(
            line["service"],
            *(f"{line[column]:,}" for column in columns),
            f"{low:.3%}" if low == high else f"{low:.3%} to {high:.3%}",
            f"{down:%H:%M:%S} UTC" if down else "-",
        )
    return table
