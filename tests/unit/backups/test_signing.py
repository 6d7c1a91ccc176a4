"""A backup is the estate's own, or it is refused: real signatures by OpenSSF Model Signing."""

from __future__ import annotations

from pathlib import Path

import pytest

from ninelives.adapters.model_signing import ModelSigner, make_keys
from ninelives.errors import Corrupted, Refused
from ninelives.ports import Connection


def test_only_the_same_bytes_signed_by_the_estates_key_are_believed(tmp_path: Path) -> None:
    private, public = make_keys()
    manifest = tmp_path / "MANIFEST.json"
    manifest.write_text("{}")
    connection = Connection("ninelives_vault", extra={"signing_key": private, "verify_key": public})
    signer = ModelSigner.from_connection(connection)
    assert signer is not None
    signature = signer.sign(manifest)
    reader = ModelSigner(None, public)
    reader.verify(manifest, signature)
    with pytest.raises(Refused, match="no signing_key"):
        reader.sign(manifest)
    stranger, _ = make_keys()
    for forged in (ModelSigner(stranger, public).sign(manifest), b"{}", b"", signature[:-40]):
        with pytest.raises(Corrupted, match="not signed with the estate's key"):
            reader.verify(manifest, forged)
    manifest.write_text("{ }")
    with pytest.raises(Corrupted):
        reader.verify(manifest, signature)


def test_an_estate_without_a_key_signs_nothing() -> None:
    assert ModelSigner.from_connection(Connection("ninelives_vault", extra={"key": "password"})) is None
