"""What an experiment shows, at any time: its guard-rails stop it, its target metric decides it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ninelives.errors import EstateError, EstateProblem
from ninelives.estate.experiment import BLIND_LOOKS
from ninelives.estate.units import Name
from ninelives.experiments.effect import Effect, Sample, effects, mismatched
from ninelives.releases import judge as canary
from ninelives.releases.judge import Metric

ERRORS, LATENCY = "errors", "latency"
"""Guard-rails that no experiment goes without: errors per attempt, and at least one that begins with ``latency``."""
_Number = Annotated[float, Field(ge=-1e100, le=1e100, allow_inf_nan=False)]


class Verdict(StrEnum):
    STOP = "stop"
    """A guard-rail says so; whatever the target metric says does not matter any more."""
    BETTER = "better"
    WORSE = "worse"
    NO_DIFFERENCE = "no difference"
    """None that matters."""
    UNDECIDED = "undecided"


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Look(_Read):
    """The units of one arm that are new in a look: whoever was counted before is not counted again."""

    units: int = Field(ge=0, le=10**12)
    mean: _Number = 0.0
    variance: _Number = Field(default=0.0, ge=0)
    """Of a sample; nought of a single unit."""

    @property
    def sample(self) -> Sample:
        return Sample(self.units, self.mean, self.variance if self.units > 1 else 0.0)


class Target(_Read):
    """The metric that the experiment is for, one entry per look and arm."""

    name: str = Field(min_length=1, max_length=200)
    wanted: Literal["increase", "decrease"]
    matters: float = Field(ge=1e-100, le=1e100, allow_inf_nan=False)
    """The smallest effect that would matter, in the metric's unit, chosen before there were data."""
    confidence: float = Field(default=0.95, ge=0.5, lt=1)
    control: tuple[Look, ...] = Field(min_length=1, max_length=100_000)
    experiment: tuple[Look, ...] = Field(min_length=1, max_length=100_000)

    @model_validator(mode="after")
    def _same_looks(self) -> Target:
        if len(self.control) != len(self.experiment):
            raise ValueError(f"{len(self.control)} looks at the control and {len(self.experiment)} at the experiment")
        return self


class Input(_Read):
    """``guard_rails`` are metrics of the canary judge with looks of their own, a minute each, say."""

    name: Name
    target: Target
    guard_rails: tuple[Metric, ...] = Field(max_length=100)

    @model_validator(mode="after")
    def _guarded(self) -> Input:
        names = [one.name for one in self.guard_rails]
        if len(set(names)) < len(names):
            raise ValueError("a guard-rail stands twice")
        if not all(name.isprintable() for name in (self.target.name, *names)):
            raise ValueError("a name has characters that cannot be printed")
        guarding = [one for one in self.guard_rails if one.direction != "decrease"]
        if not any(one.name == ERRORS and one.control_attempts is not None for one in guarding):
            raise ValueError(f"no guard-rail {ERRORS!r} with attempts against an increase: availability is not guarded")
        if not any(one.name.startswith(LATENCY) for one in guarding):
            raise ValueError(f"no guard-rail that begins with {LATENCY!r} against an increase: latency is not guarded")
        return self


@dataclass(frozen=True)
class Judged:
    """``look`` (from 1) is that of the target at which it was decided; a guard-rail has looks of its own."""

    name: str
    target: Target
    verdict: Verdict
    reasons: tuple[str, ...]
    look: int | None
    effects: tuple[Effect, ...]
    guard_rails: canary.Judged

    def facts(self) -> dict[str, Any]:
        return {
            "experiment": self.name,
            "verdict": self.verdict.value,
            "reasons": list(self.reasons),
            "look": self.look,
            "target": {
                "name": self.target.name, "wanted": self.target.wanted, "matters": self.target.matters,
                "confidence": self.target.confidence, **self.effects[-1].facts(),
            },
            "guard_rails": self.guard_rails.facts()["metrics"],
        }  # fmt: skip


def judge(given: Input) -> Judged:
    """May be asked after every look: the chances of error, of guard-rails and of target, are each over all looks.

    The target's verdict is that of the first look at which there was one.
    """
    target = given.target
    control, experiment = ([one.sample for one in arm] for arm in (target.control, target.experiment))
    found = effects(control, experiment, matters=target.matters, alpha=1 - target.confidence)
    rails = canary.judge(given.guard_rails)
    stops, look = _stops(given.guard_rails, rails), mismatched(control, experiment)
    if look:
        arms = f"{found[look - 1].control} units in the control and {found[look - 1].experiment} in the experiment"
        stops.append(f"{arms}, which were assigned equally: what is measured on them does not hold")
    if stops:
        return Judged(given.name, target, Verdict.STOP, tuple(stops), look or None, tuple(found), rails)
    verdict, reasons, at = _decided(target, found)
    if verdict is Verdict.BETTER and rails.verdict is not canary.Verdict.PROMOTE:
        open_ = [f"{one.name}: {one.reason}" for one in rails.findings if one.verdict is not canary.Verdict.PROMOTE]
        verdict, reasons = Verdict.UNDECIDED, (*reasons, *open_)
    return Judged(given.name, target, verdict, reasons, at, tuple(found), rails)


def _stops(rails: Sequence[Metric], judged: canary.Judged) -> list[str]:
    worse = [one for one in judged.findings if one.verdict is canary.Verdict.ROLL_BACK]
    return [
        *(f"{one.name}: {one.reason}, since its look {one.look}" for one in worse),
        *(f"{one.name}: nothing was seen of an arm in the last {BLIND_LOOKS} looks" for one in rails if _blind(one)),
    ]


def _blind(rail: Metric) -> bool:
    arms = (rail.control, rail.control_attempts), (rail.experiment, rail.experiment_attempts)
    looks = max(len(rail.control), len(rail.experiment))
    if looks < BLIND_LOOKS:
        return False
    return any(
        not any(
            look < len(values) and not math.isnan(values[look]) and (attempts is None or attempts[look] > 0)
            for look in range(looks - BLIND_LOOKS, looks)
        )
        for values, attempts in arms
    )


def _decided(target: Target, found: Sequence[Effect]) -> tuple[Verdict, tuple[str, ...], int | None]:
    sure = f"{target.confidence:.4g}"
    for look, one in enumerate(found, 1):
        if not one.known:
            continue
        said = (
            f"{target.name}: {one.difference:+.4g} ({one.low:+.4g} to {one.high:+.4g}, sure to {sure}) at look {look}"
        )
        if one.low > 0 or one.high < 0:
            good = (one.low > 0) == (target.wanted == "increase")
            return Verdict.BETTER if good else Verdict.WORSE, (said,), look
        if -target.matters < one.low and one.high < target.matters:
            return Verdict.NO_DIFFERENCE, (f"{said}; less than {target.matters:.4g} either way",), look
    last = found[-1]
    if last.known:
        said = f"{target.name}: {last.difference:+.4g} ({last.low:+.4g} to {last.high:+.4g}, sure to {sure}) so far"
        return Verdict.UNDECIDED, (said,), None
    counts = f"{last.control} units in the control and {last.experiment} in the experiment"
    return Verdict.UNDECIDED, (f"{target.name}: {counts} are not enough to say anything",), None


def read_experiment(path: Path) -> Input:
    """The experiment in a JSON file.

    :raises EstateError: it cannot be read or judged; names every place that is wrong
    """
    try:
        document = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise EstateError([EstateProblem(str(path), 0, "", f"cannot be read: {error.strerror}")]) from error
    except (ValueError, RecursionError) as error:  # ValueError: also a number without end
        line = getattr(error, "lineno", 0)
        raise EstateError([EstateProblem(str(path), line, "", f"is not JSON: {error}")]) from error
    try:
        return Input.model_validate(document)
    except ValidationError as error:
        raise EstateError(
            [EstateProblem(str(path), 0, ".".join(map(str, one["loc"])), one["msg"]) for one in error.errors()[:20]]
        ) from error
