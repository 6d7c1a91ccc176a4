"""Replication by DataSync, with the same proof and evidence as by rclone.

The limit: this is moto's server, not AWS. Its S3 and its DataSync API are moto's; what an execution does, and what a
filter means, is a stand-in of ours below boto3 (``support.datasync_server``), written from AWS's documentation. Roles,
quotas, regions and the time that AWS takes are not tested.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.datasync import BUCKETS, Aws, on_aws
from support.processes import ROOT, wait_until

from ninelives.adapters import datasync
from ninelives.adapters.datasync import DataSyncCopier, patterns
from ninelives.adapters.rclone import RcloneCopier
from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.ports import CopyProgress
from ninelives.replication import transfer
from ninelives.replication.manifest import read_manifest
from ninelives.replication.replicate import replicate
from ninelives.replication.run import Outcome, replicate_and_record
from ninelives.replication.verify import verify, verify_dataset

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    with on_aws(tmp_path_factory.mktemp("aws")) as world:
        yield world


@pytest.fixture
def aws(server: Aws, tmp_path: Path) -> Aws:
    """Empty buckets; tasks and locations stay from test to test, as they do in AWS."""
    for site, bucket in BUCKETS.items():
        if keys := server.keys(site, ""):
            server.s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys]})
    server.go_wrong()
    for ending in (".log", ".go"):
        server.faults.with_suffix(ending).unlink(missing_ok=True)
    return server


def run(aws: Aws, **options: Any) -> Outcome:
    return replicate_and_record(aws.systems, "flights", "paris", "dublin", **options)


def test_datasync_copies_and_we_prove_and_leave_the_same_evidence(aws: Aws) -> None:
    aws.fill(8)
    seen: list[CopyProgress] = []
    done = run(aws, on_progress=seen.append)
    assert (done.result.copied, done.result.verified, done.result.objects) == (8, 8, 8)
    assert aws.objects("dublin") == aws.objects("paris")
    assert read_manifest(aws.systems.store("dublin"), "flights") == read_manifest(aws.systems.store("paris"), "flights")
    assert (seen[-1].objects, seen[-1].bytes) == (8, done.result.bytes)
    (record,) = aws.systems.ledger().records(kind="replication", limit=1)
    assert (record.facts["copied"], record.facts["lag"]["verdict"]) == (8, "met")

    (execution,) = aws.started
    assert execution["options"]["PreserveDeletedFiles"] == "PRESERVE"
    assert patterns(execution["includes"][0]["Value"]) == {f"/{key}" for key in aws.keys("paris")}
    assert run(aws).result.copied == 0
    assert len(aws.started) == 1, "where nothing is new, nothing is started"


def test_only_what_is_new_is_named_and_neither_task_nor_location_is_made_twice(aws: Aws) -> None:
    aws.fill(3)
    run(aws)
    made = [len(aws.datasync.list_tasks()["Tasks"]), len(aws.datasync.list_locations()["Locations"])]
    odd = ["flights/new|day/a+b.parquet", "flights/back\\slash.parquet", "flights/star*.parquet"]
    for key in odd:
        aws.s3.put_object(Bucket=BUCKETS["paris"], Key=key, Body=key.encode())
    done = run(aws)
    assert (done.result.copied, done.result.objects) == (3, 6)
    assert aws.objects("dublin") == aws.objects("paris")
    named = patterns(aws.started[-1]["includes"][0]["Value"])
    assert named == {"/flights/new\\|day/a+b.parquet", "/flights/back\\\\slash.parquet"}, "rclone brings the other"
    assert made == [len(aws.datasync.list_tasks()["Tasks"]), len(aws.datasync.list_locations()["Locations"])]


@pytest.mark.parametrize("engine", ["rclone", "datasync"])
def test_keys_that_no_engine_takes_for_a_path_are_copied_proven_and_kept_all_the_same(
    aws: Aws, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder's marker, as AWS's console makes one, and worse; the engine hashes the others."""
    monkeypatch.setattr(transfer, "ENGINE_OBJECTS", 3)
    odd = ["flights/", "flights/2013/", "flights/2013//x", "flights/./dot", "flights/../up"]
    aws.fill(4)
    for key in odd:
        aws.s3.put_object(Bucket=BUCKETS["paris"], Key=key, Body=b"" if key.endswith("/") else key.encode())
    copier = RcloneCopier() if engine == "rclone" else aws.systems.copier("flights")
    stores = [aws.systems.store(site) for site in BUCKETS]
    conns = [aws.systems.connections.get(f"ninelives_{site}_store") for site in BUCKETS]
    result = replicate("flights", *stores, copier, *conns)
    assert (result.copied, result.verified, result.objects) == (9, 9, 9)
    assert aws.objects("dublin") == aws.objects("paris")
    assert verify("flights", *stores, copier, *conns).findings == ()
    aws.s3.put_object(Bucket=BUCKETS["dublin"], Key="flights/./dot", Body=b"somebody's")
    assert verify("flights", *stores, copier, *conns).sound
    assert aws.objects("dublin") == aws.objects("paris")
    assert list(aws.objects("dublin", "_trash/").values()) == [b"somebody's"]


def test_sites_use_the_roles_that_their_connections_name_and_no_other(aws: Aws) -> None:
    aws.fill(1)
    run(aws)
    roles = set()
    for one in aws.datasync.list_locations()["Locations"]:
        roles.add(aws.datasync.describe_location_s3(LocationArn=one["LocationArn"])["S3Config"]["BucketAccessRoleArn"])
    assert roles == {f"arn:aws:iam::111122223333:role/datasync-{site}" for site in BUCKETS}


def test_more_keys_than_a_filter_holds_are_several_executions(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasync, "filters", partial(datasync.filters, longest=100))
    aws.fill(7)
    assert run(aws).result.copied == 7
    assert aws.objects("dublin") == aws.objects("paris")
    assert len(aws.started) == 3


@pytest.mark.parametrize("fault", ["lose", "flip"])
def test_what_datasync_loses_or_damages_without_a_word_is_found_and_copied_again(aws: Aws, fault: str) -> None:
    aws.fill(5)
    aws.go_wrong(fault)
    done = run(aws)
    assert (done.result.verified, done.result.copied) == (5, 6)
    assert aws.objects("dublin") == aws.objects("paris")
    assert len(aws.started) == 2


def test_what_it_damages_each_time_is_refused_and_the_manifest_does_not_vouch_for_it(aws: Aws) -> None:
    aws.fill(3)
    aws.go_wrong("flip", "flip", "flip")
    with pytest.raises(Corrupted, match="still wrong at dublin after several copies"):
        run(aws)
    manifest = read_manifest(aws.systems.store("dublin"), "flights")
    assert manifest is not None
    assert len(manifest.objects) == 2
    assert run(aws).result.objects == 3
    assert aws.objects("dublin") == aws.objects("paris")


def test_a_damage_at_the_copy_is_repaired_by_the_same_engine_and_kept_in_the_trash(aws: Aws) -> None:
    aws.fill(3)
    run(aws)
    key = "flights/day=001/part-0.parquet"
    aws.s3.put_object(Bucket=BUCKETS["dublin"], Key=key, Body=b"somebody's")
    result = verify_dataset(aws.systems, "flights", "paris", "dublin")
    assert [(one.key, one.outcome) for one in result.findings] == [(key, "repaired")]
    assert aws.objects("dublin") == aws.objects("paris")
    assert list(aws.objects("dublin", "_trash/").values()) == [b"somebody's"]


def test_what_the_source_has_lost_comes_back_the_same_way(aws: Aws) -> None:
    aws.fill(11)
    run(aws)
    before = aws.objects("paris")
    aws.s3.delete_object(Bucket=BUCKETS["paris"], Key="flights/day=007/part-0.parquet")
    done = run(aws)
    assert [(one.site, one.what, one.outcome) for one in done.result.findings] == [("paris", "missing", "repaired")]
    assert aws.objects("paris") == before
    assert len(aws.started) == 2


def test_an_execution_that_fails_is_an_error_in_its_own_words_and_in_evidence(aws: Aws) -> None:
    aws.fill(3)
    aws.go_wrong("fail")
    with pytest.raises(Unavailable, match="S3AccessDenied: the role may not write to the bucket"):
        run(aws)
    assert read_manifest(aws.systems.store("dublin"), "flights") is None
    (record,) = aws.systems.ledger().records(kind="replication", limit=1)
    assert "S3AccessDenied" in record.facts["failed"]
    assert run(aws).result.verified == 3


@pytest.mark.parametrize(("fault", "says"), [("never", "did not begin"), ("hang", "did not move while it was transf")])
def test_an_execution_that_never_begins_or_stands_still_is_cancelled_and_the_next_run_converges(
    aws: Aws, fault: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws.fill(3)
    aws.go_wrong(fault)
    monkeypatch.setattr(aws.systems, "patience", 0.3)
    with pytest.raises(Unavailable, match=says):
        run(aws)
    assert run(aws).result.verified == 3
    assert aws.objects("dublin") == aws.objects("paris")


PROGRAM = """
import sys
from pathlib import Path
from support.datasync import Quick
from ninelives.adapters.connections import FileConnections
from ninelives.estate import load_estate
from ninelives.home import Home
from ninelives.replication.replicate import replicate
from ninelives.replication.run import replicate_and_record
home = Home(Path(sys.argv[1]))
systems = Quick(load_estate(home.root / "estate.yaml"), FileConnections(home.connections_file), home)
replicate_and_record(systems, "flights", "paris", "dublin")
"""


def test_killed_in_the_middle_the_execution_under_way_is_awaited_and_not_started_twice(aws: Aws) -> None:
    aws.fill(6)
    aws.go_wrong("slow")
    path = f"{ROOT / 'include'}:{ROOT / 'tests'}"
    child = subprocess.Popen([sys.executable, "-c", PROGRAM, aws.home.root], env={**os.environ, "PYTHONPATH": path})
    try:
        wait_until(lambda: aws.keys("dublin") or child.poll() is not None, "it copies")
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert len(aws.keys("dublin")) == 1
    assert read_manifest(aws.systems.store("dublin"), "flights") is None
    done = run(aws, on_progress=lambda _: aws.go_on())
    assert done.result.verified == 6
    assert aws.objects("dublin") == aws.objects("paris")
    assert len(aws.started) == 1


def test_an_execution_of_something_else_is_waited_for_and_then_ours_is_started(aws: Aws) -> None:
    aws.fill(2)
    run(aws)
    arn = next(task["TaskArn"] for task in aws.datasync.list_tasks()["Tasks"] if "paris_store to" in task["Name"])
    aws.go_wrong("slow")
    aws.datasync.start_task_execution(TaskArn=arn, Includes=[{"FilterType": "SIMPLE_PATTERN", "Value": "/other"}])
    aws.fill(4)
    assert run(aws, on_progress=lambda _: aws.go_on()).result.copied == 2
    assert len(aws.started) == 3


def test_a_site_without_a_role_is_refused_before_anything_is_made(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    aws.fill(1)
    known = aws.systems.connections.get("ninelives_paris_store")
    target = aws.systems.connections.get("ninelives_dublin_store")
    for extra, says in (
        ({}, "ninelives_paris_store names no role for DataSync; put its ARN into the extra as datasync_role_arn"),
        ({"datasync_role_arn": "arn:aws:iam::999999999999:role/other"}, "roles of different accounts"),
    ):
        without = {**{key: value for key, value in known.extra.items() if key != datasync.ROLE}, **extra}
        source = type(known)(known.conn_id, login="x", password="x", extra=without)
        with pytest.raises(Refused, match=says):
            DataSyncCopier(RcloneCopier()).copy(source, target, bucket="data", keys=["flights/day=000/part-0.parquet"])
    assert aws.started == []


def test_aws_that_does_not_answer_is_unavailable(aws: Aws) -> None:
    known = aws.systems.connections.get("ninelives_dublin_store")
    gone = type(known)(
        known.conn_id, login="x", password="x", extra={**known.extra, "endpoint_url": "http://127.0.0.1:9"}
    )
    source = aws.systems.connections.get("ninelives_paris_store")
    with pytest.raises(Unavailable, match="DataSync did not answer ninelives_dublin_store"):
        DataSyncCopier(RcloneCopier()).copy(source, gone, bucket="data", keys=["flights/a"])


def test_the_command_line_uses_the_engine_that_the_estate_names(aws: Aws) -> None:
    aws.fill(2)
    environment = {"NINELIVES_HOME": str(aws.home.root), "NINELIVES_ESTATE": str(aws.home.root / "estate.yaml")}
    done = subprocess.run(
        [sys.executable, "-m", "ninelives", "replicate", "run", "flights", "--no-record", "--json"],
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT / "include")},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["results"][0]["copied"] == 2
    assert len(aws.started) == 1
