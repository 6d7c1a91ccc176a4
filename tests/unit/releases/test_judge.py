"""The canary judge: never a promotion without data, the same labels as Kayenta on the same numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ninelives.cli import app
from ninelives.errors import EstateError
from ninelives.releases.judge import Verdict, judge, needed_attempts, needed_looks
from ninelives.releases.judge.sequential import Plan, judge_counts

LOW, HIGH = [1.0, 2.2, 1.1, 2.5, 3.0], [20.0, 22.0, 21.0, 25.0, 30.0]
TENTHS = [0.1, 0.2, 0.3] * 5
"""Times seven their mean is seven times as large, times six a last bit less than six times."""
WHOLE = st.lists(st.integers(1, 50).map(float), min_size=3, max_size=20)
"""Their differences are exact: a last bit of a float would make or break a tie."""
VALUES = st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5, 7.0, math.nan]), max_size=25)


def metric(control: list[Any], experiment: list[Any], **more: Any) -> dict[str, Any]:
    return {"name": "errors", "control": control, "experiment": experiment, **more}


def counts(control: list[int], experiment: list[int], attempts: int, **more: Any) -> dict[str, Any]:
    tried = {f"{arm}_attempts": [attempts] * len(control) for arm in ("control", "experiment")}
    return metric(control, experiment, direction="increase", **tried, **more)


def kayenta(control: list[Any], experiment: list[Any], **more: Any) -> tuple[str, bool]:
    found = judge([metric(control, experiment, tolerance=0.1, confidence=0.95, **more)], mode="kayenta").labels[0]
    return found.label, found.critical


@pytest.mark.parametrize(
    ("control", "experiment", "more", "label"),
    [
        (LOW, HIGH, {}, ("High", False)),
        (HIGH, LOW, {}, ("Low", False)),
        (LOW, HIGH, {"direction": "decrease"}, ("Pass", False)),
        (LOW, HIGH, {"is_critical": True}, ("High", True)),
        (LOW, HIGH, {"is_critical": True, "allowed": [1, 5], "critical_thresholds": [1, 13]}, ("High", False)),
        (LOW, HIGH, {"is_critical": True, "allowed": [1, 13], "critical_thresholds": [1, 15]}, ("Pass", False)),
        (HIGH, [10.0, 12.2, 10.1, 12.5, 23.0], {"allowed": [0.5, 1]}, ("Pass", False)),
        (LOW, HIGH, {"allowed": [0.2, 0.8], "effect_size_measure": "cles"}, ("High", False)),
        ([1.0, 1.0], [1.0, 1.0, 1.0], {}, ("Pass", False)),
        ([5.0, 4.0, 3.0], [3.0, 4.0, 5.0], {}, ("Pass", False)),
        ([1.0] * 5, [10.0] * 5, {}, ("High", False)),
        ([0.0] * 5, [10.0] * 5, {}, ("High", False)),
        ([0.0] * 5, [54.9, 54.5, 55.1, 55.6, 57.4], {"allowed": [0.8, 1.2]}, ("High", False)),
        ([1.0] * 5, [1.0, 1.0, 1.0, 1.0, 10.0], {}, ("Pass", False)),
        (TENTHS, [one * 7 for one in TENTHS], {"allowed": [0, 7]}, ("High", False)),
        (TENTHS, [one * 6 for one in TENTHS], {"allowed": [0, 6]}, ("Pass", False)),
        ([5.0], [6.0], {}, ("Error", False)),
        ([1.0, 2.0], [], {}, ("Nodata", False)),
        ([1.0, 2.0], ["NaN", None], {"is_critical": True}, ("Nodata", True)),
        ([1.0, 2.0], [], {"nan_strategy": "replace"}, ("Pass", False)),
    ],
)
def test_kayentas_mode_says_what_kayenta_says(
    control: list[Any], experiment: list[Any], more: dict[str, Any], label: tuple[str, bool]
) -> None:
    assert kayenta(control, experiment, **more) == label


@settings(max_examples=30, deadline=None)
@given(VALUES, VALUES, st.randoms(use_true_random=False))
def test_kayentas_label_does_not_depend_on_order(control: list[float], experiment: list[float], random: Any) -> None:
    shuffled = [random.sample(one, len(one)) for one in (control, experiment)]
    if len({*control}) > 1 and len({*experiment}) > 1:
        assert kayenta(control, experiment) == kayenta(*shuffled)


@settings(max_examples=30, deadline=None)
@given(WHOLE, WHOLE)
def test_swapping_the_arms_mirrors_a_clear_label(control: list[float], experiment: list[float]) -> None:
    above = [value + 100 for value in experiment]
    mirrored = {"High": "Low", "Low": "High"}
    label = kayenta(control, above)[0]
    assert kayenta(above, control)[0] == mirrored.get(label, label)


@settings(max_examples=40, deadline=None)
@given(VALUES, VALUES, st.sampled_from(["increase", "decrease", "either"]), st.sampled_from(["remove", "replace"]))
def test_any_numbers_get_one_of_three_verdicts_and_few_are_never_promoted(
    control: list[float], experiment: list[float], direction: str, nan_strategy: str
) -> None:
    found = judge([metric(control, experiment, direction=direction, nan_strategy=nan_strategy)]).verdict
    known = min(len([one for one in arm if not math.isnan(one)]) for arm in (control, experiment))
    assert found in Verdict
    if known < 10 and nan_strategy == "remove":
        assert found is not Verdict.PROMOTE


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(3, 40))
def test_counts_are_never_promoted_below_their_least_attempts(errors: list[int], attempts: int) -> None:
    verdict = judge([counts(errors, errors, attempts)]).verdict
    assert verdict is not Verdict.ROLL_BACK
    if len(errors) * attempts < 100:
        assert verdict is Verdict.INCONCLUSIVE


def test_an_arm_without_data_is_inconclusive_and_never_a_pass() -> None:
    for control, experiment in (([], []), ([1.0] * 40, []), ([], [1.0] * 40), ([math.nan] * 40, [1.0] * 40)):
        assert judge([metric(control, experiment)]).verdict is Verdict.INCONCLUSIVE
    assert judge([counts([0] * 40, [0] * 40, 0)]).verdict is Verdict.INCONCLUSIVE


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("nan_strategy", ["remove", "replace"])
@pytest.mark.parametrize("horizon", [None, 1, 30])
def test_an_arm_whose_every_value_is_missing_is_not_enough_data_whatever_stands_for_the_missing(
    nan_strategy: str, horizon: int | None
) -> None:
    none, ones, levels = [math.nan] * 30, [1.0] * 30, [100.0, 101.0] * 15
    given = [metric(none, none), metric(none, ones), metric(ones, none), metric(levels, none), metric([], levels)]
    given += [counts(none, none, 100), counts([0] * 30, none, 100)]
    apart = metric([5.0, math.nan] * 15, [math.nan, 5.0] * 15)
    for one in [*given, *([apart] if nan_strategy == "remove" else [])]:
        found = judge([{**one, "nan_strategy": nan_strategy}], horizon=horizon)
        assert found.verdict is Verdict.INCONCLUSIVE, one
        assert "not enough data" in found.reasons[0], found.reasons


def test_a_very_bad_canary_is_rolled_back_at_an_early_look_and_a_later_recovery_does_not_take_it_back() -> None:
    found = judge([counts([1] * 30, [30] * 3 + [0] * 27, 300)], horizon=30)
    assert found.verdict is Verdict.ROLL_BACK
    assert found.findings[0].look is not None
    assert found.findings[0].look <= 3


def test_nothing_is_promoted_before_the_horizon_and_what_turns_bad_late_is_found() -> None:
    good = [8, 12, 10, 9, 11] * 6
    assert judge([counts(good[:29], good[:29], 2000)], horizon=30).verdict is Verdict.INCONCLUSIVE
    assert judge([counts(good, good, 2000)], horizon=30).verdict is Verdict.PROMOTE
    late = good[:20] + [one * 4 for one in good[20:]]
    found = judge([counts(good, late, 2000)], horizon=30).findings[0]
    assert found.verdict is Verdict.ROLL_BACK
    assert found.look is not None
    assert 20 < found.look <= 26


def test_looks_that_one_arm_lacks_count_at_the_horizon_with_the_next_that_both_have() -> None:
    whole = counts([6] * 30, [12] * 30, 1000)
    found = judge([whole], horizon=30)
    gaps = {**whole, "control_attempts": [1000, 0] * 15, "experiment_attempts": [0, 1000] * 15}
    gaps["control"], gaps["experiment"] = [6, 0] * 15, [0, 12] * 15
    assert found.verdict is Verdict.ROLL_BACK
    assert judge([gaps]).verdict is Verdict.INCONCLUSIVE, "no look has both"
    assert judge([gaps], horizon=30).verdict is Verdict.ROLL_BACK


def test_shares_that_grow_while_both_arms_have_more_errors_are_no_difference() -> None:
    tried = {"control_attempts": [1900] * 15 + [1000] * 15, "experiment_attempts": [100] * 15 + [1000] * 15}
    more = metric([19] * 15 + [50] * 15, [1] * 15 + [50] * 15, direction="increase", **tried)
    finding = judge([more], horizon=30).findings[0]
    assert finding.ratio == pytest.approx(1, abs=0.01)
    assert finding.verdict is not Verdict.ROLL_BACK


def test_what_is_undecided_at_the_horizon_may_be_promoted_later_or_still_rolled_back() -> None:
    def verdict(looks: int, worse: float = 1.0) -> Verdict:
        errors = [3, 1, 2] * (looks // 3)
        return judge(
            [counts(errors, [*errors[:30], *(int(one * worse) for one in errors[30:])], 400)], horizon=30
        ).verdict

    assert (verdict(30), verdict(300), verdict(300, 4)) == (Verdict.INCONCLUSIVE, Verdict.PROMOTE, Verdict.ROLL_BACK)


def test_a_harmless_difference_is_no_reason_however_much_data_there_is() -> None:
    tenth_more = judge([counts([1000] * 30, [1100] * 30, 100_000)], horizon=30)
    assert tenth_more.verdict is Verdict.PROMOTE
    slower = [100 + look % 3 for look in range(30)]
    assert judge([metric(slower, [one * 1.02 for one in slower])], horizon=30).verdict is Verdict.PROMOTE
    assert judge([metric(slower, [one * 1.15 for one in slower])], horizon=30).verdict is Verdict.ROLL_BACK


def test_constants_are_compared_as_they_are() -> None:
    assert judge([metric([10.0] * 30, [10.0] * 30)], horizon=30).verdict is Verdict.PROMOTE
    assert judge([metric([10.0] * 30, [20.0] * 30)], horizon=30).verdict is Verdict.ROLL_BACK
    assert judge([metric([0.0] * 30, [20.0] * 30, direction="increase")], horizon=30).verdict is Verdict.ROLL_BACK


def test_a_quality_that_falls_is_bad_where_less_is_worse() -> None:
    accuracy = [0.8 + 0.01 * (look % 3) for look in range(30)]
    halved = [one / 2 for one in accuracy]
    assert judge([metric(accuracy, halved, direction="decrease")], horizon=30).verdict is Verdict.ROLL_BACK
    assert judge([metric(accuracy, halved, direction="increase")], horizon=30).verdict is Verdict.PROMOTE


def test_attempts_one_by_one_are_judged_as_counts_whatever_the_sizes_of_the_arms() -> None:
    draw = np.random.default_rng(11)
    control, bad, good = (
        list((draw.random(n) < p).astype(float)) for n, p in ((4000, 0.01), (900, 0.08), (4000, 0.01))
    )
    assert judge([metric(control, bad, direction="increase")]).verdict is Verdict.ROLL_BACK
    assert judge([metric(control, good, direction="increase", allowed=[0, 3])]).verdict is Verdict.PROMOTE


def test_attempts_that_never_fail_are_promoted_once_there_are_enough_of_them() -> None:
    def never(attempts: int) -> Verdict:
        return judge([metric([0.0] * attempts, [0.0] * attempts, direction="increase")]).verdict

    assert (never(300), never(4000)) == (Verdict.INCONCLUSIVE, Verdict.PROMOTE)


def test_one_bad_metric_rolls_back_and_all_must_be_good_to_promote() -> None:
    steady = [5.0 + look % 2 for look in range(30)]
    good, short = {**metric(steady, steady), "name": "p50"}, {**metric(steady[:3], steady[:3]), "name": "p99"}
    bad = {**metric(steady, [one * 3 for one in steady]), "name": "bad"}
    assert judge([good], horizon=30).verdict is Verdict.PROMOTE
    assert judge([good, short], horizon=30).verdict is Verdict.INCONCLUSIVE
    assert judge([good, short, bad], horizon=30).verdict is Verdict.ROLL_BACK


def test_a_hundredth_of_equal_canaries_at_most_is_rolled_back_and_the_formula_gives_its_power() -> None:
    draw, runs, rate = np.random.default_rng(20), 1000, 0.005
    n = -(-needed_attempts(rate) // 30)
    arms = [draw.binomial(n, rate, (runs, 30)).astype(float) for _ in range(2)]
    tried = np.full((runs, 30), float(n))
    found = judge_counts(arms[0], tried, arms[1], tried, Plan(1.5, horizon=30, floor=0.002), 0.01)
    assert (found.rolled_back_at > 0).mean() <= 0.01
    assert found.promoted.mean() >= 0.8


def test_the_formulas_grow_with_what_makes_it_hard() -> None:
    assert needed_attempts(0.001) > needed_attempts(0.01) > needed_attempts(0.01, margin=2)
    assert needed_attempts(0.01, control_share=9) < needed_attempts(0.01)
    assert needed_looks(0.2) > needed_looks(0.05) >= 10
    assert needed_looks(0.1, correlation=0.8) > needed_looks(0.1)
    for wrong in (0.0, 1.0, -1.0, math.nan, 1e-320):
        with pytest.raises(ValueError):
            needed_attempts(wrong)
    for wrong in (1.0, math.inf, math.nan):
        with pytest.raises(ValueError):
            needed_attempts(0.01, margin=wrong)


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ("{", "is not JSON"),
        ("[]", "at least 1"),
        ('[{"name": "a", "control": [1], "experiment": ["x"]}]', "[0].experiment[0]"),
        ('[{"name": "a", "control": [1], "experiment": [Infinity]}]', "[0].experiment[0]"),
        ('[{"name": "a", "control": [true], "experiment": [1]}]', "[0].control[0]"),
        (f'[{{"name": "a", "control": [1, 1{"0" * 400}], "experiment": [1]}}]', "[0].control[1]"),
        (f'[{{"name": "a", "control": [1{"0" * 5000}], "experiment": [1]}}]', "is not JSON"),
        ('[{"name": "a", "control": [1], "experiment": [1e200]}]', "[0].experiment[0]"),
        ('[{"name": "a", "control": [1], "experiment": [1], "allowed": [0, 1e300]}]', "[0].allowed[1]"),
        ('[{"name": "a", "control": null, "experiment": [1]}]', "[0].control"),
        ('[{"name": "a", "control": [1], "experiment": [1], "direktion": "up"}]', "[0].direktion"),
        (
            '[{"name": "a", "control": [9], "experiment": [1], "control_attempts": [3], "experiment_attempts": [3]}]',
            "nou",
        ),
        ('[{"name": "a", "control": [], "experiment": []}, {"name": "a", "control": [], "experiment": []}]', "twice"),
    ],
)
def test_a_bad_file_is_wrong_usage_and_says_where(tmp_path: Path, document: str, place: str) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(document)
    found = CliRunner().invoke(app, ["release", "judge", "--input", str(path)])
    assert found.exit_code == 2
    assert place in found.output.replace("\n", "")
    assert CliRunner().invoke(app, ["release", "judge", "--input", str(tmp_path / "none")]).exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("judge", "--input", "none.json", "--mode", "kayenta", "--horizon", "30"),
        ("sample", "--rate", "1e-320", "--per-minute", "300"),
        ("sample", "--rate", "0.005", "--per-minute", "300", "--margin", "inf"),
        ("sample", "--rate", "0.005", "--per-minute", "inf"),
    ],
)
def test_what_has_no_meaning_is_wrong_usage(arguments: tuple[str, ...]) -> None:
    assert CliRunner().invoke(app, ["release", *arguments]).exit_code == 2


def test_the_command_line_answers_in_both_modes(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps([metric(LOW, HIGH)]))
    found = CliRunner().invoke(app, ["release", "judge", "--mode", "kayenta", "--input", str(path), "--json"])
    assert (found.exit_code, json.loads(found.output)) == (
        3,
        [{"name": "errors", "label": "High", "critical": False}],
    )
    path.write_text(json.dumps([metric([1.0, 2.0] * 15, [1.0, 2.0] * 15)]))
    found = CliRunner().invoke(app, ["release", "judge", "--input", str(path), "--horizon", "30", "--json"])
    assert (found.exit_code, json.loads(found.output)["verdict"]) == (0, "promote")
    found = CliRunner().invoke(app, ["release", "sample", "--rate", "0.005", "--per-minute", "300", "--json"])
    assert json.loads(found.output)["minutes"] == math.ceil(needed_attempts(0.005) / 300)


def test_values_without_end_are_refused_before_they_are_judged() -> None:
    with pytest.raises(EstateError, match="at most 1000000"):
        judge([metric([0.0] * 1_000_001, [1.0])])
    many = list(np.random.default_rng(2).random(100_000))
    assert judge([metric(many, many[::-1])], mode="kayenta").labels[0].label == "Pass"
