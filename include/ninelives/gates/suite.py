"""What a dataset must look like: one versioned file per dataset, with a reason for every limit."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import rfc8785
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ninelives.errors import EstateError, EstateProblem
from ninelives.estate.units import Duration, Name

MAX_BYTES = 1_000_000
LEAST_MEMORY = 800
"""Megabytes: libraries take about half of it."""
_SHIFT = "expect_column_kl_divergence_to_be_less_than"
_OWN_QUERY = "unexpected_rows_expectation"
_ENGINE_SETTINGS = {"severity", "meta", "result_format", "catch_exceptions", "id", "condition_parser", "batch_id"}

Reason = Annotated[str, Field(min_length=10, description="Why the limit is what it is.")]


Memory = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,5}(MB|GB)$")]


class Severity(StrEnum):
    CRITICAL = "critical"
    WARNING = "warning"


class Expectation(BaseModel):
    """One Great Expectations check: ``type`` in its snake-case name, ``kwargs`` as it takes them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Annotated[str, Field(pattern=r"^(expect_[a-z0-9_]{1,80}|unexpected_rows_expectation)$")]
    kwargs: Mapping[str, Any]
    severity: Severity = Severity.CRITICAL
    whole: bool = Field(
        default=False, description="Only true of the whole dataset: not asked where one interval of it is judged."
    )
    skip_idle: bool = Field(
        default=False, description="Where one interval is judged: met if the interval holds no row that this is about."
    )
    about: tuple[str, ...] = Field(
        default=(), description="For a query of the suite's own: columns without which a row could not fail."
    )
    reason: Reason

    @field_validator("kwargs")
    @classmethod
    def _only_what_is_checked(cls, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        if ours := sorted(_ENGINE_SETTINGS & kwargs.keys()):
            raise ValueError(f"{', '.join(ours)} cannot be set here: the gate decides how a check runs")
        if isinstance(kwargs.get("row_condition"), str):
            raise ValueError(
                "write row_condition as an object, like "
                '{"type": "nullity", "column": {"name": "dep_time"}, "is_null": false}'
            )
        listed = kwargs.get("column_list", [])
        if not (isinstance(listed, list | tuple) and all(isinstance(name, str) for name in listed)):
            raise ValueError(f"column_list is {listed!r}; write a list of columns")
        if '"$PARAMETER":' in json.dumps(kwargs, default=str):
            raise ValueError(
                "$PARAMETER cannot be used here: the suite is all that a verdict stands on; write the value"
            )
        mostly = kwargs.get("mostly")
        if mostly is not None and not (isinstance(mostly, int | float) and 0 < mostly <= 1):
            raise ValueError(f"mostly is {mostly!r}; it must be above 0 and at most 1, or nothing is checked")
        return kwargs

    @model_validator(mode="after")
    def _compared_with_something(self) -> Expectation:
        needed = {"partition_object", "threshold"}
        if self.type == _SHIFT and (missing := sorted(k for k in needed if self.kwargs.get(k) is None)):
            raise ValueError(f"{self.type} without {' and '.join(missing)} accepts any distribution")
        if self.type.endswith("_to_be_between") and not self._limits:
            raise ValueError(f"{self.type} without a limit (min_value, max_value, value_ranges) accepts any value")
        if self.kwargs.get("value_set") == []:
            raise ValueError("value_set is empty; write the values")
        if self.type == _OWN_QUERY and "{batch}" not in str(self.kwargs.get("unexpected_rows_query")):
            raise ValueError("unexpected_rows_query does not name {batch}, the rows to judge, and so judges others")
        return self

    @property
    def _limits(self) -> bool:
        ranges = self.kwargs.get("quantile_ranges")
        given = ranges.get("value_ranges") if isinstance(ranges, Mapping) else None
        bounds = (
            [b for each in given for b in each] if given else [self.kwargs.get(k) for k in ("min_value", "max_value")]
        )
        return any(bound is not None for bound in bounds)

    @property
    def column(self) -> str | None:
        """The column, or the columns with commas, that a reader looks for; ``None`` for the table as a whole."""
        return ", ".join(self.columns) or None

    @property
    def columns(self) -> tuple[str, ...]:
        single = [self.kwargs[key] for key in ("column", "column_A", "column_B") if key in self.kwargs]
        return tuple(str(name) for name in [*single, *self.kwargs.get("column_list", ()), *self.about])


class Reference(BaseModel):
    """Every row points to a row of another dataset of the estate, as that site holds it. Nulls point nowhere."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: Name
    columns: Mapping[str, str] = Field(min_length=1, description="Column here to column there.")
    severity: Severity = Severity.CRITICAL
    reason: Reason

    def expectation(self) -> Expectation:
        """The same as a query; the other dataset is a relation of its name."""
        # Not `NOT EXISTS`, for which DuckDB keeps every column of every row to read it again: five times the CPU.
        # PostgreSQL makes the same anti-join of both.
        filled = " AND ".join(f"b.{quoted(here)} IS NOT NULL" for here in self.columns)
        same = " AND ".join(f"r.{quoted(there)} = b.{quoted(here)}" for here, there in self.columns.items())
        unmatched = f"r.{quoted(next(iter(self.columns.values())))} IS NULL"
        query = (
            f"SELECT b.* FROM {{batch}} b LEFT JOIN {quoted(self.dataset)} r ON {same} "  # noqa: S608
            f"WHERE {filled} AND {unmatched}"
        )
        return Expectation(
            type="unexpected_rows_expectation",
            kwargs={"unexpected_rows_query": query},
            about=tuple(self.columns),
            severity=self.severity,
            reason=self.reason,
            skip_idle=True,
        )


class UsualRows(BaseModel):
    """How far the number of rows may be from those of the site's newest verdicts that opened."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    drop: Annotated[float, Field(gt=0, le=1, description="Share of the fewest that may be missing.")]
    growth: Annotated[float, Field(gt=0, description="Share of the most that may be added.")]
    verdicts: Annotated[int, Field(ge=1, le=200, description="So many are looked at.")] = 20
    at_least: Annotated[
        int, Field(ge=1, description="With fewer there is nothing usual yet, and nothing is judged.")
    ] = 3
    severity: Severity = Severity.CRITICAL
    reason: Reason

    def band(self, earlier: Sequence[int]) -> tuple[int, int] | None:
        """Fewest and most rows allowed after ``earlier`` ones, newest first; ``None``: nothing is usual yet."""
        rows = earlier[: self.verdicts]
        if len(rows) < self.at_least:
            return None
        return math.ceil(min(rows) * (1 - self.drop)), math.floor(max(rows) * (1 + self.growth))


class Time(BaseModel):
    """When each row happened: what makes it possible to judge one interval of the dataset by itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str
    min_rows: Annotated[int, Field(ge=0, strict=True)] = Field(
        default=1, description="Fewer rows in an interval are a loss; 0 where an interval may really be empty."
    )
    max_lag: Duration | None = Field(default=None, description="Age of the newest row above which data may not serve.")


class Suite(BaseModel):
    """All that a dataset's gate asks. Row count, schema and freshness are asked even where no expectation says so."""

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))

    dataset: str
    columns: Mapping[str, str] = Field(
        alias="schema", min_length=1, description="Column to Arrow type, as Arrow prints it."
    )
    min_rows: Annotated[int, Field(ge=1, strict=True, description="Fewer rows are not this dataset.")]
    max_age: Duration | None = Field(default=None, description="Age of the copy above which it may not serve.")
    time: Time | None = Field(default=None, description="Without it only the whole dataset can be judged.")
    usual_rows: UsualRows | None = None
    references: tuple[Reference, ...] = ()
    redact: tuple[str, ...] = Field(default=(), description="Columns of which no value may appear in evidence.")
    memory: Memory = Field(default="2GB", description="What a check may take; beyond it, it spills to the disk.")
    expectations: tuple[Expectation, ...] = Field(min_length=1)

    @property
    def memory_mb(self) -> int:
        """Megabytes (10^6 bytes)."""
        return int(self.memory[:-2]) * (1000 if self.memory.endswith("GB") else 1)

    @model_validator(mode="after")
    def _enough_memory(self) -> Suite:
        if self.memory_mb < LEAST_MEMORY:
            raise ValueError(f"memory is {self.memory}; a check needs {LEAST_MEMORY} MB before it has read any data")
        return self

    @model_validator(mode="after")
    def _columns_exist(self) -> Suite:
        known = self.columns.keys()
        for index, expectation in enumerate(self.asked):
            if unknown := [name for name in expectation.columns if name not in known]:
                raise ValueError(f"expectations[{index}] is about {', '.join(unknown)}, which the schema does not have")
        if self.time and not self.columns.get(self.time.column, "").startswith(("timestamp", "date")):
            raise ValueError(f"time.column is {self.time.column}; the schema has no timestamp or date of that name")
        if unknown := [name for name in self.redact if name not in known]:
            raise ValueError(f"redact names {', '.join(unknown)}, which the schema does not have")
        return self

    @model_validator(mode="after")
    def _limits_are_exact(self) -> Suite:
        for index, expectation in enumerate(self.expectations):
            column = expectation.kwargs.get("column")
            type_ = self.columns.get(column, "") if isinstance(column, str) else ""
            for name in ("min_value", "max_value"):
                limit = expectation.kwargs.get(name)
                if isinstance(limit, str) and (wanted := _inexact(limit, type_)):
                    raise ValueError(f"expectations[{index}].kwargs.{name} is {limit!r}; {column} is {type_}: {wanted}")
        return self

    @cached_property
    def asked(self) -> tuple[Expectation, ...]:
        """All that an engine is asked: the expectations, then the references."""
        return (*self.expectations, *(reference.expectation() for reference in self.references))

    @cached_property
    def of_interval(self) -> Suite | None:
        """What is asked of one interval by itself; ``None`` where nothing can be."""
        asked = [expectation for expectation in self.expectations if not expectation.whole]
        if self.time is None or not asked:
            return None
        return Suite.model_validate({**self.model_dump(by_alias=True), "expectations": asked})

    @cached_property
    def sha256(self) -> str:
        """SHA-256 (hex) of the suite's canonical JSON (RFC 8785): layout does not matter, every word does."""
        return hashlib.sha256(rfc8785.dumps(self.model_dump(mode="json", by_alias=True))).hexdigest()


def load_suite(path: Path) -> Suite:
    """Read and check ``expectations/<suite>/suite.json``.

    :raises EstateError: it is missing, too big or wrong; every problem is named with its place in the file
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        why = f"cannot be read ({error.strerror}); `ninelives gate suggest` writes a first suite of a dataset"
        raise _wrong(path, "", why) from error
    if len(content) > MAX_BYTES:
        raise _wrong(path, "", f"is too large; a suite has at most {MAX_BYTES} bytes")
    try:
        document = json.loads(content, object_pairs_hook=_once)
        rfc8785.dumps(document)  # numbers that JSON cannot hold exactly are refused here, not in the middle of a gate
        return Suite.model_validate(document)
    except ValidationError as error:
        raise EstateError(
            [
                EstateProblem(str(path), 0, _place(e["loc"]), e["msg"].removeprefix("Value error, "))
                for e in error.errors()
            ]
        ) from error
    except rfc8785.CanonicalizationError as error:
        raise _wrong(path, "", f"has no canonical form: {error}") from error
    except (ValueError, RecursionError) as error:
        raise _wrong(path, "", f"cannot be read as JSON: {error}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of two equal keys only the last would count: a second ``redact`` would undo the first."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key!r} stands there twice; which one counts?")
        found[key] = value
    return found


def _inexact(limit: str, type_: str) -> str | None:
    """What to write instead of a limit that is no instant or day of the column's own kind.

    Great Expectations compares by the day where a timestamp's limit is only a date, so that the whole day passes, and
    cannot compare a time that has an offset with one that has none.
    """
    parse = date if type_.startswith("date") else datetime if type_.startswith("timestamp") else None
    if parse is None:
        return None
    zoned = ", tz=" in type_
    try:
        found = parse.fromisoformat(limit)
        exact = parse is date or (":" in limit and (found.tzinfo is not None) == zoned)  # type: ignore[attr-defined]
    except ValueError:
        exact = False
    if exact:
        return None
    if parse is date:
        return "write a day, like 2026-01-31"
    if zoned:
        return "write an instant with an offset, like 2026-01-31T00:00:00Z"
    return "write an instant without an offset, like 2026-01-31T00:00:00"


def quoted(name: str) -> str:
    """As an identifier in SQL."""
    return '"' + name.replace('"', '""') + '"'


def suite_path(folder: Path, suite: str) -> Path:
    return folder / suite / "suite.json"


def _wrong(path: Path, where: str, message: str) -> EstateError:
    return EstateError([EstateProblem(str(path), 0, where, message)])


def _place(location: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
