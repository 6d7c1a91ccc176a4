"""A training killed, cut off or moved anywhere ends as one that nothing happened to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.replication.memory import Killed
from unit.versions.estates import Site, TwoSites

from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.replication.checkpoints import CHECKPOINTS
from ninelives.training import attempt as module
from ninelives.training.attempt import Wait, attempt
from ninelives.training.checkpoints import Keeper
from ninelives.training.records import Training, unfinished
from ninelives.versions.objects import read_version

FILES = {"numbers": bytes(range(20))}
STEPS = 10


class Work:
    """Training in small: each step folds the data into a state, and every second step is a checkpoint."""

    def __init__(self, systems: TwoSites, *, before_step: Any = lambda step: None) -> None:
        self.systems, self.before_step = systems, before_step
        self.trained: list[int] = []
        self.published: list[tuple[str, str]] = []

    def fit(self, site: str, keeper: Keeper) -> str:
        data = read_version(self.systems.store(site), self.training.data_version)["numbers"]
        found = keeper.newest()
        step, state = (found.step, int(found.files["state"])) if found else (0, 1)
        while step < STEPS:
            self.before_step(step)
            state = (state * 31 + sum(data) + step) % 1_000_003
            step += 1
            self.trained.append(step)
            if step % 2 == 0 and step < STEPS:
                keeper.keep(step, {"state": str(state).encode()})
        return str(state)

    def publish(self, trained: str, data_hash: str) -> dict[str, Any]:
        self.systems.store("paris").ping()
        self.systems.registry().ping()
        self.published.append((trained, data_hash))
        return {"outcome": trained, "evidence": 0}

    def begin(self) -> None:
        self.training = Training("arrival-delay", "flights", self.systems.keep(FILES), "recipe")

    def attempt(self, **changes: Any) -> dict[str, Any] | Wait:
        return attempt(
            self.systems, self.training, self.fit, self.publish, **{"holder": "me", "gated": False} | changes
        )


def work(**options: Any) -> Work:
    systems = TwoSites()
    for site in systems.sites.values():
        site.ensure_bucket("data")
    made = Work(systems, **options)
    made.begin()
    return made


def outcome(done: dict[str, Any] | Wait) -> str:
    assert isinstance(done, dict), done
    return str(done["outcome"])


UNBROKEN = outcome(work().attempt())


@given(st.lists(st.integers(0, 40), max_size=4))
def test_killed_at_any_write_it_goes_on_and_ends_alike(kills: list[int]) -> None:
    job = work()
    for steps in kills:
        job.systems.fuse.steps = steps
        try:
            job.attempt()
        except Killed:
            job.systems.the_ledger.leases.clear()
    job.systems.fuse.steps = None
    assert outcome(job.attempt()) == UNBROKEN
    assert unfinished(job.systems.the_ledger) == []


@given(st.lists(st.tuples(st.integers(0, STEPS - 1), st.sets(st.sampled_from(["paris", "dublin"]))), max_size=6))
def test_whatever_store_goes_away_in_whatever_step_it_ends_alike_or_waits(
    losses: list[tuple[int, set[str]]],
) -> None:
    job, pending = work(), list(losses)

    def lose(step: int) -> None:
        if pending and pending[0][0] == step:
            for site in pending.pop(0)[1]:
                job.systems.sites[site].down = True

    job.before_step = lose
    while True:
        done = job.attempt()
        if isinstance(done, dict):
            break
        assert done.reasons
        for site in job.systems.sites.values():
            site.down = False
    assert outcome(done) == UNBROKEN
    assert {data_hash for _, data_hash in job.published} == {done["data_hash"]}


def test_cut_off_from_everywhere_it_waits_for_any_site_and_goes_on_from_the_last_whole_checkpoint() -> None:
    job = work()
    job.before_step = lambda step: both_down(job) if step == 7 else None
    waiting = job.attempt()
    assert isinstance(waiting, Wait)
    assert waiting.needs == (("store:paris", "store:dublin"), ("ledger",))
    assert "paris" in waiting.text
    assert "dublin" in waiting.text
    assert [one.model for one in unfinished(job.systems.the_ledger)] == ["arrival-delay"]
    assert job.systems.the_ledger.leases == {}
    job.before_step, job.trained = lambda step: None, []
    job.systems.dublin.down = False
    job.systems.paris.down = False
    done = job.attempt()
    assert outcome(done) == UNBROKEN
    assert done["resumed_from"] == {"step": 6, "site": "paris"}
    assert job.trained == [7, 8, 9, 10]


def both_down(job: Work) -> None:
    for site in job.systems.sites.values():
        site.down = True


def test_the_other_sites_checkpoint_is_taken_when_the_sites_own_is_gone_or_rotten() -> None:
    for harm in ("gone", "rotten"):
        job = work()
        job.before_step = lambda step, job=job: both_down(job) if step == 9 else None
        job.attempt()
        job.before_step = lambda step: None
        for site in job.systems.sites.values():
            site.down = False
        at_paris = job.systems.paris.buckets[CHECKPOINTS]
        if harm == "gone":
            at_paris.clear()
        else:
            for key in [key for key in at_paris if key.endswith("/state")]:
                job.systems.paris.flip(key, CHECKPOINTS)
        done = job.attempt()
        assert outcome(done) == UNBROKEN
        assert done["resumed_from"] == {"step": 8, "site": "dublin"}


def test_with_the_primary_gone_it_trains_at_the_copy_and_waits_only_to_publish() -> None:
    job = work()
    job.systems.paris.down = True
    waiting = job.attempt()
    assert isinstance(waiting, Wait)
    assert waiting.needs == (("store:paris",), ("registry",), ("ledger",))
    job.systems.paris.down, job.trained = False, []
    done = job.attempt()
    assert (outcome(done), job.trained) == (UNBROKEN, [9, 10])


def test_while_the_ledger_is_away_nothing_begins() -> None:
    job = work()
    job.systems.the_ledger.down = True
    waiting = job.attempt()
    assert isinstance(waiting, Wait)
    assert (waiting.needs, job.trained) == ((("ledger",),), [])


def test_two_do_not_train_the_same_side_by_side() -> None:
    job = work()
    seen: list[dict[str, Any] | Wait] = []
    job.before_step = lambda step: seen.append(other(job).attempt(holder="another")) if step == 3 else None
    assert outcome(job.attempt()) == UNBROKEN
    (waiting,) = seen
    assert isinstance(waiting, Wait)
    assert "another run trains" in waiting.text


def other(job: Work) -> Work:
    twin = Work(job.systems)
    twin.training = job.training
    return twin


@contextmanager
def gate(monkeypatch: pytest.MonkeyPatch, closed: set[str]) -> Iterator[list[str]]:
    asked: list[str] = []

    class Verdict:
        seq = 7

    def usable(systems: TwoSites, dataset: str, site: str) -> Verdict:
        asked.append(site)
        if site in closed:
            raise Refused(f"gate of {dataset} at {site}", ["a column is gone"])
        return Verdict()

    with monkeypatch.context() as patch:
        patch.setattr(module, "usable_verdict", usable)
        yield asked


def test_a_gates_no_is_a_reason_to_wait_and_the_next_site_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    job = work()
    with gate(monkeypatch, {"paris", "dublin"}) as asked:
        waiting = job.attempt(gated=True)
    assert isinstance(waiting, Wait)
    assert (asked, job.trained) == (["paris", "dublin"], [])
    assert "a column is gone" in waiting.text
    with gate(monkeypatch, {"paris"}):
        done = job.attempt(gated=True)
    assert outcome(done) == UNBROKEN
    assert done["trained_at"] == "dublin"


def test_data_that_are_right_nowhere_are_not_waited_for() -> None:
    job = work()
    for site in job.systems.sites.values():
        site.flip(sorted(job.systems.names("paris"))[0], "dvc")
    with pytest.raises(Corrupted):
        job.attempt()


def test_a_site_that_misses_a_checkpoint_is_asked_once_and_reported() -> None:
    job = work()
    asked = 0

    class Slow(Site):
        def put(self, bucket: str, key: str, data: bytes) -> None:
            nonlocal asked
            if bucket == CHECKPOINTS:
                asked += 1
                raise Unavailable("too slow")
            super().put(bucket, key, data)

    job.systems.dublin.__class__ = Slow
    done = job.attempt()
    assert outcome(done) == UNBROKEN
    assert isinstance(done, dict)
    assert (done["checkpoints_missed"], asked) == ({"dublin": "too slow"}, 1)
