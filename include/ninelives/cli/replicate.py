"""``ninelives replicate``."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ninelives.cli.common import AsJson, ExitCode, emit, errors
from ninelives.errors import NinelivesError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress
    from rich.table import Table

    from ninelives.adapters.connected import ConnectedEstate
    from ninelives.estate import Dataset
    from ninelives.replication.replicate import Shard
    from ninelives.replication.status import CopyStatus
    from ninelives.replication.transfer import OnProgress

app = typer.Typer(no_args_is_help=True)

LEDGER = "ninelives_ledger"


Source = Annotated[str | None, typer.Option("--from", help="Site to copy from; by default the primary.")]
Target = Annotated[str | None, typer.Option("--to", help="Site to copy to; by default every other one.")]
Record = Annotated[
    bool | None,
    typer.Option(help="Leave evidence in the ledger; by default where this machine has a connection to one."),
]


def _duration(text: str) -> timedelta:
    from ninelives.estate.units import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


@app.command()
def run(
    dataset: Annotated[str | None, typer.Argument(help="By default all, and the artefacts.")] = None,
    source: Source = None,
    target: Target = None,
    shard: Annotated[
        str | None, typer.Option(help="Only shard K of N, as K/N; the last one to finish writes the manifest.")
    ] = None,
    max_shrink: Annotated[
        float, typer.Option(min=0, max=1, help="Refuse a source that lost more than this share of its objects.")
    ] = 0.1,
    record: Record = None,
    as_json: AsJson = False,
) -> None:
    """Copy datasets, their versions and all that was made of them, and verify everything at the target.

    Exit code 1 when a copy failed, 3 when one is further behind than its RPO or nobody can tell.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from ninelives.adapters.connected import ConnectedEstate
    from ninelives.home import Home

    connected = ConnectedEstate.of_home(Home.from_environment())
    only = _shard(shard)
    links = _links(connected, dataset, source, target)
    recording = recording_wanted(connected, record)
    results: list[dict[str, Any]] = []
    failures: list[str] = []
    breaches: list[str] = []
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, disable=as_json) as progress:
        with_artefacts = set()  # once for each pair of sites: they are of all models
        for one, here, there in links:
            steps = _steps(connected, one, here, there, progress, recording, only, max_shrink, breaches)
            if dataset is not None or (here, there) in with_artefacts:
                steps.pop("artefacts", None)
            with_artefacts.add((here, there))
            for what, step in steps.items():
                try:
                    results += step()
                except NinelivesError as error:  # one copy that fails does not keep the others behind
                    failures.append(_failure(f"{what} {here} → {there}", error))
    document = {"results": results, "failures": failures, "breaches": breaches}
    emit(document, as_json=as_json, text=lambda: _results_table(results))
    _end(failures, breaches)


@app.command()
def verify(
    dataset: Annotated[str | None, typer.Argument(help="By default all.")] = None,
    source: Source = None,
    target: Target = None,
    repair: Annotated[bool, typer.Option(help="Repair what one site has right; otherwise only name it.")] = True,
    settled: Annotated[
        timedelta,
        typer.Option(
            parser=_duration,
            metavar="DURATION",
            help="Age from which what nobody recorded is moved to the trash; younger it is named: its write may go on.",
        ),
    ] = timedelta(hours=1),
    record: Record = None,
    as_json: AsJson = False,
) -> None:
    """Read every byte at both sites, and repair what is not as recorded from the site that has it right.

    Exit code 0 when everything is right now, 1 when something is not.
    """
    from ninelives.adapters.connected import ConnectedEstate
    from ninelives.home import Home
    from ninelives.replication.verify import record_verification, verify_dataset

    connected = ConnectedEstate.of_home(Home.from_environment())
    results: list[dict[str, Any]] = []
    failures: list[str] = []
    links = _links(connected, dataset, source, target)
    recording = recording_wanted(connected, record)
    for one, here, there in links:
        try:
            result = verify_dataset(connected, one.name, here, there, repair=repair, settled=settled)
            results.append({**asdict(result), "sound": result.sound})
            if recording:
                record_verification(connected.ledger(), result)
        except NinelivesError as error:
            failures.append(_failure(f"{one.name} {here} ↔ {there}", error))
    emit({"results": results, "failures": failures}, as_json=as_json, text=lambda: _findings_table(results))
    unsound = [
        f"{one['dataset']} {one['source']} ↔ {one['target']} is not right" for one in results if not one["sound"]
    ]
    _end(failures + unsound, [])


@app.command()
def status(
    dataset: Annotated[str | None, typer.Argument(help="By default all.")] = None,
    source: Annotated[str | None, typer.Option("--from", help="Site to compare with; by default the primary.")] = None,
    target: Annotated[str | None, typer.Option("--to", help="Only the copy at this site.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show how far each copy is behind; exit code 3 when one misses its RPO or cannot be judged."""
    from datetime import UTC, datetime

    from ninelives.adapters.connected import ConnectedEstate
    from ninelives.home import Home
    from ninelives.replication.status import copy_status

    connected, now = ConnectedEstate.of_home(Home.from_environment()), datetime.now(UTC)
    found = [
        copy_status(connected, one, there, now, source=here)
        for one, here, there in _links(connected, dataset, source, target)
    ]
    documents = [asdict(one) for one in found]
    emit(documents, as_json=as_json, text=lambda: _status_table(documents))
    if not all(one.met for one in found):
        raise typer.Exit(ExitCode.MISSED)


def recording_wanted(connected: ConnectedEstate, wanted: bool | None) -> bool:
    """Whether to leave evidence: two stores and an estate file are enough to copy, but whoever asks for it gets it."""
    if wanted:
        connected.connections.get(LEDGER)
    elif wanted is None and connected.connections.find(LEDGER) is None:
        errors.print(f"no evidence is left: there is no connection {LEDGER}", style="yellow", soft_wrap=True)
        return False
    return wanted is not False


def _breach(copy: CopyStatus) -> str | None:
    if copy.verdict == "unknown":
        return f"how far the copy of {copy.dataset} at {copy.site} is behind cannot be told: {copy.problem}"
    return copy.breach()


def _failure(what: str, error: NinelivesError) -> str:
    return f"{what}: {type(error).__name__}: {'; '.join((str(error), *getattr(error, '__notes__', ())))}"


def _end(failures: list[str], breaches: list[str]) -> None:
    """Say what went wrong, and leave with the exit code for it."""
    for problem in (*failures, *breaches):
        errors.print(problem, style="red", markup=False, soft_wrap=True)
    if failures:
        raise typer.Exit(ExitCode.ERROR)
    if breaches:
        raise typer.Exit(ExitCode.MISSED)


def _shard(text: str | None) -> Shard | None:
    from ninelives.replication.replicate import Shard

    if text is None:
        return None
    number, _, of = text.partition("/")
    try:
        return Shard(int(number), int(of))
    except ValueError as error:
        raise typer.BadParameter(f"--shard is K/N with K from 1 to N, not {text}") from error


def _links(
    connected: ConnectedEstate, name: str | None, source: str | None, target: str | None
) -> list[tuple[Dataset, str, str]]:
    """Dataset, source and target. Any two sites may be named; unnamed, a copy is only where it is declared."""
    datasets, sites = connected.estate.dataset_by_name, connected.estate.site_names
    if name is not None and name not in datasets:
        raise typer.BadParameter(f"the estate has no dataset {name}; it has {', '.join(datasets) or 'none'}")
    for site in (source, target):
        if site is not None and site not in sites:
            raise typer.BadParameter(f"the estate has no site {site}; it has {', '.join(sites)}")
    if source is not None and source == target:
        raise typer.BadParameter(f"--from and --to are both {source}")
    links = [
        (one, source or one.primary, there)
        for one in datasets.values()
        if name in (None, one.name)
        for there in ([target] if target else [one.primary, *one.copies])
        if there != (source or one.primary)
    ]
    if not links:
        what = name or "any dataset"
        raise typer.BadParameter(f"the estate declares no such copy of {what}; name two sites with --from and --to")
    return links


def _steps(
    connected: ConnectedEstate,
    dataset: Dataset,
    here: str,
    there: str,
    progress: Progress,
    record: bool,
    only: Shard | None,
    max_shrink: float,
    breaches: list[str],
) -> dict[str, Callable[[], list[dict[str, Any]]]]:
    """What the DAG does for a link, by name; each returns its results."""
    from ninelives.replication.belongings import Belongings
    from ninelives.replication.replicate import Shard, record_replication, utc_now
    from ninelives.replication.run import replicate_and_record

    ends = (connected, dataset.name, here, there)

    def itself() -> list[dict[str, Any]]:
        shown = _shown(progress, f"{dataset.name} {here} → {there}")
        results = []
        shards = [only] if only else [Shard(number, dataset.shards) for number in range(1, dataset.shards + 1)]
        since = None if only else utc_now()
        for shard in shards:
            done = replicate_and_record(*ends, shown, shard=shard, since=since, record=record, max_shrink=max_shrink)
            status = asdict(done.status) if done.status else None
            results.append({**asdict(done.result), "status": status, "evidence": done.evidence})
            if done.status is not None:
                breaches.extend(filter(None, [_breach(done.status)]))
        return results

    if only is not None and only.number != 1:
        return {dataset.name: itself}
    belongings = Belongings(*ends, _shown(progress, f"what belongs to {dataset.name} {here} → {there}"))

    def artefacts() -> list[dict[str, Any]]:
        result = belongings.artefacts()
        if record:
            record_replication(connected.ledger(), result)
        return [asdict(result)]

    return {
        dataset.name: itself,
        "releases": lambda: [asdict(one) for one in belongings.releases()],
        "checkpoints": lambda: [asdict(one) for one in belongings.checkpoints()],
        "data versions": lambda: [
            {"versions_of": dataset.name, "source": here, "target": there, **belongings.versions()}
        ],
        "artefacts": artefacts,
    }


def _shown(progress: Progress, what: str) -> OnProgress:
    task = progress.add_task(what, total=None)
    return lambda now: progress.update(task, total=now.total_bytes or None, completed=now.bytes)


def _results_table(results: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table("what", "from", "to", "copied", "verified", "repaired", "now there")
    for one in results:
        what, now = one.get("dataset"), f"{one.get('objects')} objects"
        if "model" in one:
            what, now = one["model"], f"release {one['version'] or '-'}"
        elif "stream" in one:
            what, now = one["stream"], f"{one['checkpoints']} checkpoints, the newest {one['newest']}"
        elif "versions_of" in one:
            what, now = f"versions of {one['versions_of']}", f"{one['versions']} versions"
        counts = (str(one[key]) if key in one else "-" for key in ("copied", "verified", "repaired"))
        table.add_row(what, one["source"], one["target"], *counts, now)
    return table


def _findings_table(results: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table("dataset", "site", "what", "key", "outcome")
    for one in results:
        for finding in one["findings"]:
            table.add_row(one["dataset"], *(finding[key] for key in ("site", "what", "key", "outcome")))
        read = f"{one['objects']} objects, {one['bytes']} bytes read in {one['seconds']:.1f} s"
        table.add_row(one["dataset"], f"{one['source']} ↔ {one['target']}", "right" if one["sound"] else "wrong", read)
    return table


def _status_table(found: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table("dataset", "copy", "behind", "RPO", "verdict", "every byte read since", "")
    for one in found:
        lag = "?" if one["lag_seconds"] is None else f"{one['lag_seconds']:.0f} s"
        problem = one["problem"] or ""
        since = f"{one['verified_since']:%Y-%m-%d %H:%M}" if one["verified_since"] else "?"
        rpo = f"{one['rpo_seconds']:.0f} s"
        table.add_row(one["dataset"], one["site"], lag, rpo, one["verdict"], f"{since} ({one['proof']})", problem)
    return table
