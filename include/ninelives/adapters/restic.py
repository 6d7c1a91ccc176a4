"""The vault with restic: encrypted before it leaves this machine, one child process at a time, keys never in argv.

restic 0.14 (Debian 12) and later. Traps of it that are met here:

- ``check`` reads no pack, and neither it nor ``--read-data`` looks at keys that the caller does not use, at packs that
  no index names, or at names that are no hash. So each small file is read and hashed against its name here, and the
  listing is compared with what restic says it uses.
- ``restore`` writes wrong files and only then ends with an error: the caller restores into a folder apart.
- What cannot be read, and what may not be removed, is tried again for up to 15 minutes: here three times are enough.
- A server that goes away in mid-work is retried as long: so it is knocked at.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlsplit

from ninelives.adapters.children import die_with_parent, find_program
from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.ports import Added, Connection, Examination, Snapshot

HOST = "ninelives"
"""What every snapshot says it was made on: the estate is backed up, not a machine."""
MAX_GROUPS = 256
"""restic puts a pack into a group by the first byte of its name."""

_NAME = re.compile(r"[0-9a-f]{64}")
_SMALL = ("keys", "snapshots", "index")
_KEY = {"created", "username", "hostname", "kdf", "N", "r", "p", "salt", "data"}
_ORPHAN = re.compile(r"pack ([0-9a-f]{8,64})\S*: not referenced in any index")
_NOISE = re.compile(
    r"^(using temporary|create exclusive|load indexes|check |read |\[|\d+ additional|repository "
    r"|Fatal: repository contains)"
)
"""Of ``check``: how far it is, and that there was something."""
_HOPELESS_AFTER = 10.0
"""Seconds of a vault that does not listen, after which its child is ended."""
_LOOK_EVERY = 0.5
_TRIES = 3
"""Of one and the same request, after which a vault that answers is believed."""
_RETRIED = re.compile(r"^(\w+\(.*?\)) returned error, retrying after", re.MULTILINE)
_GONE = re.compile(
    r"connection refused|connection reset|dial tcp|no route to host|i/o timeout|server response: 5\d\d"
    r"|no space left on device",
    re.IGNORECASE,
)
_LOCKED = re.compile(r"already locked|unable to create lock", re.IGNORECASE)
_MOST_SAID = 2**20
"""Bytes of what restic complains of that are looked at."""
_WRONG_KEY = re.compile(r"wrong password or no key found", re.IGNORECASE)
_FORBIDDEN = re.compile(r"\b(401 Unauthorized|403 Forbidden)", re.IGNORECASE)
"""With their words: the digits alone are in one hash of seventy."""


@dataclass(frozen=True)
class Key:
    """One key of the vault; ``id`` is as restic shortens it."""

    id: str
    user: str
    created: str
    current: bool


class Restic:
    """``ports.Vault`` over a server, or the keeper's own ``ports.VaultKeeper`` on the vault's disk.

    :param repository: ``rest:http://...`` or a folder
    :param password: of one of the vault's keys
    :param login: user and password of the server
    """

    def __init__(
        self, repository: str, password: str, *, login: tuple[str, str] | None = None, binary: str | None = None
    ) -> None:
        self._repository = repository
        self._password = password
        self._login = login
        self._binary = binary
        self._where = f"the vault ({repository.removeprefix('rest:')})"

    @classmethod
    def from_connection(cls, connection: Connection) -> Restic:
        """``ninelives_vault``: host and port of the server, its login and password, and ``key`` in the extra field.
        ``ninelives_vault_keeper``: ``folder`` instead, on the vault's own disk."""
        key = connection.extra.get("key")
        if not key:
            raise Unavailable(f"connection {connection.conn_id} names no key; put the vault's password into its extra")
        if folder := connection.extra.get("folder"):
            return cls(str(folder), str(key))
        login = (connection.login, connection.password or "") if connection.login else None
        return cls(f"rest:{connection.url}/", str(key), login=login)

    # --- reading and adding --------------------------------------------------------------------------------------

    def identity(self) -> str:
        return str(self._json("cat", "config")["id"])

    def snapshots(self) -> list[Snapshot]:
        found = self._json("snapshots", "--json")
        return sorted(
            (Snapshot(one["id"], _instant(one["time"]), tuple(one.get("tags") or ())) for one in found),
            key=lambda snapshot: (snapshot.made_at, snapshot.id),
        )

    def add(self, folder: Path, *, tags: Sequence[str]) -> Added:
        options = [word for tag in tags for word in ("--tag", tag)]
        before = self._names("snapshots")
        # From inside the folder, so that the snapshot knows nothing of where it was staged. All is read anew: what was
        # staged is never older than the backup before, and a damaged one must not keep this one from being made.
        output = self._run("backup", ".", "--json", "--host", HOST, "--force", *options, folder=folder)
        summary = next((line for line in reversed(_documents(output)) if line.get("message_type") == "summary"), None)
        if summary is None:
            raise Unavailable(f"{self._where}: restic did not say what it backed up")
        (whole,) = (name for name in self._names("snapshots") - before if name.startswith(str(summary["snapshot_id"])))
        return Added(
            snapshot=whole,
            bytes=int(summary["total_bytes_processed"]),
            added=int(summary.get("data_added_packed", summary["data_added"])),
            seconds=float(summary["total_duration"]),
        )

    def read(self, snapshot: str, path: str) -> bytes:
        with tempfile.TemporaryFile() as output:
            self._run("dump", snapshot, f"/{path}", output=output)
            output.seek(0)
            return output.read()

    def restore(self, snapshot: str, to: Path, *, parts: Sequence[str] = ()) -> None:
        # What lies beside all folders is small and says what the rest should be.
        options = [word for part in (*parts, "MANIFEST.json*") for word in ("--include", f"/{part}")] if parts else []
        self._run("restore", snapshot, "--target", str(to), *options)

    # --- proof ---------------------------------------------------------------------------------------------------

    def examine(self, groups: Sequence[int] = (), of: int = 1) -> Examination:
        began = time.monotonic()
        listing = self._listing()
        problems = self._hash_small(listing)
        strays = [f"{kind}/{name}" for kind, names in listing.items() for name in names if not _NAME.fullmatch(name)]
        orphans: set[str] = set()
        subsets = [[]] if not groups else [["--read-data"]] if len(set(groups)) == of else [
            [f"--read-data-subset={group}/{of}"] for group in groups
        ]  # fmt: skip
        if not problems:  # with a damaged key restic would only say that the password is wrong
            for subset in subsets:
                said, found = self._check(subset)
                problems += [problem for problem in said if problem not in problems]
                orphans |= found
        packs = [name for name in listing["data"] if any(name.startswith(orphan) for orphan in orphans)]
        for name in packs:
            # One that a killed run left is what it says it is; one that is not was damaged, or put there.
            what = "" if self._hash("data", name) == name else ", and its bytes are not those of its name"
            strays.append(f"data/{name} belongs to no backup{what}")
        return Examination(
            problems=tuple(problems),
            strays=tuple(strays),
            size=sum(size for names in listing.values() for size in names.values()),
            seconds=time.monotonic() - began,
            keys=tuple(sorted(name[:8] for name in listing["keys"] if _NAME.fullmatch(name))),
        )

    def _check(self, options: Sequence[str]) -> tuple[list[str], set[str]]:
        """What restic finds wrong, and the packs of which it knows no use."""
        code, output, errors = self._locking("check", *options)
        said = [line.strip() for line in (*output.splitlines(), *errors.splitlines()) if line.strip()]
        orphans = {found[1] for line in said if (found := _ORPHAN.search(line))}
        if code == 0:
            return [], orphans
        self._raise_unless_damaged(code, errors)
        problems = [line for line in said if not _NOISE.match(line) and not _ORPHAN.search(line)]
        return problems[:100] or [f"restic check ended with {code}"], orphans

    def _hash_small(self, listing: Mapping[str, Mapping[str, int]]) -> list[str]:
        problems = []
        for kind in _SMALL:
            for name in listing[kind]:
                if not _NAME.fullmatch(name):
                    continue
                if (data := self._fetch(kind, name)) is None or hashlib.sha256(data).hexdigest() != name:
                    problems.append(f"{kind}/{name} is not what was written: its bytes do not hash to its name")
                elif kind == "keys" and not _is_key(data):
                    problems.append(f"{kind}/{name} is no key: somebody else put it there")
        return problems

    def _hash(self, kind: str, name: str) -> str:
        return hashlib.sha256(self._fetch(kind, name) or b"").hexdigest()

    def _listing(self) -> dict[str, dict[str, int]]:
        """Every file of the vault but its locks and its config: kind to name to size in bytes."""
        return {kind: self._list(kind) for kind in (*_SMALL, "data")}

    def _names(self, kind: str) -> set[str]:
        return set(self._list(kind))

    def _list(self, kind: str) -> dict[str, int]:
        if self._repository.startswith("rest:"):
            return {one["name"]: one["size"] for one in self._get(f"{kind}/").json() or ()}
        files = sorted((Path(self._repository) / kind).rglob("*"))
        return {file.name: file.stat().st_size for file in files if file.is_file()}

    def _fetch(self, kind: str, name: str) -> bytes | None:
        if not self._repository.startswith("rest:"):
            path = Path(self._repository) / kind / (f"{name[:2]}/{name}" if kind == "data" else name)
            return path.read_bytes() if path.exists() else None
        response = self._get(f"{kind}/{name}", missing_is_fine=True)
        return None if response.status_code == 404 else bytes(response.content)

    def _get(self, path: str, *, missing_is_fine: bool = False) -> Any:
        import httpx

        from ninelives.adapters.http_client import http_client

        url = self._repository.removeprefix("rest:")
        try:
            with http_client(url, auth=self._login, timeout=30) as client:
                response = client.get(path, headers={"Accept": "application/vnd.x.restic.rest.v2"})
                if not (missing_is_fine and response.status_code == 404):
                    response.raise_for_status()
        except httpx.HTTPStatusError as error:
            if error.response.status_code in (401, 403):
                raise Refused(
                    f"read {self._where}", ["its server does not know this login; mend the connection"]
                ) from error
            raise Unavailable(f"{self._where}: {error}") from error
        except httpx.HTTPError as error:
            raise Unavailable(f"{self._where} does not answer: {error!r}") from error
        return response

    # --- the keeper's --------------------------------------------------------------------------------------------

    def initialise(self) -> None:
        """Make the vault; one that is there already stays as it is."""
        if not (Path(self._repository) / "config").exists():
            self._run("init")

    def arrivals(self) -> dict[str, datetime]:
        folder = Path(self._repository) / "snapshots"
        return {
            file.name: datetime.fromtimestamp(file.stat().st_mtime, UTC)
            for file in folder.iterdir()
            if _NAME.fullmatch(file.name)
        }

    def remove(self, snapshots: Sequence[str]) -> None:
        if snapshots:
            self._run("forget", *snapshots)
        self._run("prune")  # by itself, so that a repetition finishes what a killed one began

    # --- keys ----------------------------------------------------------------------------------------------------

    def list_keys(self) -> list[Key]:
        found = self._json("key", "list", "--json")
        return [Key(one["id"], one["userName"], one["created"], bool(one["current"])) for one in found]

    def add_key(self, password: str, user: str) -> str:
        """Let ``password`` open the vault too; ``user`` is for people. Returns the key's id."""
        before = self._names("keys")
        with tempfile.TemporaryFile() as file:
            file.write(password.encode())
            file.seek(0)
            path = f"/dev/fd/{file.fileno()}"
            self._run("key", "add", "--new-password-file", path, "--user", user, "--host", HOST, keep=(file.fileno(),))
        (made,) = self._names("keys") - before
        return made[:8]

    def remove_key(self, key: str) -> None:
        """:raises Refused: there is no such key, it is the key in use, or the server lets nobody remove"""
        if len([name for name in self._names("keys") if key and name.startswith(key)]) != 1:
            raise Refused(f"remove key {key!r}", ["no key, or more than one, begins like that; see `backup key list`"])
        self._run("key", "remove", key)

    # --- the child -----------------------------------------------------------------------------------------------

    def _json(self, *arguments: str) -> Any:
        text = self._run(*arguments)
        try:
            return json.loads(text) or []
        except ValueError as error:
            raise Unavailable(f"{self._where}: restic answered no JSON: {text[:200]!r}") from error

    def _run(
        self,
        *arguments: str,
        folder: Path | None = None,
        output: IO[bytes] | None = None,
        keep: tuple[int, ...] = (),
    ) -> str:
        """Standard output of a restic that succeeded."""
        code, text, errors = self._locking(*arguments, folder=folder, output=output, keep=keep)
        if code != 0:
            self._raise_unless_damaged(code, errors)
            raise Corrupted(f"{self._where}: restic {arguments[0]} ended with {code}: {_shortened(errors)}")
        return text

    def _locking(
        self, *arguments: str, folder: Path | None = None, output: IO[bytes] | None = None, keep: tuple[int, ...] = ()
    ) -> tuple[int, str, str]:
        """As ``_start``; a lock that a killed process left is taken away once. One that is held stays."""
        code, text, errors = self._start(arguments, folder, output, keep)
        if code != 0 and _LOCKED.search(errors):
            self._start(("unlock",), None, None, ())
            code, text, errors = self._start(arguments, folder, output, keep)
        return code, text, errors

    def _raise_unless_damaged(self, code: int, errors: str) -> None:
        said = _shortened(errors)
        if code < 0:
            raise Unavailable(f"{self._where}: restic was killed ({-code})")
        if _LOCKED.search(errors):
            raise Unavailable(f"{self._where} is locked by another backup or check; try again: {said}")
        if _GONE.search(errors):
            raise Unavailable(f"{self._where} does not answer: {said}")
        if _WRONG_KEY.search(errors):
            reason = "no key of the vault fits this password: use another key, or have the keeper add one"
            raise Refused(f"open {self._where}", [reason])
        if _FORBIDDEN.search(errors):
            raise Refused(f"change {self._where}", [f"its server does not let this login do that: {said}"])

    def _start(
        self, arguments: Sequence[str], folder: Path | None, output: IO[bytes] | None, keep: tuple[int, ...]
    ) -> tuple[int, str, str]:
        with tempfile.TemporaryFile() as text, tempfile.TemporaryFile() as errors:
            try:
                child = subprocess.Popen(
                    [self._binary or find_restic(), "--no-cache", *arguments],
                    env=self._environment(),
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=output or text,
                    stderr=errors,
                    pass_fds=keep,
                    preexec_fn=die_with_parent(),
                )
            except OSError as error:
                raise Unavailable(f"restic could not be started: {error}") from error
            try:
                given_up = self._await(child, errors)
            finally:
                if child.poll() is None:
                    child.kill()
                    child.wait()
            for file in (text, errors):
                file.seek(0)
            code = 1 if given_up else child.returncode
            return code, text.read().decode(errors="replace"), errors.read().decode(errors="replace")

    def _await(self, child: subprocess.Popen[bytes], errors: IO[bytes]) -> bool:
        """Until it ends, or asks for the same thing in vain; says whether the latter.

        :raises Unavailable: the vault has not listened for too long
        """
        silent_since: float | None = None
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_LOOK_EVERY)
                return False
            if self._listens():
                silent_since = None
                said = os.pread(errors.fileno(), _MOST_SAID, 0).decode(errors="replace")
                if max(Counter(_RETRIED.findall(said)).values(), default=0) >= _TRIES and not _GONE.search(said):
                    return True
            elif silent_since is None:
                silent_since = time.monotonic()
            elif time.monotonic() - silent_since > _HOPELESS_AFTER:
                raise Unavailable(f"{self._where} went away; nothing was lost that it had acknowledged, try again")

    def _listens(self) -> bool:
        if not self._repository.startswith("rest:"):
            return True
        url = urlsplit(self._repository.removeprefix("rest:"))
        try:
            port = url.port or (443 if url.scheme == "https" else 80)
            with socket.create_connection((url.hostname or "", port), timeout=2):
                return True
        except OSError:
            return False

    def _environment(self) -> dict[str, str]:
        """Ours without anybody's restic settings, and what must not be in argv."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RESTIC_")}
        repository = self._repository
        if self._login:
            user, password = (quote(part, safe="") for part in self._login)
            repository = repository.replace("://", f"://{user}:{password}@", 1)
        return environment | {
            "RESTIC_REPOSITORY": repository,
            "RESTIC_PASSWORD": self._password,
            "RESTIC_PROGRESS_FPS": "0.01",
            "GOMAXPROCS": "2",
        }


def find_restic() -> str:
    """:raises Unavailable: there is none"""
    return find_program("restic", "run `make setup`, or install the Debian package restic")


def _is_key(data: bytes) -> bool:
    try:
        document = json.loads(data)
    except ValueError:
        return False
    return isinstance(document, dict) and document.keys() >= _KEY


def _instant(text: str) -> datetime:
    """restic writes nanoseconds, and the offset of the machine."""
    whole, point, rest = text.partition(".")
    fraction = re.match(r"\d*", rest)
    digits = fraction[0] if fraction else ""
    zone = rest[len(digits) :] if point else ""
    return datetime.fromisoformat(f"{whole}.{digits[:6]:0<6}{zone}" if point else text).astimezone(UTC)


def _documents(text: str) -> list[dict[str, Any]]:
    return list(_each_document(text))


def _each_document(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            if isinstance(document := json.loads(line), dict):
                yield document


def _shortened(text: str, limit: int = 600) -> str:
    """restic's words without its stack trace."""
    lines = [
        line.strip()
        for line in text.splitlines()
        if line.strip() and not re.match(r"^(\t|github\.com|main\.|golang|runtime)", line)
    ]
    said = "; ".join(dict.fromkeys(lines))
    return said if len(said) <= limit else f"{said[:limit]}..."
