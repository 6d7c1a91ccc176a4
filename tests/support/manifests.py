"""Manifests against the schemas that Kubernetes' extensions publish, and those that its own client was made from."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

CRDS = Path(__file__).parent / "crds"


@functools.cache
def schemas() -> dict[tuple[str, str], dict[str, Any]]:
    """Of every kind by API version and name, and strict: an unknown field is an error, where a cluster drops it."""
    found = {}
    for path in CRDS.glob("*.json"):
        definition = json.loads(path.read_text("utf-8"))
        key = f"{definition['group']}/{definition['version']}", definition["kind"]
        found[key] = _strict(definition["schema"]) | {"plural": definition["plural"]}
        found[key]["properties"]["metadata"] = {"type": "object"}
    return found


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"], **({"pattern": schema["pattern"]} if "pattern" in schema else {})}
    strict = {key: _strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        strict.setdefault("additionalProperties", False)
    return strict


def problems(document: dict[str, Any]) -> list[str]:
    """What the published schema of ``document``'s kind says against it; raises ``KeyError`` where none is here."""
    found = _validator(document["apiVersion"], document["kind"]).iter_errors(document)
    return [f"{'.'.join(map(str, one.absolute_path))}: {one.message}" for one in found]


@functools.cache
def _validator(version: str, kind: str) -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(schemas()[version, kind])


def core_problems(document: dict[str, Any]) -> list[str]:
    """What the official client's models, generated from Kubernetes' OpenAPI, say against a document of the core."""
    from kubernetes import client

    version = document["apiVersion"].rpartition("/")[2]
    model = getattr(client, f"{version.capitalize()}{document['kind']}")
    return list(_against(model, document, document["kind"], client))


def _against(model: Any, value: Any, where: str, client: Any) -> Any:
    fields = {wire: (name, model.openapi_types[name]) for name, wire in model.attribute_map.items()}
    arguments: dict[str, Any] = {}
    for key, one in value.items():
        if key not in fields:
            yield f"{where}: unknown field {key}"
            continue
        name, kind = fields[key]
        arguments[name] = one
        yield from _value(kind, one, f"{where}.{key}", client)
    try:  # required fields and limits: the models' own checks
        model(**arguments)
    except ValueError as error:
        yield f"{where}: {error}"


def _value(kind: str, value: Any, where: str, client: Any) -> Any:
    if kind.startswith("list["):
        if not isinstance(value, list):
            yield f"{where}: no list"
            return
        for index, one in enumerate(value):
            yield from _value(kind[5:-1], one, f"{where}[{index}]", client)
    elif kind.startswith("dict("):
        inner = kind[5:-1].split(",")[1].strip()
        for key, one in value.items():
            yield from _value(inner, one, f"{where}.{key}", client)
    elif kind in ("str", "int", "bool", "float"):
        expected = {"str": str, "int": int, "bool": bool, "float": (int, float)}[kind]
        if not isinstance(value, expected) or (kind != "bool" and isinstance(value, bool)):
            yield f"{where}: {value!r} is no {kind}"
    elif hasattr(client, kind):
        yield from _against(getattr(client, kind), value, where, client)
