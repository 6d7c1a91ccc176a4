"""What the gate by Spark costs on one machine, and the same by DuckDB: rows and checks of ``bench_gate_large``.

    python tests/benchmarks/bench_gate_spark.py [--rows 1000000] [--memory 2000]

In an environment that has pyspark and Java. Wall and CPU are seconds, of the worker and all that it starts; ``peak_mb``
is the largest sum of the resident memory of all of them that was seen, looked at ten times a second. ``spark_start`` is
the gate by Spark on ten rows. Prints one JSON document; the data goes to a temporary folder that is removed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
from fresh_process import ROOT

sys.path[:0] = [str(ROOT / "include")]

from bench_gate_large import suite, write  # noqa: E402

from ninelives.adapters.great_expectations import GreatExpectations  # noqa: E402
from ninelives.adapters.gx_spark import place  # noqa: E402
from ninelives.gates.suite import Suite  # noqa: E402


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Peak(threading.Thread):
    """Watches the memory of this process's children until it is told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.megabytes, self.over = 0.0, threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.1):
            total = 0
            for child in psutil.Process().children(recursive=True):
                try:
                    total += child.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.megabytes = max(self.megabytes, total / 1e6)


def cost(folder: Path, memory: int, spark: dict[str, Any] | None) -> dict[str, float]:
    files = {path.name: path for path in sorted((folder / "data").glob("*.parquet"))}
    engine = GreatExpectations(timeout=timedelta(hours=1), memory=memory, spark=spark)
    peak, begun, used = Peak(), time.perf_counter(), cpu()
    peak.start()
    seen = engine.evaluate(
        Suite.model_validate(suite()), files, references={"accounts": {"a": folder / "accounts.parquet"}}
    )
    wall = time.perf_counter() - begun
    peak.over.set()
    failed = [outcome for outcome in seen.outcomes or () if not outcome.success]
    if seen.errors or (failed and (seen.rows or 0) > 1000):
        raise SystemExit(f"the gate did not pass: {seen.errors} {failed}")
    found = {"wall": round(wall, 1), "cpu": round(cpu() - used, 1), "peak_mb": round(peak.megabytes)}
    print(found, file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--memory", type=int, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ninelives-bench-") as temporary:
        few, many = Path(temporary, "few"), Path(temporary, "many")
        write(few, 10)
        write(many, options.rows)
        result = {
            "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 1),
            "rows": options.rows,
            "memory": options.memory,
            "spark_start": cost(few, options.memory, place(None)),
            "spark": cost(many, options.memory, place(None)),
            "duckdb": cost(many, options.memory, None),
        }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
