"""Run a dataset's gate on what a site really holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from ninelives.errors import Corrupted
from ninelives.gates.interval import Interval
from ninelives.gates.local import REREAD_BYTES, fetch
from ninelives.gates.suite import Suite
from ninelives.gates.verdict import Evaluation, ExpectationEngine, GateResult, asked_of, judge
from ninelives.ports import ObjectStore
from ninelives.replication.manifest import Manifest, read_manifest


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
) -> GateResult:
    """As ``look_at``, the verdict alone."""
    return look_at(
        dataset, store, suite, cache=cache, engine=engine, clock=clock, reread_bytes=reread_bytes, interval=interval
    )[0]


def look_at(
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
) -> tuple[GateResult, Evaluation]:
    """Judge the copy of ``dataset`` at ``store``'s site: its manifest, the bytes of every object, then the suite.

    The age of the data is that of the site's manifest: how long ago the copy was last known to be complete.

    :param cache: folder for verified objects, shared by sites and datasets
    :param clock: the time now, UTC
    :param reread_bytes: see ``gates.local.fetch``
    :param interval: judge only its rows, by what the suite says of one interval alone
    :param rows: how many failing rows of each expectation to show; they are data, and belong into no evidence
    :raises Refused: the suite says nothing of one interval
    :raises Unavailable: the store does not answer, or the cache's disk is full
    """
    started = time.monotonic()
    asked = asked_of(suite, interval)
    manifest: Manifest | None = None
    if suite.dataset != dataset:
        evaluation = _not_run(f"the suite is for {suite.dataset}, not for {dataset}; see the estate's datasets")
    else:
        try:
            manifest = read_manifest(store, dataset)
        except Corrupted as error:
            evaluation = _not_run(str(error))
        else:
            evaluation = _evaluate(dataset, store, manifest, asked, cache, engine, reread_bytes, interval, rows)
    now = clock()
    result = judge(
        suite,
        evaluation,
        fingerprint=manifest.fingerprint if manifest else None,
        age=now - manifest.created_at if manifest else None,
        seconds=time.monotonic() - started,
        at=now,
        interval=interval,
    )
    return result, evaluation


def _evaluate(
    dataset: str,
    store: ObjectStore,
    manifest: Manifest | None,
    suite: Suite,
    cache: Path,
    engine: ExpectationEngine,
    reread_bytes: int | None,
    interval: Interval | None,
    rows: int,
) -> Evaluation:
    if manifest is None:
        return _not_run(f"{store.site} has no manifest of {dataset}: its copy was never complete; run replicate_data")
    if not manifest.objects:
        return _not_run(f"the manifest of {dataset} at {store.site} lists no objects")
    copy = fetch(store, manifest, cache, reread_bytes=reread_bytes)
    if copy.problems:
        return _not_run(*copy.problems)
    return engine.evaluate(suite, copy.files, interval=interval, rows=rows)


def _not_run(*errors: str) -> Evaluation:
    return Evaluation(engine="none", errors=errors)
