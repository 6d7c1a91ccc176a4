from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from ninelives.replication.acks import Ack
from ninelives.replication.lag import RecoveryPoint, replication_lag, surviving
from ninelives.replication.manifest import ManifestObject, build_manifest

START = datetime(2026, 1, 1, tzinfo=UTC)


def ack(seq: int, at: float, sha: str = "a") -> Ack:
    return Ack(
        seq=seq, dataset="flights", key=f"flights/{seq}", size=1, sha256=sha * 64, site="paris",
        acked_at=START + timedelta(seconds=at), monotonic_ns=0,
    )  # fmt: skip


def hashes(*acks: Ack) -> dict[str, str]:
    return {one.key: one.sha256 for one in acks}


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Ack], dict[str, str], datetime]:
    times = draw(st.lists(st.integers(0, 50), max_size=12))  # clocks that step back included
    acks = [ack(seq, at) for seq, at in enumerate(times)]
    fate = draw(st.lists(st.sampled_from(["kept", "gone", "wrong"]), min_size=len(acks), max_size=len(acks)))
    left = {
        one.key: one.sha256 if what == "kept" else "b" * 64
        for one, what in zip(acks, fate, strict=True)
        if what != "gone"
    }
    return draw(st.permutations(acks)), left, START + timedelta(seconds=draw(st.integers(0, 60)))


def oracle(acks: list[Ack], left: dict[str, str], loss_at: datetime) -> RecoveryPoint:
    """Every prefix of the journal is tried: the longest that survived whole is the recovery point."""
    before = [one for one in sorted(acks, key=lambda one: one.seq) if one.acked_at <= loss_at]
    lost = [one for one in before if one.key not in left or left[one.key] != one.sha256]
    best = 0
    for length in range(len(before) + 1):
        if all(left.get(one.key) == one.sha256 for one in before[:length]):
            best = length
    last = before[best - 1] if best else None
    if not lost:
        return RecoveryPoint(0.0, last, [])
    return RecoveryPoint((loss_at - last.acked_at).total_seconds() if last else None, last, lost)


@given(histories())
def test_the_recovery_point_is_the_one_that_trying_everything_finds(
    history: tuple[list[Ack], dict[str, str], datetime],
) -> None:
    assert surviving(*history) == oracle(*history)


def test_nothing_lost_is_an_rpo_of_zero_however_old_the_last_write() -> None:
    acks = [ack(0, 0), ack(1, 10)]
    assert surviving(acks, hashes(*acks), START + timedelta(hours=5)) == RecoveryPoint(0.0, acks[1], [])


def test_a_survivor_after_a_hole_does_not_count() -> None:
    acks = [ack(0, 0), ack(1, 10), ack(2, 20)]
    assert surviving(acks, hashes(acks[0], acks[2]), START + timedelta(seconds=30)) == RecoveryPoint(
        30.0, acks[0], [acks[1]]
    )


def test_wrong_bytes_did_not_survive_and_no_survivor_is_unbounded() -> None:
    one = ack(0, 0)
    assert surviving([one], {one.key: "b" * 64}, START + timedelta(seconds=1)) == RecoveryPoint(None, None, [one])


def test_a_write_acknowledged_after_the_loss_was_not_promised() -> None:
    acks = [ack(0, 0), ack(1, 10)]
    assert surviving(acks, hashes(acks[0]), START + timedelta(seconds=9)).rpo_seconds == 0.0


def manifest(*acks: Ack) -> object:
    return build_manifest("flights", [ManifestObject(key=a.key, size=a.size, sha256=a.sha256) for a in acks], START)


@given(histories())
def test_the_lag_is_the_age_of_the_oldest_write_that_is_not_there(
    history: tuple[list[Ack], dict[str, str], datetime],
) -> None:
    acks, left, now = history
    copy = build_manifest("flights", [ManifestObject(key=k, size=1, sha256=v) for k, v in left.items()], START)
    ages = [(now - a.acked_at).total_seconds() for a in acks if a.acked_at <= now and left.get(a.key) != a.sha256]
    assert replication_lag(acks, copy, now) == max(ages, default=0.0)


def test_without_copy_and_writes_the_lag_is_unknown() -> None:
    assert replication_lag([], None, START) is None
    assert replication_lag([ack(0, 0)], None, START + timedelta(seconds=5)) == 5.0
    assert replication_lag([], build_manifest("flights", [], START), START) == 0.0
