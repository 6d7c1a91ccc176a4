"""Files of probes: whole or absent, merged without loss whenever the writer dies, read once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.probing.journal import ProbeJournal
from ninelives.probing.records import (
    SCHEMA,
    Heartbeat,
    Outcome,
    Probe,
    probe_files,
    read_heartbeat,
    read_probes,
    to_table,
    wait_until_complete,
)

START = datetime(2013, 1, 1, 22, 0, tzinfo=UTC)
LATER = START + timedelta(days=1)


def probe(seq: int, service: str = "late-arrival") -> Probe:
    at = START + timedelta(seconds=seq)
    return Probe(
        run="a", seq=seq, service=service, scheduled_at=at, sent_at=at, monotonic_ns=seq * 10**9,
        outcome=Outcome.GOOD, latency_s=0.01, status=200, site="paris", model_version="3",
    )  # fmt: skip


def beat(until: datetime) -> Heartbeat:
    return Heartbeat("a", 1, at=until, interval_s=1.0, services=("late-arrival",), complete_until=until)


def fill(journal: ProbeJournal, seconds: int, per_file: int = 10) -> None:
    for first in range(0, seconds, per_file):
        rows = [probe(seq) for seq in range(first, min(first + per_file, seconds))]
        journal.flush(rows, beat(START + timedelta(seconds=first + per_file)))


def seqs(folder: Path, start: datetime = START, end: datetime = LATER) -> list[int]:
    return read_probes(folder, start, end).column("seq").to_pylist()


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    unsent = Probe("a", 3, "s", START, None, 7, Outcome.UNKNOWN, error="the prober was held up")
    probes = [probe(0), probe(1), unsent]
    with ProbeJournal(tmp_path) as journal:
        journal.flush(probes, beat(START))
    back = read_probes(tmp_path, START, LATER).select(SCHEMA.names).to_pylist()
    assert sorted(back, key=str) == sorted(to_table(probes).to_pylist(), key=str)
    assert read_probes(tmp_path, START, LATER, "s").num_rows == 1
    assert read_probes(tmp_path, START + timedelta(seconds=1), LATER).num_rows == 1
    assert read_probes(tmp_path / "nowhere", START, LATER).num_rows == 0


def test_tidying_leaves_one_file_per_hour_and_every_row(tmp_path: Path) -> None:
    with ProbeJournal(tmp_path) as journal:
        fill(journal, 3 * 3600, per_file=60)
        journal.tidy(START + timedelta(hours=2, minutes=30))
        assert seqs(tmp_path) == list(range(3 * 3600))
        journal.tidy(LATER)
        assert len(probe_files(tmp_path)) == 3
        assert {path.parent.name for path in probe_files(tmp_path)} == {"2013-01-01", "2013-01-02"}
        journal.tidy(LATER)
    assert seqs(tmp_path) == list(range(3 * 3600))
    assert seqs(tmp_path, START + timedelta(seconds=3590), START + timedelta(seconds=3610)) == list(range(3590, 3610))


class Killed(Exception):
    pass


@pytest.mark.parametrize("step", range(14))
def test_killed_at_any_step_of_tidying_nothing_is_lost_and_nothing_read_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Each file operation of a merge is one step; the writer dies right before one of them."""
    with ProbeJournal(tmp_path) as journal:
        fill(journal, 120)
        left = step

        def dying(real: Callable[..., object]) -> Callable[..., object]:
            def operation(*args: object, **more: object) -> object:
                nonlocal left
                if left == 0:
                    raise Killed
                left -= 1
                return real(*args, **more)

            return operation

        with monkeypatch.context() as patch:
            for name in ("unlink", "replace"):
                patch.setattr(Path, name, dying(getattr(Path, name)))
            with pytest.raises(Killed):
                journal.tidy(LATER)
    assert seqs(tmp_path) == list(range(120))
    with ProbeJournal(tmp_path) as journal:  # the next one finishes the work
        journal.tidy(LATER)
    assert seqs(tmp_path) == list(range(120))
    assert len(probe_files(tmp_path)) == 1
    assert not list(tmp_path.glob("*/.tmp-*"))


def test_reading_beside_a_tidying_writer_never_misses_a_row(tmp_path: Path) -> None:
    with ProbeJournal(tmp_path) as journal:
        fill(journal, 600, per_file=3)
        done = threading.Event()

        def tidy() -> None:
            for minute in range(1, 15):
                journal.tidy(START + timedelta(minutes=minute))
            journal.tidy(LATER)
            done.set()

        writer = threading.Thread(target=tidy)
        writer.start()
        try:
            reads = 0
            while not done.is_set():
                assert seqs(tmp_path) == list(range(600))
                reads += 1
        finally:
            writer.join()
        assert reads
    assert seqs(tmp_path) == list(range(600))


def test_days_past_retention_go(tmp_path: Path) -> None:
    with ProbeJournal(tmp_path, retention=timedelta(days=7)) as journal:
        fill(journal, 3 * 3600, per_file=600)
        journal.tidy(datetime(2013, 1, 9, 1, tzinfo=UTC))
        assert {path.parent.name for path in probe_files(tmp_path)} == {"2013-01-02"}


def test_a_second_prober_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    with ProbeJournal(tmp_path), pytest.raises(Refused, match="another prober"):
        ProbeJournal(tmp_path)
    with ProbeJournal(tmp_path):
        pass


def test_a_broken_or_foreign_file_is_named(tmp_path: Path) -> None:
    with ProbeJournal(tmp_path) as journal:
        fill(journal, 10)
    (whole,) = probe_files(tmp_path)
    whole.write_bytes(whole.read_bytes()[:-10])
    with pytest.raises(Corrupted, match=whole.name):
        seqs(tmp_path)
    whole.rename(whole.with_name("mine.parquet"))
    with pytest.raises(Corrupted, match="not a file that the prober wrote"):
        seqs(tmp_path)


def test_waiting_for_the_heartbeat_ends_with_the_promise_or_says_that_it_did_not_come(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no heartbeat"):
        wait_until_complete(tmp_path, START, timeout=0)
    with ProbeJournal(tmp_path) as journal:
        journal.flush([], beat(START))
    assert wait_until_complete(tmp_path, START, timeout=0) == beat(START) == read_heartbeat(tmp_path)
    with pytest.raises(Unavailable, match="complete until"):
        wait_until_complete(tmp_path, LATER, timeout=0)
    (tmp_path / "heartbeat.json").write_text("{}")
    with pytest.raises(Corrupted, match="heartbeat"):
        read_heartbeat(tmp_path)
