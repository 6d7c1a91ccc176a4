"""``ninelives data``."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ninelives.cli.common import AsJson, ExitCode, emit, errors
from ninelives.home import Home

if TYPE_CHECKING:
    from rich.table import Table

    from ninelives.adapters.connected import ConnectedEstate
    from ninelives.versions.prune import Pruning
    from ninelives.versions.restore import Restored

app = typer.Typer(no_args_is_help=True)


@app.command()
def versions(as_json: AsJson = False) -> None:
    """List every data version, the models trained on it, and where it is whole, found by reading every byte.

    Exit code 3 when a version that a model needs is whole at no site that answers, or the models are unknown.
    """
    from ninelives.versions.catalogue import list_versions

    found, problem = list_versions(_connected())
    documents = [asdict(one) | {"whole_at": one.whole_at} for one in found]
    emit({"versions": documents, "problem": problem}, as_json=as_json, text=lambda: _table(documents))
    if problem:
        errors.print(f"The models are unknown: {problem}", style="red", markup=False)
    if problem or not all(one.met for one in found):
        raise typer.Exit(ExitCode.MISSED)


@app.command()
def restore(
    model: Annotated[str, typer.Option(help="NAME@VERSION, as in the registry.")],
    site: Annotated[str, typer.Option(help="Where the data shall be whole; they are read from there.")],
    to: Annotated[
        Path | None, typer.Option(help="A new or empty folder; by default one below NINELIVES_HOME/restored.")
    ] = None,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train on it again; exit 3 unless every recorded metric is the same.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Give back, bit for bit, the data that a model was trained on.

    What is damaged or missing at the site is deleted there and brought from a site that has it right.
    """
    from ninelives.versions.restore import restore as restore_data

    name, at, version = model.partition("@")
    if not (name and at and version):
        raise typer.BadParameter(f"{model!r} is not NAME@VERSION", param_hint="--model")
    systems = _connected()
    if retrain:
        from ninelives.flights.pipeline import check_retrainable

        check_retrainable(systems, name)
    done = restore_data(systems, name, version, site, to or systems.home.root / "restored" / f"{name}@{version}")
    document: dict[str, Any] = {
        "model": model,
        "data_version": done.data.data_version,
        "data_hash": done.healed.hash,
        "told_by": done.data.told_by,
        "site": site,
        "objects": done.healed.objects,
        "bytes": done.healed.size,
        "healed": dict(done.healed.copied),
        "folder": str(done.folder),
        "files": dict(done.files),
    }
    if retrain:
        document["metrics"] = _retrained(systems, done)
    emit(document, as_json=as_json, text=lambda: _restored(document))
    if retrain and not all(one["same"] for one in document["metrics"].values()):
        raise typer.Exit(ExitCode.MISSED)


@app.command()
def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    grace_days: Annotated[float, typer.Option(min=0, help="What is younger is left alone.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Remove the data versions that no retained model, backup, incident or training needs.

    Nothing is removed while a site, the registry or the ledger does not answer: it may need everything.
    """
    from datetime import UTC, datetime
    from uuid import uuid4

    from ninelives.versions.prune import prune as prune_versions

    done = prune_versions(
        _connected(),
        f"ninelives data prune {uuid4()}",
        lambda: datetime.now(UTC),
        dry_run=dry_run,
        grace=timedelta(days=grace_days),
    )
    emit(asdict(done) | {"dry_run": dry_run}, as_json=as_json, text=lambda: _pruned(done, dry_run))


def _connected() -> ConnectedEstate:
    from ninelives.adapters.connected import ConnectedEstate

    return ConnectedEstate.of_home(Home.from_environment())


def _retrained(systems: ConnectedEstate, done: Restored) -> dict[str, dict[str, Any]]:
    """Recorded and new value of every metric that was recorded for the model."""
    from ninelives.flights.pipeline import recorded_metrics
    from ninelives.flights.pipeline import retrain as train_again

    data = done.data
    now = train_again(systems, data.model, data.data_version, done.healed.site).metrics
    recorded = recorded_metrics(systems, data.model, data.version)
    return {
        name: {"recorded": value, "now": now.get(name), "same": value == now.get(name)}
        for name, value in recorded.items()
    }


def _table(documents: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table("version", "dataset", "kept", "bytes", "models", "copies")
    for one in documents:
        copies = ", ".join(
            f"{copy['site']} {copy['state']}" + (f" ({copy['problem']})" if copy["problem"] else "")
            for copy in one["copies"]
        )
        kept = f"{one['kept_at']:%Y-%m-%d %H:%M}" if one["kept_at"] else "?"
        size = "?" if one["size"] is None else f"{one['size']:,}"
        table.add_row(one["version"], one["dataset"] or "?", kept, size, ", ".join(one["models"]) or "-", copies)
    return table


def _restored(document: dict[str, Any]) -> str:
    healed = ", ".join(f"{name} from {source}" for name, source in document["healed"].items()) or "nothing"
    lines = [
        f"{document['model']} was trained on {document['data_version']} (says {document['told_by']})",
        f"  whole at {document['site']}: {document['objects']} objects, {document['bytes']:,} bytes, every one hashed",
        f"  brought there: {healed}",
        f"  written to {document['folder']}",
        *(f"    {digest}  {name}" for name, digest in document["files"].items()),
    ]
    for name, one in document.get("metrics", {}).items():
        lines.append(f"  {name}: recorded {one['recorded']}, now {one['now']}{'' if one['same'] else '  DIFFERS'}")
    return "\n".join(lines)


def _pruned(done: Pruning, dry_run: bool) -> str:
    verb = "would remove" if dry_run else "removed"
    objects = sum(len(names) for names in done.objects.values())
    lines = [f"{verb} {len(done.removed)} versions, {objects} objects, {done.size:,} bytes"]
    lines += [f"  {version}" for version in done.removed]
    lines += [f"kept {version}: {', '.join(who)}" for version, who in done.kept.items()]
    return "\n".join(lines)
