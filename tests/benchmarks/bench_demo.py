"""From a clone to the end of ``make demo``, first and second run, and where a failover's seconds go:
``python bench_demo.py [--rounds 3]``.

Clones this repository, runs ``make demo`` in the clone as a new user would, and again ``--rounds`` times. Prints JSON:
``set_up`` (making the environment), ``first`` and the median of the ``again`` runs in seconds, and of their drills the
medians of detection, decision, activation, shift, Airflow's share and RTO, with ``floor``: what the same steps cost
without Airflow (loading and warming the model once more at a standby's replica) plus 0.34 s for each of the four hops
that follow each other (measured for this Airflow with LocalExecutor on PostgreSQL). Takes about ten minutes and needs
the machine for itself.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from ninelives.adapters.connected import ConnectedEstate
from ninelives.home import Home
from ninelives.ports import Replica
from ninelives.releases.publish import read_release
from ninelives.serving.warm_up import settle

ROOT = Path(__file__).parents[2]
PRIVATE = ("AIRFLOW", "NINELIVES", "VIRTUAL")
HOP_SECONDS = 0.34
HOPS = 4
"""From the event to deciding, warming up, moving: three tasks, and the event's own way to the scheduler."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs after the first")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="ninelives-demo-") as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        try:
            set_up, first = timed(clone, "setup"), timed(clone, "demo")
            again = [timed(clone, "demo") for _ in range(rounds)]
            print(json.dumps({"set_up": set_up, "first": first, "again": statistics.median(again)} | drills(clone)))
        finally:
            timed(clone, "down")


def timed(clone: Path, target: str) -> float:
    """Seconds that ``make TARGET`` takes; a demo whose objective was missed ends the benchmark."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "NINELIVES", "VIRTUAL"))
    }
    base = {"NINELIVES_PORT_BASE": os.environ.get("NINELIVES_PORT_BASE", "28000")}
    started = time.monotonic()
    subprocess.run(["make", target], cwd=clone, env=clean | base, check=True, stdout=subprocess.DEVNULL)
    return round(time.monotonic() - started, 1)


def drills(clone: Path) -> dict[str, Any]:
    systems = ConnectedEstate.of_home(Home(clone / ".ninelives"))
    records = [record for record in systems.ledger().records(kind="drill") if record.facts["outcome"] == "measured"]
    service = systems.estate.services[0]
    found: dict[str, Any] = {"drills": len(records)}
    found["rto"] = statistics.median(record.facts["felt"][service.name]["rto_seconds"] for record in records)
    phases = [record.facts["recovery"]["failed_over"]["phases"] for record in records]
    for name in phases[0]:
        found[name] = round(statistics.median(one[name] for one in phases), 2)
    standby = next(site for site in service.sites if site not in systems.gateway().state().active[service.name])
    release = read_release(systems.store(standby), service.model)
    assert release is not None
    loads = [load(replica, service.model, release.golden[0].inputs) for replica in systems.replicas(standby)]
    found["floor"] = round(max(loads) + HOPS * HOP_SECONDS, 2)
    found["failed_requests"] = {
        name: [record.facts["felt"][name]["failed"] for record in records] for name in systems.estate.service_by_name
    }
    return found


def load(replica: Replica, model: str, inputs: Any) -> float:
    """Seconds to load a model and to serve it with a settled latency."""
    started = time.monotonic()
    replica.load(model)
    settle(lambda: replica.infer(model, [inputs]))
    return time.monotonic() - started


if __name__ == "__main__":
    main()
