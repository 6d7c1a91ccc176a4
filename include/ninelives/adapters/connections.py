"""Connections from the JSON file that Airflow's local file secrets backend reads too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ninelives.errors import Unavailable
from ninelives.ports import Connection


class FileConnections:
    """Reads ``{conn_id: {conn_type, host, port, login, password, schema, extra}}``, afresh for every ``get``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, conn_id: str) -> Connection:
        """The connection; raises ``Unavailable`` naming the id where there is none."""
        if (found := self.find(conn_id)) is None:
            raise Unavailable(f"connection {conn_id} is not in {self._path}; add it there or run `ninelives stack up`")
        return found

    def find(self, conn_id: str) -> Connection | None:
        """The connection; raises ``Unavailable`` only where the file cannot be read."""
        try:
            entry = _object(json.loads(self._path.read_text("utf-8")), "the file").get(conn_id)
            return None if entry is None else _connection(conn_id, _object(entry, "it"))
        except FileNotFoundError:
            raise Unavailable(
                f"connection {conn_id}: {self._path} does not exist; start the local estate with `ninelives stack up`"
            ) from None
        except (OSError, ValueError) as error:
            raise Unavailable(f"connection {conn_id}: cannot read {self._path}: {error}") from error


def _object(value: Any, what: str) -> dict[str, Any]:
    """:raises ValueError: it is none"""
    if not isinstance(value, dict):
        raise ValueError(f"{what} is a {type(value).__name__}, not an object {{...}}")  # never the value: it is secret
    return value


def _connection(conn_id: str, entry: dict[str, Any]) -> Connection:
    extra = entry.get("extra") or {}
    if isinstance(extra, str):
        try:
            extra = json.loads(extra)
        except ValueError as error:
            raise ValueError(f"extra is no JSON: {error}") from error
    return Connection(
        conn_id=conn_id,
        host=entry.get("host"),
        port=entry.get("port"),
        login=entry.get("login"),
        password=entry.get("password"),
        schema=entry.get("schema"),
        extra=_object(extra, "extra"),
    )
