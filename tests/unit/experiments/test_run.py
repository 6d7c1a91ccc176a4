"""An experiment from its declaration to its report, killed anywhere, with users in memory."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.experiment import NAME, ExperimentMemory, approved, no_gate, promotion
from support.promotion import MemoryStore, killed_after

from ninelives.errors import Refused
from ninelives.experiments.assign import Arm, Experiment, assign
from ninelives.experiments.journal import Entry, of_run
from ninelives.experiments.judge import Verdict
from ninelives.experiments.looks import STRETCH, Counted, Row, append, folded, guard_rails, read_rows
from ninelives.experiments.outcomes import Outcomes
from ninelives.experiments.report import read_report
from ninelives.experiments.run import (
    Ending,
    Watch,
    begin,
    divide,
    end,
    journal_of,
    outlook,
    run,
    run_step,
    split_of,
    steps,
)
from ninelives.ports import Attempt, Attempts, Record
from ninelives.releases import journal as releases
from ninelives.releases.status import release_history, release_status


@pytest.fixture(autouse=True)
def _no_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promotion, "verify_data", no_gate)


def went(systems: ExperimentMemory) -> Record:
    """The whole experiment, with users in its pauses; where it is over, its end."""
    journal = journal_of(systems, NAME)  # type: ignore[arg-type]
    over = journal and journal.find(Entry.INTENT) and journal.find(Entry.ENDED)
    plan = journal.plan if journal and over else begin(systems, NAME, by="ada")  # type: ignore[arg-type]
    return run(systems, plan, approve=approved, pause=systems.live)  # type: ignore[arg-type]


def running(systems: ExperimentMemory) -> Watch:
    plan = begin(systems, NAME, by="ada")  # type: ignore[arg-type]
    for name, do in steps(systems, plan, approve=approved).items():  # type: ignore[arg-type]
        run_step(systems, plan, name, do)  # type: ignore[arg-type]
    divide(systems, plan)  # type: ignore[arg-type]
    return Watch(systems, plan)  # type: ignore[arg-type]


def made(systems: ExperimentMemory) -> dict[str, int]:
    """Tries of each arm, as all replicas remember them."""
    replicas = [one for site in systems._replicas.values() for one in site]
    return {
        arm: sum(len(one.tries.get((arm, version), ())) for one in replicas)  # type: ignore[attr-defined]
        for arm, version in (("control", "1"), ("experiment", "2"))
    }


def given_back(systems: ExperimentMemory) -> None:
    assert (systems.gateway().used, systems.gateway().state().versions) == (None, {})
    assert {one.served.version for site in systems._replicas.values() for one in site if one.served} == {"1"}
    assert not any(one.beside for site in systems._replicas.values() for one in site)
    assert systems.ledger().current_lease("release:alpha") is None


def test_what_is_better_is_found_and_reported_and_nobody_is_promoted_by_it(tmp_path: Path) -> None:
    systems = ExperimentMemory(tmp_path)
    systems.lift, systems.requests = 0.35, 2500
    record = went(systems)
    assert record.facts["verdict"] == "better", record.facts
    given_back(systems)
    assert systems.registry().alias == "1"
    page = read_report(systems, record)  # type: ignore[arg-type]
    assert "<svg" in page
    assert "<script" not in page
    for picture in page.split("<svg")[1:]:
        ElementTree.fromstring("<svg" + picture.split("</svg>")[0] + "</svg>")
    assert page.count("<svg") == 2
    assert "with paris lost: 1 replicas x 200/s = 200/s" in page
    assert record.facts["judged"]["target"]["experiment_units"] > 100


@pytest.mark.parametrize(("fault", "why"), [({"wrong": 0.3}, "errors"), ({"slow": 0.5}, "latency-slow")])
def test_a_worse_arm_is_stopped_by_its_guard_rail_whatever_the_target_says(
    tmp_path: Path, fault: dict[str, float], why: str
) -> None:
    systems = ExperimentMemory(tmp_path)
    vars(systems).update(fault, lift=0.05)
    record = went(systems)
    assert record.facts["verdict"] == "stop"
    assert any(reason.startswith(why) for reason in record.facts["reasons"]), record.facts["reasons"]
    given_back(systems)


def test_it_ends_after_its_last_day_undecided(tmp_path: Path) -> None:
    systems = ExperimentMemory(tmp_path)
    watch = running(systems)
    systems.live(0.1)
    assert watch.look() is None
    ending = watch.look(datetime.now(UTC) + timedelta(days=4))
    assert ending
    assert (ending.verdict, "is over" in ending.reasons[0]) == (Verdict.UNDECIDED, True)


@pytest.mark.parametrize("calls", range(0, 60, 4))
def test_killed_anywhere_it_goes_on_or_goes_back_and_loses_and_doubles_nothing(tmp_path: Path, calls: int) -> None:
    systems = ExperimentMemory(tmp_path)
    systems.wrong = 0.4
    with killed_after(systems.fuse, calls):
        went(systems)
    record = went(systems)
    assert record.facts["verdict"] == "stop"
    given_back(systems)
    assert record.facts["attempts"] == made(systems), "each try is counted once"
    assert went(systems).seq == record.seq


def test_a_person_ends_it_while_it_is_watched_and_the_watch_lets_go(tmp_path: Path) -> None:
    systems = ExperimentMemory(tmp_path)
    watch = running(systems)
    ended = end(systems, watch.plan, Ending(Verdict.STOP, ("complaints",)), by="grace")  # type: ignore[arg-type]
    given_back(systems)
    ending = watch.look()
    assert ending
    again = end(systems, watch.plan, ending, by="ada")  # type: ignore[arg-type]
    assert (again.seq, again.facts["by"], again.facts["reasons"]) == (ended.seq, "grace", ["complaints"])


def test_users_that_are_divided_at_the_very_moment_of_the_end_are_given_back(tmp_path: Path) -> None:
    systems = ExperimentMemory(tmp_path)
    plan = begin(systems, NAME, by="ada")  # type: ignore[arg-type]
    for name, do in steps(systems, plan, approve=approved).items():  # type: ignore[arg-type]
        run_step(systems, plan, name, do)  # type: ignore[arg-type]
    gateway, before = systems.gateway(), systems.gateway().split

    def late(service: str, split: Any, *, token: int) -> None:
        gateway.split = before  # type: ignore[method-assign]
        end(systems, plan, Ending(Verdict.STOP, ("complaints",)), by="grace")  # type: ignore[arg-type]
        before(service, split, token=token)

    gateway.split = late  # type: ignore[method-assign]
    with pytest.raises(Refused, match="it was ended"):
        divide(systems, plan)  # type: ignore[arg-type]
    assert gateway.used is None
    before("alpha", split_of(systems.estate.experiment_by_name[NAME], plan), token=99)
    end(systems, plan, Ending(Verdict.STOP, ("once more",)), by="ada")  # type: ignore[arg-type]
    given_back(systems)


def test_a_lost_site_ends_it_and_one_look_does_not(tmp_path: Path) -> None:
    systems = ExperimentMemory(tmp_path)
    watch = running(systems)
    systems.replicas("dublin")[0].up = False
    assert watch.look() is None
    systems.replicas("dublin")[0].up = True
    systems.live(0.1)
    assert watch.look() is None
    systems.replicas("dublin")[0].up = False
    endings = [watch.look() for _ in range(3)]
    assert endings[:2] == [None, None]
    assert endings[2]
    assert "dublin is lost to it" in endings[2].reasons


def test_two_that_watch_count_each_try_once(tmp_path: Path) -> None:
    systems = ExperimentMemory(tmp_path)
    one = running(systems)
    other = Watch(systems, one.plan)  # type: ignore[arg-type]
    for watch in (one, other, other, one, one, other):
        systems.live(0.1)
        assert watch.look() is None
    record = end(systems, one.plan, Ending(Verdict.STOP, ("enough",)), by="ada")  # type: ignore[arg-type]
    assert record.facts["attempts"] == made(systems)


def test_looks_that_are_gone_end_it_and_users_are_given_back(tmp_path: Path) -> None:
    systems = ExperimentMemory(tmp_path)
    watch = running(systems)
    next(systems.home.looks.glob("*.jsonl")).unlink()
    ending = watch.look()
    assert ending
    record = end(systems, watch.plan, ending, by="ada")  # type: ignore[arg-type]
    assert "is gone" in record.facts["reasons"][0]
    assert "report" not in record.facts
    given_back(systems)


def test_what_nobody_can_watch_does_not_go_on(tmp_path: Path) -> None:
    systems = ExperimentMemory(tmp_path)
    watch = running(systems)

    def nothing(model: str) -> Attempts:
        raise Refused("model server", ["the key is wrong"])

    for site in ("paris", "dublin"):
        systems.replicas(site)[0].attempts = nothing  # type: ignore[method-assign]
    assert watch.look() is None
    ending = watch.look(datetime.now(UTC) + timedelta(minutes=2))
    assert ending
    assert ending.reasons[0].startswith("nobody could watch it for 2min")


def test_a_replica_that_is_started_anew_gets_the_version_again(tmp_path: Path) -> None:
    systems = ExperimentMemory(tmp_path)
    watch = running(systems)
    systems.live(0.1)
    watch.look()
    before = sum(sum(row.attempts) for row in watch.rows)
    replica = systems.replicas("paris")[0]
    replica.forget()  # type: ignore[attr-defined]
    systems.live(0.1)
    watch.look()
    assert list(replica.beside) == ["2"]
    assert sum(sum(row.attempts) for row in watch.rows) > before


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"peak": 201}, "with paris lost, 200 requests a second could be answered, and 201 are needed"),
        ({"cost": 9}, "are needed"),
        ({"exposure": 0.5, "stop_within": "3d"}, "of the error budget"),
        ({"version": "3"}, "version 3 is not staged at paris"),
        ({"control": "4"}, "version 4 should be the control, and version 1 serves"),
        ({"until": "2026-01-01"}, "its last day"),
    ],
)
def test_everything_that_is_against_it_is_said_before_anything_is_touched(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    systems = ExperimentMemory(tmp_path, **changes)
    assert why in "; ".join(outlook(systems, NAME).against)  # type: ignore[arg-type]
    if "peak" in changes or "cost" in changes or "exposure" in changes:
        record = went(systems)
        assert (record.facts["verdict"], "report" in record.facts) == ("stop", False)
        assert why in "; ".join(record.facts["reasons"])
    else:
        with pytest.raises(Refused, match=why):
            went(systems)
    given_back(systems)


def test_a_refused_one_may_be_tried_again_and_one_that_users_saw_may_not(tmp_path: Path) -> None:
    systems = ExperimentMemory(tmp_path, peak=1000)
    assert went(systems).facts["verdict"] == "stop"
    systems.declare()
    systems.wrong = 0.5
    assert went(systems).facts["run"] == f"experiment-{NAME}-2"
    with pytest.raises(Refused, match="under another name"):
        begin(systems, NAME, by="ada")  # type: ignore[arg-type]


def test_promotions_and_experiments_are_one_change_at_a_time(tmp_path: Path) -> None:
    systems = ExperimentMemory(tmp_path)
    watch = running(systems)
    with pytest.raises(Refused, match=f"{NAME} is under way"):
        promotion.begin(systems, "alpha", "2", by="ada")  # type: ignore[arg-type]
    end(systems, watch.plan, Ending(Verdict.STOP, ("enough",)), by="ada")  # type: ignore[arg-type]
    plan = promotion.begin(systems, "alpha", "2", by="ada")  # type: ignore[arg-type]
    assert not releases.of_run(systems.ledger(), plan).outcome
    systems.declare(name="another")
    with pytest.raises(Refused, match="the promotion to version 2 is not over"):
        begin(systems, "another", by="ada")  # type: ignore[arg-type]


def test_the_history_of_a_service_says_who_was_answered_by_what_and_its_status_is_sound(tmp_path: Path) -> None:
    systems = ExperimentMemory(tmp_path)
    watch = running(systems)
    status = release_status(systems, "alpha")  # type: ignore[arg-type]
    assert (status["experiment"], status["problems"]) == (NAME, [])
    end(systems, watch.plan, Ending(Verdict.STOP, ("complaints",)), by="grace")  # type: ignore[arg-type]
    rows = [
        (row["shares"], row["changing"], row["decided_by"])
        for row in release_history(systems, "alpha")[1:]  # type: ignore[arg-type]
    ]
    both = {"1": 80, "2": 20}
    assert rows == [
        (both, True, "ada"),
        (both, False, "ada"),
        ({"1": 100}, True, "grace"),
        ({"1": 100}, False, "grace"),
    ]
    systems.gateway().split("alpha", split_of(watch.experiment, watch.plan), token=99)
    (problem,) = release_status(systems, "alpha")["problems"]  # type: ignore[arg-type]
    assert "which the ledger says is over" in problem


def test_what_it_is_decided_by_is_what_was_declared_when_it_began(tmp_path: Path) -> None:
    systems = ExperimentMemory(tmp_path)
    watch = running(systems)
    systems.declare(exposure=0.5, target={**watch.experiment.target.model_dump(), "wanted": "decrease"})
    later = Watch(systems, watch.plan)  # type: ignore[arg-type]
    assert (later.experiment, later.look()) == (watch.experiment, None)
    systems.declare(name="")
    found = journal_of(systems, NAME)  # type: ignore[arg-type]
    assert found
    end(systems, found.plan, Ending(Verdict.STOP, ("not declared any more",)), by="ada")  # type: ignore[arg-type]
    given_back(systems)


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)), min_size=1, max_size=20), max_size=6),
    st.permutations(range(6)),
)
@settings(max_examples=60, deadline=None)
def test_a_unit_counts_once_by_its_first_line_however_its_numbers_arrive(
    objects: list[list[tuple[int, int]]], order: list[int]
) -> None:
    from support.promotion import Fuse

    stores = MemoryStore("paris", Fuse()), MemoryStore("dublin", Fuse())
    experiment = Experiment("one", 0.4)
    outcomes = Outcomes(experiment, "outcomes/", datetime.now(UTC) - timedelta(days=1))
    first: dict[str, float] = {}
    for number, lines in enumerate(objects):
        body = "\n".join(json.dumps({"unit": f"u{unit}", "value": value}) for unit, value in lines).encode()
        for store in stores if order[number] % 2 else stores[:1]:
            store.put("data", f"outcomes/{number}", body)
        outcomes.read(stores)  # type: ignore[arg-type]
        for unit, value in lines:
            first.setdefault(f"u{unit}", value)
    for arm, looks in ((Arm.CONTROL, outcomes.control), (Arm.EXPERIMENT, outcomes.treated)):
        mine = [value for unit, value in first.items() if assign(experiment, unit) is arm]
        assert sum(look.units for look in looks) == len(mine)
        assert sum(look.units * look.mean for look in looks) == pytest.approx(sum(mine))


def test_a_broken_object_is_named_and_counts_for_nothing() -> None:
    from support.promotion import Fuse

    store = MemoryStore("paris", Fuse())
    lines = [
        b'{"unit": "u1", "value": 1}',
        b'{"unit": "u2"}',
        b"nonsense",
        b'{"unit": "", "value": 1}',
        b'{"unit": "a", "value": NaN}',
    ]
    for number, line in enumerate(lines):
        store.put("data", f"outcomes/{number}", line)
    outcomes = Outcomes(Experiment("one", 0.5), "outcomes/", datetime.now(UTC) - timedelta(days=1))
    outcomes.read([store])  # type: ignore[list-item]
    outcomes.read([store])  # type: ignore[list-item]
    assert sum(one.units for one in (*outcomes.control, *outcomes.treated)) == 1
    assert [problem.split(" ")[0] for problem in outcomes.problems] == [
        f"data/outcomes/{number}" for number in range(1, 5)
    ]


@given(st.lists(st.tuples(st.sampled_from(["ask", "look", "die"]), st.integers(1, 5)), max_size=20))
@settings(max_examples=100, deadline=None)
def test_each_try_is_counted_once_over_looks_and_ends_of_a_replica(events: list[tuple[str, int]]) -> None:
    cursors: dict[str, tuple[str, float]] = {}
    boot, clock, remembered, seen, made = 0, 0.0, list[Attempt](), 0, 0

    def look() -> int:
        counted = Counted(dict(cursors))
        counted.add("r", Attempts(str(boot), (), {("experiment", "2"): tuple(remembered)}), control="1", experiment="2")
        cursors.update(counted.cursors)
        return len(counted.experiment)

    for what, number in [*events, ("look", 1)]:
        if what == "ask":
            for _ in range(number):
                clock += 1
                remembered.append(Attempt(clock, 0.1, True))
                made += 1
        elif what == "look":
            seen += look()
        else:
            seen += look()  # what dies unseen is lost, and nobody can know it
            boot, remembered = boot + 1, []
    assert seen == made


def test_a_line_that_was_cut_off_never_counted(tmp_path: Path) -> None:
    path = tmp_path / "looks" / "one.jsonl"
    row = Row(
        "2026-11-26T10:00:00+00:00", {"http://a": ("boot", 1.5)}, (3, 4), (0, 1), (0, 0), (1.5, None), (2.0, None)
    )
    append(path, row)
    with path.open("ab") as file:
        file.write(b'{"at": "2026')
    assert read_rows(path) == [row]
    append(path, row)
    assert read_rows(path) == [row, row]


def test_guard_rails_begin_anew_with_less_of_the_chance_to_be_wrong() -> None:
    rows = [Row("", {}, (10, 10), (0, 0), (0, 0), (1.0, 1.0), (2.0, 2.0))] * (STRETCH + 5)
    first, second = guard_rails(rows[:STRETCH], 0.999), guard_rails(rows, 0.999)
    assert [len(one.control) for one in (first[0], second[0])] == [STRETCH, 5]
    chances = [1 - one[0].confidence for one in (first, second) if one[0].confidence]
    assert chances[0] == pytest.approx(4 * chances[1])
    assert sum(chances[0] / number**2 for number in range(1, 10_000)) <= 2 * 0.01
    assert {one.name for one in first} == {"errors", "latency-slow", "latency-p50", "latency-p99"}


def test_what_few_users_show_in_many_looks_counts_in_all_for_better_and_not_for_a_stop(tmp_path: Path) -> None:
    few = Row("", {}, (2, 2), (0, 0), (0, 0), (1.0, 1.0), (2.0, 2.0))
    systems = ExperimentMemory(tmp_path)
    systems.lift, systems.requests = 0.5, 2500
    watch = running(systems)
    for _ in range(4):
        systems.live(0.1)
    watch.outcomes.read(list(systems.stores().values()))  # type: ignore[arg-type]
    watch.rows = [watch.rows[0], *[few] * (5 * STRETCH)]
    judged = watch.judged()
    assert (judged.verdict, len(folded(watch.rows[1:]))) == (Verdict.BETTER, STRETCH)
    bad = Row("", {}, (2, 2), (0, 1), (0, 0), (1.0, 1.0), (2.0, 2.0))
    watch.rows += [bad] * 50
    assert watch.judged().verdict is Verdict.STOP


def test_the_way_back_comes_before_all_else_even_where_the_report_cannot_be_kept(tmp_path: Path) -> None:
    systems = ExperimentMemory(tmp_path)
    watch = running(systems)
    systems.live(0.1)
    watch.look()

    def full(bucket: str, key: str, data: bytes) -> None:
        from ninelives.errors import Unavailable

        if bucket == "experiments":
            raise Unavailable("the disk is full")
        systems.fuse.step()

    for store in systems.stores().values():
        store.put = full  # type: ignore[method-assign]
    record = end(systems, watch.plan, Ending(Verdict.STOP, ("enough",)), by="ada")  # type: ignore[arg-type]
    assert "the disk is full" in record.facts["report"]["problem"]
    given_back(systems)
    assert of_run(systems.ledger(), watch.plan).find(Entry.ENDED)  # type: ignore[arg-type]
    with pytest.raises(Refused, match="could not be kept"):
        read_report(systems, record)  # type: ignore[arg-type]
