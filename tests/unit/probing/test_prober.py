"""The prober's own rules, in simulated time."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
from unit.probing.simulated import EPOCH, FEATURES, GOLDEN, Phase, golden_file, reply_of, simulate, v2_body

from ninelives.errors import Corrupted
from ninelives.probing.classify import Reply, classify
from ninelives.probing.golden import GoldenFile
from ninelives.probing.records import Outcome

GOOD = [Phase(0.0, "good")]


@pytest.fixture
def golden(tmp_path: Path) -> GoldenFile:
    return golden_file(tmp_path)


def test_the_schedule_does_not_wait_for_answers(golden: GoldenFile) -> None:
    rows, service = simulate(golden, [Phase(0.0, "hang")], seconds=3.99)
    assert len(rows) == 80
    assert {row.outcome for row in rows} == {Outcome.FAILED}
    assert [at for at, _ in service.log] == pytest.approx([n * 0.05 for n in range(80)])


def test_services_take_turns_evenly(golden: GoldenFile) -> None:
    rows, service = simulate(golden, GOOD, seconds=1.99, services=("a", "b", "c", "d"))
    assert Counter(row.service for row in rows) == dict.fromkeys("abcd", 40)
    gaps = [b - a for (a, _), (b, _) in zip(service.log, service.log[1:], strict=False)]
    assert gaps == pytest.approx([0.0125] * len(gaps))
    for name in "abcd":
        assert sorted(row.seq for row in rows if row.service == name) == list(range(40))


def test_a_stall_leaves_unknown_slots_and_none_is_ever_missing(golden: GoldenFile) -> None:
    rows, service = simulate(golden, GOOD, seconds=6, stalls=[(2.02, 2.0)])
    unknown = [row for row in rows if row.outcome is Outcome.UNKNOWN]
    assert sorted(row.seq for row in rows) == list(range(len(rows)))
    assert len(unknown) == 39  # 2.05 s to 3.95 s; the slot at 4.00 s is sent 20 ms late
    assert all(row.sent_at is None and "held up" in (row.error or "") for row in unknown)
    assert not [at for at, _ in service.log if 2.02 < at < 4.0]


def test_a_delay_shorter_than_a_stall_is_made_up_for_and_stamped_as_sent(golden: GoldenFile) -> None:
    rows, _ = simulate(golden, GOOD, seconds=3, stalls=[(1.01, 0.2)])
    assert {row.outcome for row in rows} == {Outcome.GOOD}
    late = [row for row in rows if row.sent_at and row.sent_at - row.scheduled_at > timedelta(milliseconds=50)]
    assert late
    assert all(row.sent_at == EPOCH + timedelta(seconds=1.21) for row in late)


def test_a_timeout_that_the_probers_own_stall_may_have_caused_is_unknown(golden: GoldenFile) -> None:
    slow = [Phase(0.0, "good", latency=0.4)]
    rows, _ = simulate(golden, slow, seconds=6, stalls=[(2.01, 1.5)])
    by_sending = {round((row.sent_at - EPOCH).total_seconds(), 2): row for row in rows if row.sent_at}
    spoiled = [row.outcome for at, row in by_sending.items() if 1.63 < at < 2.0]
    assert set(spoiled) == {Outcome.UNKNOWN}
    assert by_sending[1.5].outcome is Outcome.SLOW
    hang, _ = simulate(golden, [Phase(0.0, "hang")], seconds=6, stalls=[(2.01, 1.5)])
    outcomes = {round((row.sent_at - EPOCH).total_seconds(), 2): row.outcome for row in hang if row.sent_at}
    assert outcomes[1.8] is Outcome.UNKNOWN
    assert outcomes[0.5] is Outcome.FAILED


def test_requests_beyond_the_bound_count_as_failed(golden: GoldenFile) -> None:
    rows, service = simulate(golden, [Phase(0.0, "hang")], seconds=2.99, max_in_flight=5)
    refused = [row for row in rows if "without an answer" in (row.error or "")]
    assert len(rows) == 60
    assert {row.outcome for row in rows} == {Outcome.FAILED}
    assert len(refused) + len(service.log) == 60
    assert refused


def test_without_golden_answers_nothing_is_known(tmp_path: Path) -> None:
    rows, service = simulate(GoldenFile(tmp_path / "arrival-delay.json"), GOOD, seconds=1)
    assert {(row.outcome, row.error) for row in rows} == {(Outcome.UNKNOWN, "no golden answers yet")}
    assert not service.log


def test_a_release_published_while_it_answers_is_known_at_once(tmp_path: Path) -> None:
    older = {"model": "arrival-delay", "releases": {"2": GOLDEN["releases"]["3"]}}
    golden = golden_file(tmp_path, older)
    golden_file(tmp_path)  # version 3 alone, written after the prober read version 2
    rows, _ = simulate(golden, GOOD, seconds=1)
    assert {row.outcome for row in rows} == {Outcome.GOOD}


# --- golden answers and what an answer means -------------------------------------------------------------------------


def test_golden_answers_stay_known_when_the_file_goes_and_when_it_breaks(golden: GoldenFile) -> None:
    before = golden.cases
    golden.path.write_text("{")
    with pytest.raises(Corrupted, match=r"arrival-delay\.json"):
        golden.refresh()
    assert golden.refresh() is False  # said once
    golden.path.unlink()
    assert golden.refresh() is False
    assert golden.cases == before
    assert len(before) == 1


def test_only_requests_that_every_release_knows_are_sent(tmp_path: Path) -> None:
    other = {"inputs": FEATURES | {"hour": 6}, "outputs": {"arrival_delay": [1.0]}}
    shared = {"inputs": FEATURES, "outputs": {"arrival_delay": [9.0]}}
    document = {"model": "m", "releases": GOLDEN["releases"] | {"4": {"tolerance": 0.1, "golden": [other, shared]}}}
    golden = golden_file(tmp_path, document)
    (case,) = golden.cases
    assert json.loads(case.body)["inputs"][0] == {
        "name": "carrier",
        "shape": [1, 1],
        "datatype": "BYTES",
        "data": ["UA"],
    }
    assert {version: list(known.outputs["arrival_delay"]) for version, known in case.answers.items()} == {
        "3": [6.5],
        "4": [9.0],
    }


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (reply_of("good"), Outcome.GOOD),
        (reply_of("wrong"), Outcome.WRONG),
        (reply_of("degraded"), Outcome.DEGRADED),
        (reply_of("error"), Outcome.FAILED),
        (reply_of("refused"), Outcome.FAILED),
        (Reply(200, {}, v2_body(6.5)), Outcome.GOOD),  # a server that says its version in the body only
        (Reply(200, {}, v2_body(6.5, version="9")), Outcome.WRONG),
        (Reply(200, {}, v2_body(6.5, version=None)), Outcome.WRONG),
        (Reply(200, {}, b"<html>it works</html>"), Outcome.WRONG),
        (Reply(200, {}, b"[" * 100_000), Outcome.WRONG),
        (Reply(200, {}, b"\xff\xfe"), Outcome.WRONG),
        (Reply(200, {}, b'{"outputs": 3, "model_version": "3"}'), Outcome.WRONG),
        (Reply(200, {}, v2_body(float("nan"))), Outcome.WRONG),
        (Reply(302, {"location": "/"}, b""), Outcome.FAILED),
        (Reply(503, {"x-ninelives-degraded": "default"}, v2_body(6.5)), Outcome.FAILED),
    ],
)
def test_each_answer_has_one_meaning(golden: GoldenFile, reply: Reply, outcome: Outcome) -> None:
    judgement = classify(reply, golden.cases[0], latency=0.1, objective=0.25)
    assert judgement.outcome is outcome
    assert (judgement.error is None) == (outcome in (Outcome.GOOD, Outcome.DEGRADED))
    assert len(judgement.error or "") <= 200


def test_a_correct_answer_after_the_objective_is_slow(golden: GoldenFile) -> None:
    assert classify(reply_of("good"), golden.cases[0], latency=0.26, objective=0.25).outcome is Outcome.SLOW
