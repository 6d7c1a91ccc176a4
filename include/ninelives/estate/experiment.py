"""Experiments on users: two versions side by side, and what decides between them."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from ninelives.estate.declared import Declared
from ninelives.estate.units import Duration, ModelVersion, Name, Ratio, format_duration

BLIND_LOOKS = 3
"""Looks in which nothing was seen, after which a guard-rail guards nothing."""

NOBODYS = frozenset({
    "accept", "accept-encoding", "accept-language", "cache-control", "connection", "content-encoding", "content-length",
    "content-type", "date", "host", "origin", "transfer-encoding", "user-agent", "via",
})  # fmt: skip
"""Headers that many users share."""


def _exposure(value: float) -> float:
    if not 0.0001 <= value <= 0.5:
        raise ValueError(f"{value:.6g} is not an exposure; at least 0.01% and at most 50%: as many are the control")
    return value


def _header(value: Any) -> Any:
    if value.startswith(("x-ninelives-", "x-envoy-")):
        raise ValueError(f"the gateway takes {value} out of requests; choose another header")
    if value in NOBODYS:
        raise ValueError(f"{value} says nothing of who the user is, so that all would be in one arm; choose another")
    return value


Exposure = Annotated[Ratio, AfterValidator(_exposure)]
Header = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,63}$"), AfterValidator(_header)]


class Target(Declared):
    """The metric that an experiment is for: one number for each unit."""

    name: str = Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$", description="What is measured.")
    outcomes: str = Field(
        min_length=1, max_length=500, description="Prefix in the bucket data below which the units' numbers arrive."
    )
    wanted: Literal["increase", "decrease"]
    matters: float = Field(gt=0, le=1e100, allow_inf_nan=False, description="The smallest effect that would matter.")
    confidence: Ratio = Field(default=0.95, ge=0.5, lt=1)


class Experiment(Declared):
    """Some users see a new version for a while; guard-rails on errors and latency are always there."""

    name: Name
    service: Name
    version: ModelVersion = Field(description="What is new, as it was staged.")
    control: ModelVersion | None = Field(
        default=None, description="The version that must serve then; none: whichever does when it begins."
    )
    exposure: Exposure = Field(description="Share of the users who see what is new; as many again are the control.")
    peak: float = Field(gt=0, le=1e9, description="Requests per second of the whole service at its busiest.")
    cost: float = Field(
        default=1.0,
        gt=0,
        le=1e3,
        description="What a request of the new version takes of a replica, over an old one's.",
    )
    header: Header = Field(default="ninelives-unit", description="Of a request: the user's key.")
    until: date = Field(description="The last day, in UTC.")
    look_every: Duration = Field(
        default="30s", validate_default=True, description="How often guard-rails and target are looked at."
    )
    stop_within: Duration = Field(
        default="5min", validate_default=True, description="Until guard-rails have stopped it, at the worst."
    )
    target: Target

    @model_validator(mode="after")
    def _watched(self) -> Experiment:
        if self.look_every * BLIND_LOOKS > self.stop_within:
            raise ValueError(
                f"{BLIND_LOOKS} looks, one every {format_duration(self.look_every)}, take longer than stop_within "
                f"({format_duration(self.stop_within)}); look more often"
            )
        if self.look_every < timedelta(milliseconds=100):
            raise ValueError("a look takes a while itself; look every 100ms at the most often")
        if self.control == self.version:
            raise ValueError("control and version are the same; name two versions")
        return self
