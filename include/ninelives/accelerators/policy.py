"""What is asked of accelerators, with defaults that a file may override."""

from __future__ import annotations

import json
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ninelives.errors import EstateError, EstateProblem


class XidGate(StrEnum):
    """What one XID means for serving here."""

    BLOCK = "block"
    BLOCK_UNTIL_RESET = "block_until_reset"
    CORRELATE = "correlate"
    """Its severity depends on what nothing here decides, so it blocks."""
    WARN = "warn"
    IGNORE = "ignore"


class FromFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Policy(FromFile):
    """Which findings block."""

    kind: str = Field(default="nvidia", description="nvidia, cpu, or the name of an entry point.")
    devices: tuple[str, ...] = Field(default=(), description="UUIDs that must be there, and no others; none: any.")
    ecc: bool = Field(default=True, description="Whether ECC must be on.")
    mig: bool = Field(default=False, description="Whether MIG must be on.")
    optional: frozenset[str] = Field(
        default=frozenset(
            {"sram", "retired_pages", "nvlink", "mig", "inforom", "throttling", "replays", "tenants", "remap_banks"}
        ),
        description="Checks that may stay unknown, because many devices cannot answer them.",
    )
    under_load: bool = Field(default=False, description="The device is busy, so that throttling blocks.")
    tenants: frozenset[int] = Field(default=frozenset(), description="Processes (PIDs) that may use it beside us.")
    xids: dict[int, XidGate] = Field(default={}, description="What an XID means, where the table is to be overruled.")
    memory_margin: float = Field(default=1.1, ge=1, description="Free memory as a multiple of what is needed.")

    def gate(self, code: int) -> XidGate:
        table = xid_table()
        known = table["xids"].get(str(code), {}).get("gate", table["default"])
        return self.xids.get(code, XidGate(known))


@cache
def xid_table() -> dict[str, Any]:
    """``xids.json``, which names its sources: the meanings and gates are ours."""
    table: dict[str, Any] = json.loads(Path(__file__).with_name("xids.json").read_text("utf-8"))
    return table


Read = TypeVar("Read", bound=FromFile)


def read_file(kind: type[Read], path: Path) -> Read:
    """``kind`` from a YAML or JSON file; raises ``EstateError`` naming all that is wrong with it."""
    try:
        return kind.model_validate(yaml.safe_load(path.read_text("utf-8")) or {})
    except ValidationError as error:
        raise EstateError(
            [
                EstateProblem(str(path), 0, ".".join(map(str, one["loc"])), f"{one['msg']}; correct the file")
                for one in error.errors()
            ]
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise EstateError([EstateProblem(str(path), 0, "", f"cannot be read: {error}")]) from error
