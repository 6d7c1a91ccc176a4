"""Runs a suite in a process of its own; whatever happens to that process is an error of the gate, never a pass."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

import ninelives
from ninelives.gates.interval import Interval
from ninelives.gates.suite import Suite
from ninelives.gates.verdict import Evaluation, ObjectSchema, Outcome

_WORKER = "ninelives.adapters.gx_worker"


@dataclass(frozen=True)
class GreatExpectations:
    """``gates.verdict.ExpectationEngine`` on Great Expectations and DuckDB.

    :param memory_limit: of DuckDB, which spills to disk beyond it; the whole process needs about 300 MB more
    :param timeout: after which the check is killed
    :param threads: ``None``: as many as there are cores
    """

    memory_limit: str = "1GiB"
    timeout: timedelta = timedelta(minutes=10)
    threads: int | None = None

    def evaluate(self, suite: Suite, files: Mapping[str, Path], *, interval: Interval | None = None) -> Evaluation:
        with tempfile.TemporaryDirectory(prefix="ninelives-gate-") as spill:
            settings = {"memory_limit": self.memory_limit, "temp_directory": spill}
            if self.threads is not None:
                settings["threads"] = str(self.threads)
            request = {
                "suite": suite.model_dump(mode="json", by_alias=True),
                "files": {key: str(path) for key, path in files.items()},
                "settings": settings,
                "interval": str(interval) if interval else None,
            }
            try:
                # stderr to a file, not a pipe: only its end is wanted, however much a library says.
                with (Path(spill) / "stderr").open("w+b") as said:
                    done = subprocess.run(
                        [sys.executable, "-m", _WORKER],
                        input=json.dumps(request).encode(),
                        stdout=subprocess.PIPE,
                        stderr=said,
                        timeout=self.timeout.total_seconds(),
                        env=_environment(),
                        check=False,
                    )
                    last_words = "its last words are withheld" if suite.redact else _last_line(said)
            except subprocess.TimeoutExpired:
                return _failed(f"the check did not finish within {self.timeout}; give it more time, memory or cores")
            except OSError as error:
                return _failed(f"the check could not be started: {error}")
        if done.returncode != 0:
            return _failed(f"the check died ({_how(done.returncode)}): {last_words}")
        try:
            return _evaluation(json.loads(done.stdout))
        except (ValueError, KeyError, TypeError) as error:
            return _failed(f"the check gave no readable answer ({error}): {last_words}")


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
        outcomes=None if outcomes is None else tuple(Outcome(**outcome) for outcome in outcomes),
        errors=tuple(answer["errors"]),
    )


def _failed(why: str) -> Evaluation:
    return Evaluation(engine="great-expectations", errors=(why,))


def _how(returncode: int) -> str:
    return signal.Signals(-returncode).name if returncode < 0 else f"exit code {returncode}"


def _last_line(said: BinaryIO) -> str:
    said.seek(max(0, said.seek(0, os.SEEK_END) - 4096))
    lines = said.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"
