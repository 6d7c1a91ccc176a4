"""``ninelives feeder``."""

from __future__ import annotations

import logging
import signal
from typing import Annotated

import typer

from ninelives.home import Home

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep ``run`` a subcommand while it is the only one."""


@app.command()
def run(every: Annotated[float, typer.Option(min=0.01, help="Seconds between two writes.")] = 10.0) -> None:
    """Replay the demo's flights as a stream of acknowledged writes; the local estate runs this always."""
    from ninelives.adapters.connected import ConnectedEstate
    from ninelives.flights.feeder import feed, wait_for_history

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    systems = ConnectedEstate.of_home(Home.from_environment())
    wait_for_history(systems, lambda: not stopped)
    feed(systems, every, lambda: not stopped)
