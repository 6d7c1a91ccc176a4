"""``ninelives playbook``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ninelives.cli.common import AsJson, ExitCode, console, emit
from ninelives.cli.recover import check_name, connected

if TYPE_CHECKING:
    from ninelives.adapters.connected import ConnectedEstate
    from ninelives.recovery.playbook import Playbook

app = typer.Typer(no_args_is_help=True)


@app.command()
def show(
    service: Annotated[str, typer.Argument(metavar="SERVICE")],
    keep: Annotated[bool, typer.Option("--keep", help="Make it the kept one, with evidence.")] = False,
    as_json: AsJson = False,
) -> None:
    """What a person does for SERVICE on this estate as it is now: commands to paste, what to expect, how to undo."""
    from datetime import UTC, datetime

    from ninelives.recovery.playbook import keep_playbook

    systems = connected()
    playbook = _made(systems, service)
    if keep:
        keep_playbook(systems, playbook, run=f"by-hand-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}")
    if as_json:
        emit({"service": service, "stale": playbook.stale, "text": playbook.text}, as_json=True, text=str)
    else:
        console.print(playbook.text, markup=False, soft_wrap=True, end="")


@app.command()
def check(
    service: Annotated[str | None, typer.Argument(metavar="SERVICE", help="By default all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Whether the kept playbook is still right. Exit code 3 where it is stale, or none is kept."""
    systems = connected()
    names = [service] if service is not None else list(systems.estate.service_by_name)
    found = [_made(systems, name) for name in names]
    document = [{"service": one.service, "stale": one.stale, "differences": one.differences} for one in found]

    def text() -> str:
        lines = []
        for one in found:
            said = f"stale; `ninelives playbook show {one.service} --keep` or the next check_readiness renews it"
            lines += [f"{one.service}: {said if one.stale else 'fresh'}", *(f"    {line}" for line in one.differences)]
        return "\n".join(lines)

    if as_json:
        emit(document, as_json=True, text=str)
    else:
        console.print(text(), markup=False, soft_wrap=True)
    if any(one.stale for one in found):
        raise typer.Exit(ExitCode.MISSED)


def _made(systems: ConnectedEstate, service: str) -> Playbook:
    from ninelives.recovery.playbook import make_playbook
    from ninelives.recovery.standby import check_readiness, kept_readiness

    check_name("service", service, systems.estate.service_by_name)
    (found,) = check_readiness(systems, only=service, kept=kept_readiness(systems))
    return make_playbook(systems, found)
