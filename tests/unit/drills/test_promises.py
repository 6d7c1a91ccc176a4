"""What must hold in a drill is judged from measurement, and what nobody measured is never met."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninelives.drills.experiments import judge_experiment
from ninelives.drills.promises import came_back, judge_check, unfelt
from ninelives.drills.run import overall
from ninelives.drills.scenario import Drill, Promise
from ninelives.home import Home
from ninelives.injections import Flipped, Injection
from ninelives.probing.measure import Verdict
from ninelives.replication.acks import JOURNAL, Ack, append_ack

NOW = datetime(2026, 11, 25, tzinfo=UTC)
SHA = "a" * 64
DAMAGE = Flipped(site="dublin", bucket="data", key="day=1", offset=0, was=1, became=2, size=3, sha256=SHA)
DRILL = Drill("drill-1", "provider-silent", "arrival-delay", "")
verdicts = st.sampled_from(["met", "missed", "unknown"])


def injection(*, undone: bool = True) -> Injection:
    return Injection(
        id="drill-1", scenario="corrupt-object", site="dublin", service="arrival-delay", started_at=NOW,
        expires_at=NOW + timedelta(minutes=5), faults=(DAMAGE,), lost_at=NOW, undone_at=NOW if undone else None,
    )  # fmt: skip


@given(st.lists(verdicts))
def test_the_whole_is_met_only_where_every_part_is(parts: list[str]) -> None:
    found = overall(parts)
    assert (found == "met") is (bool(parts) and set(parts) == {"met"})
    assert (found == "missed") is ("missed" in parts)


@pytest.mark.parametrize(
    ("interrupted", "verdict"),
    [
        ([False, False], Verdict.MET),
        ([False, True], Verdict.MISSED),
        ([False, None], Verdict.UNKNOWN),
        ([None, True], Verdict.MISSED),
        ([], Verdict.UNKNOWN),
    ],
)
def test_users_felt_nothing_only_where_every_slot_of_every_service_was_looked_at(
    interrupted: list[bool | None], verdict: Verdict
) -> None:
    impacts: Any = {str(number): SimpleNamespace(interrupted=one) for number, one in enumerate(interrupted)}
    assert unfelt(impacts) is verdict


@pytest.mark.parametrize(
    ("found", "held", "verdict"),
    [
        ([["dublin", "day=1", "damaged", "repaired"]], SHA, Verdict.MET),
        ([["dublin", "day=1", "damaged", "repaired"]], "b" * 64, Verdict.MISSED),
        ([["dublin", "day=1", "damaged", "lost"]], SHA, Verdict.MISSED),
        ([["paris", "day=1", "damaged", "repaired"]], SHA, Verdict.MISSED),
        ([["dublin", "day=2", "damaged", "repaired"]], SHA, Verdict.MISSED),
        ([], SHA, Verdict.MISSED),
    ],
    ids=["named and right", "named and still wrong", "not repaired", "another site", "another object", "not found"],
)
def test_damage_counts_as_repaired_only_where_it_was_named_and_its_bytes_are_right(
    found: list[list[str]], held: str, verdict: Verdict
) -> None:
    assert judge_check(injection(), {"found": found}, {"day=1": held}) is verdict


@pytest.mark.parametrize(
    ("quarantined", "landed", "reasons", "verdict"),
    [
        (5, 1, {"why": 5}, Verdict.MET),
        (4, 2, {"why": 4}, Verdict.MISSED),
        (6, 0, {"why": 6}, Verdict.MISSED),
        (5, 1, {}, Verdict.MISSED),
    ],
)
def test_nonsense_must_all_wait_with_reasons_and_sound_records_must_pass(
    quarantined: int, landed: int, reasons: dict[str, int], verdict: Verdict
) -> None:
    found = {"planted": 5, "sound": 1, "quarantined": quarantined, "landed": landed, "reasons": reasons}
    assert judge_check(injection(), found, {}) is verdict


@pytest.mark.parametrize("verdict", [Verdict.MET, Verdict.MISSED])
def test_of_a_replayed_feed_the_replay_itself_says_whether_it_landed(verdict: Verdict) -> None:
    assert judge_check(injection(), {"replayed": {"verdict": str(verdict)}}, {}) is verdict


@pytest.mark.parametrize(
    ("writes", "verdict"),
    [
        ([], Verdict.UNKNOWN),
        ([(1, -5.0), (2, -1.0)], Verdict.UNKNOWN),
        ([(1, -5.0), (2, 3.0)], Verdict.MET),
        ([(1, -5.0), (3, 3.0)], Verdict.MISSED),
    ],
    ids=["nobody writes", "none since the return", "they go on", "one is missing"],
)
def test_writes_go_on_where_they_stopped(tmp_path: Path, writes: list[tuple[int, float]], verdict: Verdict) -> None:
    systems: Any = SimpleNamespace(home=Home(tmp_path))
    for seq, seconds in writes:
        append_ack(
            systems.home.feed / JOURNAL,
            Ack(seq=seq, dataset="flights", key=f"hour={seq}", size=1, sha256=SHA, site="paris",
                acked_at=NOW + timedelta(seconds=seconds), monotonic_ns=0),
        )  # fmt: skip
    assert came_back(Promise.WRITES, systems, DRILL, injection()) is verdict


@pytest.mark.parametrize("promise", [Promise.REGISTRY, Promise.COPIES, Promise.WRITES])
def test_what_can_only_hold_after_the_return_is_unknown_before_it(tmp_path: Path, promise: Promise) -> None:
    systems: Any = SimpleNamespace(home=Home(tmp_path))
    assert came_back(promise, systems, DRILL, injection(undone=False)) is Verdict.UNKNOWN


def run_of(status: str = "succeeded", output: Any = None, **activity: Any) -> dict[str, Any]:
    return {
        "status": status,
        "output": output,
        "activity": {"type": "action", "provider": {"type": "python"}} | activity,
    }


PROGRAM = {"provider": {"type": "process"}}


@pytest.mark.parametrize(
    ("run", "verdict"),
    [
        (run_of(), "met"),
        (run_of(output={"status": 0}, **PROGRAM), "met"),
        (run_of(output={"status": 1}, **PROGRAM, type="probe"), "met"),
        (run_of(status="failed"), "missed"),
        (run_of(output=False), "missed"),
        (run_of(output={"status": 1}, **PROGRAM), "missed"),
    ],
    ids=["done", "program done", "a probe's tolerance judges", "raised", "said no", "program failed"],
)
def test_an_experiment_is_judged_by_its_activities_and_not_by_its_status(run: dict[str, Any], verdict: str) -> None:
    assert judge_experiment(journal([run])) == verdict


def journal(runs: list[dict[str, Any]], held: tuple[bool | None, bool | None] | None = None, **more: Any) -> Any:
    """Chaos Toolkit's, of a method of one activity; with a hypothesis where it says whether that held."""
    experiment: dict[str, Any] = {"method": [{}]}
    states: dict[str, Any] = {"before": None, "after": None}
    if held is not None:
        experiment["steady-state-hypothesis"] = {"title": "x", "probes": [{}]}
        states = {
            when: None if one is None else {"steady_state_met": one} for when, one in zip(states, held, strict=True)
        }
    return {"status": "completed", "deviated": False, "run": runs, "experiment": experiment,
            "steady_states": states, **more}  # fmt: skip


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (journal([run_of()], deviated=True), "missed"),
        (journal([run_of()], status="failed"), "missed"),
        (journal([]), "missed"),
        (journal([run_of()], (True, True)), "met"),
        (journal([run_of()], (True, False), deviated=True), "missed"),
        (journal([run_of()], (True, None)), "missed"),
        (journal([], (False, None)), "unknown"),
        (None, "unknown"),
    ],
    ids=["deviated", "ended", "a part of the method", "held", "did not hold", "not asked afterwards",
         "did not hold beforehand, so the library left the method out", "no journal"],
)  # fmt: skip
def test_an_experiment_is_met_only_where_all_of_it_was_done_and_its_hypothesis_held(found: Any, verdict: str) -> None:
    assert judge_experiment(found) == verdict
