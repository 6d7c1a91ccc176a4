from collections.abc import Callable, Iterable

import pytest

from ninelives.errors import Unavailable
from ninelives.serving.warm_up import settle


def simulated(latencies_ms: Iterable[float]) -> tuple[Callable[[], None], Callable[[], float]]:
    """A replica with these latencies, and the clock that they move."""
    now, latencies = [0.0], iter(latencies_ms)

    def infer() -> None:
        now[0] += next(latencies) / 1000

    return infer, lambda: now[0]


def test_a_steady_replica_settles_as_soon_as_two_windows_are_full() -> None:
    warm = settle(*simulated([50.0] * 100), window=5)
    assert (warm.settled, warm.requests, warm.p50_ms) == (True, 10, pytest.approx(50))


def test_a_replica_that_gets_faster_settles_only_when_it_stops() -> None:
    warm = settle(*simulated([1000, 800, 600, 400, 300, 200, 100, 50] + [20.0] * 50), window=4)
    assert warm.settled
    assert 12 <= warm.requests <= 16
    assert warm.p50_ms == pytest.approx(20)


def test_a_replica_that_never_steadies_is_given_up_after_the_bounded_number_of_requests() -> None:
    warm = settle(*simulated(2.0**n for n in range(30)), window=3, max_requests=12, max_seconds=1e9)
    assert (warm.settled, warm.requests) == (False, 12)


def test_a_slow_replica_is_given_up_after_the_bounded_time() -> None:
    warm = settle(*simulated([6000.0] * 100), max_seconds=20)
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
