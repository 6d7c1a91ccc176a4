"""``ninelives artefacts``."""

from __future__ import annotations

import getpass
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import typer

from ninelives.cli.common import AsJson, ExitCode, emit
from ninelives.cli.recover import connected

if TYPE_CHECKING:
    from rich.table import Table

app = typer.Typer(no_args_is_help=True)

Why = Annotated[str, typer.Option(help="Why, for whoever wants to delete it later.")]
By = Annotated[str, typer.Option(help="Who decides it; by default the user of this machine.")]


@app.command("list")
def list_(
    model: Annotated[str | None, typer.Argument(help="Only this model.")] = None, as_json: AsJson = False
) -> None:
    """List every registered version: since when, and every reason why it stays, or the rule that lets it go."""
    from ninelives.artefacts.holds import KIND, standing
    from ninelives.artefacts.prune import look

    systems, now = connected(), datetime.now(UTC)
    retention, _, registered = look(systems, now)
    known = sorted({*systems.estate.model_by_name, *(one.model for one in registered)})
    if model is not None and model not in known:
        raise typer.BadParameter(f"neither the estate nor the registry has {model}; they have {', '.join(known)}")
    rows: list[dict[str, Any]] = [
        {
            "model": one.model,
            "version": one.version,
            "created_at": one.created_at.isoformat() if one.created_at else None,
            "digest": one.digest,
            "kept": list(retention.kept.get((one.model, one.version), ())),
            "due": retention.due.get((one.model, one.version)),
        }
        for one in sorted(registered, key=lambda one: (one.model, int(one.version)))
        if model in (None, one.model)
    ]
    holds = [
        asdict(one) | {"until": one.until.isoformat() if one.until else None}
        for one in standing(systems.ledger().records(kind=KIND), now)
        if model in (None, one.model)
    ]
    emit({"versions": rows, "holds": holds}, as_json=as_json, text=lambda: _versions(rows))


@app.command()
def hold(
    version: Annotated[str, typer.Argument(metavar="MODEL@VERSION", help="As in the registry.")],
    why: Why,
    until: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M"], help="Its end, UTC; none: until it is released."),
    ] = None,
    by: By = "",
    as_json: AsJson = False,
) -> None:
    """Keep a version from being deleted, whatever its age. The number that it prints releases it again."""
    from ninelives.artefacts.holds import place

    name, at, number = version.partition("@")
    if not (name and at and number):
        raise typer.BadParameter(f"{version!r} is not MODEL@VERSION", param_hint="MODEL@VERSION")
    end = until.replace(tzinfo=UTC) if until else None
    record = place(connected(), name, number, by=by or getpass.getuser(), why=why, until=end)
    document = {"hold": record.seq, "model": name, **record.facts}
    lasting = f"until {end:%Y-%m-%d %H:%M} UTC" if end else "until it is released"
    emit(document, as_json=as_json, text=lambda: f"{version} is held {lasting}: hold {record.seq}")


@app.command("release-hold")
def release_hold(
    number: Annotated[int, typer.Argument(metavar="HOLD", help="Its number.")],
    why: Why,
    by: By = "",
    as_json: AsJson = False,
) -> None:
    """End a hold; its version may be deleted once nothing else keeps it."""
    from ninelives.artefacts.holds import release

    record = release(connected().ledger(), number, by=by or getpass.getuser(), why=why)
    document = {"model": record.subject, **record.facts, "evidence": record.seq}
    name = f"{record.subject}@{record.facts['version']}"
    emit(document, as_json=as_json, text=lambda: f"hold {number} of {name} is released, evidence {record.seq}")


@app.command()
def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    by: By = "",
    as_json: AsJson = False,
) -> None:
    """Delete the versions that the estate's retention lets go, in the registry and at every site, on the record.

    Never one that is the champion, a release, the way back, held, or named by a promotion, an incident or a backup
    that is still in the vault. Nothing goes while one of those cannot be asked.
    """
    from ninelives.artefacts.prune import prune as delete

    who = by or getpass.getuser()
    holder = f"ninelives artefacts prune {uuid4()}"
    done = delete(connected(), holder, lambda: datetime.now(UTC), by=who, dry_run=dry_run)
    document = {
        "dry_run": dry_run,
        "deleted": [asdict(one) for one in done.deleted],
        "spared": list(done.spared),
        "kept": {f"{model}@{version}": list(why) for (model, version), why in done.retention.kept.items()},
    }

    def text() -> str:
        verb = "would delete" if dry_run else "deleted"
        lines = [
            f"{verb} {one.model}@{one.version}: {one.objects} objects, {one.bytes:,} bytes"
            + (f", evidence {one.evidence}" if one.evidence else "")
            for one in done.deleted
        ]
        lines += [f"spared {one}" for one in done.spared]
        if not (lines or done.retention.kept):
            return "no version is registered"
        return "\n".join([*lines, f"{len(done.retention.kept)} versions stay (ninelives artefacts list says why)"])

    emit(document, as_json=as_json, text=text)


@app.command()
def orphans(as_json: AsJson = False) -> None:
    """Find objects that no version names, and versions whose artefact is gone. Nothing is deleted.

    Exit code 3 where there are any.
    """
    from ninelives.artefacts.orphans import find

    found = find(connected(), datetime.now(UTC))

    def text() -> str:
        lines = [
            f"{one.site}: {one.bucket}/{one.key}, {one.size:,} bytes: no version names it" for one in found.orphans
        ]
        return "\n".join([*lines, *(str(one) for one in found.gone)]) or "every object is named, every version whole"

    emit(found.report(), as_json=as_json, text=text)
    if found.verdict != "met":
        raise typer.Exit(ExitCode.MISSED)


def _versions(rows: list[dict[str, Any]]) -> Table | str:
    if not rows:
        return "no version is registered"
    from rich.table import Table
    from rich.text import Text

    table = Table("version", "created", "stays because")
    for one in rows:
        created = one["created_at"][:16].replace("T", " ") if one["created_at"] else "?"
        why = Text("\n".join(one["kept"])) if one["kept"] else Text(f"goes: {one['due']}", style="yellow")
        table.add_row(f"{one['model']}@{one['version']}", created, why)
    return table
