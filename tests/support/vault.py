"""A vault as the local estate has it: a folder, the keeper's way to it, and the server that lets the operator add."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from support.processes import free_port, wait_until

from ninelives.adapters.rclone import find_rclone
from ninelives.adapters.restic import Restic
from ninelives.errors import NinelivesError

KEEPER_KEY, OPERATOR_KEY = "the keeper's own password", "the operator's own password"
LOGIN, PASSWORD = "operator", "server-password"


@cache
def _empty(folder: Path) -> Path:
    """Made once: deriving a key costs restic a second of CPU, on purpose."""
    Restic(str(folder), KEEPER_KEY).initialise()
    (made,) = (folder / "keys").iterdir()
    for password, user in ((KEEPER_KEY, "keeper"), (OPERATOR_KEY, "operator")):
        data = cheap_key(json.loads(made.read_bytes()), KEEPER_KEY, password, user)
        (folder / "keys" / hashlib.sha256(data).hexdigest()).write_bytes(data)
    made.unlink()
    return folder


def cheap_key(key: dict[str, Any], password: str, new_password: str, user: str) -> bytes:
    """The same master key in a key file that is opened in no time, where restic's own cost a third of a second each.

    The format is in restic's design document: scrypt gives a key for AES-256-CTR and one for Poly1305-AES.
    """
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.poly1305 import Poly1305

    def derive(word: str, salt: bytes, n: int, r: int, p: int) -> bytes:
        return hashlib.scrypt(word.encode(), salt=salt, n=n, r=r, p=p, dklen=64, maxmem=2**28)

    def crypt(secret: bytes, iv: bytes, data: bytes) -> bytes:
        return Cipher(algorithms.AES(secret[:32]), modes.CTR(iv)).encryptor().update(data)

    def mac(secret: bytes, iv: bytes, data: bytes) -> bytes:
        mask = Cipher(algorithms.AES(secret[32:48]), modes.ECB()).encryptor().update(iv)
        return Poly1305.generate_tag(secret[48:] + mask, data)

    data = base64.b64decode(key["data"])
    secret = derive(password, base64.b64decode(key["salt"]), key["N"], key["r"], key["p"])
    iv, sealed, tag = data[:16], data[16:-16], data[-16:]
    assert mac(secret, iv, sealed) == tag
    salt, iv = os.urandom(64), os.urandom(16)
    secret, opened = derive(new_password, salt, 2, 8, 1), crypt(secret, data[:16], sealed)
    sealed = crypt(secret, iv, opened)
    parts = {"salt": salt, "data": iv + sealed + mac(secret, iv, sealed)}
    texts = {name: base64.b64encode(value).decode() for name, value in parts.items()}
    return json.dumps({**key, "username": user, "N": 2, "r": 8, "p": 1, **texts}).encode()


class VaultProcess:
    def __init__(self, folder: Path, empty: Path) -> None:
        """:param empty: a folder that all vaults of a test session are copied from"""
        self.folder = folder
        shutil.copytree(_empty(empty), folder, copy_function=shutil.copyfile)
        self.port = free_port()
        self.child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.child = subprocess.Popen(
            [
                find_rclone(), "serve", "restic", "--append-only", "--cache-objects=false",
                "--addr", f"127.0.0.1:{self.port}", "--config", os.devnull, str(self.folder),
            ],
            env={**os.environ, "RCLONE_USER": LOGIN, "RCLONE_PASS": PASSWORD},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        wait_until(self._answers, "the vault answers")

    def _answers(self) -> bool:
        try:
            return bool(self.operator._get("keys/").json())
        except NinelivesError:
            return False

    def kill(self) -> None:
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(signal.SIGKILL)
            self.child.wait(10)

    @property
    def connection(self) -> dict[str, Any]:
        return {
            "conn_type": "http",
            "host": "127.0.0.1",
            "port": self.port,
            "login": LOGIN,
            "password": PASSWORD,
            "extra": {"key": OPERATOR_KEY},
        }

    @property
    def operator(self) -> Restic:
        return Restic(f"rest:http://127.0.0.1:{self.port}/", OPERATOR_KEY, login=(LOGIN, PASSWORD))

    @property
    def keeper(self) -> Restic:
        return Restic(str(self.folder), KEEPER_KEY)

    def files(self, kind: str) -> list[Path]:
        return sorted(path for path in (self.folder / kind).rglob("*") if path.is_file())


@contextmanager
def running(vault: VaultProcess) -> Iterator[VaultProcess]:
    try:
        vault.start()
        yield vault
    finally:
        vault.kill()


def flip(path: Path, bit: int) -> None:
    """One bit, with size and time kept: what no listing shows."""
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    path.chmod(0o600)
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
