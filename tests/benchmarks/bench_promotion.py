"""Promotion and rollback under load on real replicas and Envoy: lost requests, and how fast a bad version is gone.

    PYTHONPATH=tests python tests/benchmarks/bench_promotion.py [RUNS]

Two sites with one replica each, 60 requests a second, a canary of 20 %, with looks of a tenth of a second, because its
shares are held for less than one; in service a look takes ten seconds at least. Seconds count from the first canary
request that the gateway could send to the moment when only the old version gets requests.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from support.promotion import release_of
from support.releases import Load, ReleaseWorld, flaky_model, plain_judge, release_world, slow_model

from ninelives.ports import VersionSplit
from ninelives.releases import canary
from ninelives.releases.journal import Entry, of_run
from ninelives.releases.promotion import begin, promote, roll_back
from ninelives.releases.publish import stage


def bad(world: ReleaseWorld, version: str, onnx: bytes) -> tuple[float, dict[str, int]]:
    systems = world.systems()
    stage(world.sites["paris"].store, *release_of(version, float(int(version) - 1), onnx))
    with Load(world.envoy.url) as load:
        load.await_more(40)
        plan = begin(systems, "alpha", version, by="bench")
        record = promote(systems, plan, approve=lambda: None)
        load.await_more(40)
    journal = of_run(systems.ledger(), plan)
    first, last = journal.find(Entry.TRAFFIC, "canary-20"), journal.find(Entry.TRAFFIC, "back")
    if record.facts["outcome"] != "rolled back" or first is None or last is None:
        raise SystemExit(f"version {version} was not rolled back from the canary: {record.facts}")
    return (last.at - first.at).total_seconds(), dict(load.counts())


def good(world: ReleaseWorld, version: str) -> tuple[float, float, dict[str, int]]:
    """Seconds of the take-over and of a rollback by hand; fixed limits decide, a judge needs minutes of traffic."""
    systems = world.systems()
    stage(world.sites["paris"].store, *release_of(version, float(int(version) - 1)))
    with Load(world.envoy.url) as load:
        load.await_more(40)
        plan = begin(systems, "alpha", version, by="bench")
        promote(systems, plan, approve=lambda: None, judge=plain_judge)
        load.await_more(40)
        journal = of_run(systems.ledger(), plan)
        full, kept = journal.find(Entry.INTENT, "full"), journal.find(Entry.TRAFFIC, "kept")
        if full is None or kept is None:
            raise SystemExit(f"version {version} did not come in: {journal.records[-1].facts}")
        asked = time.monotonic()
        roll_back(systems, plan, by="bench", reasons=["bench"])
        whole = time.monotonic() - asked
        load.await_more(40)
    return (kept.at - full.at).total_seconds(), whole, dict(load.counts())


def change(world: ReleaseWorld, times: int = 20) -> list[float]:
    """Milliseconds of one change of the gateway, from the call until Envoy says that it uses it."""
    systems, took = world.systems(), []
    token = systems.ledger().take_lease("release:alpha", "bench", timedelta(minutes=5))
    for number in range(times):
        split = VersionSplit("1", {"1": 100}) if number % 2 == 0 else None
        began = time.perf_counter()
        systems.gateway().split("alpha", split, token=token.token)
        took.append((time.perf_counter() - began) * 1000)
    systems.ledger().release_lease(token)
    return took


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    canary.SHORTEST = 0.1
    with TemporaryDirectory() as folder, release_world(Path(folder)) as world:
        took = change(world)
        print(f"one change of the gateway: median {median(took):.0f} ms, worst {max(took):.0f} ms of {len(took)}")
        world.policy = {**ReleaseWorld.policy, "shadow": 0}
        asked: Counter[str] = Counter()
        lost: Counter[str] = Counter()

        def add(name: str, counts: dict[str, int]) -> None:
            asked[name] += sum(counts.values())
            lost[name] += sum(counts.values()) - counts.get("good", 0)

        for number in range(runs):
            first = 2 + 3 * number
            for name, version, onnx in (
                ("20 % errors", first, flaky_model(float(first - 1))),
                ("slow", first + 1, slow_model(float(first))),
            ):
                seconds, counts = bad(world, str(version), onnx)
                add(name, counts)
                print(f"{name}: {seconds:.2f} s to old version only; requests {counts}")
            over, back, counts = good(world, str(first + 2))
            add("good", counts)
            print(f"good: take-over {over:.2f} s, rollback by hand {back:.2f} s; requests {counts}")
        for name in asked:
            print(f"{name}: {lost[name]} of {asked[name]} requests lost")
        print(f"in all: {lost.total()} of {asked.total()} requests lost")


if __name__ == "__main__":
    main()
