"""Runs a suite in a process of its own; whatever happens to that process is an error of the gate, never a pass."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import ninelives
from ninelives.adapters import libpq
from ninelives.adapters.gx_spark import LEAST_MEMORY, environment
from ninelives.errors import Refused, Unavailable
from ninelives.gates.interval import Interval
from ninelives.gates.suggest import Profile, as_profile
from ninelives.gates.suite import Suite
from ninelives.gates.verdict import Evaluation, ObjectSchema, Outcome
from ninelives.ports import Connection

_WORKER = "ninelives.adapters.gx_worker"
_LIBRARIES = 600
"""Megabytes that the process takes beside DuckDB's own limit."""
_PROFILE_MEMORY = 2000
_CONNECT_SECONDS = 10
_END_SECONDS = 5
"""Wait so long for what was killed; a process that nobody reaps would be waited for for ever."""


@dataclass(frozen=True)
class GreatExpectations:
    """``gates.verdict.ExpectationEngine`` on Great Expectations, with DuckDB for files and PostgreSQL for tables.

    :param memory: of the whole check in MB, ``None``: what the suite says; beyond it the engine spills to the disk
    :param timeout: after which the check is killed
    :param threads: ``None``: as many as there are cores
    :param spark: judge files with Spark instead: where its session runs, see ``gx_spark.place``
    """

    memory: int | None = None
    timeout: timedelta = timedelta(minutes=10)
    threads: int | None = None
    spark: Mapping[str, Any] | None = None

    def evaluate(
        self,
        suite: Suite,
        files: Mapping[str, Path],
        *,
        interval: Interval | None = None,
        rows: int = 0,
        references: Mapping[str, Mapping[str, Path]] | None = None,
    ) -> Evaluation:
        if self.spark and (memory := self.memory or suite.memory_mb) < LEAST_MEMORY:
            return _failed(f"memory is {memory} MB, and a check by Spark needs {LEAST_MEMORY}; let the suite have more")
        request = {
            "suite": suite.model_dump(mode="json", by_alias=True),
            "spark": self.spark,  # on standard input like all of this: a token may be in it
            "files": {key: str(path.absolute()) for key, path in files.items()},
            "interval": str(interval) if interval else None,
            "rows": rows,
            "references": {
                name: [str(path.absolute()) for path in found.values()] for name, found in (references or {}).items()
            },
        }
        return self._evaluation(suite, request)

    def evaluate_table(
        self,
        suite: Suite,
        table: str,
        *,
        database: Connection,
        interval: Interval | None = None,
        rows: int = 0,
        references: Mapping[str, str] | None = None,
    ) -> Evaluation:
        request = {
            "suite": suite.model_dump(mode="json", by_alias=True),
            "table": table,
            **self._of(database),
            "interval": str(interval) if interval else None,
            "rows": rows,
            "references": dict(references or {}),
        }
        try:
            return self._evaluation(suite, request)
        except Unavailable as error:
            raise Unavailable(f"connection {database.conn_id}: {error}") from None

    def _evaluation(self, suite: Suite, request: dict[str, Any]) -> Evaluation:
        answer = self._ask(request, self.memory or suite.memory_mb, private=bool(suite.redact))
        if isinstance(answer, str):
            return _failed(answer)
        if why := answer.get("unavailable"):
            raise Unavailable(str(why))
        try:
            return _evaluation(answer)
        except (KeyError, TypeError, ValueError) as error:
            return _failed(f"the check gave no readable answer ({error!r})")

    def profile(self, files: Mapping[str, Path]) -> Profile:
        """A look at the data for ``gates.suggest``.

        :raises Refused: it could not be read, with the reason
        """
        return self._profile({"profile": {key: str(path) for key, path in files.items()}})

    def profile_table(self, table: str, *, database: Connection) -> Profile:
        """The same of a table, by the database that holds it.

        :raises Refused: it could not be read, with the reason
        :raises Unavailable: the database does not answer, or does not let us in
        """
        try:
            return self._profile({"profile_table": table} | self._of(database))
        except Unavailable as error:
            raise Unavailable(f"connection {database.conn_id}: {error}") from None

    def _profile(self, request: dict[str, Any]) -> Profile:
        answer = self._ask(request, self.memory or _PROFILE_MEMORY, private=False)
        if isinstance(answer, dict) and (why := answer.get("unavailable")):
            raise Unavailable(str(why))
        if isinstance(answer, str) or answer.get("errors"):
            raise Refused("look at the data", [answer] if isinstance(answer, str) else answer["errors"])
        return as_profile(answer["profile"])

    def _of(self, database: Connection) -> dict[str, Any]:
        """How the worker signs in: on standard input, where no list of processes and no log has it."""
        return {"database": _libpq(database), "timeout": round(self.timeout.total_seconds() * 1000)}

    def _ask(self, request: dict[str, Any], memory: int, *, private: bool) -> dict[str, Any] | str:
        """The worker's answer, or why there is none. ``private``: what it said before it died may quote the data."""
        with tempfile.TemporaryDirectory(prefix="ninelives-gate-") as spill:
            settings = {"memory_limit": f"{max(memory - _LIBRARIES, 200)}MB", "temp_directory": spill}
            if self.threads is not None:
                settings["threads"] = str(self.threads)
            request["settings"] = settings
            try:
                # stderr to a file, not a pipe: only its end is wanted, however much a library says.
                with (Path(spill) / "stderr").open("w+b") as said:
                    done = self._run(json.dumps(request).encode(), said, spill)
                    last_words = "its last words are withheld" if private else _last_line(said)
            except subprocess.TimeoutExpired:
                return f"the check did not finish within {self.timeout}; give it more time, memory or cores"
            except OSError as error:
                return f"the check could not be started: {error}"
        if done.returncode != 0:
            return f"the check died ({_how(done.returncode)}): {last_words}"
        try:
            answer = json.loads(done.stdout)
        except ValueError as error:
            return f"the check gave no readable answer ({error}): {last_words}"
        return answer if isinstance(answer, dict) else "the check gave no readable answer"

    def _run(self, request: bytes, said: BinaryIO, folder: str) -> subprocess.CompletedProcess[bytes]:
        """The worker with all that it starts, of which nothing is left when this returns or raises.

        :param folder: for whatever any of it writes; Great Expectations makes one at each start and leaves it there
        """
        with subprocess.Popen(
            [sys.executable, "-m", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            env=_environment() | {"TMPDIR": folder} | (environment(self.spark) if self.spark else {}),
            process_group=0,
        ) as worker:
            try:
                answer, _ = worker.communicate(request, self.timeout.total_seconds())
            finally:
                _end(worker)
        return subprocess.CompletedProcess(worker.args, worker.returncode, answer)


def _end(worker: subprocess.Popen[bytes]) -> None:
    """A JVM outlives the worker that was killed by a moment, in which it would write where its folder is removed."""
    deadline = time.monotonic() + _END_SECONDS
    with suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.poll()
            time.sleep(0.01)


def _environment() -> dict[str, str]:
    library = str(Path(ninelives.__file__).parents[1])
    path = os.pathsep.join(part for part in (library, os.environ.get("PYTHONPATH")) if part)
    return os.environ | {"PYTHONPATH": path, "GX_ANALYTICS_ENABLED": "false"}


def _evaluation(answer: Mapping[str, Any]) -> Evaluation:
    outcomes = answer["outcomes"]
    return Evaluation(
        engine=answer["engine"],
        schemas=tuple(ObjectSchema(**schema) for schema in answer["schemas"]),
        rows=answer["rows"],
        outcomes=None if outcomes is None else tuple(_outcome(outcome) for outcome in outcomes),
        errors=tuple(answer["errors"]),
        newest=datetime.fromisoformat(answer["newest"]) if answer["newest"] else None,
        fingerprints=answer["fingerprints"],
        as_of=datetime.fromisoformat(answer["as_of"]) if answer["as_of"] else None,
        docs=answer["docs"],
    )


def _outcome(answer: Mapping[str, Any]) -> Outcome:
    return Outcome(**{**answer, "rows": tuple(answer["rows"])})


def _libpq(connection: Connection) -> dict[str, Any]:
    """What libpq needs to sign in; where the connection is silent, its own defaults and environment count."""
    parameters = {
        "host": connection.host,
        "port": connection.port,
        "user": connection.login,
        "password": connection.password,
        "dbname": connection.schema,
        "connect_timeout": _CONNECT_SECONDS,
        "application_name": "ninelives gate",
        **libpq.extras(connection),
    }
    return {key: value for key, value in parameters.items() if value is not None}


def _failed(why: str) -> Evaluation:
    return Evaluation(engine="great-expectations", errors=(why,))


def _how(returncode: int) -> str:
    return signal.Signals(-returncode).name if returncode < 0 else f"exit code {returncode}"


def _last_line(said: BinaryIO) -> str:
    said.seek(max(0, said.seek(0, os.SEEK_END) - 4096))
    lines = said.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"
