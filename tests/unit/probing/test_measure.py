"""Properties of the measurement that hold for any rows: it never rewards ignorance, and its counts add up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ninelives.probing.measure import UserImpact, Verdict, measure_loss, steady_state
from ninelives.probing.records import BAD, Outcome, Probe, interval_of, to_table

LOSS = datetime(2013, 1, 1, tzinfo=UTC)
BEFORE = 4
WAIT = timedelta(seconds=1)
STEP = 0.1

LETTERS = {"g": Outcome.GOOD, "s": Outcome.SLOW, "d": Outcome.DEGRADED, "w": Outcome.WRONG, "f": Outcome.FAILED}
LETTERS |= {"u": Outcome.UNKNOWN}


def at(seconds: float) -> datetime:
    return LOSS + timedelta(seconds=seconds)


def rows(text: str, *, before: str = "gggg", latency: float = 0.01) -> list[Probe]:
    """One probe per letter, the first of ``text`` 0.05 s after the loss; ``-`` is a slot without a row."""
    found = []
    for seq, letter in enumerate(before + text):
        scheduled = at((seq - len(before) + 0.5) * STEP)
        if letter == "-":
            continue
        sent = None if letter == "u" else scheduled
        found.append(
            Probe(
                run="a", seq=seq, service="late-arrival", scheduled_at=scheduled, sent_at=sent,
                monotonic_ns=round((seq + 0.5) * STEP * 1e9), outcome=LETTERS[letter],
                latency_s=latency if sent else None,
            )
        )  # fmt: skip
    return found


def measure(text: str, **more: float) -> UserImpact:
    probes = to_table(rows(text))
    return measure_loss(
        probes, loss_at=LOSS, until=at(len(text) * STEP), service="late-arrival", interval=STEP, lasting=WAIT, **more
    )


outcomes = st.text("gggsdwfu-", min_size=15, max_size=60)
known = st.text("gggsdwf", min_size=15, max_size=60)


def test_no_bad_answer_is_no_interruption() -> None:
    impact = measure("g" * 30)
    assert (impact.rto_seconds, impact.interrupted, impact.interruptions) == (0.0, False, ())
    assert impact.verdict(timedelta(seconds=0.001)) is Verdict.MET


def test_the_rto_ends_with_the_arrival_of_the_first_lasting_correct_answer() -> None:
    impact = measure("ffff" + "g" * 20)
    assert impact.rto_seconds == pytest.approx(0.46)
    assert (impact.rto_low, impact.rto_high) == pytest.approx((0.35, 0.46))
    assert impact.rto_error_seconds == pytest.approx(STEP)
    assert impact.outage_seconds == pytest.approx(0.4)
    assert impact.verdict(timedelta(seconds=0.47)) is Verdict.MET
    assert impact.verdict(timedelta(seconds=0.4)) is Verdict.UNKNOWN  # within what one interval can tell
    assert impact.verdict(timedelta(seconds=0.3)) is Verdict.MISSED


def test_slow_answers_are_correct_and_degraded_ones_are_not() -> None:
    assert measure("ff" + "s" * 20).rto_seconds == pytest.approx(0.26)
    impact = measure("dd" + "g" * 20)
    assert impact.rto_seconds == pytest.approx(0.26)
    assert impact.degraded_seconds == pytest.approx(impact.outage_seconds)


def test_flapping_is_not_recovery() -> None:
    assert measure("fff" + "g" * 9 + "f" + "g" * 20).rto_seconds == pytest.approx(1.36)


def test_a_relapse_after_a_lasting_recovery_has_its_own_clock_and_counts() -> None:
    impact = measure("f" + "g" * 15 + "ffffff" + "g" * 15)
    assert impact.rto_seconds == pytest.approx(0.16)
    assert len(impact.interruptions) == 2
    assert impact.verdict(timedelta(seconds=0.2)) is Verdict.MISSED
    assert impact.verdict(timedelta(seconds=0.8)) is Verdict.MET


def test_an_outage_that_goes_on_is_missed_once_it_is_longer_than_the_objective_and_unknown_before() -> None:
    impact = measure("f" * 30)
    assert impact.rto_seconds is None
    assert impact.facts()["rto_high"] is None
    assert impact.verdict(timedelta(seconds=2)) is Verdict.MISSED
    assert impact.verdict(timedelta(seconds=60)) is Verdict.UNKNOWN


def test_a_gap_that_may_hide_the_recovery_leaves_a_range() -> None:
    impact = measure("fff" + "-" * 10 + "g" * 20)
    assert impact.rto_seconds is None
    assert (impact.rto_low, impact.rto_high) == pytest.approx((0.25, 1.36))
    assert impact.unknown == 10
    assert impact.unknown_seconds == pytest.approx(1.0)
    assert [impact.verdict(timedelta(seconds=limit)) for limit in (0.2, 1.0, 1.4)] == [
        Verdict.MISSED, Verdict.UNKNOWN, Verdict.MET,
    ]  # fmt: skip


def test_no_rows_at_all_are_unknown() -> None:
    impact = measure("-" * 40)
    assert impact.unknown == impact.slots == 40
    assert impact.interrupted is None
    assert impact.verdict(timedelta(hours=1)) is Verdict.UNKNOWN


def test_a_request_under_way_at_the_loss_counts() -> None:
    probes = rows("g" * 30)
    hanging = probes[BEFORE - 1]  # sent 0.05 s before the loss
    failed = Probe(**{**vars(hanging), "outcome": Outcome.FAILED, "latency_s": 1.0})
    probes[BEFORE - 1] = failed
    impact = measure_loss(to_table(probes), loss_at=LOSS, until=at(3), interval=STEP, lasting=WAIT)
    assert impact.failed == 1
    assert impact.rto_seconds == pytest.approx(0.06)


def test_a_wall_clock_that_was_set_makes_the_verdict_unknown() -> None:
    probes = [
        Probe(**{**vars(probe), "monotonic_ns": probe.monotonic_ns + (10**9 if probe.seq > 20 else 0)})
        for probe in rows("fff" + "g" * 40)
    ]
    impact = measure_loss(to_table(probes), loss_at=LOSS, until=at(4), interval=STEP, lasting=WAIT)
    assert impact.clock_step_seconds == pytest.approx(1.0)
    assert impact.verdict(timedelta(hours=1)) is Verdict.UNKNOWN


def test_several_services_in_the_rows_need_a_name_and_too_few_rows_an_interval() -> None:
    probes = rows("ggg")
    other = [Probe(**{**vars(probe), "service": "arrival-delay"}) for probe in probes]
    with pytest.raises(ValueError, match="arrival-delay, late-arrival"):
        measure_loss(to_table(probes + other), loss_at=LOSS, until=at(1))
    with pytest.raises(ValueError, match="pass the interval"):
        measure_loss(to_table(probes[:1]), loss_at=LOSS, until=at(1))
    with pytest.raises(ValueError, match="after the loss"):
        measure_loss(to_table(probes), loss_at=LOSS, until=LOSS)
    assert interval_of(to_table(probes)) == pytest.approx(STEP)


@given(outcomes)
def test_counts_add_up_to_the_slots_of_the_schedule_and_seconds_to_the_time(text: str) -> None:
    impact = measure(text)
    assert impact.slots == len(text)
    assert impact.sent == impact.good + impact.slow + impact.degraded + impact.wrong + impact.failed
    assert impact.slots == impact.sent + impact.unknown
    assert impact.sent == sum(letter not in "u-" for letter in text)
    assert impact.outage_seconds + impact.unknown_seconds <= len(text) * STEP + 1e-6


@given(known, st.data())
def test_what_a_gap_hides_never_turns_into_met_or_missed_wrongly(text: str, data: st.DataObject) -> None:
    """Whatever the hidden slots were, the verdict on the rest agrees with the verdict on everything."""
    begin = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(begin, len(text)))
    whole, partly = measure(text), measure(text[:begin] + "-" * (end - begin) + text[end:])
    assert partly.worst_low <= whole.worst_low + 1e-9
    assert partly.worst_high >= whole.worst_high - 1e-9
    for seconds in (0.05, 0.3, 1.0, 2.5):
        verdicts = [impact.verdict(timedelta(seconds=seconds)) for impact in (partly, whole)]
        assert verdicts[0] in (Verdict.UNKNOWN, verdicts[1])


@given(outcomes, st.data())
def test_a_worse_answer_never_improves_anything(text: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(text) - 1))
    worse = text[:place] + data.draw(st.sampled_from("dwf")) + text[place + 1 :]
    before, after = measure(text), measure(worse)
    assert after.worst_low >= before.worst_low - 1e-9
    assert after.rto_low >= before.rto_low - 1e-9
    if text[place] not in "u-":  # of an unknown slot the worst was assumed already
        assert after.worst_high >= before.worst_high - 1e-9
    order = [Verdict.MET, Verdict.UNKNOWN, Verdict.MISSED]
    for seconds in (0.05, 0.3, 1.0, 2.5):
        limit = timedelta(seconds=seconds)
        if text[place] not in "u-":
            assert order.index(after.verdict(limit)) >= order.index(before.verdict(limit))


@given(outcomes)
def test_the_verdict_is_monotone_in_the_objective_and_the_low_end_below_the_high(text: str) -> None:
    impact = measure(text)
    assert impact.rto_low <= impact.rto_high
    assert impact.worst_low <= impact.worst_high
    verdicts = [impact.verdict(timedelta(seconds=n / 10)) for n in range(1, 80)]
    order = [Verdict.MISSED, Verdict.UNKNOWN, Verdict.MET]
    assert verdicts == sorted(verdicts, key=order.index)


@given(known)
@settings(max_examples=50)
def test_an_independent_definition_of_recovery_gives_the_same_rto(text: str) -> None:
    """By trying every slot: none of the next ten is bad, and either the loss or a bad one within its time is before."""
    bad = [LETTERS[letter] in BAD for letter in text]
    start = 0 if not any(bad[:10]) else None
    if start is None:
        for index in range(1, len(text)):
            if not any(bad[index : index + 10]) and index + 10 <= len(text) and bad[index - 1]:
                start = index
                break
        expected = None if start is None else (start + 0.5) * STEP + 0.01
    else:
        expected = 0.0
    got = measure(text).rto_seconds
    if expected is None:
        assert got is None
    elif got is not None or start is None or start + 11 <= len(text):  # the very last slot's edge may be too short
        assert got == pytest.approx(expected)


def test_steady_state_counts_unknown_slots_against_certainty() -> None:
    state = steady_state(to_table(rows("gggsfu--")), since=LOSS, until=at(0.8), interval=STEP)
    assert (state.slots, state.sent, state.unknown) == (8, 5, 3)
    assert (state.low, state.high) == (0.5, 0.875)
    assert state.outage_since == at(0.45)
    recovered = steady_state(to_table(rows("ggffgg")), since=LOSS, until=at(0.6), interval=STEP)
    assert recovered.outage_since is None
