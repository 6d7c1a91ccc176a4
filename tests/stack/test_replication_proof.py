"""Proof, checkpoints and full disks on real stores: bytes really flipped, writers really killed, a disk really full."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from support.processes import wait_until
from support.sites import Site, run

from ninelives.adapters.rclone import RcloneCopier
from ninelives.adapters.s3 import S3ObjectStore
from ninelives.errors import Unavailable
from ninelives.ports import ObjectStore
from ninelives.replication.checkpoints import (
    CHECKPOINTS,
    list_stream,
    read_checkpoint,
    replicate_stream,
    whole_checkpoints,
    write_checkpoint,
)
from ninelives.replication.manifest import manifest_key, read_manifest
from ninelives.replication.replicate import Shard, complete, replicate
from ninelives.replication.transfer import Link
from ninelives.replication.verify import VerifyResult, verify

pytestmark = pytest.mark.stack


def link(paris: Site, dublin: Site) -> Link:
    return Link(paris.store, dublin.store, RcloneCopier(), paris.connection, dublin.connection)


def check(paris: Site, dublin: Site) -> VerifyResult:
    """Two hours later, so that what is foreign has settled."""
    ends = (paris.store, dublin.store, RcloneCopier(), paris.connection, dublin.connection)
    return verify("flights", *ends, lambda: datetime.now(UTC) + timedelta(hours=2))


def damage(chance: random.Random, site: Site, store: ObjectStore, kind: str, key: str) -> tuple[str, str, str]:
    """Site, key and kind of what was done."""
    match kind:
        case "flipped":
            site.flip(key)
        case "shortened":
            store.put("data", key, site.path(key).read_bytes()[: chance.randrange(100)])
        case "missing":
            store.delete("data", key)
        case "foreign":
            key = f"flights/foreign-{chance.randrange(10**9)}"
            store.put("data", key, b"nobody recorded this")
        case "manifest":
            document = store.get("data", manifest_key("flights"))
            assert document is not None
            store.put("data", manifest_key("flights"), document[: chance.randrange(len(document))])
            return site.name, "flights", "manifest"
    return site.name, key, {"flipped": "damaged", "shortened": "damaged"}.get(kind, kind)


@pytest.mark.parametrize("scale", [1, pytest.param(10, marks=pytest.mark.soak)])
def test_a_hundred_or_a_thousand_damages_on_real_disks_are_all_found_and_repaired_without_a_false_alarm(
    paris: Site, dublin: Site, scale: int
) -> None:
    paris.fill(52 * scale, 500)
    paris.start()
    stores = {site.name: site.store for site in (paris, dublin)}
    run(paris, dublin)
    sound, chance, done = paris.objects(), random.Random(20261125), 0
    for _ in range(2):
        assert check(paris, dublin).findings == ()
        keys = chance.sample(sorted(sound), 50 * scale)
        shares = {"flipped": 32, "shortened": 6, "missing": 6, "foreign": 6}
        kinds = [kind for kind, share in shares.items() for _ in range(share * scale)]
        sites = [dublin if kind == "foreign" else chance.choice([paris, dublin]) for kind in kinds]
        harms = [*zip(sites, kinds, keys, strict=True), (chance.choice([paris, dublin]), "manifest", "")]
        expected = {damage(chance, site, stores[site.name], kind, key) for site, kind, key in harms}
        result = check(paris, dublin)
        assert {(one.site, one.key, one.what) for one in result.findings} == expected
        assert len(result.findings) == len(expected) == 50 * scale + 1
        assert result.sound
        assert paris.objects() == dublin.objects() == sound
        manifests = [read_manifest(site.store, "flights") for site in (paris, dublin)]
        assert manifests[0] is not None
        assert manifests[1] is not None
        assert manifests[0].fingerprint == manifests[1].fingerprint
        done += len(expected)
    assert done > 100 * scale


def test_shards_share_a_dataset_and_the_engine_names_every_key(paris: Site, dublin: Site) -> None:
    paris.fill(600, 100)  # more than are asked for one by one
    paris.start()
    paris.store.put("data", "flights/day=0000/part a+b.parquet", b"a key that needs quoting")
    paris.store.put("data", "flights/\u00e9t\u00e9/part #1?.parquet", b"and one that needs more")
    ends = (paris.store, dublin.store, RcloneCopier(), paris.connection, dublin.connection)
    copied = [replicate("flights", *ends, shard=Shard(number, 2)).copied for number in (1, 2)]
    assert sum(copied) == 602
    assert min(copied) > 250
    assert read_manifest(dublin.store, "flights") is None
    assert complete("flights", 2, *ends).objects == 602
    assert dublin.objects() == paris.objects()
    assert read_manifest(dublin.store, "flights") == read_manifest(paris.store, "flights")


# --- checkpoints

FILES = 6


def contents(step: int) -> dict[str, bytes]:
    return {f"shard-{n}.bin": random.Random(step * 100 + n).randbytes(200_000) for n in range(FILES)}


def keep_writing(store: ObjectStore, first: int, begun: Event) -> None:
    begun.set()
    for step in range(first, first + 50):
        write_checkpoint(store, "run", step, contents(step))


@pytest.mark.parametrize("kills", [10, pytest.param(40, marks=pytest.mark.soak)])
def test_a_writer_killed_at_many_points_never_leaves_a_half_checkpoint_that_counts(
    paris: Site, dublin: Site, kills: int
) -> None:
    """Killed between any two requests and within them: each time after another time since its start."""
    paris.start()
    store, writers = paris.store, S3ObjectStore.from_connection(paris.connection, "paris")
    writers.prepare()  # once, but without a connection that parent and children would share
    write_checkpoint(store, "run", 0, contents(0))
    begun = time.monotonic()
    write_checkpoint(store, "run", 1, contents(1))
    one = time.monotonic() - begun
    chance, half, fork = random.Random(7), 0, multiprocessing.get_context("fork")
    for _ in range(kills):
        first = max(one.step for one in whole_checkpoints(store, "run")) + 1
        running = fork.Event()
        writer = fork.Process(target=keep_writing, args=(writers, first, running))
        writer.start()
        assert writer.pid is not None
        assert running.wait(60)
        time.sleep(chance.uniform(0, 2.5 * one))  # the point of the kill is what is varied here
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        found = list_stream(store, "run")
        half += bool(found.half)
        assert found.damaged == ()
        assert len(found.half) <= 1
    assert half >= kills // 8, "too few kills hit a checkpoint in the middle"
    result = replicate_stream(link(paris, dublin), "run")
    steps = [one.step for one in whole_checkpoints(store, "run")]
    assert steps == list(range(len(steps)))
    assert [one.step for one in whole_checkpoints(dublin.store, "run")] == steps
    copies = dublin.store
    for step in steps:
        assert read_checkpoint(copies, "run", step)[1] == contents(step)
    for step in result.half:
        assert not any(f"step={step:012}" in key for key in dublin.objects("", CHECKPOINTS))


# --- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"a small disk needs the right to mount one: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.soak
def test_a_full_disk_at_the_target_fails_the_run_and_with_room_again_it_converges(
    paris: Site, small_disk: Path
) -> None:
    paris.fill(100, 60_000)
    paris.start()
    dublin = Site("dublin", small_disk / "dublin")
    try:
        dublin.start()
        with pytest.raises(Unavailable, match="InternalError"):
            run(paris, dublin)
        assert read_manifest(dublin.store, "flights") is None
        there = len(dublin.objects())
        assert 0 < there < 100
        subprocess.run(["mount", "-o", "remount,size=32m", small_disk], check=True)
        result = run(paris, dublin)
        assert result.objects == 100
        assert dublin.objects() == paris.objects()
        assert result.copied <= 100
    finally:
        dublin.kill()
        wait_until(lambda: dublin.process is None or dublin.process.poll() is not None, "the store ends")


def test_what_a_disk_does_not_give_any_more_is_damaged_and_comes_back_though_the_store_only_fails(
    paris: Site, dublin: Site
) -> None:
    """A file cut short or gone below a store that still lists it: an error for each read, as of a bad sector."""
    paris.fill(10, 500)
    paris.start()
    run(paris, dublin)
    sound = dublin.objects()
    short, gone, at_source = (f"flights/day={day:04}/part-0.parquet" for day in (3, 4, 5))
    dublin.path(short).write_bytes(b"")
    dublin.path(gone).unlink()
    paris.path(at_source).unlink()
    with pytest.raises(Unavailable):
        dublin.store.get("data", gone)
    result = check(paris, dublin)
    assert {(one.site, one.key, one.outcome) for one in result.findings} == {
        ("dublin", short, "repaired"),
        ("dublin", gone, "repaired"),
        ("paris", at_source, "repaired"),
    }
    assert dublin.objects() == paris.objects() == sound
