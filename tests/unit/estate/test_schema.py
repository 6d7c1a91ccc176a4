"""The committed JSON Schema is the model's, and editors that use it agree with us on the demo."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest

from ninelives.estate.document import read_document
from ninelives.estate.schema import estate_schema, format_schema

DEMO = Path(__file__).parents[3] / "include/estates/demo"


def test_the_committed_schema_is_fresh() -> None:
    committed = (DEMO / "estate.schema.json").read_text("utf-8")
    assert committed == format_schema(), (
        "the model has changed; run: ninelives estate schema --write include/estates/demo/estate.schema.json"
    )


def test_the_demo_keeps_to_the_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(estate_schema())
    jsonschema.validate(read_document(DEMO / "estate.yaml").data, estate_schema())


def test_the_demo_names_its_schema_for_editors() -> None:
    first = (DEMO / "estate.yaml").read_text("utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=estate.schema.json"


def test_the_schema_refuses_unknown_keys_and_wrong_forms() -> None:
    data = read_document(DEMO / "estate.yaml").data
    for change in (
        {"sitess": []},
        {"sites": []},
        {"name": "Demo"},
        {"drills": data["drills"] | {"max_duration": "5m"}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(data | change, estate_schema())
