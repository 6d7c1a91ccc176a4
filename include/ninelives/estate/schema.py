"""The JSON Schema that editors check an estate file with while it is written."""

from __future__ import annotations

import json
from typing import Any

from ninelives.estate.model import Estate


def estate_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the form of an estate; references and contradictions are beyond it."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Estate.model_json_schema()}


def format_schema() -> str:
    """The text of the committed ``estate.schema.json``."""
    return json.dumps(estate_schema(), indent=2, ensure_ascii=False) + "\n"
