"""The gate on a real site: its bytes over S3, its verdicts in PostgreSQL, and what a failover may make of them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import support.gate
from support.gate import GatedSite, gated_site, objects, publish
from typer.testing import CliRunner

from ninelives.cli import app
from ninelives.cli.common import ExitCode
from ninelives.errors import Refused, Unavailable
from ninelives.gates.evidence import has_verdict, run_gate, usable_verdict
from ninelives.gates.interval import Interval
from ninelives.gates.suite import load_suite
from ninelives.gates.verdict import Verdict
from ninelives.ports import Record
from ninelives.replication.manifest import BUCKET, manifest_key

pytestmark = [pytest.mark.stack, pytest.mark.slow]


@pytest.fixture(scope="module")
def january() -> dict[str, bytes]:
    return objects(support.gate.january())


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatedSite]:
    with gated_site(tmp_path) as site:
        yield site


def newest(site: GatedSite) -> Record:
    return site.systems().ledger().records(kind="gate", subject="flights@dublin", limit=1)[0]


@pytest.mark.soak  # two gates and two failovers; whole runs of fail_over are there too
def test_a_failover_waits_for_the_gate_once_and_then_looks_it_up(site: GatedSite, january: dict[str, bytes]) -> None:
    manifest = publish(site.store, january)
    first = usable_verdict(site.systems(), "flights", "dublin")
    assert first.facts["verdict"] == "pass"
    assert first.facts["rows"] == 27_004
    assert first.facts["fingerprint"] == manifest.fingerprint
    assert usable_verdict(site.systems(), "flights", "dublin") == first, "a fresh verdict is not asked for again"
    assert has_verdict(site.systems(), "flights", "dublin")
    assert not has_verdict(site.systems(), "flights", "dublin", max_age=timedelta(0)), "one as old as that is renewed"

    last = sorted(january)[-1]
    publish(site.store, {key: data for key, data in january.items() if key != last})
    second = usable_verdict(site.systems(), "flights", "dublin")
    assert second.seq > first.seq, "other data needs a verdict of its own"

    victim = site.disk(sorted(january)[3])
    rotten = bytearray(victim.read_bytes())
    rotten[len(rotten) // 2] ^= 1
    victim.write_bytes(rotten)
    result, record = run_gate(site.systems(), "flights", "dublin")
    assert result.verdict is Verdict.ERROR
    assert sorted(january)[3] in result.errors[0]
    with pytest.raises(Refused, match=f"hashes to.*see evidence {record.seq + 1}"):
        usable_verdict(site.systems(), "flights", "dublin")


def test_a_site_without_a_whole_copy_is_refused_with_evidence(site: GatedSite, january: dict[str, bytes]) -> None:
    with pytest.raises(Refused, match="has no manifest of flights"):
        usable_verdict(site.systems(), "flights", "dublin")
    assert newest(site).facts["verdict"] == "error"

    publish(site.store, january)
    site.store.put(BUCKET, manifest_key("flights"), b'{"dataset": "flights", "objects": [')
    with pytest.raises(Refused, match="cannot be trusted"):
        usable_verdict(site.systems(), "flights", "dublin")

    publish(site.store, january)
    site.store.delete(BUCKET, sorted(january)[0])
    with pytest.raises(Refused, match="and not at dublin"):
        usable_verdict(site.systems(), "flights", "dublin")
    assert newest(site).facts["fingerprint"]


def test_a_store_that_is_down_is_to_be_tried_again_and_leaves_no_verdict(site: GatedSite) -> None:
    site.processes.lose()
    with pytest.raises(Unavailable):
        run_gate(site.systems(), "flights", "dublin")
    assert site.systems().ledger().records(kind="gate") == []


def test_only_declared_copies_are_judged(site: GatedSite) -> None:
    with pytest.raises(Refused, match="no such copy"):
        run_gate(site.systems(), "flights", "berlin")


def test_the_command_says_no_with_its_exit_code_and_a_document(
    site: GatedSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NINELIVES_HOME", str(site.home.root))
    asked = CliRunner().invoke(app, ["gate", "run", "flights", "--site", "dublin", "--json"])
    assert asked.exit_code == ExitCode.MISSED, asked.output
    (answer,) = json.loads(asked.stdout)
    assert answer["verdict"] == "error"
    assert answer["evidence"] == newest(site).seq


@pytest.mark.soak
def test_one_interval_is_judged_by_itself_and_stands_for_nothing_else(
    site: GatedSite, january: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(site.store, january)
    first_day = Interval.parse("2013-01-01T05:00Z/2013-01-02T05:00Z")
    result, record = run_gate(site.systems(), "flights", "dublin", interval=first_day)
    assert (result.verdict, result.rows) == (Verdict.PASS, 842), result.reasons
    assert record.facts["interval"] == "2013-01-01T05:00:00Z/2013-01-02T05:00:00Z"
    assert has_verdict(site.systems(), "flights", "dublin", interval=first_day)
    assert not has_verdict(site.systems(), "flights", "dublin"), "842 rows are not the dataset"

    monkeypatch.setenv("NINELIVES_HOME", str(site.home.root))
    of_next_year = ["--site", "dublin", "--interval", "2014-01-01/2014-01-02", "--json"]
    asked = CliRunner().invoke(app, ["gate", "run", "flights", *of_next_year])
    (answer,) = json.loads(asked.stdout)
    assert (asked.exit_code, answer["verdict"], answer["rows"]) == (ExitCode.MET, "warn", 0), asked.output


@pytest.mark.soak
def test_what_fails_can_be_seen_row_by_row_and_a_first_suite_is_suggested_but_nothing_overwritten(
    site: GatedSite, january: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NINELIVES_HOME", str(site.home.root))
    (newest,) = [key for key in january if "day=2013-01-31" in key]
    flights = pq.read_table(io.BytesIO(january[newest]))
    where = flights.schema.get_field_index("carrier")
    wrong = pa.array(["XX", *flights["carrier"].to_pylist()[1:]])
    buffer = io.BytesIO()
    pq.write_table(flights.set_column(where, "carrier", wrong), buffer)
    publish(site.store, january | {newest: buffer.getvalue()})

    asked = CliRunner().invoke(app, ["gate", "explain", "flights", "--site", "dublin", "--json"])
    answer = json.loads(asked.stdout)
    assert (asked.exit_code, answer["verdict"]) == (ExitCode.MISSED, "block"), asked.output
    (failed,) = [e for e in answer["expectations"] if e["met"] is False]
    assert [(row["carrier"], row["day"]) for row in failed["rows"]] == [("XX", 31)]
    assert "16 carriers" in failed["reason"]
    assert site.systems().ledger().records(kind="gate") == [], "rows are data; nothing of them is kept"
    text = CliRunner().invoke(app, ["gate", "explain", "flights", "--site", "dublin", "--rows", "1"])
    assert "NOT MET: expect_column_values_to_be_in_set of carrier (critical)" in text.stdout

    first = ["gate", "suggest", "flights", "--site", "dublin"]
    refused = CliRunner().invoke(app, first)
    assert isinstance(refused.exception, Refused), "the suite that is there stays as it is"
    written = CliRunner().invoke(app, [*first, "--output", str(tmp_path / "new" / "suite.json"), "--json"])
    assert written.exit_code == ExitCode.MET, written.output
    suite = load_suite(tmp_path / "new" / "suite.json")
    assert suite.min_rows == 27_004 // 2
    assert suite.columns["time_hour"] == "timestamp[us, tz=UTC]"
