"""What proof costs: ``replicate`` (copy, read back, hash, manifests) against bare rclone, s5cmd and the AWS CLI.

    python tests/benchmarks/bench_replication.py [--rounds 3] [--loads small,medium,large] [--peers FOLDER]

Loads: small is 10,000 objects of 10 KB, medium 200 of 5 MB, large one of 2 GB; each is copied into an empty target,
then again with nothing changed, then with 1 % added. All between two ``rclone serve s3`` on this machine. s5cmd and the
AWS CLI copy within one endpoint only, so they go through the disk: down from one, up to the other. They are run where
they are on PATH or in ``--peers`` (PyPI has both). Prints one JSON document: medians of wall and CPU seconds of the
whole process tree (the two stores excluded), peak memory in MB (sum over the tree, every 50 ms), and ratios to rclone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "include"), str(ROOT / "tests")]

from support.sites import KEY, SECRET, Site  # noqa: E402

from ninelives.adapters.rclone import find_rclone, rclone_environment  # noqa: E402

LOADS = {"small": (10_000, 10_000), "medium": (200, 5_000_000), "large": (1, 2_000_000_000)}
"""objects, bytes of each"""
CLIENT = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1"}


def measured(command: Sequence[str], environment: Mapping[str, str]) -> dict[str, float]:
    """Run to its end: seconds of wall and CPU, and peak MB of all its processes."""
    begun = time.perf_counter()
    child = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)
    peak, done = 0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(0.05):
            total = 0
            try:
                tree = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
            except psutil.Error:
                continue
            for process in tree:
                try:
                    total += process.memory_info().rss
                except psutil.Error:
                    continue  # it ended meanwhile
            peak = max(peak, total)

    sampler = threading.Thread(target=sample)
    sampler.start()
    _, status, used = os.wait4(child.pid, 0)
    wall = time.perf_counter() - begun
    done.set()
    sampler.join()
    if status:
        raise SystemExit(f"{command[0]} ended with {os.waitstatus_to_exitcode(status)}")
    return {"wall_s": wall, "cpu_s": used.ru_utime + used.ru_stime, "peak_mb": peak / 1e6}


OURS = """
import sys
from ninelives.adapters.rclone import RcloneCopier
from ninelives.adapters.s3 import S3ObjectStore
from ninelives.ports import Connection
from ninelives.replication.replicate import replicate

key, secret, *urls = sys.argv[1:]
ends = [Connection(f"store{n}", login=key, password=secret, extra={"endpoint_url": url}) for n, url in enumerate(urls)]
stores = (S3ObjectStore.from_connection(end, end.conn_id) for end in ends)
replicate("flights", *stores, RcloneCopier(), *ends)
"""
"""A process of its own that does nothing else, as bare rclone is one."""


def measure(folder: Path, number: int, count: int, size: int, peers: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """One round of one load, each tool into a target of its own."""
    names = ["ours", "rclone", *peers]
    paris, targets = Site("paris", folder / f"paris{number}"), {n: Site(n, folder / f"{n}{number}") for n in names}
    disk = folder / "disk"
    found: dict[str, dict[str, float]] = {}

    def through_disk(name: str, down: Sequence[str], up: Sequence[str]) -> dict[str, float]:
        one = measured([peers[name], *down], CLIENT)
        two = measured([peers[name], *up], CLIENT)
        return {key: max(one[key], two[key]) if key == "peak_mb" else one[key] + two[key] for key in one}

    def url(site: Site) -> str:
        return f"http://127.0.0.1:{site.port}"

    def run(step: str) -> None:
        environment = rclone_environment({"source": paris.connection, "target": targets["rclone"].connection})
        verb = ["sync", "--checksum"] if step == "unchanged" else ["copy", "--checksum"]
        found[f"{step}/rclone"] = measured(
            [find_rclone(), *verb, "source:data/flights", "target:data/flights", "--config", os.devnull,
             "--transfers", "16", "--checkers", "16", "--fast-list", "--s3-no-check-bucket"],
            environment,
        )  # fmt: skip
        command = [sys.executable, "-c", OURS, KEY, SECRET, url(paris), url(targets["ours"])]
        found[f"{step}/ours"] = measured(command, {"PYTHONPATH": str(ROOT / "include")})
        if "s5cmd" in peers:
            there, back = (["--endpoint-url", url(site), "sync"] for site in (paris, targets["s5cmd"]))
            found[f"{step}/s5cmd"] = through_disk(
                "s5cmd",
                [*there, "s3://data/flights/*", f"{disk}/s5cmd/"],
                [*back, f"{disk}/s5cmd/", "s3://data/flights/"],
            )
        if "aws" in peers:
            there, back = (["s3", "sync", "--endpoint-url", url(site)] for site in (paris, targets["aws"]))
            found[f"{step}/aws"] = through_disk(
                "aws", [*there, "s3://data/flights/", f"{disk}/aws/"], [*back, f"{disk}/aws/", "s3://data/flights/"]
            )

    try:
        paris.fill(count, size)
        for site in (paris, *targets.values()):
            site.start()
        run("full")
        run("unchanged")
        for extra in range(max(1, count // 100)):
            paris.store.put("data", f"flights/new/{extra}.parquet", os.urandom(min(size, 5_000_000)))
        run("one_percent")
    finally:
        for site in (paris, *targets.values()):
            site.kill()
            shutil.rmtree(site.folder, ignore_errors=True)
        shutil.rmtree(disk, ignore_errors=True)
    return found


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--loads", default=",".join(LOADS))
    arguments.add_argument("--peers", help="folder with s5cmd and aws")
    options = arguments.parse_args()
    path = os.pathsep.join(filter(None, (options.peers, os.environ["PATH"])))
    peers = {name: found for name in ("s5cmd", "aws") if (found := shutil.which(name, path=path))}
    folder = Path(tempfile.mkdtemp(prefix="bench-replication-"))
    report: dict[str, object] = {}
    try:
        for load in options.loads.split(","):
            rounds = [measure(folder, number, *LOADS[load], peers) for number in range(options.rounds)]
            medians = {
                what: {key: round(statistics.median(one[what][key] for one in rounds), 2) for key in rounds[0][what]}
                for what in rounds[0]
            }
            for what, values in medians.items():
                values["ratio"] = round(values["wall_s"] / medians[f"{what.split('/')[0]}/rclone"]["wall_s"], 2)
            report[load] = medians
            print(load, "done", file=sys.stderr)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
