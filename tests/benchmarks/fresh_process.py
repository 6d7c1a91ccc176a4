"""For benchmarks: one way of doing something in a process of its own, started from cold."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
Cost = dict[str, float]
"""Wall and CPU in seconds, the peak of resident memory in MB, and the rows that were looked at."""


def measure(script: str, way: str, folder: Path) -> Cost:
    """What ``script --one way folder`` says that it cost."""
    command = [sys.executable, script, "--one", way, str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    found: Cost = json.loads(done.stdout)
    print(f"{folder.name}: {way}: {found}", file=sys.stderr, flush=True)
    return found


def one(way: Callable[[Path], int], folder: Path) -> Cost:
    """Measured in this fresh process, whose only child is the one that does the work."""
    begun = time.perf_counter()
    rows = way(folder)
    wall = time.perf_counter() - begun
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss / 1024, "rows": rows}


def median(runs: Sequence[Cost]) -> Cost:
    return {key: round(statistics.median(run[key] for run in runs), 2) for key in runs[0]}
