"""What goes wrong with a feed is repeatable, and is what it says it is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ninelives.providers.disturb import Kind, disturb


@given(st.integers(5, 60), st.integers())
def test_each_batch_is_sent_as_its_kind_says_and_every_kind_occurs(count: int, seed: int) -> None:
    batches = [b"%06d" % number for number in range(count)]
    sent, kinds = disturb(batches, seed)
    assert (sent, kinds) == disturb(batches, seed)
    assert set(kinds.values()) == set(Kind) - {Kind.SOUND}
    assert 0 not in kinds
    assert [one.due for one in sent] == sorted(one.due for one in sent)
    for number, data in enumerate(batches):
        kind = kinds.get(number, Kind.SOUND)
        mine = [one for one in sent if one.batch == number]
        assert len(mine) == {Kind.MISSING: 0, Kind.DUPLICATE: 2}.get(kind, 1)
        for one in mine:
            assert one.kind is kind
            assert one.due >= number
            assert (one.due > number + 1) == (kind is Kind.LATE)
            assert one.data == (data[:3] if kind is Kind.MALFORMED else data)
