"""A model's versions in the registry: who may do what with them, and which may be deleted."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from ninelives.estate.declared import Declared
from ninelives.estate.units import Duration, Name


class RegistryRole(StrEnum):
    """What an account of the registry may do with a model; deleting is for the registry's administrator alone."""

    READER = "reader"
    TRAINER = "trainer"
    """Reads, logs runs and registers versions."""
    RELEASER = "releaser"
    """Reads, and says which version is the champion; registers none."""


class RegistryAccount(Declared):
    """An account of the registry and what it may do; its password is in the connection ``ninelives_mlflow_<who>``."""

    who: Name
    role: RegistryRole


class ArtefactRetention(Declared):
    """Which versions may be deleted: those that neither number nor age keeps, and that nobody uses or holds."""

    keep: int = Field(default=5, ge=1, le=10_000, description="So many of the newest versions stay, however old.")
    keep_for: Duration = Field(default="90d", validate_default=True, description="A version stays at least this long.")
