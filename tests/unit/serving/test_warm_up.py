from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain, count, repeat
from random import Random

import pytest

from ninelives.errors import Unavailable
from ninelives.serving.warm_up import KNOWN, QUICK, UNKNOWN, settle


def simulated(latencies_ms: Iterable[float]) -> tuple[Callable[[], None], Callable[[], float]]:
    """A replica with these latencies, and the clock that they move."""
    now, latencies = [0.0], iter(latencies_ms)

    def infer() -> None:
        now[0] += next(latencies) / 1000

    return infer, lambda: now[0]


def test_a_steady_replica_settles_as_soon_as_two_windows_are_full() -> None:
    warm = settle(*simulated([50.0] * 100), rule=replace(QUICK, window=5))
    assert (warm.settled, warm.requests, warm.p50_ms) == (True, 10, pytest.approx(50))


def test_a_replica_that_gets_faster_settles_only_when_it_stops() -> None:
    warm = settle(*simulated([1000, 800, 600, 400, 300, 200, 100, 50] + [20.0] * 50), rule=replace(QUICK, window=4))
    assert warm.settled
    assert 12 <= warm.requests <= 16
    assert warm.p50_ms == pytest.approx(20)


def test_a_replica_that_never_steadies_is_given_up_after_the_bounded_number_of_requests() -> None:
    warm = settle(
        *simulated(2.0**n for n in range(30)), rule=replace(QUICK, window=3, max_requests=12, max_seconds=1e9)
    )
    assert (warm.settled, warm.requests) == (False, 12)


def test_a_slow_replica_is_given_up_after_the_bounded_time() -> None:
    warm = settle(*simulated([6000.0] * 100))
    assert (warm.settled, warm.requests, warm.seconds) == (False, 4, pytest.approx(24))


def test_changes_within_the_noise_do_not_keep_a_fast_replica_waiting() -> None:
    assert settle(*simulated([0.2] * 10 + [0.5] * 10)).settled


def test_one_outlier_does_not_matter() -> None:
    assert settle(*simulated([10.0] * 12 + [900.0] + [10.0] * 7)).requests == 20


def test_a_failing_replica_is_not_warm() -> None:
    def infer() -> None:
        raise Unavailable("no answer")

    with pytest.raises(Unavailable):
        settle(infer)


# --- before a version gets users ---------------------------------------------------------------------------------


def noisy(means: Iterable[float], seed: int, share: float = 0.05) -> Iterable[float]:
    random = Random(seed)
    return (mean * random.gauss(1, share) for mean in means)


@pytest.mark.parametrize("seed", range(20))
def test_a_steady_model_that_is_known_settles_in_five_windows_and_an_unknown_one_after_its_soak(seed: int) -> None:
    known = settle(*simulated(noisy(repeat(40.0), seed)), rule=KNOWN, reference_ms=40)
    assert known.settled
    assert known.requests <= 200
    assert not known.provisional
    fresh = settle(*simulated(noisy(repeat(40.0), seed)), rule=UNKNOWN)
    assert fresh.settled
    assert 240 <= fresh.requests <= 400, "ten seconds, where each request takes 40 ms"
    assert fresh.provisional


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("step", [700, 1000])
def test_an_early_plateau_is_not_taken_for_the_end_where_the_steady_latency_is_known(seed: int, step: int) -> None:
    profile = chain(repeat(80.0, step), repeat(40.0))
    warm = settle(*simulated(noisy(profile, seed)), rule=KNOWN, reference_ms=40)
    assert warm.settled
    assert step + 80 <= warm.requests <= step + 200
    assert warm.p50_ms == pytest.approx(40, rel=0.1)


@pytest.mark.parametrize("seed", range(20))
def test_a_model_that_never_gets_as_fast_as_it_was_is_never_warm(seed: int) -> None:
    endless = (40 + 40 * 0.9997**n + 8 for n in count())
    warm = settle(*simulated(noisy(endless, seed)), rule=replace(KNOWN, max_seconds=60), reference_ms=40)
    assert (warm.settled, warm.provisional) == (False, False)


def test_a_steady_rise_is_not_settled_though_each_window_is_flat() -> None:
    rule = replace(KNOWN, spread=0.5, max_seconds=30)
    assert not settle(*simulated(40 * 1.001**n for n in count()), rule=rule).settled
    assert settle(*simulated(40 * 1.001**n for n in count()), rule=replace(rule, drift=0.5)).settled, "it is the drift"


def test_a_slow_model_need_not_make_the_requests_of_a_fast_one() -> None:
    warm = settle(*simulated(repeat(300.0)), rule=UNKNOWN)
    assert (warm.settled, warm.requests) == (True, 40)
    fast = settle(*simulated(repeat(1.0)), rule=UNKNOWN)
    assert (fast.settled, fast.requests) == (True, UNKNOWN.soak)


@pytest.mark.parametrize("seed", range(20))
def test_a_replica_that_serves_others_meanwhile_scatters_and_settles_all_the_same(seed: int) -> None:
    warm = settle(*simulated(noisy(repeat(40.0), seed, share=0.3)), rule=KNOWN, reference_ms=40)
    assert warm.settled
    assert warm.requests <= 300
