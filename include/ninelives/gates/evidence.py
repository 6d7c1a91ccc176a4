"""A gate's answers in the ledger, and the one that a failover may rely on.

A failover needs the verdict on the data at the target at once, so every replication runs the gate afterwards, and the
failover looks the answer up. Only where there is none it waits for the gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from ninelives.errors import Corrupted, Refused
from ninelives.estate.model import Dataset, Table
from ninelives.gates.check import check_declared
from ninelives.gates.docs import keep_docs
from ninelives.gates.interval import Interval
from ninelives.gates.local import REREAD_BYTES
from ninelives.gates.suite import Suite, load_suite, suite_path
from ninelives.gates.verdict import GateResult, Verdict
from ninelives.ports import Ledger, Record, Systems
from ninelives.replication.manifest import read_manifest

KIND = "gate"
MAX_AGE = timedelta(hours=1)
"""How long a verdict about unchanged data may be relied on: bits rot, and a copy grows stale."""
RENEW_AFTER = MAX_AGE / 4
"""Age from which on an unchanged copy is judged again by whoever keeps verdicts at hand: long before it is too old."""


def subject(dataset: str, site: str, interval: Interval | None = None) -> str:
    """One interval has a subject of its own: nobody who looks for a verdict on the whole meets it."""
    return f"{dataset}@{site}" if interval is None else f"{dataset}@{site} {interval}"


def record(
    ledger: Ledger,
    dataset: str,
    site: str,
    result: GateResult,
    *,
    docs: Mapping[str, Any] | None = None,
    once: str | None = None,
) -> Record:
    """Append the verdict; ``once`` makes a repeated task find its own record instead of writing another.

    :param docs: where its Data Docs are kept
    :raises Unavailable: the ledger does not answer
    """
    facts = result.facts() | ({"docs": dict(docs)} if docs else {})
    return ledger.append(KIND, subject(dataset, site, result.interval), facts, once=once)


def fresh_verdict(
    ledger: Ledger,
    dataset: str,
    site: str,
    *,
    fingerprint: str,
    suite_sha256: str,
    max_age: timedelta,
    now: datetime,
    interval: Interval | None = None,
    references: Mapping[str, str] | None = None,
) -> Record | None:
    """The newest verdict about exactly this data and this suite, if it opens and is younger than ``max_age``.

    ``None`` never opens: nothing was judged, it was too long ago, or the newest answer was no, whatever came before.

    :param fingerprint: of the manifest that the site has now
    :param references: the same of every dataset that the suite compares the data with
    :raises Unavailable: the ledger does not answer
    """
    exactly = {
        "fingerprint": fingerprint,
        "suite_sha256": suite_sha256,
        "interval": str(interval) if interval else None,
        "references": dict(references or {}),
    }
    for found in ledger.records(kind=KIND, subject=subject(dataset, site, interval), since=now - max_age):
        if all(found.facts.get(key) == value for key, value in exactly.items()):
            return found if opens(found) and found.at >= now - max_age else None
    return None


def run_gate(
    systems: Systems,
    dataset: str,
    site: str,
    *,
    reread_bytes: int | None = REREAD_BYTES,
    interval: Interval | None = None,
) -> tuple[GateResult, Record]:
    """Judge what ``site`` holds of ``dataset`` (or a table) now and leave the verdict, whatever it is, in the ledger.

    :param reread_bytes: see ``gates.local.fetch``
    :param interval: judge only its rows; such a verdict never stands for the whole
    :raises EstateError: the suite cannot be used
    :raises Refused: the estate has no such dataset or site, or the suite says nothing of one interval
    :raises Unavailable: the store, the database or the ledger does not answer
    """
    declared = declared_copy(systems, dataset, site)
    suite = load_suite(suite_path(systems.home.expectations, declared.suite))
    ledger = systems.ledger()
    earlier = earlier_rows(ledger, suite, site)
    result, seen = check_declared(
        systems, declared, site, suite, reread_bytes=reread_bytes, interval=interval, earlier=earlier
    )
    docs = keep_docs(systems, dataset, site, result.checked_at, seen.docs)
    return result, record(ledger, dataset, site, result, docs=docs)


def earlier_rows(ledger: Ledger, suite: Suite, site: str) -> list[int]:
    """Rows in the site's newest verdicts on the whole that opened, newest first: those that say what is usual.

    :raises Unavailable: the ledger does not answer
    """
    if suite.usual_rows is None:
        return []
    wanted = suite.usual_rows.verdicts
    # A few more than wanted, because some said no; never the whole ledger.
    found = ledger.records(kind=KIND, subject=subject(suite.dataset, site), limit=3 * wanted)
    rows = [each.facts.get("rows") for each in found if opens(each)]
    return [number for number in rows if isinstance(number, int)][:wanted]


def declared_copy(systems: Systems, dataset: str, site: str) -> Dataset | Table:
    """The dataset or table, if the estate has it at ``site``; raises ``Refused``."""
    declared = systems.estate.dataset_by_name.get(dataset) or systems.estate.table_by_name.get(dataset)
    if declared is None or site not in sites_of(declared):
        raise Refused(f"gate of {dataset} at {site}", ["the estate declares no such copy; see its datasets"])
    return declared


def sites_of(declared: Dataset | Table) -> tuple[str, ...]:
    """Where it is, the primary site first."""
    return (declared.site,) if isinstance(declared, Table) else (declared.primary, *declared.copies)


def usable_verdict(systems: Systems, dataset: str, site: str, *, interval: Interval | None = None) -> Record:
    """A verdict that lets exactly the data at ``site`` serve: a fresh one from the ledger, or the gate is run now.

    :raises Refused: the gate said no, or could not say
    :raises EstateError: the suite cannot be used
    :raises Unavailable: the store or the ledger does not answer
    """
    found = _known_verdict(systems, dataset, site, interval, MAX_AGE)
    if found is not None:
        return found
    result, written = run_gate(systems, dataset, site, interval=interval)
    if not result.verdict.opens:
        raise refusal(dataset, site, result, written)
    return written


def has_verdict(
    systems: Systems, dataset: str, site: str, *, interval: Interval | None = None, max_age: timedelta = MAX_AGE
) -> bool:
    """Whether ``usable_verdict`` would answer at once; raises as it does, and never runs the gate."""
    return _known_verdict(systems, dataset, site, interval, max_age) is not None


def _known_verdict(
    systems: Systems, dataset: str, site: str, interval: Interval | None, max_age: timedelta
) -> Record | None:
    if dataset in systems.estate.table_by_name:
        return None  # only reading all of a table could say that it is still what was judged
    suite = load_suite(suite_path(systems.home.expectations, systems.estate.dataset_by_name[dataset].suite))
    store = systems.store(site)
    fingerprints = {}
    for name in (dataset, *sorted({reference.dataset for reference in suite.references})):
        try:
            manifest = read_manifest(store, name)
        except Corrupted:
            return None  # the gate says what is wrong with it, and leaves that as evidence
        if manifest is None:
            return None
        fingerprints[name] = manifest.fingerprint
    return fresh_verdict(
        systems.ledger(),
        dataset,
        site,
        fingerprint=fingerprints.pop(dataset),
        suite_sha256=suite.sha256,
        max_age=max_age,
        now=datetime.now(UTC),
        interval=interval,
        references=fingerprints,
    )


def refusal(dataset: str, site: str, result: GateResult, record: Record) -> Refused:
    """The gate's no as an error, with every reason and where the evidence is."""
    where = subject(dataset, site, result.interval).replace("@", " at ")
    return Refused(f"gate of {where}: {result.verdict.value}", [*result.reasons, f"see evidence {record.seq}"])


def opens(record: Record) -> bool:
    """Whether a gate's record lets data serve; a verdict that is not one of ours does not."""
    try:
        return Verdict(str(record.facts.get("verdict"))).opens
    except ValueError:
        return False
