"""What everything declared in the estate is."""

from __future__ import annotations

from functools import cached_property

from pydantic import BaseModel, ConfigDict


class Declared(BaseModel):
    """Frozen, and an unknown key is an error: a typo must not silently drop a promise."""

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))
