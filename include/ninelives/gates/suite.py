"""What a dataset must look like: one versioned file per dataset, with a reason for every limit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import rfc8785
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ninelives.errors import EstateError, EstateProblem
from ninelives.estate.units import Duration

MAX_BYTES = 1_000_000
LEAST_MEMORY = 800
"""Megabytes: libraries take about half of it."""
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
        mostly = kwargs.get("mostly")
        if mostly is not None and not (isinstance(mostly, int | float) and 0 < mostly <= 1):
            raise ValueError(f"mostly is {mostly!r}; it must be above 0 and at most 1, or nothing is checked")
        return kwargs

    @property
    def column(self) -> str | None:
        """The column, or the columns with commas, that a reader looks for; ``None`` for the table as a whole."""
        return ", ".join(self.columns) or None

    @property
    def columns(self) -> tuple[str, ...]:
        single = [self.kwargs[key] for key in ("column", "column_A", "column_B") if key in self.kwargs]
        return tuple(str(name) for name in [*single, *self.kwargs.get("column_list", ())])


class Time(BaseModel):
    """When each row happened: what makes it possible to judge one interval of the dataset by itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str
    min_rows: Annotated[int, Field(ge=0)] = Field(
        default=1, description="Fewer rows in an interval are a loss; 0 where an interval may really be empty."
    )


class Suite(BaseModel):
    """All that a dataset's gate asks. Row count, schema and freshness are asked even where no expectation says so."""

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))

    dataset: str
    columns: Mapping[str, str] = Field(
        alias="schema", min_length=1, description="Column to Arrow type, as Arrow prints it."
    )
    min_rows: Annotated[int, Field(ge=1, description="Fewer rows are not this dataset.")]
    max_age: Duration | None = Field(default=None, description="Age of the copy above which it may not serve.")
    time: Time | None = Field(default=None, description="Without it only the whole dataset can be judged.")
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
        for index, expectation in enumerate(self.expectations):
            if unknown := [name for name in expectation.columns if name not in known]:
                raise ValueError(f"expectations[{index}] is about {', '.join(unknown)}, which the schema does not have")
        if self.time and not self.columns.get(self.time.column, "").startswith(("timestamp", "date")):
            raise ValueError(f"time.column is {self.time.column}; the schema has no timestamp or date of that name")
        if unknown := [name for name in self.redact if name not in known]:
            raise ValueError(f"redact names {', '.join(unknown)}, which the schema does not have")
        return self

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
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise _wrong(path, "", f"has {size} bytes; a suite has at most {MAX_BYTES}")
        suite = Suite.model_validate_json(path.read_bytes())
        suite.sha256  # noqa: B018 - numbers that JSON cannot hold exactly are refused here, not in the middle of a gate
    except OSError as error:
        raise _wrong(path, "", f"cannot be read ({error.strerror}); every dataset needs a suite") from error
    except ValidationError as error:
        raise EstateError(
            [
                EstateProblem(str(path), 0, _place(e["loc"]), e["msg"].removeprefix("Value error, "))
                for e in error.errors()
            ]
        ) from error
    except rfc8785.CanonicalizationError as error:
        raise _wrong(path, "", f"has no canonical form: {error}") from error
    return suite


def suite_path(folder: Path, suite: str) -> Path:
    return folder / suite / "suite.json"


def _wrong(path: Path, where: str, message: str) -> EstateError:
    return EstateError([EstateProblem(str(path), 0, where, message)])


def _place(location: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
