"""Whose failing requests are charged to a service's error budget."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from ninelives.probing.records import DRILL, PROBE, SCHEMA, Outcome, Probe, read_file, to_table
from ninelives.probing.traffic import bad_seconds, read_user_failures, user_failures

START = datetime(2026, 1, 1, tzinfo=UTC)


def line(
    second: float,
    *,
    traffic: str | None = None,
    status: int = 503,
    service: str = "beta",
    degraded: str | None = None,
) -> str:
    return json.dumps(
        {"at": (START + timedelta(seconds=second)).isoformat(), "service": service, "status": status,
         "traffic": traffic, "degraded": degraded},
        separators=(",", ":"),
    )  # fmt: skip


def probe(second: float, outcome: Outcome, traffic: str | None) -> Probe:
    return Probe("run", int(second * 10), "beta", START + timedelta(seconds=second), None, 0, outcome, traffic=traffic)


def test_only_users_failures_are_read_and_their_own_mistakes_are_not_ours(tmp_path: Path) -> None:
    lines = [
        line(1), line(2, traffic="probe"), line(3, traffic="drill"), line(4, status=200), line(5, status=404),
        line(6, service="alpha"), line(7, status=0), line(8, status=200, degraded="default"), '{"at": "2026-01', "[1]",
    ]  # fmt: skip
    assert [at.second for at in user_failures(lines, "beta")] == [1, 7, 8]
    assert read_user_failures(tmp_path, "beta") is None
    (tmp_path / "access.jsonl.1").write_text(line(1) + "\n")
    (tmp_path / "access.jsonl").write_text(line(9) + "\n")
    assert [at.second for at in read_user_failures(tmp_path, "beta") or []] == [1, 9]


def test_a_drills_probes_are_not_charged_and_users_in_the_same_seconds_are() -> None:
    rows = to_table(
        [
            *(probe(second, Outcome.FAILED, PROBE) for second in (1.0, 1.1)),
            *(probe(second, Outcome.FAILED, DRILL) for second in (5.0, 5.1, 6.0, 7.0)),
            *(probe(second, Outcome.GOOD, DRILL) for second in (8.0,)),
        ]
    )
    users = [START + timedelta(seconds=second) for second in (1.05, 5.2, 5.3, 8.4)]
    assert bad_seconds(rows, [], 0.1) == 0.2
    assert bad_seconds(rows, users, 0.1) == 2.2, "seconds 5 and 8; what was outside the drill the probes have told"
    assert bad_seconds(rows, None, 0.1) == 0.1 * 6, "where nobody knows what users got, the probes stand for them"


@given(
    outcomes=st.lists(st.tuples(st.sampled_from(Outcome), st.sampled_from([PROBE, DRILL, None])), max_size=30),
    users=st.lists(st.floats(0, 4), max_size=10),
)
def test_never_more_is_charged_than_probes_and_users_saw(
    outcomes: list[tuple[Outcome, str | None]], users: list[float]
) -> None:
    rows = to_table([probe(number / 10, outcome, traffic) for number, (outcome, traffic) in enumerate(outcomes)])
    at = [START + timedelta(seconds=second) for second in users]
    without, charged = bad_seconds(rows, [], 0.1), bad_seconds(rows, at, 0.1)
    assert without <= charged <= without + len({int(second) for second in users})
    assert without <= bad_seconds(rows, None, 0.1) + 1e-9


def test_files_of_an_older_version_are_read_and_charged_as_probes(tmp_path: Path) -> None:
    table = to_table([probe(1, Outcome.FAILED, PROBE)])
    path = tmp_path / "old.parquet"
    pq.write_table(table.drop_columns(["traffic"]), path)
    found = read_file(path)
    assert found.schema == SCHEMA
    assert bad_seconds(found, [], 0.1) == 0.1
