"""Providers and consumers in an estate file: what is wrong with one is said on its own line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from unit.estate.test_check import DATA

from ninelives.errors import EstateError
from ninelives.estate import load_estate

WINDOW = {"days": ["sun"], "begin": "10:00", "end": "12:00", "zone": "Europe/Paris"}
FEED = {"stream": "departures", "prefix": "flights/", "every": "1h"}
PROVIDER = {"name": "airports", "contacts": ["ops"], "test": [WINDOW], "feed": FEED}
BOARD = {"name": "board", "service": "arrival-delay", "contact": "x", "sends": {"a": "INT64"}, "reads": {"b": "FP32"}}


def written(folder: Path, provider: dict[str, Any], consumer: dict[str, Any]) -> Path:
    path = folder / "estate.yaml"
    path.write_text(json.dumps({**DATA, "providers": [provider], "consumers": [consumer]}, indent=1))
    return path


def test_a_provider_and_a_consumer_are_sound(tmp_path: Path) -> None:
    assert load_estate(written(tmp_path, PROVIDER, BOARD)).provider_by_name["airports"].contacts == ("ops",)


@pytest.mark.parametrize(
    ("provider", "consumer", "path", "words"),
    [
        ({}, {"service": "arrival-delayy"}, "consumers[0].service", "did you mean arrival-delay?"),
        ({}, {"reads": {}}, "consumers[0].reads", ""),
        ({"feed": FEED | {"stream": "trains"}}, {}, "providers[0].feed.stream", "not declared below streams"),
        ({"test": []}, {}, "providers[0].feed", "there is no test window"),
        ({"feed": None, "sandbox": True}, {}, "providers[0].sandbox", "without a feed"),
        ({"test": [WINDOW | {"zone": "Europe/Pariss"}]}, {}, "providers[0].test[0].zone", "is not a time zone"),
        ({"test": [WINDOW | {"end": "25:00"}]}, {}, "providers[0].test[0].end", "'25:00' is not a time of day"),
        ({"test": [WINDOW | {"begin": 600}]}, {}, "providers[0].test[0].begin", "write it in quotes"),
        ({"contacts": [""]}, {}, "providers[0].contacts[0]", "at least 1 character"),
    ],
)
def test_what_is_wrong_is_said_where_it_is(
    tmp_path: Path, provider: dict[str, Any], consumer: dict[str, Any], path: str, words: str
) -> None:
    with pytest.raises(EstateError) as caught:
        load_estate(written(tmp_path, PROVIDER | provider, BOARD | consumer))
    assert [problem.path for problem in caught.value.problems] == [path]
    assert words in caught.value.problems[0].message
