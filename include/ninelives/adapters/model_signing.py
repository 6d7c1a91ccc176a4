"""Signatures by OpenSSF Model Signing: one over a backup's manifest, which names every file by its SHA-256.

Its own command checks them too: ``model_signing verify key FILE --signature FILE.sig --public_key PEM``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from ninelives.errors import Corrupted, Refused
from ninelives.ports import Connection


class ModelSigner:
    """``ports.Signer`` with a key pair on an elliptic curve; the private half only where backups are made.

    :param private: PEM; ``None``: it can only verify
    :param public: PEM
    """

    def __init__(self, private: str | None, public: str) -> None:
        self._private = private
        self._public = public

    @classmethod
    def from_connection(cls, connection: Connection) -> ModelSigner | None:
        """``signing_key`` and ``verify_key`` in the extra of ``ninelives_vault``; without the latter, ``None``."""
        private, public = (connection.extra.get(name) for name in ("signing_key", "verify_key"))
        return cls(str(private) if private else None, str(public)) if public else None

    def sign(self, file: Path) -> bytes:
        from model_signing import signing

        if self._private is None:
            raise Refused("sign a backup", ["the connection ninelives_vault has no signing_key"])
        with tempfile.TemporaryDirectory() as folder:
            key, signature = Path(folder) / "key.pem", Path(folder) / "signature"
            key.touch(mode=0o600)
            key.write_text(self._private, "utf-8")
            signing.Config().use_elliptic_key_signer(private_key=key).sign(file, signature)  # type: ignore[no-untyped-call]
            return signature.read_bytes()

    def verify(self, file: Path, signature: bytes) -> None:
        from model_signing import verifying

        with tempfile.TemporaryDirectory() as folder:
            key, written = Path(folder) / "key.pem", Path(folder) / "signature"
            key.write_text(self._public, "utf-8")
            written.write_bytes(signature)
            try:
                verifying.Config().use_elliptic_key_verifier(public_key=key).verify(file, written)  # type: ignore[no-untyped-call]
            except Exception as error:  # the library raises whatever its own libraries do, for whatever is wrong
                raise Corrupted(f"{file.name} is not signed with the estate's key: {str(error)[:300]}") from error


def make_keys() -> tuple[str, str]:
    """A new private and public key, as PEM."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()
