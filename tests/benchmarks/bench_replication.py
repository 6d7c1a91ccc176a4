"""What proof costs: ``replicate`` (copy, read back, hash, manifests) against a bare ``rclone copy``.

    python tests/benchmarks/bench_replication.py [--objects 365] [--size 50000] [--rounds 5]

Both copy the same objects between two ``rclone serve s3`` processes on this machine; rounds alternate, each into an
empty target. Prints one JSON document: medians in seconds and their ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "include"), str(ROOT / "tests")]

from stack.test_replication import Site  # noqa: E402

from ninelives.adapters.rclone import RcloneCopier  # noqa: E402
from ninelives.replication.reconcile import reconcile_stores  # noqa: E402
from ninelives.replication.replicate import replicate  # noqa: E402
from ninelives.replication.transfer import Link  # noqa: E402


def timed(what: Callable[[], object]) -> float:
    begun = time.perf_counter()
    what()
    return time.perf_counter() - begun


def measure(paris: Site, folder: Path, number: int, objects: int, size: int) -> dict[str, float]:
    """One round, into two empty targets; seconds."""
    bare, proven = Site("bare", folder / f"bare{number}"), Site("dublin", folder / f"dublin{number}")
    try:
        bare.start()
        proven.start()
        copier = RcloneCopier()
        link = Link(paris.store, proven.store, copier, paris.connection, proven.connection)
        ends = (link.source, link.target, copier, paris.connection, proven.connection)
        link.target.ping()
        # Without a manifest the first run hashes the source as well.
        link.source.delete("data", "_manifests/flights.json")
        seconds = {
            "rclone": timed(lambda: copier.copy(paris.connection, bare.connection, bucket="data", prefix="flights")),
            "first": timed(lambda: replicate("flights", *ends)),
            "unchanged": timed(lambda: replicate("flights", *ends)),
        }
        for n in range(max(1, objects // 100)):
            link.source.put("data", f"flights/new{number}/{n}", os.urandom(size))
        seconds["one_percent"] = timed(lambda: replicate("flights", *ends))
        seconds["reconcile"] = timed(lambda: reconcile_stores("flights", [], link))
        return seconds
    finally:
        bare.kill()
        proven.kill()


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--objects", type=int, default=365)
    arguments.add_argument("--size", type=int, default=50_000, help="bytes per object")
    arguments.add_argument("--rounds", type=int, default=5)
    options = arguments.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-replication-"))
    paris = Site("paris", folder / "paris")
    try:
        paris.fill(options.objects, options.size)
        paris.start()
        rounds = [measure(paris, folder, n, options.objects, options.size) for n in range(options.rounds)]
    finally:
        paris.kill()
        shutil.rmtree(folder, ignore_errors=True)
    medians = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    ratios = {name: round(value / medians["rclone"], 2) for name, value in medians.items()}
    report = {**vars(options), "medians_s": {k: round(v, 3) for k, v in medians.items()}, "ratio_to_rclone": ratios}
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
