"""Who is in an experiment, what it may risk, and how often it is wrong about its effect."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import estate_of_two_sites
from typer.testing import CliRunner

from ninelives.cli import app
from ninelives.errors import Refused
from ninelives.estate import Service
from ninelives.experiments.assign import Arm, Experiment, assign
from ninelives.experiments.effect import Effect, Sample, effects
from ninelives.experiments.judge import Input, Target, Verdict, judge
from ninelives.experiments.picture import HEIGHT, WIDTH, draw
from ninelives.experiments.risk import Load, check_risk, most_exposed

names = st.from_regex(r"[a-z][a-z0-9-]{0,39}", fullmatch=True)
shares = st.floats(0.01, 0.5)


@given(names, st.text(min_size=1), shares, shares)
@settings(max_examples=50)
def test_a_unit_stays_in_its_arm_and_more_exposure_only_takes_units_in(
    name: str, unit: str, one: float, other: float
) -> None:
    less, more = sorted((one, other))
    before, after = assign(Experiment(name, less), unit), assign(Experiment(name, more), unit)
    assert before is assign(Experiment(name, less), unit)
    assert before in (after, Arm.OUTSIDE)


@given(names, names, st.sampled_from([0.05, 0.2, 0.5]))
@settings(max_examples=20, deadline=None)
def test_arms_are_of_the_declared_size_and_those_of_two_experiments_are_independent(
    one: str, other: str, exposure: float
) -> None:
    first = [assign(Experiment(one, exposure), f"user-{number}") for number in range(2000)]
    for arm in (Arm.EXPERIMENT, Arm.CONTROL):
        assert abs(first.count(arm) - 2000 * exposure) < 6 * (2000 * exposure) ** 0.5
    if one != other:
        second = [assign(Experiment(other, exposure), f"user-{number}") for number in range(2000)]
        both = sum(pair == (Arm.EXPERIMENT,) * 2 for pair in zip(first, second, strict=True))
        assert abs(both - 2000 * exposure**2) < 6 * max(1.0, 2000 * exposure**2) ** 0.5 + 3


@pytest.mark.parametrize("exposure", [0, -0.1, 0.51, float("nan")])
def test_more_than_half_of_all_units_can_never_be_exposed(exposure: float) -> None:
    with pytest.raises(ValueError, match="exposure"):
        Experiment("one", exposure)


def service(name: str = "beta", capacity: int | None = 100) -> Service:
    return estate_of_two_sites().service_by_name[name].model_copy(update={"capacity": capacity})


TWO = {"paris": 2, "dublin": 2}


@pytest.mark.parametrize(
    ("load", "why"),
    [
        (Load(200, 0.01), ""),
        (Load(201, 0.01), "with paris lost"),
        (Load(200, 0.1, cost=1.2), "204 are needed"),
        (Load(150, 0.01, taken={"dublin": 1}), "with paris lost, 100 requests"),
        (Load(100, 0.01, taken={"dublin": 2}), "with paris lost, 0 requests"),
        (Load(10, 0.01, taken={"rome": 1}), "not served from rome"),
    ],
)
@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_an_experiment_takes_nothing_that_the_loss_of_a_site_would_need(name: str, load: Load, why: str) -> None:
    load = Load(load.peak, load.exposure, load.cost, load.taken, timedelta(seconds=1))
    if not why:
        check_risk(service(name), TWO, load)
        return
    with pytest.raises(Refused, match=why):
        check_risk(service(name), TWO, load)


def test_where_the_capacity_is_not_declared_nothing_may_begin() -> None:
    with pytest.raises(Refused, match="not declared"):
        check_risk(service(capacity=None), TWO, Load(1, 0.01))


@given(st.timedeltas(timedelta(seconds=1), timedelta(days=2)))
def test_an_exposure_is_bounded_by_a_tenth_of_the_error_budget(within: timedelta) -> None:
    declared = service()
    most, objective = most_exposed(declared, within), declared.objective
    assert 0 < most <= 0.5
    assert most * within <= 0.1 * (1 - objective.availability) * objective.window * 1.000001
    if most < 0.4:
        with pytest.raises(Refused, match="error budget"):
            check_risk(declared, TWO, Load(1, most * 1.1, stop_within=within))


def samples(values: Any) -> list[Sample]:
    return [Sample(len(one), float(one.mean()), float(one.var(ddof=1))) for one in values]


@given(st.integers(2, 30), st.integers(2, 30), st.integers(0, 1000))
def test_samples_added_look_by_look_are_those_of_all_units(one: int, other: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(1e6, 1, one + other)
    first, second = samples([values[:one], values[one:]])
    assert (first + second).mean == pytest.approx(values.mean())
    assert (first + second).variance == pytest.approx(values.var(ddof=1), rel=1e-6)


@pytest.mark.parametrize("kind", ["normal", "rare", "skewed"])
def test_looked_at_always_an_effect_that_is_not_there_is_seen_in_less_than_its_chance(kind: str) -> None:
    """A test of fixed size, asked as often, is wrong several times as often."""
    random, runs, looks = np.random.default_rng(902611), 300, 50
    draws = {
        "normal": lambda size: random.normal(size=size),
        "rare": lambda size: (random.random(size) < 0.05).astype(float),
        "skewed": lambda size: random.exponential(size=size),
    }
    wrong = fixed = 0
    for _ in range(runs):
        arms = [samples(draws[kind]((looks, 100))) for _ in range(2)]
        matters = 0.05 if kind == "rare" else 0.1
        found = effects(*arms, matters=matters, alpha=0.05)
        wrong += any(one.low > 0 or one.high < 0 for one in found)
        sd = 0.05**0.5 * 0.95**0.5 if kind == "rare" else 1.0
        fixed += any(abs(one.difference) > 1.96 * sd * (2 / one.control) ** 0.5 for one in found)
    assert wrong <= 0.05 * runs
    assert fixed >= 0.15 * runs


@given(st.integers(0, 100), st.floats(1e-3, 1e3))
@settings(max_examples=30, deadline=None)
def test_another_unit_of_the_metric_changes_nothing(seed: int, unit: float) -> None:
    values = np.random.default_rng(seed).normal(0, 1, (2, 5, 60))
    plain = effects(*map(samples, values), matters=0.2, alpha=0.05)[-1]
    scaled = effects(*map(samples, values * unit), matters=0.2 * unit, alpha=0.05)[-1]
    assert (scaled.low, scaled.high) == pytest.approx((plain.low * unit, plain.high * unit))


def test_arms_in_which_nothing_has_varied_are_not_certain() -> None:
    nothing, some = Sample(500, 0.0, 0.0), Sample(500, 0.1, 0.09)
    assert not effects([nothing], [nothing], matters=0.1, alpha=0.05)[0].known
    assert effects([nothing], [some], matters=0.1, alpha=0.05)[0].low > 0


def experiment(effect: float = 0.0, *, units: tuple[int, int] = (500, 500), **rails: Any) -> dict[str, Any]:
    looks = range(20)
    control = [{"units": units[0], "mean": 1.0, "variance": 0.25} for _ in looks]
    new = [{"units": units[1], "mean": 1.0 + effect, "variance": 0.25} for _ in looks]
    errors = {
        "name": "errors", "direction": "increase", "control": [3] * 30, "experiment": [3] * 30,
        "control_attempts": [3000] * 30, "experiment_attempts": [3000] * 30,
    }  # fmt: skip
    latency = {"name": "latency-p99", "direction": "increase", "control": [100.0, 101] * 15}
    latency["experiment"] = [101.0, 100] * 15
    return {
        "name": "shorter",
        "target": {"name": "kept", "wanted": "increase", "matters": 0.1, "control": control, "experiment": new},
        "guard_rails": [{**errors, **rails.get("errors", {})}, {**latency, **rails.get("latency", {})}],
    }


@pytest.mark.parametrize(
    ("document", "verdict"),
    [
        (experiment(0.1), Verdict.BETTER),
        (experiment(-0.1), Verdict.WORSE),
        (experiment(0.0), Verdict.NO_DIFFERENCE),
        (experiment(0.0, units=(4, 4)), Verdict.UNDECIDED),
        (experiment(0.1, errors={"experiment": [60] * 30}), Verdict.STOP),
        (experiment(0.1, latency={"experiment": [150.0, 151] * 15}), Verdict.STOP),
        (experiment(0.1, latency={"experiment": [100.0] * 27 + [None] * 3}), Verdict.STOP),
        (experiment(0.1, errors={"experiment": [0] * 30, "experiment_attempts": [0] * 30}), Verdict.STOP),
        (experiment(0.1, latency={"control": [100.0], "experiment": [100.0]}), Verdict.UNDECIDED),
        (experiment(0.1, units=(600, 500)), Verdict.STOP),
    ],
)
def test_guard_rails_come_first_and_better_needs_all_of_them(document: dict[str, Any], verdict: Verdict) -> None:
    found = judge(Input.model_validate(document))
    assert (found.verdict, bool(found.reasons)) == (verdict, True), found.reasons


numbers = st.floats(-1e6, 1e6)


@given(st.lists(st.tuples(numbers, st.floats(0, 1e6) | st.just(float("inf"))), min_size=1, max_size=30), st.text())
@settings(deadline=None)
def test_any_picture_is_sound_xml_within_its_frame(points: list[tuple[float, float]], name: str) -> None:
    text = "".join(one for one in name if one.isprintable()) or "<&>"
    found = [Effect(100, 100, at, at - reach, at + reach) for at, reach in points]
    looks: Any = [{"units": 0}]
    target = Target(name=text, wanted="increase", matters=0.1, control=looks, experiment=looks)
    tree = ElementTree.fromstring(draw(target, found, 1))
    for shape in tree.iter():
        for pair in (shape.get("points") or "").split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= WIDTH
            assert 0 <= y <= HEIGHT


def call(*arguments: str) -> tuple[int, Any]:
    done = CliRunner().invoke(app, ["experiment", *arguments])
    return done.exit_code, json.loads(done.stdout) if done.exit_code in (0, 3) else done.output


def test_the_command_judges_writes_its_report_and_refuses_what_is_not_guarded(tmp_path: Path) -> None:
    file = tmp_path / "experiment.json"
    file.write_text(json.dumps(experiment(0.1)))
    code, found = call("judge", "--input", str(file), "--report", str(tmp_path / "report"), "--json")
    assert (code, found["verdict"]) == (0, "better")
    assert "effect.svg" in (tmp_path / "report" / "report.md").read_text()
    assert (tmp_path / "report" / "effect.svg").exists()
    file.write_text(json.dumps(experiment(-0.1)))
    assert call("judge", "--input", str(file), "--json")[0] == 3
    file.write_text(json.dumps({**experiment(), "guard_rails": experiment()["guard_rails"][1:]}))
    assert call("judge", "--input", str(file), "--json")[0] == 2


def test_the_command_assigns_as_the_library_does() -> None:
    code, found = call("assign", "ada", "grace", "--name", "one", "--exposure", "20%", "--json")
    assert (code, found) == (0, {unit: assign(Experiment("one", 0.2), unit).value for unit in ("ada", "grace")})
    assert call("assign", "ada", "--name", "one", "--exposure", "60%")[0] == 2


def test_the_command_says_whether_an_experiment_may_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demo = (Path(__file__).parents[3] / "include" / "estates" / "demo" / "estate.yaml").read_text()
    declared = demo.replace("    model: late-arrival\n", "    model: late-arrival\n    capacity: 50\n")
    (tmp_path / "estate.yaml").write_text(declared)
    (tmp_path / "secrets").mkdir()
    urls = {"extra": {"urls": ["http://127.0.0.1:9", "http://127.0.0.1:10"]}}
    connections = {f"ninelives_{site}_replicas": urls for site in TWO}
    (tmp_path / "secrets" / "connections.json").write_text(json.dumps(connections))
    monkeypatch.setenv("NINELIVES_HOME", str(tmp_path))
    monkeypatch.setenv("NINELIVES_ESTATE", str(tmp_path / "estate.yaml"))
    begin = ("check", "late-arrival", "--exposure", "1%", "--peak", "100", "--stop-within", "1s", "--json")
    code, found = call(*begin)
    assert (code, found["may_begin"], found["reasons"]) == (0, True, [])
    code, found = call(*begin, "--take", "paris=1")
    assert (code, found["may_begin"], len(found["reasons"])) == (3, False, 1)
    assert "with dublin lost, 50 requests" in found["reasons"][0]
    assert call(*begin, "--take", "paris")[0] == 2
