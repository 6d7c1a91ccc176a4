from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninelives.errors import Corrupted
from ninelives.replication.acks import Ack, append_ack, read_acks


def ack(seq: int) -> Ack:
    return Ack(
        seq=seq, dataset="flights", key=f"flights/{seq}", size=seq, sha256="a" * 64, site="paris",
        acked_at=datetime(2026, 1, 1, tzinfo=UTC), monotonic_ns=seq,
    )  # fmt: skip


def test_no_journal_has_no_acks(tmp_path: Path) -> None:
    assert read_acks(tmp_path / "acks.jsonl") == []


def test_acks_come_back_in_the_order_written(tmp_path: Path) -> None:
    journal = tmp_path / "feed" / "acks.jsonl"
    for seq in range(5):
        append_ack(journal, ack(seq))
    assert read_acks(journal) == [ack(seq) for seq in range(5)]


@given(st.integers(0, 10_000))
def test_a_writer_killed_at_any_byte_costs_only_the_line_it_was_writing(cut: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "acks.jsonl"
        for seq in range(3):
            append_ack(journal, ack(seq))
        whole = journal.read_bytes()
        cut %= len(whole) + 1
        journal.write_bytes(whole[:cut])
        survived = [ack(seq) for seq in range(whole[:cut].count(b"\n"))]
        assert read_acks(journal) == survived
        append_ack(journal, ack(9))
        assert read_acks(journal) == [*survived, ack(9)]


def test_a_damaged_line_before_the_end_is_corrupted(tmp_path: Path) -> None:
    journal = tmp_path / "acks.jsonl"
    for seq in range(3):
        append_ack(journal, ack(seq))
    lines = journal.read_bytes().split(b"\n")
    lines[1] = lines[1][:20]
    journal.write_bytes(b"\n".join(lines))
    with pytest.raises(Corrupted, match="jsonl:2"):
        read_acks(journal)
