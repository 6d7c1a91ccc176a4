"""A connection that was written wrong is told by its name, without a traceback and without a secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ninelives.adapters.connections import FileConnections
from ninelives.adapters.s3 import S3ObjectStore
from ninelives.errors import Unavailable
from ninelives.ports import Connection


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "the file is a list"),
        ({"ninelives_paris_store": "secret"}, "it is a str"),
        ({"ninelives_paris_store": {"password": "secret", "extra": "{"}}, "extra is no JSON"),
        ({"ninelives_paris_store": {"password": "secret", "extra": ["secret"]}}, "extra is a list"),
        ({"ninelives_paris_store": {"password": "secret", "extra": '"secret"'}}, "extra is a str"),
        ({}, "ninelives_paris_store is not in"),
    ],
)
def test_what_is_no_connection_is_said(tmp_path: Path, document: Any, said: str) -> None:
    path = tmp_path / "connections.json"
    path.write_text(json.dumps(document))
    with pytest.raises(Unavailable, match=said) as raised:
        FileConnections(path).get("ninelives_paris_store")
    assert "ninelives_paris_store" in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    ["localhost:9000", "http://foo bar", "http://", "http://host:port", "ftp://host", "http://h:0", "http://a:b@h", 5],
)
def test_an_address_that_is_none_is_said_before_anything_is_asked(url: Any) -> None:
    with pytest.raises(Unavailable, match="write it like http://host:9000"):
        S3ObjectStore.from_connection(Connection("ninelives_paris_store", extra={"endpoint_url": url}), "paris")


@pytest.mark.parametrize(
    "url", [None, "http://127.0.0.1:9000", "https://store.example/", "http://[::1]:9000", "http://h/s3"]
)
def test_an_address_that_is_one_is_taken(url: str | None) -> None:
    S3ObjectStore.from_connection(Connection("ninelives_paris_store", extra={"endpoint_url": url}), "paris")
