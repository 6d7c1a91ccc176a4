"""``ninelives evidence``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ninelives.cli.common import AsJson, ExitCode, emit, errors
from ninelives.home import Home

if TYPE_CHECKING:
    from rich.table import Table

    from ninelives.adapters.connected import ConnectedEstate
    from ninelives.adapters.ledger import SqlLedger
    from ninelives.evidence import Verification
    from ninelives.ports import ObjectStore, Record

app = typer.Typer(no_args_is_help=True)


@app.command()
def verify(as_json: AsJson = False) -> None:
    """Is the ledger what was written? Exit 0 whole; 1 altered, cut, or not known because no anchor could be read."""
    from ninelives.evidence import verify_ledger

    systems = _systems()
    stores, unconnected = _stores(systems)
    verification = verify_ledger(_ledger(systems), stores)
    unreachable = {**unconnected, **verification.unreachable}
    document = {**asdict(verification), "unreachable": unreachable, "other_ledgers": sorted(verification.other_ledgers)}
    emit(document, as_json=as_json, text=lambda: _report(verification, unreachable))
    raise typer.Exit(ExitCode.MET if verification.verdict == "whole" else ExitCode.ERROR)


@app.command("list")
def list_(
    kind: Annotated[str | None, typer.Option(help="Only this kind, for example drill.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only this subject.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """The newest evidence first."""
    records = _ledger(_systems()).records(kind=kind, subject=subject, limit=limit)
    emit([asdict(record) for record in records], as_json=as_json, text=lambda: _table(records))


@app.command()
def show(seq: Annotated[int, typer.Argument(min=1)], as_json: AsJson = False) -> None:
    """One record, whole. Exit 1 where it does not exist or is not what was written."""
    from ninelives.evidence.chain import is_intact

    record = _ledger(_systems()).get(seq)
    if record is None:
        errors.print(f"There is no record {seq}.", style="red")
        raise typer.Exit(ExitCode.ERROR)
    intact = is_intact(record)
    emit({**asdict(record), "intact": intact}, as_json=as_json, text=lambda: _details(record))
    if not intact:
        errors.print(f"Record {seq} is not what was written: its hash does not fit.", style="red")
        raise typer.Exit(ExitCode.ERROR)


def _systems() -> ConnectedEstate:
    from ninelives.adapters.connected import ConnectedEstate

    return ConnectedEstate.of_home(Home.from_environment())


def _ledger(systems: ConnectedEstate) -> SqlLedger:
    from ninelives.adapters.ledger import SqlLedger

    return SqlLedger.from_connection(systems.connections.get("ninelives_ledger"))


def _stores(systems: ConnectedEstate) -> tuple[dict[str, ObjectStore], dict[str, str]]:
    """The stores, and why a site has none: one that has no connection must not hide the others' anchors."""
    from ninelives.errors import Unavailable

    stores, problems = {}, {}
    for site in systems.estate.site_names:
        try:
            stores[site] = systems.store(site)
        except Unavailable as error:
            problems[site] = str(error)
    return stores, problems


def _report(verification: Verification, unreachable: dict[str, str]) -> str:
    lines = [str(verification), *(f"  {finding}" for finding in verification.findings)]
    lines += [f"Not asked: {site}: {reason}" for site, reason in unreachable.items()]
    lines += [f"Ignored: {reason}" for reason in verification.unreadable]
    if verification.other_ledgers:
        lines.append(f"Other ledgers anchored in these stores: {', '.join(sorted(verification.other_ledgers))}")
    return "\n".join(lines)


def _table(records: list[Record]) -> Table:
    from rich.table import Table

    table = Table("seq", "at (UTC)", "kind", "subject", "facts", box=None)
    for record in records:
        at = f"{record.at:%Y-%m-%d %H:%M:%S}"
        table.add_row(str(record.seq), at, record.kind, record.subject, _short(record.facts))
    return table


def _short(facts: Any, width: int = 80) -> str:
    import json

    text = json.dumps(facts, ensure_ascii=False)
    return text if len(text) <= width else text[: width - 1] + "…"


def _details(record: Record) -> str:
    import json

    return json.dumps(asdict(record), default=str, indent=2, ensure_ascii=False)
