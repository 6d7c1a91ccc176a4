"""Packets between two sites vanish, in the kernel's own network: nothing hangs, nothing is lost, nothing is made up.

A killed store refuses, and a refusal is an answer at once. Here nobody answers, each direction by itself; what is shown
is that every question ends in its own time, that the evidence says what is not known, and that both sides' writes are
whole when the network is back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.models import estate_of_two_sites
from support.network import AWAY, HERE, Network, missing, network
from support.processes import wait_until
from support.sites import Site

from ninelives.adapters.ledger import SqlLedger, migrate
from ninelives.adapters.rclone import RcloneCopier
from ninelives.errors import Unavailable
from ninelives.home import Home
from ninelives.replication.manifest import build_manifest, read_manifest, scan, write_manifest
from ninelives.replication.reconcile import reconcile_stores
from ninelives.replication.run import copy_of, replicate_and_record
from ninelives.replication.transfer import Link

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]
DIRECTIONS = pytest.mark.parametrize(
    "lost",
    [{}, {"answers": False}, {"requests": False}],
    ids=["nothing gets through", "requests are lost", "answers are lost"],
)
CONNECTING = 7.0
"""Seconds: two tries of two seconds, the pause between them, and what a busy machine adds."""
WAITING = 22.0
"""The same where one try had sent its request over a connection that stood: it waits 15 s for a byte."""


class World:
    """Paris is where the product runs; dublin is behind a network that can be cut."""

    def __init__(self, net: Network, folder: Path) -> None:
        self.net = net
        self.paris = Site("paris", folder / "paris", host=HERE, within=net.at("control"))
        self.dublin = Site("dublin", folder / "dublin", host=AWAY, within=net.at("away"))
        migrate(f"sqlite:///{folder / 'ledger.db'}")
        ledger = SqlLedger(f"sqlite:///{folder / 'ledger.db'}")
        sites = {"paris": self.paris, "dublin": self.dublin}
        connections = {f"ninelives_{name}_store": site for name, site in sites.items()}
        self.systems: Any = SimpleNamespace(
            estate=estate_of_two_sites(), home=Home(folder / "home"), ledger=lambda: ledger,
            store=lambda site: sites[site].store, copier=lambda dataset=None: RcloneCopier(),
            connections=SimpleNamespace(get=lambda name: connections[name].connection),
        )  # fmt: skip

    def write(self, count: int, size: int) -> None:
        """Rows at paris, with the manifest of who wrote them."""
        for number in range(count):
            self.paris.store.put("data", f"rows/{number:04}", bytes([number % 256]) * size)
        listed = scan(self.paris.store, "rows", None).objects
        write_manifest(self.paris.store, build_manifest("rows", listed, datetime.now(UTC)))

    def replicate(self) -> Any:
        return replicate_and_record(self.systems, "rows", "paris", "dublin")

    def evidence(self) -> dict[str, Any]:
        (newest,) = self.systems.ledger().records(kind="replication", limit=1)
        return dict(newest.facts)


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    if why := missing():
        pytest.skip(f"{why}; packets that vanish were not tried, only stores that do not answer (test_scenarios)")
    with network() as found:
        yield found


@pytest.fixture
def world(net: Network, tmp_path: Path) -> Iterator[World]:
    found = World(net, tmp_path)
    try:
        net.inside(found.paris.start)
        net.inside(found.dublin.start)
        yield found
    finally:
        found.paris.kill()
        found.dublin.kill()


@contextmanager
def ends_within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


@DIRECTIONS
def test_whether_a_store_answers_is_known_within_two_seconds(world: World, lost: dict[str, bool]) -> None:
    """As detection and readiness ask it."""

    def ask() -> None:
        world.dublin.store.ping()
        with world.net.cut(**lost), ends_within(2.5), pytest.raises(Unavailable):
            world.dublin.store.ping()
        world.dublin.store.ping()

    world.net.inside(ask)


@pytest.mark.soak
@DIRECTIONS
def test_every_question_to_a_store_ends_in_its_own_time(world: World, lost: dict[str, bool]) -> None:
    store = world.dublin.store
    questions: list[Callable[[], object]] = [
        lambda: store.get("data", "rows/0001"),
        lambda: store.put("data", "rows/late", b"late"),
        lambda: list(store.list("data", "rows/")),
        lambda: store.head("data", "rows/0001"),
    ]

    def ask() -> None:
        world.write(3, 10)
        store.get("data", "rows/0001")  # a connection stands
        with world.net.cut(**lost):
            with ends_within(WAITING), pytest.raises(Unavailable):
                store.get("data", "rows/0001")
            for question in questions:
                with ends_within(CONNECTING), pytest.raises(Unavailable):
                    question()
            with ends_within(2 * CONNECTING), pytest.raises(Unavailable):
                world.replicate()  # asks, and then looks how far behind the copy is
        assert world.dublin.objects("rows") == {}, "nothing of it is carried out later"

    world.net.inside(ask)


@pytest.mark.soak
def test_what_is_done_and_whose_answer_is_lost_is_not_claimed_and_may_be_repeated(world: World) -> None:
    """The worst of a partition: it was done, and whoever asked does not know."""
    store = world.dublin.store

    def change() -> None:
        store.ensure_bucket("data")
        store.put("data", "rows/one", b"one")
        with world.net.cut(requests=False), ends_within(WAITING), pytest.raises(Unavailable):
            store.delete("data", "rows/one")
        assert world.dublin.objects("rows") == {}, "it was carried out"
        store.delete("data", "rows/one")
        with world.net.cut(requests=False), ends_within(WAITING), pytest.raises(Unavailable):
            store.put("data", "rows/two", b"two")
        assert world.dublin.objects("rows") in ({}, {"rows/two": b"two"}), "whole, or not there"
        store.put("data", "rows/two", b"two")
        assert store.get("data", "rows/two") == b"two"

    world.net.inside(change)


@pytest.mark.soak
@DIRECTIONS
def test_a_copy_that_is_cut_in_the_middle_ends_says_what_is_unknown_and_the_next_one_completes_it(
    world: World, lost: dict[str, bool]
) -> None:
    world.net.inside(lambda: world.write(200, 1_000_000))
    ended: list[float] = []

    def copy() -> None:
        with pytest.raises(Unavailable):
            world.replicate()
        ended.append(time.monotonic())

    thread = threading.Thread(target=world.net.inside, args=(copy,))
    thread.start()
    wait_until(lambda: world.dublin.objects("rows"), "it copies", every=0.005)
    with world.net.cut(**lost):
        cut = time.monotonic()
        thread.join(120)
        assert ended, "it still hangs two minutes after"
        assert ended[0] - cut < 60
        assert 0 < len(world.dublin.objects("rows")) < 200
        facts = world.evidence()
        assert facts["failed"].startswith("Unavailable: ")
        assert (facts["lag"]["verdict"], facts["lag"]["seconds"]) == ("unknown", None), facts
    print(f"ended {ended[0] - cut:.1f} s after the cut")

    def again() -> None:
        done = world.replicate()
        assert done.result.verified >= 200
        assert copy_of(world.systems, "rows", "dublin").verdict == "met"
        assert world.dublin.objects("rows") == world.paris.objects("rows")

    world.net.inside(again)


@pytest.mark.soak
def test_what_both_sides_wrote_while_they_were_apart_is_at_both_afterwards(world: World) -> None:
    def apart() -> None:
        world.write(5, 100)
        world.replicate()
        with world.net.cut():
            world.paris.store.put("data", "rows/paris", b"written here")
            with pytest.raises(Unavailable):
                world.replicate()
            world.net.inside(lambda: world.dublin.store.put("data", "rows/dublin", b"written there"), end="away")
        link = Link(
            world.paris.store, world.dublin.store, RcloneCopier(), world.paris.connection, world.dublin.connection
        )
        result = reconcile_stores("rows", [], link)
        assert (result.conflicts, result.fingerprints_equal) == ((), True)
        assert world.paris.objects("rows") == world.dublin.objects("rows")
        assert {"rows/paris", "rows/dublin"} <= world.paris.objects("rows").keys()
        assert read_manifest(world.paris.store, "rows") == read_manifest(world.dublin.store, "rows")

    world.net.inside(apart)
