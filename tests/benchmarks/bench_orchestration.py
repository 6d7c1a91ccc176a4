"""What Airflow itself costs a drill: the time in which none of its tasks is at work or waits for something.

    NINELIVES_HOME=... python tests/benchmarks/bench_orchestration.py

Of every drill that ended in the running estate: run some first, with ``ninelives drill run``. ``to the fault`` is from
the start of the run until something is broken, preflight included; ``to the verdict`` from its return, the five seconds
of aftermath included.
"""

from __future__ import annotations

import statistics
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "include"))


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def idle(tasks: list[dict[str, Any]], began: datetime, ended: datetime) -> float:
    """Seconds of the run that no task covers."""
    covered, seen = 0.0, began
    spans = [(instant(one["start_date"]), instant(one["end_date"])) for one in tasks if one["start_date"]]
    for start, end in sorted(spans):
        covered += max(0.0, (end - max(start, seen)).total_seconds())
        seen = max(seen, end)
    return (ended - began).total_seconds() - covered


def main() -> None:
    from ninelives.adapters.airflow_api import AirflowApi
    from ninelives.adapters.connected import ConnectedEstate
    from ninelives.home import Home

    systems = ConnectedEstate.of_home(Home.from_environment())
    api = AirflowApi.from_connection(systems.connections.get("ninelives_airflow_api"))
    found: dict[str, list[float]] = {"airflow": [], "to the fault": [], "to the verdict": []}
    for record in reversed(systems.ledger().records(kind="drill")):
        facts = record.facts
        if facts["outcome"] != "measured" or not facts["restored_at"]:
            continue
        path = f"/api/v2/dags/run_drill/dagRuns/{facts['run']}"
        run = api._send("GET", path).json()
        tasks = api._send("GET", f"{path}/taskInstances", params={"limit": 50}).json()["task_instances"]
        began, ended = instant(run["queued_at"]), instant(run["end_date"])
        lost, restored = instant(facts["lost_at"]), instant(facts["restored_at"])
        took = {
            "airflow": idle(tasks, began, ended),
            "to the fault": (lost - began).total_seconds(),
            "to the verdict": (ended - restored).total_seconds(),
        }
        print(record.subject, f"{(ended - began).total_seconds():.1f} s:", {k: round(v, 1) for k, v in took.items()})
        for name, seconds in took.items():
            found[name].append(seconds)
    for name, all_of_it in found.items():
        print(
            f"{name}: median {statistics.median(all_of_it):.1f} s, {min(all_of_it):.1f} to {max(all_of_it):.1f} s, "
            f"{len(all_of_it)} drills"
        )


if __name__ == "__main__":
    main()
