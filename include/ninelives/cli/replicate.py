"""``ninelives replicate``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ninelives.cli.common import AsJson, ExitCode, emit, errors
from ninelives.errors import NinelivesError

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table

    from ninelives.adapters.connected import ConnectedEstate
    from ninelives.estate import Dataset
    from ninelives.replication.transfer import OnProgress

app = typer.Typer(no_args_is_help=True)


@app.command()
def run(
    dataset: Annotated[str | None, typer.Argument(help="By default all, and the artefacts.")] = None,
    source: Annotated[str | None, typer.Option("--from", help="Site to copy from; by default the primary.")] = None,
    target: Annotated[str | None, typer.Option("--to", help="Site to copy to; by default every other one.")] = None,
    record: Annotated[bool, typer.Option(help="Leave evidence in the ledger.")] = True,
    as_json: AsJson = False,
) -> None:
    """Copy datasets and the models trained on them, and verify them at the target."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from ninelives.adapters.connected import ConnectedEstate
    from ninelives.home import Home

    connected = ConnectedEstate.of_home(Home.from_environment())
    chosen = _chosen(connected, dataset)
    results: list[dict[str, Any]] = []
    failures: list[str] = []
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, disable=as_json) as progress:
        pairs = [(one, *pair) for one in chosen for pair in _pairs(connected, one, source, target)]
        for one, here, there in pairs:
            try:
                results += _replicate(connected, one, here, there, progress, record)
            except NinelivesError as error:  # one copy that fails does not keep the others behind
                failures.append(f"{one.name} {here} → {there}: {type(error).__name__}: {error}")
        for here, there in dict.fromkeys((here, there) for _, here, there in pairs) if dataset is None else ():
            try:
                results.append(_replicate_registry(connected, here, there, progress, record))
            except NinelivesError as error:
                failures.append(f"artefacts {here} → {there}: {type(error).__name__}: {error}")
    emit({"results": results, "failures": failures}, as_json=as_json, text=lambda: _results_table(results))
    for failure in failures:
        errors.print(failure, style="red", markup=False)
    if failures:
        raise typer.Exit(ExitCode.ERROR)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show how far each copy is behind; exit code 3 when one misses its RPO or cannot be judged."""
    from datetime import UTC, datetime

    from ninelives.adapters.connected import ConnectedEstate
    from ninelives.home import Home
    from ninelives.replication.status import replication_status

    found = [
        asdict(one) for one in replication_status(ConnectedEstate.of_home(Home.from_environment()), datetime.now(UTC))
    ]
    emit(found, as_json=as_json, text=lambda: _status_table(found))
    if any(one["verdict"] != "met" for one in found):
        raise typer.Exit(ExitCode.MISSED)


def _chosen(connected: ConnectedEstate, name: str | None) -> list[Dataset]:
    datasets = connected.estate.dataset_by_name
    if name is not None and name not in datasets:
        raise typer.BadParameter(f"the estate has no dataset {name}; it has {', '.join(datasets) or 'none'}")
    return [one for one in datasets.values() if name in (None, one.name)]


def _pairs(
    connected: ConnectedEstate, dataset: Dataset, source: str | None, target: str | None
) -> list[tuple[str, str]]:
    sites = (dataset.primary, *dataset.copies)
    for site in (source, target):
        if site is not None and site not in sites:
            raise typer.BadParameter(f"{dataset.name} is not kept at {site}; its sites are {', '.join(sites)}")
    here = source or dataset.primary
    if here == target:
        raise typer.BadParameter(f"--from and --to are both {here}")
    return [(here, there) for there in sites if there != here and target in (None, there)]


def _replicate(
    connected: ConnectedEstate, dataset: Dataset, here: str, there: str, progress: Progress, record: bool
) -> list[dict[str, Any]]:
    from ninelives.replication.replicate import record_replication, replicate_dataset, replicate_releases

    result = replicate_dataset(
        connected, dataset.name, here, there, _shown(progress, f"{dataset.name} {here} → {there}")
    )
    models = [model.name for model in connected.estate.models if model.trained_on == dataset.name]
    releases = replicate_releases(connected, models, here, there, _shown(progress, f"models {here} → {there}"))
    if record:
        record_replication(connected.ledger(), result)
    return [asdict(result), *(asdict(one) for one in releases)]


def _replicate_registry(
    connected: ConnectedEstate, here: str, there: str, progress: Progress, record: bool
) -> dict[str, Any]:
    from ninelives.replication.replicate import record_replication, replicate_registry

    result = replicate_registry(connected, here, there, _shown(progress, f"artefacts {here} → {there}"))
    if record:
        record_replication(connected.ledger(), result)
    return asdict(result)


def _shown(progress: Progress, what: str) -> OnProgress:
    task = progress.add_task(what, total=None)
    return lambda now: progress.update(task, total=now.total_bytes or None, completed=now.bytes)


def _results_table(results: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table("what", "from", "to", "copied", "verified", "repaired", "now there")
    for one in results:
        now = f"release {one['version'] or '-'}" if "model" in one else f"{one['objects']} objects"
        what = one.get("model") or one["dataset"]
        table.add_row(
            what, one["source"], one["target"], *(str(one[key]) for key in ("copied", "verified", "repaired")), now
        )
    return table


def _status_table(found: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table("dataset", "copy", "behind", "RPO", "verdict", "")
    for one in found:
        lag = "?" if one["lag_seconds"] is None else f"{one['lag_seconds']:.0f} s"
        problem = one["problem"] or ""
        table.add_row(one["dataset"], one["site"], lag, f"{one['rpo_seconds']:.0f} s", one["verdict"], problem)
    return table
