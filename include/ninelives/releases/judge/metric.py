"""What the judge is given: one metric of the canary and of the baseline that ran beside it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from ninelives.errors import EstateError, EstateProblem

MOST_VALUES = 1_000_000
LARGEST, LARGEST_RATIO = 1e100, 1e50
"""Beyond these squares are no numbers any more."""


def _number(value: Any) -> Any:
    """``null`` and ``NaN`` (also as text, which Kayenta's stores write) are a value that is missing."""
    if value is None or value == "NaN":
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > LARGEST:
        raise ValueError(f"a number within {LARGEST:g}, null or NaN is wanted")
    return float(value)


Values = Annotated[tuple[Annotated[float, BeforeValidator(_number)], ...], Field(max_length=MOST_VALUES)]
Size = Annotated[float, Field(ge=0, le=LARGEST_RATIO, allow_inf_nan=False)]


class Metric(BaseModel):
    """One value per look (say a minute) and arm: a level such as a latency, or a count out of ``*_attempts``.

    ``allowed`` is the pair of effect sizes (decrease, increase) that do not matter. ``None`` is the mode's own default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    control: Values
    experiment: Values
    control_attempts: Values | None = None
    """Attempts per look, as the replicas saw them: retries hide errors from what users see. Sequential mode only."""
    experiment_attempts: Values | None = None
    direction: Literal["increase", "decrease", "either"] = "either"
    """In which direction the metric is bad."""
    tolerance: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    confidence: float | None = Field(default=None, gt=0, lt=1)
    effect_size_measure: Literal["meanRatio", "cles"] = "meanRatio"
    allowed: tuple[Size, Size] | None = None
    critical_thresholds: tuple[Size, Size] | None = None
    nan_strategy: Literal["remove", "replace"] = "remove"
    is_critical: bool = False
    floor: float = Field(default=0.002, ge=0, lt=1)
    """A rate of counted events that never matters, whatever the baseline has. Sequential mode only."""

    @model_validator(mode="after")
    def _counts_fit(self) -> Metric:
        given = self.control_attempts, self.experiment_attempts
        if (given[0] is None) != (given[1] is None):
            raise ValueError("attempts of both arms or of none")
        for arm, values, attempts in zip(
            ("control", "experiment"), (self.control, self.experiment), given, strict=True
        ):
            if attempts is None:
                continue
            if len(attempts) != len(values):
                raise ValueError(f"{arm}: {len(values)} counts and {len(attempts)} numbers of attempts")
            if any(n < 0 or x < 0 or x > n for x, n in zip(values, attempts, strict=True)):
                raise ValueError(f"{arm}: a count is between nought and its attempts")
        return self


_METRICS = TypeAdapter(Annotated[list[Metric], Field(min_length=1)])


def read_metrics(path: Path) -> list[Metric]:
    """The metrics in a JSON file.

    :raises EstateError: it cannot be read or judged; names every place that is wrong
    """
    try:
        return metrics_of(json.loads(path.read_text("utf-8")), str(path))
    except OSError as error:
        raise EstateError([EstateProblem(str(path), 0, "", f"cannot be read: {error.strerror}")]) from error
    except (ValueError, RecursionError) as error:  # bytes that are no text, no JSON, a number of thousands of digits
        line = getattr(error, "lineno", 0)
        raise EstateError([EstateProblem(str(path), line, "", f"is not JSON: {error}")]) from error


def metrics_of(document: Any, name: str = "metrics") -> list[Metric]:
    """Metrics from a parsed document.

    :raises EstateError: names every place that is wrong
    """
    try:
        metrics = _METRICS.validate_python(document)
    except ValidationError as error:
        problems = [
            EstateProblem(
                name, 0, _place(one["loc"]), one["msg"].removeprefix("Value error, ").replace("tuple", "list")
            )
            for one in error.errors()[:20]
        ]
        raise EstateError(problems) from error
    names = [one.name for one in metrics]
    doubles = sorted({one for one in names if names.count(one) > 1})
    if doubles:
        raise EstateError([EstateProblem(name, 0, "", f"a metric stands twice: {', '.join(doubles)}")])
    return metrics


def _place(location: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")
