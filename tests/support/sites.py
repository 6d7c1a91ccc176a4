"""Two sites to replicate between: a folder each, and the ``rclone serve s3`` that serves it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from support.processes import wait_until

from ninelives.adapters.rclone import RcloneCopier, find_rclone
from ninelives.adapters.s3 import S3ObjectStore
from ninelives.errors import Unavailable
from ninelives.ports import Connection, CopyProgress
from ninelives.replication.replicate import ReplicationResult, replicate

KEY, SECRET = "replicationtestkey00", "replicationtestsecret00"


class Site:
    """One store: a folder and the process that serves it, at an address that it keeps when it is restarted.

    :param host: where it listens
    :param within: what its command begins with, where it runs in a network of its own
    """

    def __init__(self, name: str, folder: Path, *, host: str = "127.0.0.1", within: Sequence[str] = ()) -> None:
        self.name, self.folder, self.port, self.host, self.within = name, folder, 0, host, list(within)
        self.process: subprocess.Popen[bytes] | None = None
        self._clients: dict[int, S3ObjectStore] = {}
        for bucket in ("data", "models", "mlflow"):
            (folder / bucket).mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        log = self.folder.with_name(f"{self.name}.log")
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [
                    *self.within,
                    find_rclone(),
                    "serve",
                    "s3",
                    "--addr",
                    f"{self.host}:{self.port}",
                    "--config",
                    os.devnull,
                    self.folder,
                ],
                env={**os.environ, "RCLONE_AUTH_KEY": f'"{KEY},{SECRET}"'},
                stderr=stderr,
                start_new_session=True,
            )
        address = re.compile(re.escape(self.host).encode() + rb":(\d+)")
        found = wait_until(lambda: address.search(log.read_bytes()), f"{self.name} names its port")
        self.port = int(found[1])
        wait_until(self._answers, f"{self.name} answers")

    def _answers(self) -> bool:
        try:
            self.store.ping()
        except Unavailable:
            return False
        return True

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    @property
    def connection(self) -> Connection:
        extra = {"endpoint_url": f"http://{self.host}:{self.port}", "region_name": "us-east-1"}
        return Connection(f"ninelives_{self.name}_store", login=KEY, password=SECRET, extra=extra)

    @property
    def store(self) -> S3ObjectStore:
        if self.port not in self._clients:  # each costs a fifth of a second of CPU
            self._clients[self.port] = S3ObjectStore.from_connection(self.connection, self.name)
        return self._clients[self.port]

    def path(self, key: str, bucket: str = "data") -> Path:
        return self.folder / bucket / key

    def objects(self, prefix: str = "flights", bucket: str = "data") -> dict[str, bytes]:
        root = self.folder / bucket
        return {
            str(file.relative_to(root)): file.read_bytes()
            for file in (root / prefix).rglob("*")
            if file.is_file() and not file.name.startswith(".rclone_temp_put")
        }

    def fill(self, count: int, size: int) -> None:
        """Write days straight to the disk, as if they had been there when the store was started."""
        for day in range(count):
            file = self.path(f"flights/day={day:04}/part-0.parquet")
            file.parent.mkdir(parents=True)
            file.write_bytes(os.urandom(size))
            os.utime(file, (1_700_000_000, 1_700_000_000))

    def flip(self, key: str, bucket: str = "data") -> None:
        """One bit on the disk, size and time kept: no listing and no cached ETag shows it."""
        file = self.path(key, bucket)
        stat = file.stat()
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def run(paris: Site, dublin: Site, on_progress: Callable[[CopyProgress], None] | None = None) -> ReplicationResult:
    ends = (paris.store, dublin.store, RcloneCopier(), paris.connection, dublin.connection)
    return replicate("flights", *ends, on_progress=on_progress)
