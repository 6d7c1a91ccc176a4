"""Which release pointer came from which, and who decides where neither did."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.replication.memory import Killed, MemoryStore
from unit.replication.partition import Partition, decide
from unit.replication.test_models import MODEL, release, version

from ninelives.errors import Corrupted
from ninelives.replication.pointers import Move, descends, read_moves, record_move, sha256
from ninelives.replication.replicate import pointer_key


def publish(store: MemoryStore, number: int, content: bytes, by: str = "ada") -> None:
    """As ``releases.publish`` does: object, move, pointer."""
    before = store.objects("models").get(pointer_key(MODEL))
    release(store, number, content)
    after = store.objects("models")[pointer_key(MODEL)]
    record_move(store, MODEL, before, after, by=by)


def pointer(store: MemoryStore) -> bytes:
    return store.objects("models")[pointer_key(MODEL)]


def replicated(pair: Partition) -> None:
    """Both sites serve what paris serves, as replication leaves them."""
    for key, data in pair.paris.objects("models").items():
        if "/moves/" not in key:
            pair.dublin.put("models", key, data)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=9))
def test_descent_follows_parents_and_ends_even_where_somebody_made_a_circle(parents: list[int]) -> None:
    names = [sha256(bytes([n])) for n in range(10)]
    now = Partition().clock()
    moves = {
        names[n]: Move(model=MODEL, document=names[n], parent=names[p], epoch=n + 1, site="paris", at=now)
        for n, p in enumerate(parents)
    }
    assert descends(names[0], names[0], moves)
    assert descends(names[0], names[parents[0]], moves)
    assert not descends(names[9], "0" * 64, moves)


def test_each_move_names_the_one_before_it_and_counts() -> None:
    pair = Partition()
    for number in (1, 2, 3):
        publish(pair.paris, number, bytes([number]))
    moves = read_moves(pair.paris, MODEL)
    last = moves[sha256(pointer(pair.paris))]
    assert (last.epoch, last.by, last.site) == (3, "ada", "paris")
    assert last.parent is not None
    assert moves[last.parent].epoch == 2
    before = dict(pair.paris.objects("models"))
    record_move(pair.paris, MODEL, None, pointer(pair.paris))
    assert pair.paris.objects("models") == before


def test_a_move_that_is_not_what_it_says_stops() -> None:
    pair = Partition()
    publish(pair.paris, 1, b"one")
    (key,) = pair.paris.objects("models", f"{MODEL}/moves/")
    pair.paris.put("models", key.replace("/moves/", "/moves/0"), pair.paris.objects("models")[key])
    with pytest.raises(Corrupted, match="is a move of"):
        read_moves(pair.paris, MODEL)


def test_a_release_that_descends_from_the_other_wins_however_low_its_number_is() -> None:
    pair = Partition()
    publish(pair.paris, 9, b"nine")
    replicated(pair)
    publish(pair.paris, 5, b"a rollback, registered elsewhere")
    assert pair.plan(models=[MODEL]).releases == {MODEL: "5"}
    assert pair.apply(models=[MODEL]).releases == {MODEL: "5"}
    assert pointer(pair.paris) == pointer(pair.dublin)
    assert read_moves(pair.paris, MODEL) == read_moves(pair.dublin, MODEL)


def test_two_releases_of_the_same_parent_wait_for_a_person_who_sees_who_published_what() -> None:
    pair = Partition()
    publish(pair.paris, 1, b"one")
    replicated(pair)
    pair.apply(models=[MODEL])
    publish(pair.paris, 2, b"two", by="grace")
    publish(pair.dublin, 3, b"three", by="ada")
    for _ in range(2):
        (question,) = pair.apply(models=[MODEL]).questions
        assert (version(pair.paris), version(pair.dublin)) == ("2", "3")  # each keeps its own meanwhile
    assert question.kind == "release"
    assert "release 2" in question.details()
    assert "by grace at paris" in question.details()
    for steps in range(8):
        pair.fuse.steps = steps
        with contextlib.suppress(Killed):
            pair.apply(models=[MODEL], decisions=decide(question, "paris"))
        pair.fuse.steps = None
    result = pair.apply(models=[MODEL], decisions=decide(question, "paris"))
    assert result.releases == {MODEL: "2"}
    assert version(pair.paris) == version(pair.dublin) == "2"
    for store in pair.stores.values():
        assert len(store.objects("models", "_conflicts/dublin/")) == 1
        assert len(store.objects("models", f"{MODEL}/sha256/")) == 3
    assert pair.apply(models=[MODEL]).questions == ()
    publish(pair.dublin, 4, b"four")
    assert pair.apply(models=[MODEL]).releases == {MODEL: "4"}


def test_a_release_conflict_that_the_keeper_settled_can_be_decided_otherwise() -> None:
    pair = Partition()
    publish(pair.paris, 1, b"one")
    replicated(pair)
    publish(pair.paris, 2, b"two")
    publish(pair.dublin, 3, b"three")
    (conflict,) = pair.apply(models=[MODEL], keeper="dublin").conflicts
    assert (conflict.keeper, version(pair.paris)) == ("dublin", "3")
    (question,) = pair.apply(models=[MODEL]).questions
    assert pair.apply(models=[MODEL], decisions=decide(question, "paris")).releases == {MODEL: "2"}
    assert version(pair.dublin) == "2"
    assert pair.apply(models=[MODEL]).questions == ()


def test_a_site_set_back_to_an_older_release_does_not_take_the_other_back() -> None:
    pair = Partition()
    publish(pair.paris, 1, b"one")
    pair.apply(models=[MODEL])
    old = {name: dict(held) for name, held in pair.dublin.buckets.items()}
    publish(pair.paris, 2, b"two")
    pair.apply(models=[MODEL])
    pair.dublin.buckets = old
    assert pair.apply(models=[MODEL]).releases == {MODEL: "2"}
