"""Passwords and keys of the local estate: made at first start, kept in one file of mode 0600."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable
from pathlib import Path

from ninelives.errors import Corrupted
from ninelives.files import write_atomically


class Secrets:
    """Named secrets; asking for one that does not exist makes it and saves it before it is used."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.made: list[str] = []
        """Names made by this object, in order: what a user has not seen yet."""
        try:
            self._known: dict[str, str] = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            self._known = {}
        except ValueError as error:
            raise Corrupted(
                f"{path}: {error}; its passwords are lost: run `ninelives stack down` and remove the folder"
            ) from error

    def token(self, name: str, size: int = 24) -> str:
        """``size`` random bytes as letters, digits, ``-`` and ``_``: safe in URLs, INI files and shells."""
        return self._get(name, lambda: secrets.token_urlsafe(size))

    def fernet_key(self, name: str) -> str:
        """32 bytes in padded URL-safe base64, as Fernet wants them."""
        return self._get(name, lambda: base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())

    def key_pair(self, name: str, make: Callable[[], tuple[str, str]]) -> tuple[str, str]:
        """A private and a public key that belong together."""
        if f"{name}-public" not in self._known:  # written last: a killed start makes both anew
            self._known.pop(f"{name}-private", None)
            private, public = make()
            self._get(f"{name}-private", lambda: private)
            self._get(f"{name}-public", lambda: public)
        return self._known[f"{name}-private"], self._known[f"{name}-public"]

    def _get(self, name: str, make: Callable[[], str]) -> str:
        if name not in self._known:
            self._known[name] = make()
            self.made.append(name)
            private_folder(self._path.parent)
            write_atomically(self._path, json.dumps(self._known, indent=1).encode(), mode=0o600)
        return self._known[name]


def private_folder(path: Path) -> Path:
    """Make ``path`` for its owner alone."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    return path
