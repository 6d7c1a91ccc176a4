"""``ninelives provider``."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ninelives.cli.common import AsJson, ExitCode, emit
from ninelives.cli.recover import check_name, connected

if TYPE_CHECKING:
    from ninelives.estate.outside import Provider

app = typer.Typer(no_args_is_help=True)
FASTEST = 1_000_000.0
"""Beyond it a day of batches is sent within a tenth of a second, which measures nothing."""
ProviderName = Annotated[str, typer.Argument(metavar="NAME", help="As declared in the estate.")]


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Every provider, whom to tell, and when it may be drilled next."""
    from datetime import UTC, datetime

    from ninelives.providers.windows import next_span

    now = datetime.now(UTC)

    def row(one: Provider) -> dict[str, Any]:
        span = next_span(one, now)
        stream, begin = one.feed.stream if one.feed else None, span and span.begin.isoformat()
        return {
            "provider": one.name,
            "contacts": list(one.contacts),
            "stream": stream,
            "next": begin,
        }

    rows = [row(one) for one in connected().estate.providers]
    lines = [f"{one['provider']}: {', '.join(one['contacts'])}; next window {one['next'] or 'none'}" for one in rows]
    emit(rows, as_json=as_json, text=lambda: "\n".join(lines) or "the estate declares no provider")


@app.command()
def windows(
    name: ProviderName,
    days: Annotated[int, typer.Option(min=1, max=366, help="How far ahead.")] = 14,
    as_json: AsJson = False,
) -> None:
    """When it may be drilled and when it may be away, in UTC."""
    from datetime import UTC, datetime, timedelta

    from ninelives.providers.windows import spans

    providers, now = connected().estate.provider_by_name, datetime.now(UTC)
    check_name("provider", name, providers)
    rows = [
        {"what": what, "begin": span.begin.isoformat(), "end": span.end.isoformat()}
        for what, declared in (("test", providers[name].test), ("maintenance", providers[name].maintenance))
        for span in spans(declared, now, now + timedelta(days=days))
    ]
    rows.sort(key=lambda row: row["begin"])
    lines = [f"{row['begin']} to {row['end']}: {row['what']}" for row in rows]
    emit(rows, as_json=as_json, text=lambda: "\n".join(lines) or f"no window of {name} opens within {days} days")


@app.command()
def replay(
    name: ProviderName,
    speed: Annotated[float, typer.Option(min=0.001, max=FASTEST, help="How many times faster than recorded.")] = 1.0,
    batches: Annotated[int, typer.Option(min=5, max=10_000, help="How many of the recorded batches.")] = 12,
    seed: Annotated[int, typer.Option(help="Of what goes wrong; the same seed is the same drill.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Replay its recorded feed late, twice, not at all and broken, within its test window. Exit 3 if it was missed."""
    from datetime import UTC, datetime

    from ninelives.providers.replay import replay_feed

    systems = connected()
    check_name("provider", name, systems.estate.provider_by_name)
    holder = f"command line at {socket.gethostname()}, process {os.getpid()}"
    found, record = replay_feed(
        systems, name, holder=holder, seed=seed, speed=speed, batches=batches, now=datetime.now(UTC)
    )
    document = {**found.facts(), "evidence": record.seq}
    emit(document, as_json=as_json, text=lambda: _shown(document))
    if not found.met:
        raise typer.Exit(ExitCode.MISSED)


def _shown(document: dict[str, Any]) -> str:
    lines = [
        f"{kind}: {one['batches']} batches, {one['sent']} sent, {one['landed']} records landed, "
        f"{one['quarantined']} in quarantine, {one['dropped']} dropped as known"
        for kind, one in document["kinds"].items()
    ]
    lines.append(f"{document['landed']} of {document['expected']} records landed, {document['unique']} different ones")
    lines.append(f"the newest was {document['stalest_seconds']:.0f} s old at most, by the recording's clock")
    return "\n".join([*lines, f"{document['verdict']}; evidence {document['evidence']}"])
