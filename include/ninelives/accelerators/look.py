"""A look at accelerators as JSON: taken in one process, judged in another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ninelives.ports import Device, Look, Unread, Xid

LINE = "ninelives-look"


def to_document(look: Look) -> dict[str, Any]:
    return {
        "devices": [{"uuid": one.uuid, "name": one.name, "readings": _readings(one.readings)} for one in look.devices],
        "readings": _readings(look.readings),
        "absent": look.absent,
        "broken": look.broken,
    }


def from_document(document: Any) -> Look:
    """The look again; raises ``ValueError`` for anything else, because what nobody understands is no good news."""
    try:
        if document.keys() != {"devices", "readings", "absent", "broken"}:
            raise ValueError(f"it has the fields {sorted(document)}")
        devices = tuple(Device(_text(one["uuid"]), _text(one["name"]), _read(one["readings"]))
                        for one in document["devices"])  # fmt: skip
        return Look(devices, _read(document["readings"]), _said(document["absent"]), _said(document["broken"]))
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"no look at accelerators: {error!r}") from error


def as_line(look: Look) -> str:
    """One line, which ``from_log`` finds among others."""
    return json.dumps({LINE: to_document(look)})


def from_log(text: str) -> Look:
    """The one look that a log has; raises ``ValueError`` where there is none, or more than one."""
    found = [line for line in text.splitlines() if line.startswith(f'{{"{LINE}": ')]
    if len(found) != 1:
        raise ValueError(f"there are {len(found)} looks in {len(text)} characters of log: {text.strip()[-200:]!r}")
    return from_document(json.loads(found[0])[LINE])


def _readings(readings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _written(value) for name, value in readings.items()}


def _written(value: Any) -> Any:
    match value:
        case Unread():
            return {"unread": value.why, "lost": value.lost}
        case Xid():
            return {"xid": value.code, "device": value.device, "text": value.text}
        case tuple():
            return [_written(one) for one in value]
    return value


def _read(readings: Any) -> dict[str, Any]:
    return {_text(name): _value(value) for name, value in readings.items()}


def _value(value: Any) -> Any:
    match value:
        case {"unread": str(why), "lost": bool(lost), **rest} if not rest:
            return Unread(why, lost)
        case {"xid": int(code), "device": str(device), "text": str(text), **rest} if not rest:
            return Xid(code, device, text)
        case list():
            return tuple(_value(one) for one in value)
        case None | bool() | int() | float() | str():
            return value
    raise ValueError(f"{value!r} is no reading")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _said(value: Any) -> str | None:
    return None if value is None else _text(value)
