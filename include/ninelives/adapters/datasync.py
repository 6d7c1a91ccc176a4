"""Copies between S3 buckets on AWS with DataSync: the bytes go from bucket to bucket, not through a worker.

The proof stays ours: whoever asks for a copy reads every object back and hashes it. What DataSync could verify at the
end would be read for a third time, so it verifies in flight only.

Each pair of buckets has one DataSync task, whose name is derived from both. An execution that a killed process left
behind goes on in AWS; the next run finds it by that task and waits for it instead of starting the same again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from ninelives.adapters.rclone import RcloneCopier
from ninelives.errors import Refused, Unavailable
from ninelives.ports import Connection, CopyProgress, CopyReport

ROLE = "datasync_role_arn"
"""In the extra of ``ninelives_<site>_store``: the role with which DataSync may use that site's bucket."""

LONGEST = 102_400
"""Characters of one filter, by DataSync's API; counted in bytes here, which are never fewer."""

_OPTIONS = {
    "VerifyMode": "NONE",  # in flight it verifies anyway, and the caller reads everything back
    "OverwriteMode": "ALWAYS",  # the caller names only what is missing or wrong at the target
    "PreserveDeletedFiles": "PRESERVE",  # a copy never deletes
    "ObjectTags": "NONE",  # no part of a dataset, and the roles need no right to read or write them
    "TaskQueueing": "ENABLED",
    "LogLevel": "OFF",
}
_BUSY = ("CREATING", "QUEUED", "RUNNING")
"""A task that cannot be started yet."""
_WAITING = ("QUEUED", "LAUNCHING")
_ENDED = ("SUCCESS", "ERROR")
_DENIED = {"AccessDenied", "AccessDeniedException", "UnrecognizedClientException", "InvalidSignatureException"}


class DataSyncCopier:
    """``ports.ObjectCopier`` between sites whose stores are S3 on AWS, in one account.

    :param near: copies within one site, copies keys that no filter can name, and hashes
    :param every: seconds between two looks at an execution
    :param start_within: seconds within which an execution has to begin
    :param patience: seconds without a byte, an object or another phase after which it counts as stuck
    """

    def __init__(
        self, near: RcloneCopier, *, every: float = 5.0, start_within: float = 900.0, patience: float = 1800.0
    ) -> None:
        self._near = near
        self._every = every
        self._start_within = start_within
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

        Many keys are several executions, one after the other: a filter has a limit, and everything under their prefix
        may be more than the caller judged sound. A key that is another key's folder brings what is below it along.
        DataSync tells no SHA-256: whoever needs it reads the objects.

        :raises Refused: a site does not name its role, or AWS does not let us
        :raises Unavailable: an execution failed, in DataSync's own words, never began or stands still; run again
        """
        if source.conn_id == target.conn_id:
            return self._near.copy(
                source, target, bucket=bucket, keys=keys, prefix=prefix, on_progress=on_progress, force=force, into=into
            )
        started = time.monotonic()
        folder = prefix.strip("/")
        named = [folder] if folder else []
        odd: list[str] = []
        if keys is not None:
            listed = sorted(set(keys))
            odd = [key for key in listed if not nameable(key)]
            named = [key for key in listed if nameable(key)]
        done = CopyReport(0, 0, 0.0)
        if named or keys is None:
            done = self._by_datasync(source, target, bucket, named, on_progress, force, into)
        if odd:
            rest = self._near.copy(source, target, bucket=bucket, keys=odd, force=force, into=into)
            done = CopyReport(done.objects + rest.objects, done.bytes + rest.bytes, 0.0, rest.errors)
        return CopyReport(done.objects, done.bytes, time.monotonic() - started, done.errors)

    def hashes(self, connection: Connection, bucket: str, keys: Iterable[str]) -> dict[str, str]:
        """SHA-256 (hex) of every object that exists, each read to its end by this process, not by DataSync."""
        return self._near.hashes(connection, bucket, keys)

    def _by_datasync(
        self,
        source: Connection,
        target: Connection,
        bucket: str,
        named: Sequence[str],
        on_progress: Callable[[CopyProgress], None] | None,
        force: bool,
        into: str,
    ) -> CopyReport:
        with _asking(target):
            task = _Task.between(_client(target), source, target, bucket, into)
            # Forced: without a look at the target, which may not know that its bytes have changed.
            options = {**_OPTIONS, "TransferMode": "ALL" if force else "CHANGED"}
            objects = size = 0
            for part in filters(named) or [""]:
                ended = self._run(task, part, options, _telling(on_progress, objects, size))
                objects += int(ended.get("FilesTransferred") or 0)
                size += int(ended.get("BytesTransferred") or 0)
        # DataSync counts folders too.
        return CopyReport(min(objects, len(named)) if named else objects, size, 0.0)

    def _run(
        self, task: _Task, part: str, options: Mapping[str, str], tell: Callable[[Mapping[str, Any]], None]
    ) -> Mapping[str, Any]:
        """One execution to its good end: an earlier one that copies all of this, or one of our own."""
        begun = time.monotonic()
        while time.monotonic() - begun < self._start_within:
            earlier = task.under_way()
            if earlier is not None:
                ended = self._follow(task, earlier["TaskExecutionArn"], tell)
                if not _covers(earlier, part, options):
                    begun = time.monotonic()  # whatever became of it: ours is still to be done
                    continue
            else:
                execution = task.start(part, options)
                if execution is None:
                    time.sleep(min(1.0, self._every))
                    continue
                ended = self._follow(task, execution, tell)
            if ended["Status"] == "ERROR":
                reason = _reason(ended.get("Result") or {})
                raise Unavailable(f"DataSync's execution {ended['TaskExecutionArn']} failed: {reason}")
            return ended
        raise Unavailable(f"DataSync's task {task.arn} did not become free within {self._start_within:.0f} s")

    def _follow(self, task: _Task, execution: str, tell: Callable[[Mapping[str, Any]], None]) -> Mapping[str, Any]:
        """Wait until it has ended, well or not.

        :raises Unavailable: it does not begin or does not move; it was cancelled, so that a further run can start anew
        """
        moved, pause = time.monotonic(), min(0.25, self._every)
        marks: tuple[Any, ...] = ()
        while True:
            now = task.describe(execution)
            tell(now)
            if now["Status"] in _ENDED:
                return now
            seen = tuple(now.get(name) for name in ("Status", "BytesTransferred", "FilesTransferred", "BytesWritten"))
            if seen != marks:
                moved, marks = time.monotonic(), seen
            waiting = now["Status"] in _WAITING
            stood = time.monotonic() - moved
            if stood >= (self._start_within if waiting else self._patience):
                task.cancel(execution)
                what = "did not begin" if waiting else f"did not move while it was {str(now['Status']).lower()}"
                raise Unavailable(f"DataSync's execution {execution} {what} for {stood:.0f} s, and was cancelled")
            time.sleep(pause)
            pause = min(2 * pause, self._every)


class _Task:
    """What copies from one bucket to another, and at most one execution of it."""

    def __init__(self, client: Any, arn: str) -> None:
        self.client = client
        self.arn = arn

    @classmethod
    def between(cls, client: Any, source: Connection, target: Connection, bucket: str, into: str) -> _Task:
        """The one that there is, else a new one."""
        roles = [_role(one) for one in (source, target)]
        if roles[0].split(":")[4:5] != roles[1].split(":")[4:5]:
            raise Refused(
                "datasync",
                [f"{source.conn_id} and {target.conn_id} name roles of different accounts; use rclone between them"],
            )
        places = [
            ("arn:aws:s3:::" + source.bucket(bucket), "/", roles[0]),
            ("arn:aws:s3:::" + target.bucket(bucket), f"/{into.strip('/')}/" if into.strip("/") else "/", roles[1]),
        ]
        # Other buckets, folders or roles are another task: one that exists is never changed.
        digest = hashlib.sha256(repr(places).encode()).hexdigest()[:16]
        name = f"ninelives {bucket} {source.conn_id} to {target.conn_id} {digest}"
        found = sorted(task["TaskArn"] for task in _pages(client.list_tasks, "Tasks") if task.get("Name") == name)
        if found:
            return cls(client, found[0])
        here, there = (_location(client, *place) for place in places)
        made = client.create_task(
            SourceLocationArn=here, DestinationLocationArn=there, Name=name, Options={**_OPTIONS, "TransferMode": "ALL"}
        )
        return cls(client, made["TaskArn"])

    def under_way(self) -> Mapping[str, Any] | None:
        """The execution that has not ended yet."""
        latest = self.client.describe_task(TaskArn=self.arn).get("CurrentTaskExecutionArn")
        if not latest:
            return None
        found = self.describe(latest)
        return None if found["Status"] in _ENDED else found

    def start(self, part: str, options: Mapping[str, str]) -> str | None:
        """``None`` where another execution was started first, or the task is still being made."""
        from botocore.exceptions import ClientError

        chosen = {"Includes": [{"FilterType": "SIMPLE_PATTERN", "Value": part}]} if part else {}
        for again in (True, False):
            try:
                started = self.client.start_task_execution(TaskArn=self.arn, OverrideOptions=dict(options), **chosen)
            except ClientError as error:
                if _code(error) != "InvalidRequestException":
                    raise
                now = self.client.describe_task(TaskArn=self.arn)
                if now["Status"] in _BUSY:
                    return None
                if now["Status"] == "UNAVAILABLE":
                    raise Unavailable(f"DataSync's task {self.arn} cannot be used: {_reason(now)}") from error
                if not again:  # what was in the way may have ended just now, so the first time says nothing
                    raise
            else:
                return str(started["TaskExecutionArn"])
        return None

    def describe(self, execution: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.client.describe_task_execution(TaskExecutionArn=execution)
        return found

    def cancel(self, execution: str) -> None:
        self.client.cancel_task_execution(TaskExecutionArn=execution)


# --- filters -----------------------------------------------------------------------------------------------------


def nameable(key: str) -> bool:
    """Whether a filter can name exactly this object.

    DataSync takes a key for a path, cannot transfer one that is no tidy path, and a ``*`` stands for anything.
    """
    return "*" not in key and "\0" not in key and all(part not in ("", ".", "..") for part in key.split("/"))


def pattern(key: str) -> str:
    """The key as a filter has it: from the root, what has a meaning there escaped."""
    return "/" + key.replace("\\", "\\\\").replace("|", "\\|")


def filters(keys: Iterable[str], longest: int = LONGEST) -> list[str]:
    """As few filters as name all of ``keys`` in their order, none longer than ``longest`` bytes.

    :raises ValueError: one key alone is longer than a filter may be
    """
    parts: list[list[str]] = []
    room = 0
    for one in map(pattern, keys):
        size = len(one.encode())
        if size > longest:
            raise ValueError(f"a filter of {longest} bytes cannot name {one[:80]!r}…")
        if parts and size + 1 <= room:
            parts[-1].append(one)
            room -= size + 1
        else:
            parts.append([one])
            room = longest - size
    return ["|".join(part) for part in parts]


def patterns(text: str) -> set[str]:
    """What a filter consists of, still escaped."""
    found, current = set(), ""
    escaped = False
    for letter in text:
        if letter == "|" and not escaped:
            found.add(current)
            current = ""
        else:
            current += letter
        escaped = letter == "\\" and not escaped
    return {*found, current} - {""}


def _covers(execution: Mapping[str, Any], part: str, options: Mapping[str, str]) -> bool:
    """Whether it copies everything that ``part`` names, in our way."""
    theirs = execution.get("Options") or {}
    if any(theirs.get(name) != options[name] for name in ("OverwriteMode", "PreserveDeletedFiles", "TransferMode")):
        return False
    includes = "|".join(rule["Value"] for rule in execution.get("Includes") or ())
    return not includes or (bool(part) and patterns(part) <= patterns(includes))


# --- AWS ---------------------------------------------------------------------------------------------------------


def _client(connection: Connection) -> Any:
    """In the target's region: DataSync asks for one of the two buckets to be where it is."""
    extra = connection.extra
    region = extra.get("region_name") or "us-east-1"
    return _made(
        extra.get("endpoint_url"), region, connection.login, connection.password, extra.get("aws_session_token")
    )


@cache
def _made(endpoint: str | None, region: str, key: str | None, secret: str | None, token: str | None) -> Any:
    """Once per process: it takes a fifth of a second, and may be used by several threads."""
    import boto3
    from botocore.config import Config

    return boto3.session.Session().client(
        "datasync",
        endpoint_url=endpoint,
        aws_access_key_id=key or None,
        aws_secret_access_key=secret or None,
        aws_session_token=token,
        region_name=region,
        config=Config(connect_timeout=5, read_timeout=30, retries={"total_max_attempts": 3, "mode": "standard"}),
    )


def _role(connection: Connection) -> str:
    role = connection.extra.get(ROLE)
    if not role:
        raise Refused(
            "datasync",
            [f"{connection.conn_id} names no role for DataSync; put its ARN into the extra as {ROLE}"],
        )
    return str(role)


def _location(client: Any, bucket: str, folder: str, role: str) -> str:
    """One that there is, so that a process killed before it made its task leaves nothing that piles up."""
    uri = f"s3://{bucket.rpartition(':')[2]}{folder}".rstrip("/")
    for one in _pages(client.list_locations, "Locations"):
        if one["LocationUri"].rstrip("/") == uri:
            found = client.describe_location_s3(LocationArn=one["LocationArn"])
            if found["S3Config"]["BucketAccessRoleArn"] == role:
                return str(one["LocationArn"])
    made = client.create_location_s3(S3BucketArn=bucket, Subdirectory=folder, S3Config={"BucketAccessRoleArn": role})
    return str(made["LocationArn"])


def _pages(call: Callable[..., Mapping[str, Any]], name: str) -> Iterator[Mapping[str, Any]]:
    token: dict[str, str] = {}
    while True:
        page = call(**token)
        yield from page[name]
        if not page.get("NextToken"):
            return
        token = {"NextToken": page["NextToken"]}


@contextmanager
def _asking(target: Connection) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        if _code(error) in _DENIED:
            raise Refused("datasync", [f"AWS does not let {target.conn_id} do this: {error}"]) from error
        raise Unavailable(f"DataSync did not do what {target.conn_id} asked: {error}") from error
    except BotoCoreError as error:
        raise Unavailable(f"DataSync did not answer {target.conn_id}: {error}") from error


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _reason(said_by: Mapping[str, Any]) -> str:
    said = [str(said_by[name]) for name in ("ErrorCode", "ErrorDetail") if said_by.get(name)]
    return ": ".join(said) or "it gives no reason"


def _telling(
    on_progress: Callable[[CopyProgress], None] | None, objects: int, size: int
) -> Callable[[Mapping[str, Any]], None]:
    """Report an execution, after ``objects`` and ``size`` bytes of those before it."""
    begun = time.monotonic()

    def tell(now: Mapping[str, Any]) -> None:
        if on_progress is None:
            return
        moved, total = int(now.get("BytesTransferred") or 0), int(now.get("EstimatedBytesToTransfer") or 0)
        left = (total - moved) * (time.monotonic() - begun) / moved if moved and total > moved else None
        on_progress(CopyProgress(objects + int(now.get("FilesTransferred") or 0), size + moved, size + total, left))

    return tell
