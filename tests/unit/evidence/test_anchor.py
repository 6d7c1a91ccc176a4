from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.evidence import FolderStore

from ninelives.adapters.ledger import SqlLedger, migrate
from ninelives.errors import Corrupted, Unavailable
from ninelives.evidence import anchor, read_anchors, verify_ledger
from ninelives.evidence.anchor import BUCKET, choose


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SqlLedger]:
    url = f"sqlite:///{tmp_path}/ledger.db"
    migrate(url)
    ledger = SqlLedger(url)
    yield ledger
    ledger.close()


@pytest.fixture
def stores(tmp_path: Path) -> dict[str, FolderStore]:
    stores = {site: FolderStore(site, tmp_path / site) for site in ("paris", "dublin")}
    for store in stores.values():
        store.ensure_bucket(BUCKET)
    return stores


def objects(store: FolderStore) -> dict[str, bytes]:
    return {info.key: store.get(BUCKET, info.key) or b"" for info in store.list(BUCKET)}


def test_the_head_is_anchored_at_every_site(ledger: SqlLedger, stores: dict[str, FolderStore]) -> None:
    ledger.append("drill", "x", {})
    record = ledger.append("drill", "x", {})
    assert anchor(ledger, stores) == []
    for store in stores.values():
        (body,) = objects(store).values()
        assert list(objects(store)) == [f"{ledger.ledger_id}/000000000002.json"]
        assert json.loads(body).items() >= {"seq": 2, "hash": record.hash}.items()
    verification = verify_ledger(ledger, stores)
    assert (verification.verdict, verification.records, verification.anchors) == ("whole", 2, 2)
    assert verification.anchored_seq == 2


def test_an_empty_ledger_has_nothing_to_anchor_and_is_not_known_to_be_whole(
    ledger: SqlLedger, stores: dict[str, FolderStore]
) -> None:
    assert anchor(ledger, stores) == []
    assert verify_ledger(ledger, stores).verdict == "unknown"


def test_anchoring_the_same_head_again_changes_nothing(ledger: SqlLedger, stores: dict[str, FolderStore]) -> None:
    ledger.append("drill", "x", {})
    anchor(ledger, stores)
    before = objects(stores["paris"])
    anchor(ledger, stores)
    assert objects(stores["paris"]) == before


def test_a_store_that_is_down_is_reported_and_not_fatal(ledger: SqlLedger, stores: dict[str, FolderStore]) -> None:
    ledger.append("drill", "x", {})
    stores["paris"].down = True
    (problem,) = anchor(ledger, stores)
    assert problem.startswith("paris: ")
    verification = verify_ledger(ledger, stores)
    assert verification.verdict == "whole"
    assert list(verification.unreachable) == ["paris"]


def test_no_store_at_all_is_unavailable_and_then_not_known_to_be_whole(
    ledger: SqlLedger, stores: dict[str, FolderStore]
) -> None:
    ledger.append("drill", "x", {})
    for store in stores.values():
        store.down = True
    with pytest.raises(Unavailable, match="anchored nowhere"):
        anchor(ledger, stores)
    with pytest.raises(Unavailable, match="there is no store"):
        anchor(ledger, {})
    assert verify_ledger(ledger, stores).verdict == "unknown"


def test_an_anchor_that_says_otherwise_is_never_overwritten(ledger: SqlLedger, stores: dict[str, FolderStore]) -> None:
    ledger.append("drill", "x", {})
    key = f"{ledger.ledger_id}/000000000001.json"
    proof = json.dumps({"seq": 1, "hash": "f" * 64, "at": "2026-01-01T00:00:00.000000Z"}).encode()
    stores["dublin"].put(BUCKET, key, proof)
    with pytest.raises(Corrupted, match="dublin"):
        anchor(ledger, stores)
    assert stores["dublin"].get(BUCKET, key) == proof
    assert stores["paris"].get(BUCKET, key) is not None
    verification = verify_ledger(ledger, stores)
    assert verification.verdict == "broken"
    assert [(finding.seq, finding.kind) for finding in verification.findings] == [(1, "truncated")]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"seq": 1}',
        b'{"seq": 1, "hash": 3, "at": ""}',
        b'{"seq": "1", "hash": "x", "at": ""}',
        b'{"seq": 2, "hash": "' + b"0" * 64 + b'", "at": ""}',
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_a_torn_anchor_counts_as_absent_is_said_and_is_written_anew(
    ledger: SqlLedger, stores: dict[str, FolderStore], body: bytes
) -> None:
    ledger.append("drill", "x", {})
    stores["paris"].put(BUCKET, f"{ledger.ledger_id}/000000000001.json", body)
    verification = verify_ledger(ledger, stores)
    assert verification.verdict == "unknown"
    assert len(verification.unreadable) == 1
    assert anchor(ledger, stores) == []
    assert verify_ledger(ledger, stores).verdict == "whole"


def test_two_ledgers_in_the_same_stores_do_not_mix(
    ledger: SqlLedger, stores: dict[str, FolderStore], tmp_path: Path
) -> None:
    migrate(f"sqlite:///{tmp_path}/other.db")
    other = SqlLedger(f"sqlite:///{tmp_path}/other.db")
    for count, each in enumerate((ledger, other), start=1):
        for number in range(count):
            each.append("drill", "x", {"n": number, "of": count})
        anchor(each, stores)
    verification = verify_ledger(ledger, stores)
    assert verification.verdict == "whole"
    assert verification.anchors == 2
    assert verification.other_ledgers == {other.ledger_id}
    other.close()


def test_a_bounded_reading_has_the_newest_and_a_spread_of_the_older(
    ledger: SqlLedger, stores: dict[str, FolderStore]
) -> None:
    for _ in range(12):
        ledger.append("drill", "x", {})
        anchor(ledger, stores)
    reading = read_anchors({"paris": stores["paris"]}, ledger.ledger_id, limit=4)
    assert [found.seq for found in reading.anchors] == [1, 6, 11, 12]
    assert len(read_anchors(stores, ledger.ledger_id).anchors) == 24


@pytest.mark.parametrize("limit", range(1, 12))
def test_a_choice_is_sorted_without_repetition_and_has_the_newest(limit: int) -> None:
    keys = [f"{number:03d}" for number in range(10)]
    chosen = list(choose(keys, limit))
    assert len(chosen) == min(limit, 10)
    assert chosen == sorted(set(chosen))
    assert chosen[-1] == keys[-1]
