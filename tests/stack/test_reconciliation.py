"""Reconciliation of two real stores (two ``rclone serve s3`` processes) through the command line, killed at many
points: the process with -9, and a store under it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.processes import ROOT, SiteProcesses, stopping

from ninelives.adapters.s3 import S3ObjectStore
from ninelives.replication.manifest import BUCKET, build_manifest, read_manifest, scan, write_manifest

pytestmark = pytest.mark.stack

DATASET = "flights"
OBJECTS = 40


class Sites:
    """Paris and Dublin, with the demo's estate around them."""

    def __init__(self, folder: Path) -> None:
        self.paris, self.dublin = (
            SiteProcesses(name, folder / name, models="", replicas=0) for name in ("paris", "dublin")
        )
        self.home = folder / "home"
        (self.home / "secrets").mkdir(parents=True)
        document = {**self.paris.connections(), **self.dublin.connections()}
        (self.home / "secrets" / "connections.json").write_text(json.dumps(document))
        text = (ROOT / "include" / "estates" / "demo" / "estate.yaml").read_text()
        self.estate = folder / "estate.yaml"
        self.estate.write_text(text.replace("    suite: flights\n", "    suite: flights\n    deletions: follow\n", 1))
        self.stores: dict[str, S3ObjectStore] = {}

    def start(self) -> None:
        for site in (self.paris, self.dublin):
            store = site.start_store()
            store.ensure_bucket(BUCKET)
            self.stores[site.name] = store

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", "from ninelives.cli import main; main()", "reconcile", *arguments, "--json"]

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "NINELIVES_HOME": str(self.home),
            "NINELIVES_ESTATE": str(self.estate),
            "PYTHONPATH": str(ROOT / "include"),
        }

    def ninelives(self, *arguments: str) -> tuple[int, Any]:
        done = subprocess.run(
            self.command(*arguments), env=self.environment, capture_output=True, text=True, timeout=90, check=False
        )
        return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr

    def write(self, site: str, **objects: bytes) -> None:
        store = self.stores[site]
        for name, data in objects.items():
            store.put(BUCKET, f"{DATASET}/{name}", data)
        before = read_manifest(store, DATASET)
        listed = {o.key: o for o in scan(store, DATASET, None).objects} | (before.by_key if before else {})
        write_manifest(store, build_manifest(DATASET, listed.values(), datetime.now(UTC)))

    def delete(self, site: str, *names: str) -> None:
        store = self.stores[site]
        manifest = read_manifest(store, DATASET)
        assert manifest is not None
        for name in names:
            store.delete(BUCKET, f"{DATASET}/{name}")
        gone = {f"{DATASET}/{name}" for name in names}
        left = [o for o in manifest.objects if o.key not in gone]
        write_manifest(store, build_manifest(DATASET, left, datetime.now(UTC)))

    def objects(self, site: str, prefix: str = DATASET) -> dict[str, bytes]:
        root = (self.paris if site == "paris" else self.dublin).folder / "store" / BUCKET / prefix
        return {
            str(file.relative_to(root)): file.read_bytes()
            for file in root.rglob("*")
            if file.is_file() and not file.name.startswith(".rclone")
        }

    def disk(self) -> dict[str, bytes]:
        return {f"{site}/{key}": data for site in self.stores for key, data in self.objects(site, "").items()}

    def live_apart(self) -> None:
        """40 objects agreed on; then each site writes, deletes, and both write one name."""
        self.write("paris", **{f"day-{n:02}": os.urandom(2000) for n in range(OBJECTS)})
        code, report = self.ninelives("apply", "--no-record")
        assert code == 0, report
        self.write("paris", **{f"paris-{n}": os.urandom(2000) for n in range(10)}, both=b"at paris")
        self.write("dublin", **{f"dublin-{n}": os.urandom(2000) for n in range(10)}, both=b"at dublin")
        self.delete("paris", "day-00", "day-01")
        self.delete("dublin", "day-02")
        self.expected = {
            **self.objects("paris"),
            **{name: data for name, data in self.objects("dublin").items() if name not in {"day-00", "day-01"}},
        }
        for name in ("day-02", "both"):
            self.expected.pop(name, None)

    def check_merged(self, both: bytes) -> None:
        assert self.objects("paris") == self.objects("dublin") == {**self.expected, "both": both}
        for site in ("paris", "dublin"):
            manifest = read_manifest(self.stores[site], DATASET)
            assert manifest is not None
            assert {key.removeprefix(f"{DATASET}/") for key in manifest.by_key} == set(self.objects(site))


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Sites]:
    found = Sites(tmp_path)
    with stopping(found.paris, found.dublin):
        found.start()
        yield found


def test_a_plan_writes_nothing_and_apply_does_what_it_says_once(sites: Sites) -> None:
    sites.live_apart()
    before = sites.disk()
    code, planned = sites.ninelives("plan")
    assert code == 3  # a person has to decide
    assert sites.disk() == before
    (plan,) = planned["results"]
    assert plan["deleted_at_other"] == [f"{DATASET}/day-00", f"{DATASET}/day-01"]
    assert plan["deleted_at_site"] == [f"{DATASET}/day-02"]
    assert (plan["copied_to_site"], plan["copied_to_other"]) == (10, 10)
    (question,) = plan["questions"]
    assert (question["subject"], question["options"]) == (f"{DATASET}/both", ["paris", "dublin"])

    code, applied = sites.ninelives("apply", "--no-record")
    assert code == 3
    assert applied["results"][0]["questions"][0]["id"] == question["id"]
    assert sites.objects("paris")["both"] == b"at paris"
    assert sites.objects("dublin")["both"] == b"at dublin"
    assert sorted(sites.objects("paris", "_conflicts").values()) == [b"at dublin", b"at paris"]
    assert len(sites.objects("dublin", "_trash")) == 2

    answer = ("apply", "--no-record", "--decide", f"{question['id']}=dublin")
    assert sites.ninelives(*answer, "--by", "grace")[0] == 2  # she approves, she does not operate
    assert sites.ninelives("apply", "--no-record", "--by", "ada", "--decide", f"{question['id']}=rome")[0] == 1
    for slip in ("feedbeef00000000=paris", f"{question['id']}=paris"):  # of a question that is none, and twice
        assert sites.ninelives(*answer, "--by", "ada", "--decide", slip)[0] == 2
    assert sites.objects("paris")["both"] == b"at paris"
    code, decided = sites.ninelives(*answer, "--by", "ada")
    assert code == 0, decided
    assert decided["results"][0]["decided"][0]["decision"]["by"] == "ada"
    sites.check_merged(b"at dublin")
    after = sites.disk()
    code, again = sites.ninelives("apply", "--no-record")
    assert (code, again["results"][0]["copied_to_site"]) == (0, 0)
    assert sites.disk() == after


@pytest.mark.soak  # the unit tests kill at every step; this one kills real processes
def test_killed_at_any_point_it_is_finished_by_the_next_run(sites: Sites) -> None:
    sites.live_apart()
    acknowledged = {**sites.objects("dublin"), **sites.objects("paris")}
    started = time.monotonic()
    first = subprocess.Popen(sites.command("plan"), env=sites.environment, stdout=subprocess.DEVNULL)
    first.wait(60)
    planning = time.monotonic() - started
    code: int | None = None
    for attempt in range(4):
        child = subprocess.Popen(
            sites.command("apply", "--no-record"), env=sites.environment, stdout=subprocess.DEVNULL
        )
        try:
            child.wait(planning * (0.7 + 0.2 * attempt))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        everywhere = set(sites.disk().values())
        assert set(acknowledged.values()) <= everywhere, f"bytes are gone after kill {attempt}"
    code, report = sites.ninelives("apply", "--no-record")
    assert code == 3, report
    (question,) = report["results"][0]["questions"]
    assert sites.ninelives("apply", "--no-record", "--by", "ada", "--decide", f"{question['id']}=paris")[0] == 0
    sites.check_merged(b"at paris")


def test_a_store_that_goes_away_in_the_middle_leaves_both_sides_whole(sites: Sites) -> None:
    sites.live_apart()
    child = subprocess.Popen(
        sites.command("apply", "--no-record"), env=sites.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while child.poll() is None and not sites.objects("paris", "_conflicts"):
        time.sleep(0.002)
    sites.dublin.lose()
    child.communicate(timeout=90)
    assert child.returncode == 1
    sites.dublin.start_store()
    code, report = sites.ninelives("apply", "--no-record")
    assert code == 3, report
    (question,) = report["results"][0]["questions"]
    assert sites.ninelives("apply", "--no-record", "--by", "ada", "--decide", f"{question['id']}=paris")[0] == 0
    sites.check_merged(b"at paris")
