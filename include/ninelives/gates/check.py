"""Run a dataset's gate on what a site really holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from ninelives.errors import Corrupted, Refused
from ninelives.estate.model import Dataset, Table
from ninelives.gates.interval import Interval
from ninelives.gates.local import REREAD_BYTES, fetch
from ninelives.gates.suite import Suite
from ninelives.gates.verdict import Evaluation, ExpectationEngine, GateResult, asked_of, judge
from ninelives.ports import Connection, ObjectStore, Systems
from ninelives.replication.manifest import Manifest, read_manifest


def check_declared(
    systems: Systems,
    declared: Dataset | Table,
    site: str,
    suite: Suite,
    *,
    reread_bytes: int | None = REREAD_BYTES,
    interval: Interval | None = None,
    rows: int = 0,
    earlier: Sequence[int] = (),
) -> tuple[GateResult, Evaluation]:
    """Judge what ``site`` has now of a dataset or a table; see ``check_dataset`` and ``check_table``.

    :raises Refused: also where the engine that the dataset declares is not installed
    """

    def clock() -> datetime:
        return datetime.now(UTC)

    if isinstance(declared, Table):
        return check_table(
            declared,
            suite,
            database=systems.connections.get(f"ninelives_{site}_database"),
            others=systems.estate.table_by_name,
            engine=systems.expectations(),
            clock=clock,
            interval=interval,
            rows=rows,
            earlier=earlier,
        )
    return check_dataset(
        declared.name,
        systems.store(site),
        suite,
        cache=systems.home.cache,
        engine=systems.expectations(declared.name),
        clock=clock,
        reread_bytes=reread_bytes,
        interval=interval,
        rows=rows,
        earlier=earlier,
    )


def check_dataset(
    dataset: str,
    store: ObjectStore,
    suite: Suite,
    *,
    cache: Path,
    engine: ExpectationEngine,
    clock: Callable[[], datetime],
    reread_bytes: int | None = REREAD_BYTES,
    interval: Interval | None = None,
    rows: int = 0,
    earlier: Sequence[int] = (),
) -> tuple[GateResult, Evaluation]:
    """Judge the copy of ``dataset`` at ``store``'s site: its manifest, the bytes of every object, then the suite.

    The age of the data is that of the site's manifest: how long ago the copy was last known to be complete.

    :param cache: folder for verified objects, shared by sites and datasets
    :param clock: the time now, UTC
    :param reread_bytes: see ``gates.local.fetch``
    :param interval: judge only its rows, by what the suite says of one interval alone
    :param rows: how many failing rows of each expectation to show; they are data, and belong into no evidence
    :param earlier: see ``verdict.judge``
    :raises Refused: the suite says nothing of one interval
    :raises Unavailable: the store does not answer, or the cache's disk is full
    """
    started = time.monotonic()
    asked = asked_of(suite, interval)
    manifests: dict[str, Manifest] = {}
    if suite.dataset != dataset:
        evaluation = _not_run(f"the suite is for {suite.dataset}, not for {dataset}; see the estate's datasets")
    else:
        try:
            manifests = _manifests(store, [dataset, *sorted({reference.dataset for reference in suite.references})])
            files = {name: _files(store, found, cache, reread_bytes) for name, found in manifests.items()}
        except (Corrupted, Refused) as error:
            evaluation = _not_run(*(error.reasons if isinstance(error, Refused) else [str(error)]))
        else:
            own = files.pop(dataset)
            evaluation = engine.evaluate(asked, own, interval=interval, rows=rows, references=files)
    manifest = manifests.pop(dataset, None)
    now = clock()
    result = judge(
        suite,
        evaluation,
        fingerprint=manifest.fingerprint if manifest else None,
        age=now - manifest.created_at if manifest else None,
        seconds=time.monotonic() - started,
        at=now,
        interval=interval,
        references={name: found.fingerprint for name, found in manifests.items()},
        earlier=earlier,
    )
    return result, evaluation


def check_table(
    table: Table,
    suite: Suite,
    *,
    database: Connection,
    others: Mapping[str, Table],
    engine: ExpectationEngine,
    clock: Callable[[], datetime],
    interval: Interval | None = None,
    rows: int = 0,
    earlier: Sequence[int] = (),
) -> tuple[GateResult, Evaluation]:
    """The same of a table, by the database that holds it: schema, number of rows and suite, all in one snapshot.

    A table is no copy, so its age is that of the snapshot: next to nothing, and on a standby the time since something
    last reached it. The fingerprint is of exactly the rows that were judged, so of an interval, of those alone.

    :param others: tables of the estate by name, for what the suite compares with
    :raises Refused: the suite says nothing of one interval
    :raises Unavailable: the database does not answer, or does not let us in
    """
    started = time.monotonic()
    asked = asked_of(suite, interval)
    compared = sorted({reference.dataset for reference in suite.references})
    site = table.site
    elsewhere = [name for name in compared if name not in others or others[name].site != site]
    if suite.dataset != table.name:
        evaluation = _not_run(f"the suite is for {suite.dataset}, not for {table.name}; see the estate's tables")
    elif elsewhere:
        evaluation = _not_run(*(f"{name}, to compare with, is no table of the estate at {site}" for name in elsewhere))
    else:
        references = {name: others[name].table for name in compared}
        evaluation = engine.evaluate_table(
            asked, table.table, database=database, interval=interval, rows=rows, references=references
        )
    fingerprints = dict(evaluation.fingerprints)
    now = clock()
    result = judge(
        suite,
        evaluation,
        fingerprint=fingerprints.pop(table.name, None),
        age=now - evaluation.as_of if evaluation.as_of else None,
        seconds=time.monotonic() - started,
        at=now,
        interval=interval,
        references=fingerprints,
        earlier=earlier,
    )
    return result, evaluation


def _manifests(store: ObjectStore, datasets: Sequence[str]) -> dict[str, Manifest]:
    """Raises ``Refused`` where one is missing or empty, ``Corrupted`` where one cannot be trusted."""
    found = {}
    for dataset in datasets:
        manifest = read_manifest(store, dataset)
        if manifest is None:
            raise _refused(
                f"{store.site} has no manifest of {dataset}: its copy was never complete; run replicate_data"
            )
        if not manifest.objects:
            raise _refused(f"the manifest of {dataset} at {store.site} lists no objects")
        found[dataset] = manifest
    return found


def _files(store: ObjectStore, manifest: Manifest, cache: Path, reread_bytes: int | None) -> Mapping[str, Path]:
    copy = fetch(store, manifest, cache, reread_bytes=reread_bytes)
    if copy.problems:
        raise _refused(*copy.problems)
    return copy.files


def _refused(*reasons: str) -> Refused:
    return Refused("look at the data", reasons)


def _not_run(*errors: str) -> Evaluation:
    return Evaluation(engine="none", errors=errors)
