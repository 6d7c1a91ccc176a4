"""Replication and reconciliation between two real stores: two ``rclone serve s3`` processes on two folders."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import botocore.session
import psutil
import pytest
from botocore.config import Config
from support.processes import wait_until
from support.sites import KEY, SECRET, Site, run
from typer.testing import CliRunner
from unit.versions.estates import as_dvc

from ninelives.adapters.rclone import RcloneCopier
from ninelives.cli import app
from ninelives.errors import NinelivesError, Refused, Unavailable
from ninelives.ports import CopyProgress
from ninelives.replication.manifest import read_manifest, scan, write_manifest
from ninelives.replication.reconcile import reconcile_stores
from ninelives.replication.replicate import replicate_artifacts, replicate_models
from ninelives.replication.transfer import Link
from ninelives.versions.objects import object_key, read_version, record_version

pytestmark = pytest.mark.stack

REPOSITORY = Path(__file__).resolve().parents[2]


def test_full_then_incremental_then_repair(paris: Site, dublin: Site) -> None:
    paris.fill(60, 20_000)
    paris.start()
    seen: list[CopyProgress] = []
    first = run(paris, dublin, seen.append)
    assert (first.copied, first.bytes, first.verified) == (60, 1_200_000, 60)
    assert dublin.objects() == paris.objects()
    assert seen[-1].bytes == 1_200_000
    assert read_manifest(dublin.store, "flights") == read_manifest(paris.store, "flights")

    paris.store.put("data", "flights/day=0060/part a+b.parquet", b"a new day, and a key that needs quoting")
    second = run(paris, dublin)
    assert (second.copied, second.objects, second.repaired) == (1, 61, 0)
    assert dublin.objects() == paris.objects()

    dublin.flip("flights/day=0000/part-0.parquet")
    repaired = 0
    for _ in range(3):  # 61 objects, 32 re-read in each run
        repaired += run(paris, dublin).repaired
    assert repaired == 1
    assert dublin.objects() == paris.objects()


def test_an_emptied_source_is_refused_and_the_copy_stays(paris: Site, dublin: Site) -> None:
    paris.fill(5, 100)
    paris.start()
    run(paris, dublin)
    before = dublin.objects()
    for key in before:
        paris.store.delete("data", key)
    with pytest.raises(Refused, match="empty"):
        run(paris, dublin)
    assert dublin.objects() == before


PROGRAM = """
import json, sys
from ninelives.adapters.rclone import RcloneCopier
from ninelives.adapters.s3 import S3ObjectStore
from ninelives.ports import Connection
from ninelives.replication.replicate import replicate
conns = [Connection(**each) for each in json.load(sys.stdin)]
stores = [S3ObjectStore.from_connection(c, c.conn_id.split("_")[1]) for c in conns]
replicate("flights", *stores, RcloneCopier(), *conns)
"""


def test_killed_in_the_middle_it_leaves_no_process_and_a_further_run_converges(paris: Site, dublin: Site) -> None:
    paris.fill(300, 100_000)
    paris.start()
    conns = [
        {"conn_id": site.connection.conn_id, "login": KEY, "password": SECRET, "extra": dict(site.connection.extra)}
        for site in (paris, dublin)
    ]
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "include")},
    )
    try:
        assert child.stdin is not None
        child.stdin.write(json.dumps(conns).encode())
        child.stdin.close()
        days = dublin.path("flights")
        wait_until(lambda: any(days.glob("*/*.parquet")) or child.poll() is not None, "it copies", every=0.005)
        engines = psutil.Process(child.pid).children()
        commands = [" ".join(engine.cmdline()) for engine in engines]
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert len(engines) == 1
    assert SECRET not in commands[0]
    assert KEY not in commands[0]
    for engine in engines:
        wait_until(lambda e=engine: not e.is_running() or e.status() == "zombie", "rclone ends")
    there = len(dublin.objects())
    assert 0 < there < 300
    assert read_manifest(dublin.store, "flights") is None

    result = run(paris, dublin)
    assert result.verified == 300
    assert result.copied <= 300 - there + 8  # what had arrived is read, not copied again
    assert dublin.objects() == paris.objects()


@pytest.mark.parametrize("lost", ["paris", "dublin"])
def test_a_store_lost_in_the_middle_is_unavailable_and_converges_when_it_is_back(
    paris: Site, dublin: Site, lost: str
) -> None:
    paris.fill(300, 100_000)
    paris.start()
    site = {"paris": paris, "dublin": dublin}[lost]
    raised: list[NinelivesError] = []

    def attempt() -> None:
        try:
            run(paris, dublin)
        except NinelivesError as error:
            raised.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    wait_until(lambda: any(dublin.path("flights").glob("*/*.parquet")), "it copies", every=0.005)
    site.kill()
    thread.join(60)
    assert not thread.is_alive()
    assert [type(error) for error in raised] == [Unavailable]
    site.start()
    assert run(paris, dublin).verified == 300
    assert dublin.objects() == paris.objects()


def test_a_source_that_is_not_there_is_unavailable_at_once(paris: Site, dublin: Site) -> None:
    paris.start()
    paris.kill()
    begun = time.monotonic()
    with pytest.raises(Unavailable, match="paris"):
        run(paris, dublin)
    with pytest.raises(Unavailable, match=r"rclone ended with|went away"):
        RcloneCopier().copy(paris.connection, dublin.connection, bucket="data")
    assert time.monotonic() - begun < 15


def test_what_an_upload_left_behind_when_its_store_was_killed_is_no_object(paris: Site, dublin: Site) -> None:
    big = paris.path("flights/day=0000/part-0.parquet")
    big.parent.mkdir(parents=True)
    with big.open("wb") as file:
        file.truncate(150_000_000)
    paris.start()
    dublin.store.ensure_bucket("data")

    def attempt() -> None:
        with pytest.raises(Unavailable):
            RcloneCopier().copy(
                paris.connection, dublin.connection, bucket="data", keys=["flights/day=0000/part-0.parquet"]
            )

    thread = threading.Thread(target=attempt)
    thread.start()
    wait_until(lambda: any(dublin.path("flights").rglob(".rclone_temp_put*")), "it uploads", every=0.005)
    dublin.kill()
    thread.join(60)
    dublin.start()
    assert any(dublin.path("flights").rglob(".rclone_temp_put*"))
    assert scan(dublin.store, "flights", None).objects == ()


def test_an_object_larger_than_memory_should_hold_is_hashed_in_pieces(paris: Site) -> None:
    content = os.urandom(3 * 2**20 + 17)
    paris.start()
    paris.store.put("data", "flights/big", content)
    pieces = paris.store.chunks("data", "flights/big")
    assert pieces is not None
    assert [len(piece) for piece in pieces] == [2**20] * 3 + [17]
    assert paris.store.chunks("data", "flights/none") is None
    (found,) = scan(paris.store, "flights", None).objects
    assert (found.size, found.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_a_copy_tells_what_it_has_read_whatever_the_key_and_the_size(paris: Site, dublin: Site) -> None:
    contents = {f"flights/{name}": name.encode() for name in ("a", "b  c+d%20.parquet", " é/ok  sha256", "2s x")}
    big = paris.path("flights/big")
    big.parent.mkdir()
    with big.open("wb") as file:
        file.truncate(260 * 2**20)  # from 256 MiB on an object is copied in several pieces at once
    paris.start()
    for key, content in contents.items():
        paris.store.put("data", key, content)
    digests = {key: hashlib.sha256(content).hexdigest() for key, content in contents.items()}
    with big.open("rb") as file:
        digests["flights/big"] = hashlib.file_digest(file, "sha256").hexdigest()
    dublin.store.ensure_bucket("data")
    ends = (paris.connection, dublin.connection)
    report = RcloneCopier().copy(*ends, bucket="data", keys=[*digests, "flights/gone"], hashed=True)
    assert report.sha256 == digests
    assert report.objects == 5
    assert dublin.objects() == paris.objects()
    assert RcloneCopier().copy(*ends, bucket="data", keys=["flights/a"], force=True).sha256 == {}


def test_the_digests_of_a_killed_copy_are_removed_by_the_next_one_and_those_of_a_running_one_are_not(
    paris: Site, dublin: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ninelives.adapters.rclone._MEMORY_ROOM", tmp_path / "none")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    killed, running = (tmp_path / f"ninelives-hashes-{os.getuid()}-{name}" for name in ("killed", "running"))
    for folder in (killed, running):
        (folder / "kv").mkdir(parents=True)
        os.utime(folder, (1_700_000_000, 1_700_000_000))
    paris.fill(70, 10)
    paris.start()
    in_use = os.open(running, os.O_RDONLY)
    try:
        fcntl.flock(in_use, fcntl.LOCK_EX)
        assert run(paris, dublin).verified == 70
    finally:
        os.close(in_use)
    assert [path.name for path in tmp_path.glob("ninelives-hashes-*")] == [running.name]


def test_a_listing_says_what_botocore_reads_in_it(paris: Site) -> None:
    paris.fill(1001, 1)  # a page is 1,000
    paris.start()
    for key in ("flights/a b+c%20&amp;<d>", "flights/ é", "flights/]]>"):
        paris.store.put("data", key, key.encode())
    client = botocore.session.get_session().create_client(
        "s3",
        endpoint_url=paris.connection.extra["endpoint_url"],
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}),
    )
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="data", Prefix="flights/")
    wanted = [(one["Key"], one["Size"], one["LastModified"]) for page in pages for one in page["Contents"]]
    assert len(wanted) == 1004
    assert [(o.key, o.size, o.modified) for o in paris.store.list("data", "flights/")] == wanted
    assert list(paris.store.list("data", "none/")) == []


def test_rclone_settings_of_the_user_do_not_leak_in(paris: Site, dublin: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    paris.fill(2, 100)
    paris.start()
    monkeypatch.setenv("RCLONE_DRY_RUN", "true")
    monkeypatch.setenv("RCLONE_CONFIG_SOURCE_ENDPOINT", "http://127.0.0.1:1")
    assert run(paris, dublin).copied == 2


def test_models_and_artefacts(paris: Site, dublin: Site) -> None:
    paris.start()
    content = os.urandom(100_000)
    digest = hashlib.sha256(content).hexdigest()
    key = f"arrival-delay/sha256/{digest}.onnx"
    document = {"model": "arrival-delay", "version": "3", "digest": f"sha256:{digest}", "object": key}
    paris.store.put("models", key, content)
    paris.store.put("models", "arrival-delay/release.json", json.dumps(document).encode())
    paris.store.put("mlflow", "1/abc/artifacts/MLmodel", b"flavors: {}")
    ends = (paris.store, dublin.store, RcloneCopier(), paris.connection, dublin.connection)
    (result,) = replicate_models(["arrival-delay"], *ends)
    assert (result.version, result.moved, result.verified) == ("3", True, 1)
    assert dublin.objects("", "models") == paris.objects("", "models")
    dublin.flip(key, "models")
    (result,) = replicate_models(["arrival-delay"], *ends)
    assert (result.repaired, result.moved) == (1, False)
    assert dublin.path(key, "models").read_bytes() == content
    assert replicate_artifacts(*ends).copied == 1
    assert dublin.objects("1", "mlflow") == paris.objects("1", "mlflow")


def test_sites_that_lived_apart_are_reconciled(paris: Site, dublin: Site) -> None:
    paris.fill(20, 1000)
    paris.start()
    run(paris, dublin)
    paris.store.put("data", "flights/day=0020/part-0.parquet", b"acknowledged at paris, never replicated")
    paris.store.put("data", "flights/day=0021/part-0.parquet", b"written at paris")
    write_manifest(paris.store, scan(paris.store, "flights", None))
    paris.kill()
    dublin.store.put("data", "flights/day=0021/part-0.parquet", b"written again at dublin")
    dublin.store.put("data", "flights/day=0022/part-0.parquet", b"written at dublin meanwhile")
    write_manifest(dublin.store, scan(dublin.store, "flights", None))
    paris.flip("flights/day=0003/part-0.parquet")  # the loss was not kind to its disk
    paris.start()

    link = Link(paris.store, dublin.store, RcloneCopier(), paris.connection, dublin.connection)
    result = reconcile_stores("flights", ["arrival-delay"], link)
    (conflict,) = result.conflicts
    assert conflict.key == "flights/day=0021/part-0.parquet"
    assert result.healed == ("flights/day=0003/part-0.parquet",)
    assert (result.copied_to_site, result.copied_to_other) == (3, 1)
    assert result.fingerprints_equal
    assert paris.objects() == dublin.objects()
    assert len(paris.objects()) == 23
    assert paris.objects()[conflict.key] == b"written again at dublin"
    for site in (paris, dublin):
        assert site.path(conflict.moved_to).read_bytes() == b"written at paris"
    manifests = [read_manifest(site.store, "flights") for site in (paris, dublin)]
    assert manifests[0] == manifests[1]

    again = reconcile_stores("flights", ["arrival-delay"], link)
    assert (again.copied_to_site, again.copied_to_other, again.conflicts, again.healed) == (0, 0, (), ())
    assert again.fingerprint == result.fingerprint
    assert f"data/{conflict.moved_to}" in again.kept_aside
    assert run(paris, dublin).copied == 0


def command(environment: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and what was said on standard error."""
    done = CliRunner().invoke(app, [*arguments, "--json"], env=environment)
    if isinstance(done.exception, NinelivesError):  # main() prints it
        return 1, done.stdout, str(done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def test_the_command_line_replicates_and_judges_the_lag(paris: Site, dublin: Site, tmp_path: Path) -> None:
    paris.fill(5, 100)
    paris.start()
    home = tmp_path / "home"
    (home / "secrets").mkdir(parents=True)
    connections = {
        site.connection.conn_id: {
            "conn_type": "aws",
            "login": KEY,
            "password": SECRET,
            "extra": dict(site.connection.extra),
        }
        for site in (paris, dublin)
    }
    (home / "secrets" / "connections.json").write_text(json.dumps(connections))
    environment = {
        "NINELIVES_HOME": str(home),
        "NINELIVES_ESTATE": str(REPOSITORY / "include" / "estates" / "demo" / "estate.yaml"),
    }

    def ninelives(*arguments: str) -> tuple[int, object]:
        code, out, said = command(environment, "replicate", *arguments)
        return code, json.loads(out) if out else said

    code, status = ninelives("status")
    assert code == 3
    assert status[0]["verdict"] == "unknown"  # type: ignore[index]
    version, objects = as_dvc({"day=2013-01-01.parquet": b"what a model was trained on"})
    paris.store.ensure_bucket("dvc")
    for name, data in objects.items():
        paris.store.put("dvc", object_key(name), data)
    record_version(paris.store, "flights", version, datetime.now(UTC))
    code, report = ninelives("run", "--no-record", "--from", "paris", "--to", "dublin")
    assert code == 0, report
    (versions,) = [one for one in report["results"] if "versions_of" in one]  # type: ignore[index, call-overload]
    assert (versions["versions_of"], versions["versions"], versions["copied"]) == ("flights", 1, 2)
    assert read_version(dublin.store, version) == {"day=2013-01-01.parquet": b"what a model was trained on"}
    assert [one["dataset"] for one in report["results"] if "dataset" in one] == ["flights", "artifacts"]  # type: ignore[index, call-overload]
    assert report["results"][0]["copied"] == 5  # type: ignore[index, call-overload]
    assert report["results"][0]["status"]["verdict"] == "met"  # type: ignore[index, call-overload]
    code, status = ninelives("status", "flights", "--to", "dublin")
    assert (code, status[0]["verdict"], status[0]["lag_seconds"]) == (0, "met", 0.0)  # type: ignore[index]
    assert status[0]["proof"] == "met"  # type: ignore[index]
    assert "T" in status[0]["replicated_at"]  # type: ignore[index]

    paris.flip("flights/day=0002/part-0.parquet")
    code, report = ninelives("verify", "--no-record", "--no-repair")
    assert code == 1
    code, report = ninelives("verify", "flights", "--no-record")
    assert code == 0, report
    (finding,) = report["results"][0]["findings"]  # type: ignore[index, call-overload]
    assert (finding["site"], finding["what"], finding["outcome"]) == ("paris", "damaged", "repaired")
    assert paris.objects() == dublin.objects()

    ack = {"seq": 0, "dataset": "flights", "key": "flights/lost", "size": 1, "sha256": "0" * 64, "site": "paris"}
    ack |= {"acked_at": datetime(2020, 1, 1, tzinfo=UTC).isoformat(), "monotonic_ns": 0}
    (home / "feed").mkdir()
    (home / "feed" / "acks.jsonl").write_text(json.dumps(ack) + "\n")
    code, status = ninelives("status")
    assert (code, status[0]["verdict"]) == (3, "missed")  # type: ignore[index]
    code, report = ninelives("run", "flights", "--no-record", "--shard", "1/1")
    assert code == 3
    assert "the RPO is 900 s" in report["breaches"][0]  # type: ignore[index, call-overload]
    (home / "feed" / "acks.jsonl").write_text("{}\n")
    code, report = ninelives("run", "flights", "--no-record")
    assert (code, report["failures"]) == (3, [])  # type: ignore[index, call-overload]
    assert "cannot be told: Corrupted" in report["breaches"][0]  # type: ignore[index, call-overload]
    for wrong in (("run", "nothing"), ("run", "--to", "nowhere"), ("run", "--shard", "3/2")):
        assert ninelives(*wrong)[0] == 2
    paris.kill()
    code, report = ninelives("run", "flights", "--no-record")
    assert code == 1
    assert "Unavailable" in report["failures"][0]  # type: ignore[index, call-overload]


def test_two_stores_and_an_estate_file_are_enough(paris: Site, dublin: Site, tmp_path: Path) -> None:
    """No ledger, no bucket of models, nothing of Airflow; what is in the way is told before anything is touched."""
    paris.fill(5, 100)
    (paris.folder / "models").rmdir()
    paris.start()
    secrets = tmp_path / "home" / "secrets"
    secrets.mkdir(parents=True)

    def connect(**ports: int) -> None:
        keys = {"conn_type": "aws", "login": KEY, "password": SECRET}
        document = {
            f"ninelives_{name}_store": {**keys, "extra": {"endpoint_url": f"http://127.0.0.1:{port}"}}
            for name, port in ports.items()
        }
        (secrets / "connections.json").write_text(json.dumps(document))

    demo = REPOSITORY / "include" / "estates" / "demo" / "estate.yaml"
    environment = {"NINELIVES_HOME": str(tmp_path / "home"), "NINELIVES_ESTATE": str(demo)}

    def ninelives(*arguments: str, group: str = "replicate") -> tuple[int, str, str]:
        return command(environment, group, *arguments)

    connect(paris=paris.port, dublin=paris.port)
    for step in ("run", "verify"):
        code, out, said = ninelives(step, "flights")
        assert (code, json.loads(out)["results"]) == (1, [])
        assert "name one store" in said
    connect(paris=paris.port, dublin=dublin.port)
    code, _, said = ninelives("run", "--record")
    assert code == 1
    assert "ninelives_ledger is not in" in said
    assert dublin.objects() == {}

    code, out, said = ninelives("plan", group="reconcile")
    assert (code, json.loads(out)["results"][0]["copied_to_other"]) == (0, 5), said
    assert not (paris.folder / "models").exists(), "a plan makes not even a bucket"

    code, out, said = ninelives("run", "flights")
    assert code == 0, said
    assert "no evidence is left" in said
    assert [(one["copied"], one["evidence"]) for one in json.loads(out)["results"] if "evidence" in one] == [(5, None)]
    assert dublin.objects() == paris.objects()
    dublin.flip("flights/day=0003/part-0.parquet")
    dublin.store.put("data", "flights/foreign", b"nobody recorded this")
    code, out, _ = ninelives("verify")
    assert code == 1
    assert {(one["what"], one["outcome"]) for one in json.loads(out)["results"][0]["findings"]} == {
        ("damaged", "repaired"),
        ("foreign", "found"),
    }
    wait_until(lambda: ninelives("verify", "--settled", "1ms")[0] == 0, "the object is older than its second")
    assert dublin.objects() == paris.objects()
    for pair in (("paris", "dublin"), ("dublin", "paris")):
        code, out, _ = ninelives("status", "flights", "--from", pair[0], "--to", pair[1])
        assert (code, json.loads(out)[0]["site"], json.loads(out)[0]["verdict"]) == (0, pair[1], "met")
    wrong = ("--from", "dublin", "--to", "dublin"), ("--from", "nowhere"), ("--to", "paris"), ("nothing",)
    assert [ninelives("status", *arguments)[0] for arguments in wrong] == [2, 2, 2, 2]
    assert [ninelives("run", f"--max-shrink={wild}")[0] for wild in ("nan", "-1", "2")] == [2, 2, 2]
    assert [ninelives("run", f"--shard={wild}")[0] for wild in ("1/0", "-1/2", "/", "1/2/3", "nan")] == [2] * 5
