"""Which standby may take over, and why not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ninelives.estate import load_estate
from ninelives.recovery.readiness import Readiness, StandbyFacts, choose_target, judge_readiness

ESTATE = load_estate(Path(__file__).parents[3] / "include" / "estates" / "demo" / "estate.yaml")
SERVICE = ESTATE.services[0]
DATASET = ESTATE.dataset_of(SERVICE)
GOOD = StandbyFacts(
    site="dublin",
    closed=False,
    in_drill=False,
    store_answers=True,
    live_replicas=2,
    release="3",
    newest_release="3",
    lag_seconds=12.0,
)


def judge(**changes: object) -> Readiness:
    return judge_readiness(SERVICE, DATASET, replace(GOOD, **changes))  # type: ignore[arg-type]


def test_a_fresh_standby_is_eligible_without_a_warning() -> None:
    assert judge() == Readiness("dublin", (), ())


def test_what_makes_a_move_pointless_forbids_it() -> None:
    for changes in (
        {"closed": True},
        {"in_drill": True},
        {"store_answers": False},
        {"live_replicas": 0},
        {"release": None},
        {"residency": "dataset flights may not leave eu, and dublin is in us"},
    ):
        assert not judge(**changes).eligible, changes


def test_data_behind_the_rpo_and_an_older_release_warn_but_do_not_forbid() -> None:
    for changes in ({"lag_seconds": 901.0}, {"lag_seconds": None}, {"release": "2"}):
        judged = judge(**changes)
        assert judged.eligible
        assert judged.warnings, changes


def test_a_site_without_warnings_is_preferred_then_the_declared_order() -> None:
    paris, dublin = Readiness("paris", (), ("lags",)), Readiness("dublin", ())
    assert choose_target(SERVICE, [paris, dublin]) == dublin
    assert choose_target(SERVICE, [dublin, replace(paris, warnings=())]) == replace(paris, warnings=())
    assert choose_target(SERVICE, [replace(paris, reasons=("closed",))]) is None
