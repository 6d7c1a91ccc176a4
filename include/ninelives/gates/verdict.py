"""From what an engine saw to a verdict. Pure, and fail closed: what was not looked at is an error, never a pass.

Traps that this closes, each seen in Great Expectations 1.24.1: an empty suite passes; on an empty table, or where a row
condition matches nothing, nearly every expectation passes; so does a column that is null throughout; and a check that
raised carries the severity of its expectation, so that a dropped column under a warning would only warn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ninelives.errors import Refused
from ninelives.gates.interval import Interval
from ninelives.gates.suite import Severity, Suite

if TYPE_CHECKING:
    from ninelives.gates.suggest import Profile
    from ninelives.ports import Connection

CLOCK_SKEW = timedelta(minutes=1)
"""Data may seem to be from the future by this much: two machines' clocks."""
_MAX_ERRORS = 20
_MAX_TEXT = 500


class Verdict(StrEnum):
    ERROR = "error"
    BLOCK = "block"
    WARN = "warn"
    PASS = "pass"  # noqa: S105

    @property
    def opens(self) -> bool:
        """Whether data with this verdict may serve."""
        return self in (Verdict.PASS, Verdict.WARN)


@dataclass(frozen=True)
class ObjectSchema:
    """Objects that have the same columns; ``example`` is the key of one of them."""

    columns: Mapping[str, str]
    """column to Arrow type"""
    objects: int
    example: str


@dataclass(frozen=True)
class Outcome:
    """What the engine says of one expectation, ``index`` being its place in the suite."""

    index: int
    success: bool
    judged: int | None
    """Rows that could have failed: under the row condition and with a value where nulls are not judged."""
    raised: str | None = None
    observed: Mapping[str, Any] = field(default_factory=dict)
    rows: tuple[Mapping[str, Any], ...] = ()
    """Some that fail, values of redacted columns left out: for a reader at a terminal, never for evidence."""


@dataclass(frozen=True)
class Evaluation:
    """All that the engine saw. ``outcomes`` is ``None`` where the schema was too far off to go on."""

    engine: str
    schemas: tuple[ObjectSchema, ...] = ()
    rows: int | None = None
    outcomes: tuple[Outcome, ...] | None = None
    errors: tuple[str, ...] = ()
    newest: datetime | None = None
    """The latest ``suite.time``."""
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    """Of a table, and of each that it was compared with; files have theirs in a manifest."""
    as_of: datetime | None = None
    """The instant that a table's rows are from."""
    docs: str | None = None
    """Great Expectations' Data Docs page, HTML without scripts; no value of a redacted column is in it."""


class ExpectationEngine(Protocol):
    """Runs a suite's expectations over Parquet files, or in a database over one of its tables."""

    def evaluate(
        self,
        suite: Suite,
        files: Mapping[str, Path],
        *,
        interval: Interval | None = None,
        rows: int = 0,
        references: Mapping[str, Mapping[str, Path]] | None = None,
    ) -> Evaluation:
        """Never raises for what the data or the engine does: see ``errors``.

        :param files: object key to local file
        :param interval: look only at rows whose ``suite.time`` lies in it
        :param rows: how many failing rows to show of each expectation
        :param references: the files of every dataset that ``suite.references`` names
        """
        ...

    def evaluate_table(
        self,
        suite: Suite,
        table: str,
        *,
        database: Connection,
        interval: Interval | None = None,
        rows: int = 0,
        references: Mapping[str, str] | None = None,
    ) -> Evaluation:
        """The same of one table, judged by the database that holds it, everything in one snapshot.

        :param table: ``schema.name``
        :param references: the table, in the same database, of every dataset that ``suite.references`` names
        :raises Unavailable: the database does not answer, or does not let us in
        """
        ...

    def profile(self, files: Mapping[str, Path]) -> Profile:
        """What is there to see, for a first suite; raises ``Refused`` where it cannot be read."""
        ...

    def profile_table(self, table: str, *, database: Connection) -> Profile:
        """The same of a table; raises ``Unavailable`` where the database does not answer, or does not let us in."""
        ...


@dataclass(frozen=True)
class Failure:
    """An expectation that the data does not meet."""

    type: str
    column: str | None
    severity: Severity
    observed: Mapping[str, Any]
    reason: str


@dataclass(frozen=True)
class GateResult:
    """The gate's answer about exactly the data ``fingerprint`` and the suite ``suite_sha256``.

    With ``interval`` it is about the rows of that interval alone, and says nothing about the rest.
    """

    verdict: Verdict
    rows: int | None
    expectations: int
    failures: tuple[Failure, ...]
    errors: tuple[str, ...]
    suite_sha256: str
    fingerprint: str | None
    engine: str
    seconds: float
    checked_at: datetime
    interval: Interval | None = None
    references: Mapping[str, str] = field(default_factory=dict)
    """Dataset to the fingerprint of what the rows were compared with."""
    usual_rows: tuple[int, int] | None = None
    """Fewest and most that are usual; ``None``: nothing is yet, or nobody asked."""

    def facts(self) -> dict[str, Any]:
        """JSON of a few kilobytes at most, for the ledger."""
        return asdict(self) | {
            "verdict": self.verdict.value,
            "failures": [asdict(f) | {"severity": f.severity.value} for f in self.failures],
            "errors": list(self.errors),
            "seconds": round(self.seconds, 3),
            "checked_at": self.checked_at.isoformat(),
            "interval": str(self.interval) if self.interval else None,
        }

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is not a plain pass, one sentence each."""
        return (*self.errors, *(_sentence(f) for f in self.failures))


def judge(
    suite: Suite,
    evaluation: Evaluation,
    *,
    fingerprint: str | None,
    age: timedelta | None,
    seconds: float,
    at: datetime,
    interval: Interval | None = None,
    references: Mapping[str, str] | None = None,
    earlier: Sequence[int] = (),
) -> GateResult:
    """Decide.

    :param age: of the copy; ``None`` where nothing says how old it is
    :param suite: the whole of it, also for an interval
    :param interval: that was looked at, where it was not the whole
    :param references: dataset to fingerprint of what the rows were compared with
    :param earlier: rows in the newest verdicts on the whole that opened, newest first
    """
    asked = asked_of(suite, interval)
    least = asked.time.min_rows if interval and asked.time else asked.min_rows
    schema = schema_failures(asked, evaluation.schemas)
    usual = asked.usual_rows.band(earlier) if asked.usual_rows and interval is None else None
    failures = [*_freshness(asked, age), *_row_count(least, evaluation.rows), *schema]
    failures += _unusual(asked, usual, evaluation.rows)
    errors = [*evaluation.errors, *_age_errors(asked, age)]
    if interval is None and evaluation.outcomes is not None:
        failures += _lag(asked, evaluation.newest, at)
        errors += _lag_errors(asked, evaluation.newest, at)
    if evaluation.rows == least == 0:
        failures.append(
            Failure("row_count", None, Severity.WARNING, {"rows": 0}, "the suite lets an interval be empty")
        )
    elif not errors or evaluation.outcomes is not None:
        errors += _not_looked_at(asked, evaluation, stopped=blocks(schema), idle=interval is not None)
    for outcome in evaluation.outcomes or ():
        if not outcome.success and outcome.raised is None and 0 <= outcome.index < len(asked.asked):
            failed = asked.asked[outcome.index]
            failures.append(Failure(failed.type, failed.column, failed.severity, outcome.observed, failed.reason))
    return GateResult(
        verdict=_verdict(errors, failures),
        rows=evaluation.rows,
        expectations=len(asked.asked),
        failures=tuple(failures),
        errors=shorten(errors),
        suite_sha256=suite.sha256,
        fingerprint=fingerprint,
        engine=evaluation.engine,
        seconds=seconds,
        checked_at=at,
        interval=interval,
        references=references or {},
        usual_rows=usual,
    )


def asked_of(suite: Suite, interval: Interval | None) -> Suite:
    """What of ``suite`` is asked of the interval, or of the whole.

    :raises Refused: nothing could be asked of an interval
    """
    if interval is None:
        return suite
    if suite.of_interval is None:
        raise Refused(
            f"gate of {suite.dataset} for {interval}",
            ["its suite declares no time column, or no expectation that holds of one interval; see time and whole"],
        )
    return suite.of_interval


def blocks(failures: Sequence[Failure]) -> bool:
    return any(failure.severity is Severity.CRITICAL for failure in failures)


def shorten(errors: Sequence[str]) -> tuple[str, ...]:
    """Few and short enough for a ledger record and a log line; says how many were left out."""
    kept = [error if len(error) <= _MAX_TEXT else error[: _MAX_TEXT - 1] + "…" for error in errors[:_MAX_ERRORS]]
    if left_out := len(errors) - len(kept):
        kept.append(f"and {left_out} more")
    return tuple(kept)


def schema_failures(suite: Suite, schemas: Sequence[ObjectSchema]) -> list[Failure]:
    """Columns that are missing or have another type block; columns that nobody declared only warn."""
    failures = []
    for schema in schemas:
        where = f"in {schema.objects} objects such as {schema.example}"
        for name, declared in suite.columns.items():
            actual = schema.columns.get(name)
            if actual is None:
                failures.append(
                    _of_schema(name, Severity.CRITICAL, f"missing {where}", f"the schema declares {declared}")
                )
            elif actual != declared:
                failures.append(
                    _of_schema(name, Severity.CRITICAL, f"{actual} {where}", f"the schema declares {declared}")
                )
        for name in schema.columns.keys() - suite.columns.keys():
            failures.append(_of_schema(name, Severity.WARNING, f"new {where}", "the schema does not declare it"))
    return failures


def _of_schema(column: str, severity: Severity, observed: str, reason: str) -> Failure:
    return Failure("schema", column, severity, {"column": observed}, reason)


def _row_count(least: int, rows: int | None) -> list[Failure]:
    if rows is None or rows >= least:
        return []
    reason = f"the suite demands at least {least} rows"
    return [Failure("row_count", None, Severity.CRITICAL, {"rows": rows}, reason)]


def _freshness(suite: Suite, age: timedelta | None) -> list[Failure]:
    if suite.max_age is None or age is None or age <= suite.max_age:
        return []
    reason = f"the suite allows an age of {suite.max_age}: has replication stopped?"
    return [Failure("freshness", None, Severity.CRITICAL, {"age": str(age)}, reason)]


def _unusual(suite: Suite, band: tuple[int, int] | None, rows: int | None) -> list[Failure]:
    if suite.usual_rows is None or band is None or rows is None or band[0] <= rows <= band[1]:
        return []
    seen = {"rows": rows, "usual": f"{band[0]} to {band[1]}"}
    return [Failure("usual_rows", None, suite.usual_rows.severity, seen, suite.usual_rows.reason)]


def _lag(suite: Suite, newest: datetime | None, at: datetime) -> list[Failure]:
    if suite.time is None or suite.time.max_lag is None or newest is None or at - newest <= suite.time.max_lag:
        return []
    reason = f"the suite allows the newest row an age of {suite.time.max_lag}: has the source stopped?"
    seen = "redacted" if suite.time.column in suite.redact else newest.isoformat()
    return [Failure("lag", suite.time.column, Severity.CRITICAL, {"newest": seen}, reason)]


def _lag_errors(suite: Suite, newest: datetime | None, at: datetime) -> list[str]:
    if suite.time is None or suite.time.max_lag is None:
        return []
    if newest is None:
        return [f"nothing says how old the newest row is ({suite.time.column}), and the suite limits its age"]
    if newest - at > CLOCK_SKEW:
        ahead = "" if suite.time.column in suite.redact else f"{newest - at} "
        return [f"the newest row claims to be written {ahead}in the future ({suite.time.column})"]
    return []


def _age_errors(suite: Suite, age: timedelta | None) -> list[str]:
    if age is not None and age < -CLOCK_SKEW:
        return [f"the data claims to be written {-age} in the future; compare the clocks of the sites"]
    if age is None and suite.max_age is not None:
        return ["nothing says how old the data is, and the suite limits its age"]
    return []


def _not_looked_at(suite: Suite, evaluation: Evaluation, *, stopped: bool, idle: bool) -> list[str]:
    """Everything that was not really judged.

    :param stopped: the schema already blocks, so that no expectation ran
    :param idle: where the suite says so, an expectation may have had nothing to judge
    """
    if evaluation.rows is None:
        return ["the rows could not be counted"]
    if evaluation.rows == 0:
        return ["there are no rows, so that nothing could be judged"]
    if not evaluation.schemas:
        return ["no object's schema was read"]
    if not suite.expectations:
        return ["the suite has no expectations, so that nothing would be judged"]
    if evaluation.outcomes is None:
        return [] if stopped else ["the expectations were not run"]
    errors = []
    answered = sorted(outcome.index for outcome in evaluation.outcomes)
    if answered != list(range(len(suite.asked))):
        errors.append(f"{len(suite.asked)} expectations were asked, the engine answered {answered}")
    for outcome in evaluation.outcomes:
        if not 0 <= outcome.index < len(suite.asked):
            continue
        asked = suite.asked[outcome.index]
        what = f"expectations[{outcome.index}] {asked.type}" + (f" of {asked.column}" if asked.column else "")
        if outcome.raised is not None:
            errors.append(f"{what} could not be checked: {outcome.raised}")
        elif not outcome.judged and not (outcome.judged == 0 and idle and asked.skip_idle):
            errors.append(f"{what} judged no row: its row condition matches nothing, or its columns are all null")
    return errors


def _verdict(errors: Sequence[str], failures: Sequence[Failure]) -> Verdict:
    if errors:
        return Verdict.ERROR
    if blocks(failures):
        return Verdict.BLOCK
    return Verdict.WARN if failures else Verdict.PASS


def _sentence(failure: Failure) -> str:
    about = f" of {failure.column}" if failure.column else ""
    seen = ", ".join(f"{key} {value}" for key, value in failure.observed.items())
    return f"{failure.severity.value}: {failure.type}{about}: {seen or 'not met'} ({failure.reason})"
