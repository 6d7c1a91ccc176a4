"""A first suite from a look at the data, for a person to edit: it knows what is, not what should be."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ninelives.errors import Refused
from ninelives.estate.model import Table
from ninelives.gates.evidence import declared_copy
from ninelives.gates.local import fetch
from ninelives.gates.suite import Suite
from ninelives.ports import Systems
from ninelives.replication.manifest import read_manifest

CATEGORIES = 40
"""So many different values are a set; more are a range or free text."""
_PERSONAL = re.compile(
    r"name|mail|phone|mobile|address|street|birth|dob|ssn|passport|iban|card|account|user|customer|patient|ip_|password",
    re.IGNORECASE,
)
_UNSEEN = 0.001
"""Share that a histogram leaves for what it has not seen: without it one new value is an infinite divergence."""
_EXACT = 2**53


@dataclass(frozen=True)
class ColumnProfile:
    """What was seen of a column. Of times only the type and the nulls are told."""

    name: str
    type: str
    """Arrow type"""
    nulls: int
    low: float | None = None
    high: float | None = None
    """Smallest and largest of a number."""
    not_finite: int = 0
    """Values that are NaN or infinite: those a range would count as too large."""
    values: tuple[tuple[str | int | bool, int], ...] = ()
    """Each value and its rows, where there are at most ``CATEGORIES``."""
    bins: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    """Rows between each two ``bins`` of a number with many values."""


@dataclass(frozen=True)
class Profile:
    """``key``: few columns that no two rows share, none of them null; empty where none were found."""

    rows: int
    columns: tuple[ColumnProfile, ...]
    key: tuple[str, ...] = ()


def as_profile(document: Mapping[str, Any]) -> Profile:
    """From plain JSON, in which a mapping of values would lose their types."""
    columns = tuple(
        ColumnProfile(**{**column, **{key: tuple(column[key]) for key in ("bins", "counts", "values")}})
        for column in document["columns"]
    )
    return Profile(document["rows"], columns, tuple(document["key"]))


def suggest(dataset: str, profile: Profile) -> dict[str, Any]:
    """A suite that ``profile``'s data passes, every limit with what was seen, for ``expectations/<suite>/suite.json``.

    What is certain blocks (schema, columns never null, the key, half the rows); what is only usual warns. A column that
    by its name may be about people is redacted, and no value of it is written into the suite.

    :raises Refused: there is nothing that could be asked
    """
    redact = [column.name for column in profile.columns if _PERSONAL.search(column.name)]
    times = [c.name for c in profile.columns if c.type.startswith("timestamp") and not c.nulls]
    expectations = [
        *_key(profile),
        *(e for c in profile.columns for e in _of_column(c, profile.rows, c.name in redact)),
    ]
    if not profile.rows or not expectations:
        raise Refused(f"suggest a suite for {dataset}", ["the data has no rows, or nothing in them can be asked about"])
    document = {
        "dataset": dataset,
        "schema": {column.name: column.type for column in profile.columns},
        "min_rows": max(1, profile.rows // 2),
        "max_age": "1d",
        **({"time": {"column": times[0]}} if times else {}),
        **({"redact": redact} if redact else {}),
        "expectations": expectations,
    }
    Suite.model_validate(document)
    return document


def look_at_copy(systems: Systems, dataset: str, site: str) -> Profile:
    """What ``site`` holds of ``dataset`` (or a table) now, every byte as its manifest says.

    :raises Refused: there is no such copy, or it is not whole
    :raises Corrupted: its manifest cannot be trusted
    :raises Unavailable: the store or the database does not answer
    """
    if isinstance(declared := declared_copy(systems, dataset, site), Table):
        database = systems.connections.get(f"ninelives_{site}_database")
        return systems.expectations().profile_table(declared.table, database=database)
    store = systems.store(site)
    manifest = read_manifest(store, dataset)
    if manifest is None or not manifest.objects:
        raise Refused(f"look at {dataset} at {site}", ["its copy was never complete; run replicate_data"])
    copy = fetch(store, manifest, systems.home.cache)
    if copy.problems:
        raise Refused(f"look at {dataset} at {site}", copy.problems)
    return systems.expectations().profile(copy.files)


def as_text(document: Mapping[str, Any]) -> str:
    """One expectation per two lines, so that a person can read it and a change is a small difference."""

    def text(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False)

    head = [f"  {text(key)}: {text(value)}," for key, value in document.items() if key != "expectations"]
    asked = [
        "    {" + ", ".join(f"{text(k)}: {text(v)}" for k, v in e.items() if k != "reason") + ",\n"
        f'     "reason": {text(e["reason"])}}}'
        for e in document["expectations"]
    ]
    return "\n".join(["{", *head, '  "expectations": [', ",\n".join(asked), "  ]", "}", ""])


def _key(profile: Profile) -> Iterator[dict[str, Any]]:
    seen = f"No two of {profile.rows:,} rows share it; is that what identifies a row?"
    if len(profile.key) == 1:
        yield _expect("expect_column_values_to_be_unique", seen, column=profile.key[0])
    elif profile.key:
        yield _expect("expect_compound_columns_to_be_unique", seen, column_list=list(profile.key))


def _of_column(column: ColumnProfile, rows: int, private: bool) -> Iterator[dict[str, Any]]:
    if column.nulls == rows:
        return  # nothing is known of it, not even that it should stay so
    yield _nulls(column, rows)
    if private or column.not_finite:
        return
    if len(column.values) > 1:
        yield from _of_values(column, dict(column.values))
    elif column.low is not None and column.high is not None and column.low < column.high:
        yield _range(column, column.low, column.high)
    if column.bins:
        total = sum(column.counts)
        histogram = {"bins": list(column.bins), "weights": _weights(column.counts)}
        yield _shift(column.name, histogram, f"Histogram of {total:,} values in {len(column.counts)} bins")


def _nulls(column: ColumnProfile, rows: int) -> dict[str, Any]:
    odd = f" NaN or infinite in {column.not_finite:,}: may that be? Until then no range." if column.not_finite else ""
    if not column.nulls:
        seen = f"Never null in {rows:,} rows.{odd}"
        return _expect("expect_column_values_to_not_be_null", seen, column=column.name)
    share = column.nulls / rows
    # Twice as many nulls as seen, and always something: mostly 0 would ask nothing.
    mostly = max(0.01, math.floor((1 - 2 * share) * 100) / 100)
    seen = f"Null in {share:.2%} of {rows:,} rows; {1 - mostly:.0%} allowed.{odd}"
    return _expect("expect_column_values_to_not_be_null", seen, False, column=column.name, mostly=mostly)


def _of_values(column: ColumnProfile, values: Mapping[Any, int]) -> Iterator[dict[str, Any]]:
    ordered = sorted(values)
    seen = f"The {len(values)} values seen; is another one really wrong?"
    yield _expect("expect_column_values_to_be_in_set", seen, False, column=column.name, value_set=ordered)
    if not isinstance(ordered[0], bool):
        histogram = {"values": ordered, "weights": _weights([values[value] for value in ordered])}
        yield _shift(column.name, histogram, f"Shares of the {len(values)} values in {sum(values.values()):,} rows")


def _range(column: ColumnProfile, low: float, high: float) -> dict[str, Any]:
    """A tenth of what was seen to either side; never across zero, where a sign would begin to mean something else."""
    margin = (high - low) / 10
    least, most = math.floor(low - margin), math.ceil(high + margin)
    least, most = max(least, 0) if low >= 0 else least, min(most, 0) if high <= 0 else most
    seen = f"Seen {low:,.6g} to {high:,.6g}; which values are possible at all, and in which unit?"
    return _expect(
        "expect_column_values_to_be_between", seen, False, column=column.name, min_value=least, max_value=most
    )


def _shift(column: str, histogram: dict[str, Any], seen: str) -> dict[str, Any]:
    kwargs = {"partition_object": histogram, "threshold": 0.1, "tail_weight_holdout": _UNSEEN}
    reason = f"{seen}; measure the divergence of good months before this may block."
    found = _expect("expect_column_kl_divergence_to_be_less_than", reason, False, column=column, **kwargs)
    return {**found, "whole": True}


def _weights(counts: Any) -> list[float]:
    """Shares that sum to one exactly enough for Great Expectations, which refuses a histogram that does not."""
    total = sum(counts)
    shares = [round(count / total, 6) for count in counts]
    shares[shares.index(max(shares))] += 1 - sum(shares)
    return [round(share, 6) for share in shares]


def _expect(type_: str, seen: str, certain: bool = True, /, **kwargs: Any) -> dict[str, Any]:
    severity = {} if certain else {"severity": "warning"}
    return {"type": type_, "kwargs": kwargs, **severity, "reason": f"Suggested: {seen}"}


def is_exact(number: float) -> bool:
    """Whether JSON can hold it."""
    return math.isfinite(number) and abs(number) < _EXACT
