"""``ninelives backup``."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ninelives.cli.common import AsJson, ExitCode, emit, errors
from ninelives.home import Home

if TYPE_CHECKING:
    from rich.table import Table

    from ninelives.adapters.connected import ConnectedEstate
    from ninelives.adapters.restic import Restic
    from ninelives.ports import Record
    from ninelives.stack.rebuild import Rebuilt

app = typer.Typer(no_args_is_help=True)
key_app = typer.Typer(no_args_is_help=True)
app.add_typer(key_app, name="key", help="The vault's keys: list, add, remove. A new password comes on standard input.")

AsKeeper = Annotated[bool, typer.Option("--as-keeper", help="With the keeper's key, on the vault's own machine.")]


@app.command()
def run(as_json: AsJson = False) -> None:
    """Back the estate up into the vault. Exit 3 when it was made, and something was wrong with the sources."""
    from ninelives.backups.run import back_up

    record = back_up(_connected(), run="ninelives backup run")
    emit({"evidence": record.seq, **record.facts}, as_json=as_json, text=lambda: _made(record))
    if record.facts["verdict"] != "met":
        raise typer.Exit(ExitCode.MISSED)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Every backup in the vault, the newest last. Exit 3 when the newest is older than the RPO, or there is none."""
    from ninelives.backups.judge import staleness
    from ninelives.backups.run import SOUND, policy, snapshots

    systems = _connected()
    rule, now = policy(systems.estate), datetime.now(UTC)
    found = snapshots(systems)
    stale = staleness([one.made_at for one in found], rule.rpo, now)
    rows = [
        {
            "snapshot": one.id,
            "made_at": one.made_at.isoformat(),
            "age_seconds": round((now - one.made_at).total_seconds(), 3),
            "sound": SOUND in one.tags,
        }
        for one in found
    ]
    emit({"verdict": "missed" if stale else "met", "stale": stale, "backups": rows}, as_json=as_json,
         text=lambda: _table(rows))  # fmt: skip
    if stale:
        errors.print(stale, style="red", markup=False)
        raise typer.Exit(ExitCode.MISSED)


@app.command()
def verify(
    whole: Annotated[bool, typer.Option("--all", help="Read every byte, not only what is due.")] = False,
    restore: Annotated[bool, typer.Option(help="Restore the newest and an older backup into an empty folder.")] = True,
    as_json: AsJson = False,
) -> None:
    """Prove the backups: structure, bytes in turn, and restores that are used.

    Exit 1 when anything is damaged; 3 when a backup is stale, bytes were not read in time, or a restore took too long.
    """
    from ninelives.backups.proof import choose, examine, prove_restore, refuse_unproven, summary
    from ninelives.errors import Refused

    systems = _connected()
    name = f"ninelives backup verify {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    records = [examine(systems, run=name, whole=whole)]
    if restore and records[0].facts["snapshots"] and records[0].facts["verdict"] != "corrupted":
        records += [prove_restore(systems, snapshot, run=name) for snapshot in choose(systems, name)]
    emit(summary(records), as_json=as_json, text=lambda: "\n".join(map(_proof, records)))
    try:
        refuse_unproven(records, restored=restore)
    except Refused as error:
        errors.print(str(error), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(ExitCode.MISSED) from error


@app.command()
def restore(
    backup: Annotated[str, typer.Argument(help="latest, or the beginning of its id.")],
    to: Annotated[Path | None, typer.Option(help="A new or empty folder.")] = None,
    into: Annotated[
        list[str] | None,
        typer.Option(
            help="Instead: this part of the stopped local estate: ledger, registry, airflow, models or state."
        ),
    ] = None,
    part: Annotated[
        list[str] | None, typer.Option(help="Only this part, like models or ledger; may be repeated.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="What is there moves to a dated folder beside it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring a backup back to a folder, or into the estate: every byte is checked before it is moved at once."""
    from ninelives.stack.restore import TARGETS

    if unknown := sorted(set(into or ()) - set(TARGETS)):
        raise typer.BadParameter(f"nothing goes into {', '.join(unknown)}; name {', '.join(TARGETS)}")
    if (to is None) == (not into) or (into and part):
        raise typer.BadParameter("say either --to FOLDER, with --part if you like, or --into PART")
    if into:
        _restore_into(backup, into, replace, as_json)
        return
    assert to is not None  # noqa: S101  (just looked at)
    from ninelives.backups.restore import restore as restore_backup

    done = restore_backup(_connected(), backup, to, parts=part or (), replace=replace)
    document = {
        "snapshot": done.snapshot.id,
        "made_at": done.manifest.made_at.isoformat(),
        "folder": str(done.folder),
        "replaced": str(done.replaced) if done.replaced else None,
        "parts": part or sorted(done.manifest.parts),
        "seconds": round(done.seconds, 3),
        "findings": list(done.manifest.findings),
    }
    emit(document, as_json=as_json, text=lambda: _restored(document))


def _restore_into(backup: str, targets: list[str], replace: bool, as_json: bool) -> None:
    from ninelives.stack.restore import restore_into

    done = restore_into(Home.from_environment(), backup, targets, replace=replace)
    lines = [
        f"{', '.join(done.targets)} of backup {done.snapshot[:12]} ({done.made_at[:19]}) is in its place, "
        f"evidence {done.evidence}; the estate is stopped: `ninelives stack up`",
        *(
            f"  what {name} was is kept as {'folder' if '/' in kept else 'database'} {kept}"
            for name, kept in done.kept.items()
        ),
        *([f"  {done.records_lost} records of evidence are lost"] if done.records_lost else []),
        *(f"  run {one['run']} of {one['dag']} {one['fate']}: {one['why']}" for one in done.runs),
    ]
    emit(asdict(done), as_json=as_json, text=lambda: "\n".join(lines))


@app.command()
def rebuild(
    backup: Annotated[str, typer.Argument(help="latest, or the beginning of its id.")],
    vault: Annotated[
        Path,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="JSON with the connection ninelives_vault: all that is needed beside this software.",
        ),
    ],
    estate: Annotated[str, typer.Option(help="Whose backup; needed where the vault holds those of several.")] = "",
    without: Annotated[str, typer.Option(metavar="PART,...", help="Leave out, as `ninelives stack up` does.")] = "",
    as_json: AsJson = False,
) -> None:
    """Everything is lost: build the estate anew from the vault alone, in the empty folder NINELIVES_HOME.

    Every byte is checked before it is used, each model must give its golden answers, the ledger must verify; what the
    vault cannot give back is named. On failure nothing of it runs.
    """
    import signal
    import sys

    from ninelives.adapters.connections import FileConnections
    from ninelives.adapters.model_signing import ModelSigner
    from ninelives.adapters.restic import Restic
    from ninelives.stack import lifecycle
    from ninelives.stack.programs import parts
    from ninelives.stack.rebuild import rebuild as rebuild_estate

    # Like Ctrl-C: whoever ends us in the middle must not be left with half of an estate.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    connection = FileConnections(vault).get("ninelives_vault")
    done = rebuild_estate(
        Home.from_environment(),
        backup,
        Restic.from_connection(connection),
        ModelSigner.from_connection(connection),
        estate=estate,
        without=parts([name for name in without.split(",") if name]),
        report=lifecycle.silent if as_json else _step,
    )
    emit(done.facts(), as_json=as_json, text=lambda: _rebuilt(done))


@app.command()
def retain(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False, as_json: AsJson = False
) -> None:
    """Remove what the declared retention no longer wants. Needs the keeper's key, on the vault's own machine."""
    from ninelives.backups.keep import retain as retain_backups

    home = Home.from_environment()
    done = retain_backups(_estate(home), _keeper(home), datetime.now(UTC), _journal(home), dry_run=dry_run)
    emit(done, as_json=as_json, text=lambda: f"kept {done['kept']}, removed {len(done['removed'])}")


@app.command()
def keep(every_hours: Annotated[float, typer.Option(min=0.01)] = 24.0) -> None:
    """Apply the retention once a day, as the keeper, until the process is ended."""
    import logging

    from ninelives.backups.keep import keep as keep_backups

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    home = Home.from_environment()
    keep_backups(lambda: (_estate(home), _keeper(home)), _journal(home), timedelta(hours=every_hours))


@key_app.command("list")
def list_keys(as_keeper: AsKeeper = False, as_json: AsJson = False) -> None:
    """Who can open the vault."""
    found = [asdict(key) for key in _vault(as_keeper).list_keys()]
    emit(
        found, as_json=as_json, text=lambda: "\n".join(f"{one['id']}  {one['user']}  {one['created']}" for one in found)
    )


@key_app.command()
def add(
    user: Annotated[str, typer.Option(help="operator or keeper: for people.")],
    as_keeper: AsKeeper = False,
    as_json: AsJson = False,
) -> None:
    """Let another password open the vault: it is read from standard input."""
    import sys

    password = sys.stdin.read().rstrip("\n")
    if len(password) < 12:
        raise typer.BadParameter("the new password on standard input has fewer than 12 characters")
    made = _vault(as_keeper).add_key(password, user)
    text = f"key {made} of {user} was added; put its password where it is used"
    emit({"id": made, "user": user}, as_json=as_json, text=lambda: text)


@key_app.command()
def remove(key: Annotated[str, typer.Argument()], as_json: AsJson = False) -> None:
    """Take a key away, as the keeper: what it opened it opens no more."""
    _vault(True).remove_key(key)
    emit({"removed": key}, as_json=as_json, text=lambda: f"key {key} was removed")


def _connected() -> ConnectedEstate:
    from ninelives.adapters.connected import ConnectedEstate

    return ConnectedEstate.of_home(Home.from_environment())


def _estate(home: Home) -> Any:
    from ninelives.estate import load_estate

    return load_estate(home.estate_file)


def _vault(as_keeper: bool) -> Restic:
    from ninelives.adapters.connections import FileConnections
    from ninelives.adapters.restic import Restic

    home = Home.from_environment()
    if as_keeper:
        return _keeper(home)
    return Restic.from_connection(FileConnections(home.connections_file).get("ninelives_vault"))


def _keeper(home: Home) -> Restic:
    """By the connection in the vault's own folder, which no task of Airflow's can read."""
    from ninelives.adapters.connections import FileConnections
    from ninelives.adapters.restic import Restic

    return Restic.from_connection(FileConnections(home.vault_keeper_file).get("ninelives_vault_keeper"))


def _journal(home: Home) -> Path:
    return home.vault / "retention.jsonl"


def _made(record: Record) -> str:
    facts = record.facts
    parts = ", ".join(f"{name} {part['bytes'] / 1e6:.1f} MB" for name, part in facts["parts"].items())
    lines = [
        f"backup {facts['snapshot'][:12]}: {facts['files']} files, {facts['bytes'] / 1e6:.1f} MB, "
        f"{facts['added'] / 1e6:.1f} MB of them new, evidence {record.seq}",
        f"  {parts}",
        *(f"  SUSPECT: {finding}" for finding in facts["findings"]),
    ]
    return "\n".join(lines)


def _table(rows: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table("backup", "made at (UTC)", "age", "sources", box=None)
    for one in rows:
        age = timedelta(seconds=round(one["age_seconds"]))
        table.add_row(one["snapshot"][:12], one["made_at"][:19], str(age), "sound" if one["sound"] else "suspect")
    return table


def _proof(record: Record) -> str:
    facts = record.facts
    if record.kind == "backup-check":
        read = f"{len(facts['read'])} of {facts['of']} groups read"
        backups = "damaged" if facts["snapshots"] is None else f"{facts['snapshots']} backups"
        what = f"vault: {backups}, {facts['bytes'] / 1e6:.1f} MB, {read} in {facts['seconds']:.1f} s"
    else:
        what = (
            f"backup {facts['snapshot'][:12]}: {facts['bytes'] / 1e6:.1f} MB restored, loaded and asked in "
            f"{facts['seconds']:.1f} s (promised {facts['rto']})"
        )
    said = [*facts["problems"], *facts.get("late", ()), *(f"stray: {one}" for one in facts.get("strays", ()))]
    return "\n".join([f"{facts['verdict']}: {what}, evidence {record.seq}", *(f"  {one}" for one in said)])


def _step(step: str, seconds: float | None) -> None:
    if seconds is not None:
        errors.print(f"  {seconds:6.1f} s  {step}")


def _rebuilt(done: Rebuilt) -> str:
    lines = [
        f"the estate of backup {done.snapshot[:12]} ({done.made_at[:19]}) runs again after {done.seconds:.1f} s: "
        f"{done.records} records of evidence verify, {done.answers} golden requests were answered rightly",
        "not in the vault:",
        *(f"  {one}" for one in done.lacking),
        "next: bring the data back, then `ninelives stack status`, `ninelives evidence verify`, `ninelives backup run`",
    ]
    return "\n".join(lines)


def _restored(document: dict[str, Any]) -> str:
    lines = [
        f"backup {document['snapshot'][:12]} of {document['made_at'][:19]} is at {document['folder']}",
        f"  every byte checked, {document['seconds']:.1f} s: {', '.join(document['parts'])}",
    ]
    if document["replaced"]:
        lines.append(f"  what was there is at {document['replaced']}")
    return "\n".join([*lines, *(f"  SUSPECT when it was made: {finding}" for finding in document["findings"])])
