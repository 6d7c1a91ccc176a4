"""What an XID means under a policy, and the files that people name at the command line."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from ninelives.errors import EstateError, EstateProblem
from ninelives.estate.accelerators import Policy, XidGate


def gate_of(policy: Policy, code: int) -> XidGate:
    """The policy's own word on the XID, else that of the table."""
    table = xid_table()
    known = table["xids"].get(str(code), {}).get("gate", table["default"])
    return policy.xids.get(code, XidGate(known))


@cache
def xid_table() -> dict[str, Any]:
    """``xids.json``, which names its sources: the meanings and gates are ours."""
    table: dict[str, Any] = json.loads(Path(__file__).with_name("xids.json").read_text("utf-8"))
    return table


Read = TypeVar("Read", bound=BaseModel)


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
