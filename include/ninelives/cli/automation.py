"""``ninelives automation``: what acts by itself, and the people who may stop it."""

from __future__ import annotations

import getpass
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ninelives.cli.common import AsJson, ExitCode, emit
from ninelives.cli.recover import connected

if TYPE_CHECKING:
    from ninelives.adapters.connected import ConnectedEstate

app = typer.Typer(no_args_is_help=True)

By = Annotated[str, typer.Option(help="Who does it: an operator of the estate; by default the user of this machine.")]


def _duration(text: str) -> timedelta:
    from ninelives.estate.units import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


@app.command()
def freeze(
    reason: Annotated[str, typer.Option(help="Why, for whoever is called.")],
    lasting: Annotated[
        timedelta, typer.Option("--for", parser=_duration, metavar="DURATION", help="At most a week, like 2h.")
    ],
    by: By = "",
    as_json: AsJson = False,
) -> None:
    """Until then no declared loss moves traffic and no returned site is opened by itself; people still can."""
    from ninelives.recovery import safety

    systems = connected()
    safety.freeze(systems.ledger(), systems.estate, reason=reason, by=by or getpass.getuser(), lasting=lasting)
    _tell(systems, as_json)


@app.command()
def thaw(by: By = "", as_json: AsJson = False) -> None:
    """Let automation act again. What happened meanwhile is named, and left to people."""
    from ninelives.recovery import safety

    systems = connected()
    before = safety.current_freeze(systems.ledger(), systems.estate)
    safety.thaw(systems.ledger(), systems.estate, by=by or getpass.getuser())
    losses = safety.unanswered_losses(systems.ledger(), before.at) if before else []
    _tell(systems, as_json, left=[(record.subject, record.at.isoformat(), record.seq) for record in losses])


@app.command()
def status(as_json: AsJson = False) -> None:
    """Whether automation acts. Exit code 3 while it is frozen."""
    if _tell(connected(), as_json):
        raise typer.Exit(ExitCode.MISSED)


def _tell(systems: ConnectedEstate, as_json: bool, left: list[tuple[str, str, int]] | None = None) -> bool:
    from ninelives.recovery import safety

    frozen = safety.current_freeze(systems.ledger(), systems.estate)
    closed = sorted(systems.gateway().state().closed_sites) if left is not None else []
    document: dict[str, Any] = {
        "frozen": frozen is not None,
        "by": frozen and frozen.by,
        "reason": frozen and frozen.reason,
        "until": frozen and frozen.until.isoformat(),
        "evidence": frozen and frozen.evidence,
        "unanswered_losses": [{"site": site, "at": at, "evidence": seq} for site, at, seq in left or []],
        "closed_sites": closed,
    }

    def text() -> str:
        lines = [frozen.sentence if frozen else "automation acts"]
        for site, at, seq in left or []:
            lines.append(f"{site} was declared lost at {at} (evidence {seq}): ninelives recover fail-over {site}")
        lines += [f"{site} is closed; when it is well: ninelives recover return-site {site}" for site in closed]
        return "\n".join(lines)

    emit(document, as_json=as_json, text=text)
    return frozen is not None
