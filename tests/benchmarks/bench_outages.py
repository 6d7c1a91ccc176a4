"""How far RTO and RPO are off over many seeded outages, against records that owe nothing to what is measured.

    python tests/benchmarks/bench_outages.py [--outages 200] [--seed 1]

RTO: a service is killed, held, wrong, degraded or flapping while the prober, a process of its own, asks every 50 ms;
the truth is the service's own log and the instants at which it was told to change. RPO: a store is killed while
somebody writes to it; the truth is the writer's own list and the bytes on the survivor's disk. Prints JSON.
"""

from __future__ import annotations

import argparse
import collections
import json
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "include"), str(ROOT / "tests")]

from support.outages import INTERVAL, answers, judge_outages, lose_store, served  # noqa: E402
from support.sites import Site  # noqa: E402


def rto(folder: Path, seeds: range) -> dict[str, object]:
    with served(folder) as world:
        found = judge_outages(world, [world.outage(seed) for seed in seeds])
        gave, got = answers(world)
    errors = sorted(abs(one.error) for one in found)
    beyond = [one for one in found if abs(one.error) > INTERVAL]
    return {
        "outages": len(found),
        "kinds": dict(collections.Counter(one.outage.kind for one in found)),
        "exact": sum(one.rto is not None for one in found),
        "truth_in_range": sum(one.held for one in found),
        "out_of_range": [
            {"seed": one.outage.seed, "kind": one.outage.kind, "truth": one.outage.truth, "range": [one.low, one.high]}
            for one in found
            if not one.held
        ],
        "error_ms": {
            "median": round(statistics.median(errors) * 1e3, 1),
            "p95": round(errors[int(len(errors) * 0.95)] * 1e3, 1),
            "max": round(errors[-1] * 1e3, 1),
        },
        "within_one_interval": len(found) - len(beyond),
        "beyond": [
            {"seed": one.outage.seed, "kind": one.outage.kind, "error_ms": round(one.error * 1e3, 1),
             "slowest_answer_ms": round(one.slowest * 1e3, 1)}
            for one in beyond
        ],
        "answers_given": gave,
        "answers_got": got,
    }  # fmt: skip


def rpo(folder: Path, seeds: range) -> dict[str, object]:
    paris, dublin = (Site(name, folder / name) for name in ("paris", "dublin"))
    try:
        for site in (paris, dublin):
            site.start()
        losses = [lose_store(paris, dublin, folder, seed) for seed in seeds]
    finally:
        for site in (paris, dublin):
            site.kill()
    known = [loss.true[0] for loss in losses if loss.true[0] is not None]
    return {
        "losses": len(losses),
        "exact": sum(loss.measured == loss.true for loss in losses),
        "off": [
            {"measured": loss.measured[:2], "true": loss.true[:2]} for loss in losses if loss.measured != loss.true
        ],
        "lost_writes": sum(len(loss.true[2]) for loss in losses),
        "nothing_survived": sum(loss.true[0] is None for loss in losses),
        "rpo_s": {"median": round(statistics.median(known), 3), "max": round(max(known), 3)},
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--outages", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=("rto", "rpo"))
    options = parser.parse_args()
    seeds, report = range(options.seed, options.seed + options.outages), {}
    with tempfile.TemporaryDirectory(prefix="bench-outages-") as folder:
        for name, part in (("rto", rto), ("rpo", rpo)):
            if options.only in (None, name):
                (Path(folder) / name).mkdir()
                report[name] = part(Path(folder) / name, seeds)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
