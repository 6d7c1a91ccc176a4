"""What a promotion shows the judge: looks that never change, and counts that do not depend on how many there are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ninelives.ports import Attempt
from ninelives.releases.canary import ERRORS, LATENCY, QUALITY, Decision, Labels, Looked, Series, judged

TIMES = st.lists(st.integers(0, 15000).map(lambda tenth: tenth / 10), max_size=60)
SECONDS = 1500.0


def attempts(times: Sequence[float], errors: float = 0.0, slower: float = 1.0, seed: int = 1) -> tuple[Attempt, ...]:
    draw = np.random.default_rng(seed)
    return tuple(
        Attempt(at, 0.02 * slower * float(np.exp(0.4 * draw.standard_normal())), bool(draw.random() >= errors))
        for at in sorted(times)
    )


def arms(share: float = 0.5, rate: float = 24, *, errors: float = 0.0, worse: float = 1, slower: float = 1) -> Looked:
    draw = np.random.default_rng(7)
    control, canary = (draw.random(int(SECONDS * rate * part)) * SECONDS for part in (1 - share, share))
    return Looked("1", "2", attempts(list(control), errors), attempts(list(canary), errors * worse, slower, seed=2))


def series() -> Series:
    return Series(0.0, SECONDS, 0.999)


def decided(looked: Looked) -> Decision:
    looks = series()
    looks.add(looked, SECONDS + 0.001)
    return judged(looks.metrics(), looks.horizon)[0]


@settings(max_examples=40, deadline=None)
@given(TIMES, TIMES, st.lists(st.integers(1, 1650), max_size=8))
def test_what_was_counted_never_changes_however_often_one_looks(
    control: list[float], canary: list[float], whens: list[int]
) -> None:
    looked, often, once = Looked("1", "2", attempts(control), attempts(canary, 0.3)), series(), series()
    for now in sorted({*whens, 1650}):
        before = often.document()
        often.add(looked, now)
        assert {name: counted[: len(before[name])] for name, counted in often.document().items()} == before
    once.add(looked, 1650)
    assert often.document() == once.document()


def test_only_what_is_complete_counts_and_what_a_replica_has_forgotten_since_stays_counted() -> None:
    looked, looks = arms(errors=0.05), series()
    assert not looks.add(looked, looks.every * 0.99)
    assert looks.add(looked, 500)
    assert looks.looks == 50
    before = looks.document()
    forgotten = Looked("1", "2", *(tuple(a for a in arm if a.at > 750) for arm in (looked.control, looked.experiment)))
    looks.add(forgotten, 1000)
    assert {name: counted[:50] for name, counted in looks.document().items()} == before
    assert all(tried == 0 for _, tried, _, _ in looks.document()[ERRORS][50:75])
    later = series()
    later.go_on(looks.every, looks.document())
    assert (later.looks, later.metrics()) == (100, looks.metrics())


def test_a_replica_that_remembers_less_than_a_look_still_shows_which_attempts_are_slow() -> None:
    whole, looks = arms(rate=40), series()
    for look in range(1, 20):
        now = look * looks.every
        looks.add(
            Looked(
                "1", "2", *(tuple(a for a in arm if now - 9 <= a.at < now) for arm in (whole.control, whole.experiment))
            ),
            now,
        )
    assert all(tried > 0 for _, _, _, tried in looks.document()[LATENCY][1:])


def test_a_canary_with_few_attempts_looks_neither_faster_nor_slower_than_it_is() -> None:
    looks = series()
    looks.add(arms(share=0.02), SECONDS)
    for name, share in ((LATENCY, 0.5), ("latency-p99", 0.01)):
        control_slow, control, slow, tried = np.sum(looks.document()[name], 0)
        assert abs(control_slow / control - share) < 0.02
        assert slow / tried <= share + 0.06


def test_a_good_canary_is_promoted_at_the_end_of_its_time_and_a_bad_one_is_not() -> None:
    assert decided(arms(errors=0.05)) is Decision.PROMOTE
    assert decided(arms(errors=0.05, worse=4)) is Decision.ROLL_BACK
    assert decided(arms(errors=0.05, slower=1.5)) is Decision.ROLL_BACK
    assert decided(arms(share=0.002)) is Decision.INCONCLUSIVE
    assert decided(Looked("1", "2", (), ())) is Decision.INCONCLUSIVE
    early = series()
    early.add(arms(errors=0.05), SECONDS / 2)
    assert judged(early.metrics(), early.horizon)[0] is Decision.INCONCLUSIVE


def test_more_errors_in_both_versions_while_the_share_grows_are_no_difference() -> None:
    draw, control, canary = np.random.default_rng(3), list[Attempt](), list[Attempt]()
    for first, share, rate in ((0, 0.05, 0.01), (750, 0.5, 0.05)):
        for arm, part in ((control, 1 - share), (canary, share)):
            times = first + np.sort(draw.random(int(15_000 * part))) * 750
            arm += [Attempt(float(at), 0.01, bool(draw.random() >= rate)) for at in times]
    shares = [sum(not one.good for one in arm) / len(arm) for arm in (control, canary)]
    assert shares[1] > 1.5 * shares[0], "taken all together the new version has far more"
    assert decided(Looked("1", "2", tuple(control), tuple(canary))) is not Decision.ROLL_BACK


def test_labels_are_judged_where_the_estate_says_that_they_come_and_are_waited_for() -> None:
    looked = arms(errors=0.05)

    def decided_by(*batches: Labels) -> Decision:
        looks = Series(0.0, SECONDS, 0.999, labels=True)
        looks.add(looked, SECONDS + 0.001, batches)
        assert looks.metrics()[-1]["name"] == QUALITY
        return judged(looks.metrics(), looks.horizon)[0]

    def batches(wrong: int) -> list[Labels]:
        return [Labels(at, {"1": 900, "2": 1000 - wrong}, {"1": 100, "2": wrong}) for at in range(25, 1500, 50)]

    assert decided_by() is Decision.INCONCLUSIVE
    assert decided_by(*batches(100)) is Decision.PROMOTE
    assert decided_by(*batches(200)) is Decision.ROLL_BACK
