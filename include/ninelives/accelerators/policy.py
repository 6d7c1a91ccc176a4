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


class _Loader(yaml.SafeLoader):
    """Of two equal keys PyYAML silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set[str]()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value} is repeated", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_file(kind: type[Read], path: Path) -> Read:
    """``kind`` from a YAML or JSON file; raises ``EstateError`` naming all that is wrong with it."""
    try:
        found = yaml.load(path.read_text("utf-8"), _Loader)  # noqa: S506 - it is a SafeLoader
        return kind.model_validate({} if found is None else found)
    except ValidationError as error:
        raise EstateError(
            [
                EstateProblem(str(path), 0, ".".join(map(str, one["loc"])), f"{one['msg']}; correct the file")
                for one in error.errors()
            ]
        ) from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: also a number without end
        raise EstateError([EstateProblem(str(path), 0, "", f"cannot be read: {error}; correct the file")]) from error
