"""The main job on the real local estate: lose a site, measure what users felt, come back through the gate.

One estate for the whole file, because its start costs minutes; each test leaves it as it found it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.processes import free_port

from ninelives.adapters.airflow_api import AirflowApi
from ninelives.adapters.connected import ConnectedEstate
from ninelives.cli.drill import airflow_api, start_drill
from ninelives.home import Home
from ninelives.injections import open_injections
from ninelives.replication.manifest import manifest_key, read_manifest

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
MINUTES = 60.0


class Estate:
    """The running demo, used as its users do: through the command line."""

    def __init__(self, home: Path, base: int) -> None:
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "NINELIVES"))},
            "NINELIVES_HOME": str(home),
            "NINELIVES_PORT_BASE": str(base),
        }
        self.home = Home(home)

    def run(self, *arguments: str, timeout: float = 10 * MINUTES) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ninelives", *arguments], env=self.environment, cwd=ROOT, text=True,
            capture_output=True, timeout=timeout, check=False,
        )  # fmt: skip

    def json(self, *arguments: str, timeout: float = 10 * MINUTES) -> Any:
        done = self.run(*arguments, "--json", timeout=timeout)
        assert done.stdout, done.stderr[-3000:]
        return json.loads(done.stdout)

    @property
    def systems(self) -> ConnectedEstate:
        from ninelives.adapters.connections import FileConnections
        from ninelives.estate import load_estate

        estate = load_estate(self.home.root / "estate.yaml")
        return ConnectedEstate(estate, FileConnections(self.home.connections_file), self.home)


def await_(condition: Callable[[], Any], within: float, what: str) -> Any:
    deadline = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {within:.0f} s"
        time.sleep(0.5)
    return found


@pytest.fixture(scope="module")
def estate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estate]:
    base = next(base for base in range(21000, 30000, 100) if _free(base))
    running = Estate(tmp_path_factory.mktemp("drill"), base)
    try:
        done = running.run("demo", timeout=14 * MINUTES)
        running.demo = done  # type: ignore[attr-defined]
        yield running
    finally:
        stopped = running.run("stack", "down")
        assert stopped.returncode == 0, stopped.stderr


def _free(base: int) -> bool:
    import socket

    for port in (*range(base, base + 22),):
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return False
    return bool(free_port())


def ready(estate: Estate) -> None:
    """Wait until nothing speaks against a drill."""
    await_(
        lambda: estate.json("drill", "run", "--dry-run", "--service", "arrival-delay")["may_start"],
        5 * MINUTES,
        "readiness for a drill",
    )


def test_the_demo_loses_a_site_and_says_what_users_felt(estate: Estate) -> None:
    done = estate.demo  # type: ignore[attr-defined]
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Verdict: met" in done.stdout
    (newest, *_) = estate.json("drill", "list")
    facts = newest["facts"]
    assert facts["verdicts"] == {"rto": "met", "rpo": "met"}
    felt = facts["felt"]["arrival-delay"]
    assert felt["sent"] == sum(felt[name] for name in ("good", "slow", "degraded", "wrong", "failed"))
    assert 0 < felt["rto_seconds"] <= 60
    assert felt["wrong"] == 0
    assert felt["degraded"] > 0, "users got the declared fallback while nobody served"
    assert facts["problem"] is None
    assert set(facts["recovery"]) == {"declared", "failed_over", "returned"}, "recovered by the runs a real loss starts"


def test_afterwards_every_site_is_open_the_service_moved_and_the_evidence_is_whole(estate: Estate) -> None:
    ready(estate)
    status = estate.json("status")
    assert status["closed_sites"] == []
    assert status["faults"] == []
    assert [service["active"] for service in status["services"]] == [["dublin"], ["paris", "dublin"]]
    assert estate.json("evidence", "verify")["verdict"] == "whole"


def test_a_dry_run_writes_nothing(estate: Estate) -> None:
    ready(estate)
    systems = estate.systems
    before = (systems.ledger().head(), systems.gateway().state(), systems.ledger().current_lease("drill"))
    run = airflow_api(systems).trigger("run_drill", {"service": "arrival-delay", "site": "active", "dry_run": True})
    await_(lambda: airflow_api(systems).run_state("run_drill", run) == "success", 2 * MINUTES, "the dry run's end")
    states = airflow_api(systems).task_states("run_drill", run)
    assert {task for task, state in states.items() if state == "success"} == {"check_preflight"}
    kinds = {record.kind for record in systems.ledger().records(limit=50) if record.seq > before[0].seq}
    assert kinds <= {"replication", "gate"}, "what the calendar's replication writes meanwhile is not the dry run's"
    assert (systems.gateway().state(), systems.ledger().current_lease("drill")) == before[1:]
    assert open_injections(estate.home) == []


def test_an_active_active_service_rides_through_and_a_second_drill_is_refused(estate: Estate) -> None:
    ready(estate)
    systems = estate.systems
    api = airflow_api(systems)
    first = start_drill(api, scenario="site-loss", service="late-arrival", site="paris")
    await_(lambda: open_injections(estate.home), 2 * MINUTES, "the first drill's fault")
    second = start_drill(api, scenario="site-loss", service="late-arrival", site="dublin")
    await_(lambda: api.run_state("run_drill", second) == "failed", 2 * MINUTES, "the refusal of the second drill")
    await_(lambda: api.run_state("run_drill", first) in {"success", "failed"}, 8 * MINUTES, "the first drill's end")
    drills = {record.facts["run"]: record.facts for record in systems.ledger().records(kind="drill")}
    assert drills[second]["outcome"] == "refused"
    assert drills[first]["outcome"] == "measured", drills[first]
    felt = drills[first]["felt"]["late-arrival"]
    assert felt["wrong"] == 0, felt
    assert felt["failed"] + felt["degraded"] <= 0.01 * felt["sent"], felt  # in flight at the kill, on a busy machine
    assert drills[first]["verdicts"]["rto"] == "met"
    assert open_injections(estate.home) == []


def test_when_the_gate_cannot_vouch_for_the_standbys_data_traffic_does_not_move(estate: Estate) -> None:
    ready(estate)
    systems = estate.systems
    api = airflow_api(systems)
    (active,) = systems.gateway().state().active["arrival-delay"]
    (standby,) = {"paris", "dublin"} - {active}
    # Replication would write the manifest anew: begin right after one of its runs.
    await_(lambda: _replicated_just_now(api), 8 * MINUTES, "the end of a replication")
    systems.store(standby).delete("data", manifest_key("flights"))
    run = api.trigger("fail_over", {"site": active, "service": "arrival-delay"})
    await_(lambda: api.run_state("fail_over", run) in {"success", "failed"}, 3 * MINUTES, "the failover's end")
    states = api.task_states("fail_over", run)
    assert states["fail_over_service.verify_data[0]"] == "failed"
    assert states["fail_over_service.move_traffic[0]"] == "upstream_failed"
    assert api.run_state("fail_over", run) == "failed"
    assert systems.gateway().state().active["arrival-delay"] == (active,)
    (newest,) = systems.ledger().records(kind="failover", limit=1)
    assert newest.facts["outcome"] == "failed"
    assert set(newest.facts["failed_steps"]) == {"verify_data", "move_traffic"}
    assert systems.ledger().current_lease("service:arrival-delay") is None, "the lease was given back"

    back = api.trigger("return_site", {"site": active})
    await_(lambda: api.run_state("return_site", back) in {"success", "failed"}, 5 * MINUTES, "the return's end")
    assert api.run_state("return_site", back) == "success"
    assert systems.gateway().state().closed_sites == frozenset()
    assert read_manifest(systems.store(standby), "flights") is not None, "reconciliation brought the manifest back"


def _replicated_just_now(api: AirflowApi) -> bool:
    runs = api.runs("replicate_data", limit=3)
    if any(run["state"] in {"queued", "running"} for run in runs):
        return False
    ended = max(datetime.fromisoformat(run["end_date"]) for run in runs if run["end_date"])
    return datetime.now(UTC) - ended < timedelta(seconds=90)


def test_with_scheduler_and_prober_killed_the_site_comes_back_and_the_verdict_is_unknown(estate: Estate) -> None:
    ready(estate)
    systems = estate.systems
    api = airflow_api(systems)
    run = start_drill(api, scenario="site-loss", service="late-arrival", site="paris")
    await_(lambda: any(one.lost_at for one in open_injections(estate.home)), 2 * MINUTES, "the fault")
    kill(estate, "airflow-scheduler")
    # Kept dead for longer than the RTO of 5 s: nobody can say what users felt then.
    deadline = time.monotonic() + 8
    while time.monotonic() < deadline:
        kill(estate, "prober")
    await_(lambda: not open_injections(estate.home), 7 * MINUTES, "the return of the site's processes")
    await_(lambda: api.run_state("run_drill", run) in {"success", "failed"}, 10 * MINUTES, "the drill's end")
    (record,) = (one for one in systems.ledger().records(kind="drill") if one.facts["run"] == run)
    assert record.facts["outcome"] == "measured"
    assert record.facts["felt"]["late-arrival"]["unknown"] > 0
    assert record.facts["verdicts"]["rto"] == "unknown"
    assert record.facts["verdict"] == "unknown"
    assert api.run_state("run_drill", run) == "failed", "unknown is never met"
    await_(lambda: not systems.gateway().state().closed_sites, 5 * MINUTES, "the return through the gate")
    assert estate.json("evidence", "verify")["verdict"] == "whole"


def kill(estate: Estate, program: str) -> None:
    """Kill -9 the process that runs ``program`` now, if one does."""
    rows = estate.json("stack", "status")["programs"]
    (pid,) = (row["pid"] for row in rows if row["program"] == program)
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
