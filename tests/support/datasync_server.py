"""moto's server with a DataSync that copies: moto's own only changes the states of its executions.

    python -m support.datasync_server PORT FAULTS

FAULTS is a JSON list, of which each execution takes the first item when it is started: ``null`` for none, ``slow``,
``fail``, ``hang``, ``never`` (it is never begun), ``lose`` or ``flip`` (one object, without a word). A slow one waits
after its first object until the file FAULTS.go is there. What filters mean is said here once more, from AWS's
documentation, and not with the code under test.
"""

from __future__ import annotations

import json
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
from moto.datasync.exceptions import InvalidRequestException
from moto.datasync.responses import DataSyncResponse
from moto.server import main

PORT, FAULTS = int(sys.argv[1]), Path(sys.argv[2])
_taking = threading.Lock()
_executions: dict[str, Execution] = {}


def next_fault() -> str | None:
    with _taking:
        faults = json.loads(FAULTS.read_text()) if FAULTS.exists() else []
        FAULTS.write_text(json.dumps(faults[1:]))
    return faults[0] if faults else None


def split(text: str) -> list[tuple[str, bool]]:
    """Patterns, without their escapes, and whether a wildcard ends them."""
    found: list[tuple[str, bool]] = []
    pattern, wild, letters = "", False, iter(text)
    for letter in letters:
        match letter:
            case "\\":
                pattern += next(letters)
            case "|":
                found.append((pattern, wild))
                pattern, wild = "", False
            case "*":
                wild = True
            case _:
                pattern += letter
    return [*found, (pattern, wild)]


def matches(path: str, pattern: str, wild: bool) -> bool:
    folder = pattern.rstrip("/")
    return path == folder or path.startswith(pattern if wild else f"{folder}/")


class Execution:
    def __init__(self, arn: str, task: Any, locations: Any, includes: list[Any], options: dict[str, str]) -> None:
        self.arn, self.task, self.includes, self.options = arn, task, includes, options
        self.source, self.target = (
            locations[one].uri.removeprefix("s3://").partition("/")[::2]
            for one in (task.source_location_arn, task.destination_location_arn)
        )
        self.status, self.result, self.cancelled = "QUEUED", {}, threading.Event()
        self.objects = self.bytes = self.total = 0
        self.fault = next_fault()
        threading.Thread(target=self.work, daemon=True).start()

    def end(self, status: str, code: str = "", detail: str = "") -> None:
        self.status = status
        self.result = {"ErrorCode": code, "ErrorDetail": detail} if code else {}
        self.task.status = "AVAILABLE"

    def work(self) -> None:
        if self.fault == "never":
            self.cancelled.wait()
            return
        try:
            self.status = "TRANSFERRING"
            self.copy()
        except Exception as error:
            self.end("ERROR", "StandIn", repr(error))

    def copy(self) -> None:
        keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}
        s3 = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{PORT}", **keys)
        (bucket, root), (there, folder) = self.source, self.target
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=root.strip("/"))
        listed = {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", ())}
        wanted = [pattern for rule in self.includes for pattern in split(rule["Value"])]
        chosen = [key for key in listed if not wanted or any(matches(f"/{key}", *one) for one in wanted)]
        self.total = sum(listed[key] for key in chosen)
        for number, key in enumerate(chosen):
            if self.cancelled.is_set():
                return None
            body = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
            if self.fault == "flip" and number == 0:
                body = bytes([body[0] ^ 1]) + body[1:]
            if self.fault != "lose" or number != 0:
                s3.put_object(Bucket=there, Key=f"{folder.strip('/')}/{key}".lstrip("/"), Body=body)
            self.objects, self.bytes = self.objects + 1, self.bytes + len(body)
            if self.fault == "fail":
                return self.end("ERROR", "S3AccessDenied", "the role may not write to the bucket")
            if self.fault == "hang":
                self.cancelled.wait()
                return None
            self.hold()
        self.hold()
        return self.end("SUCCESS")

    def hold(self) -> None:
        while self.fault == "slow" and not self.cancelled.is_set() and not FAULTS.with_suffix(".go").exists():
            self.cancelled.wait(0.02)


def become_available(task: Any) -> None:
    task.status = "AVAILABLE"


class Working(DataSyncResponse):
    def create_task(self) -> str:
        """As in AWS, it cannot be started at once."""
        answer = plain_create_task(self)
        task = self.datasync_backend.tasks[json.loads(answer)["TaskArn"]]
        task.status = "CREATING"
        threading.Timer(0.2, become_available, [task]).start()
        return answer

    def start_task_execution(self) -> str:
        backend, arn = self.datasync_backend, self._get_param("TaskArn")
        execution = backend.start_task_execution(arn)
        includes, options = self._get_param("Includes") or [], self._get_param("OverrideOptions") or {}
        task = backend.tasks[arn]
        _executions[execution] = Execution(execution, task, backend.locations, includes, options)
        with FAULTS.with_suffix(".log").open("a") as log:
            log.write(json.dumps({"execution": execution, "includes": includes, "options": options}) + "\n")
        return json.dumps({"TaskExecutionArn": execution})

    def describe_task_execution(self) -> str:
        found = _executions[self._get_param("TaskExecutionArn")]
        return json.dumps(
            {
                "TaskExecutionArn": found.arn,
                "Status": found.status,
                "Options": found.options,
                "Includes": found.includes,
                "StartTime": datetime.now(UTC).timestamp(),
                "FilesTransferred": found.objects,
                "BytesTransferred": found.bytes,
                "BytesWritten": found.bytes,
                "EstimatedBytesToTransfer": found.total,
                "Result": found.result,
            }
        )

    def cancel_task_execution(self) -> str:
        found = _executions[self._get_param("TaskExecutionArn")]
        if found.status in ("SUCCESS", "ERROR"):
            raise InvalidRequestException(f"the execution ended with {found.status}")
        found.cancelled.set()
        found.end("ERROR", "Cancelled", "somebody cancelled it")
        return "{}"


if __name__ == "__main__":
    plain_create_task = DataSyncResponse.create_task
    for name in ("create_task", "start_task_execution", "describe_task_execution", "cancel_task_execution"):
        setattr(DataSyncResponse, name, vars(Working)[name])
    main(["-p", str(PORT)])
