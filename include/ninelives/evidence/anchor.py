"""Copies of the ledger's head in every site's store: what finds a ledger that was cut and written anew.

Object ``<ledger id>/<seq>.json`` in bucket ``anchors``, never overwritten with another content.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

import rfc8785

from ninelives.errors import Corrupted, Unavailable
from ninelives.evidence.chain import GENESIS, Anchor, timestamp
from ninelives.ports import Head, Ledger, ObjectStore

BUCKET = "anchors"
LOST = "_lost"
"""Below it lies what was set aside when an older ledger was restored."""

_READERS = 8  # objects read at once from one store
_Result = TypeVar("_Result")


def anchor(ledger: Ledger, stores: Mapping[str, ObjectStore]) -> list[str]:
    """Write the head of ``ledger`` to every site's store; anchoring the same head again changes nothing.

    :return: one sentence per store that could not be written; the others have it
    :raises Unavailable: no store has it
    :raises Corrupted: a store holds another hash for this head; it is left as it is
    """
    head, ledger_id = ledger.head(), ledger.ledger_id
    if head.seq == 0:
        return []
    key = _key(ledger_id, head.seq)
    body = rfc8785.dumps({"at": timestamp(datetime.now(UTC)), "hash": head.hash, "seq": head.seq})
    results = _at_each(stores, lambda store: _write(store, key, body, head))
    problems = [f"{site}: {problem}" for site, problem in results.items() if isinstance(problem, Unavailable)]
    for problem in results.values():
        if isinstance(problem, Corrupted):
            raise problem
    if len(problems) == len(stores):
        raise Unavailable(f"record {head.seq} is anchored nowhere: {'; '.join(problems) or 'there is no store'}")
    return problems


def _write(store: ObjectStore, key: str, body: bytes, head: Head) -> None:
    store.ensure_bucket(BUCKET)
    found = store.get(BUCKET, key)
    if found is None:
        store.put(BUCKET, key, body)
        return
    existing = _parse(key, found, store.site)
    if isinstance(existing, str):  # torn when the site was lost in mid-write: it was never acknowledged
        store.put(BUCKET, key, body)
    elif existing.hash != head.hash:
        # Overwriting would destroy the only proof that the ledger was rewritten.
        raise Corrupted(
            f"the store of {store.site} anchors another record {head.seq} than the ledger has now; "
            "stop writing to it and run `ninelives evidence verify`"
        )


@dataclass(frozen=True)
class AnchorReading:
    """What the stores say."""

    anchors: tuple[Anchor, ...]
    problems: Mapping[str, str] = field(default_factory=dict)
    """Site to why its anchors could not be read."""
    unreadable: tuple[str, ...] = ()
    """Objects that stand where an anchor belongs and are none, as a site lost in mid-write leaves them."""
    other_ledgers: frozenset[str] = frozenset()
    """Ids of other ledgers that are anchored in the same stores."""


def read_anchors(stores: Mapping[str, ObjectStore], ledger_id: str, *, limit: int | None = None) -> AnchorReading:
    """Read the anchors of one ledger from every store that answers.

    :param limit: read at most this many from each store: half of them the newest, the others spread over the rest.
        One good anchor covers every record before it, so little is lost. ``None`` reads all.
    """
    anchors: list[Anchor] = []
    unreadable: list[str] = []
    problems: dict[str, str] = {}
    others: set[str] = set()
    for site, result in _at_each(stores, lambda store: _read(store, ledger_id, limit)).items():
        if isinstance(result, Exception):
            problems[site] = str(result)
            continue
        found, elsewhere = result
        others |= elsewhere
        anchors += [item for item in found if isinstance(item, Anchor)]
        unreadable += [item for item in found if isinstance(item, str)]
    return AnchorReading(tuple(sorted(anchors)), problems, tuple(unreadable), frozenset(others))


def _read(store: ObjectStore, ledger_id: str, limit: int | None) -> tuple[list[Anchor | str], set[str]]:
    keys, others = [], set()
    for info in store.list(BUCKET):
        owner, _, name = info.key.partition("/")
        if owner == ledger_id and name:
            keys.append(info.key)
        elif owner != LOST:
            others.add(owner)
    with ThreadPoolExecutor(_READERS) as pool:
        bodies = list(pool.map(lambda key: store.get(BUCKET, key), chosen := choose(sorted(keys), limit)))
    return [_parse(key, body, store.site) for key, body in zip(chosen, bodies, strict=True)], others


def choose(keys: Sequence[str], limit: int | None) -> Sequence[str]:
    """At most ``limit`` of the sorted ``keys``: the newest half of the limit, and an even spread of the older ones."""
    if limit is None or len(keys) <= limit:
        return keys
    newest = (limit + 1) // 2
    older, spread = keys[:-newest], limit - newest
    return [*(older[index * len(older) // spread] for index in range(spread)), *keys[-newest:]]


def _parse(key: str, body: bytes | None, site: str) -> Anchor | str:
    """The anchor, or what is wrong with it."""
    try:
        content = json.loads(body or b"")
        found = Anchor(content["seq"], content["hash"], content["at"], site)
        well_formed = type(found.seq) is int and len(found.hash) == len(GENESIS) and isinstance(found.at, str)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return f"anchor {key} at {site} cannot be read: {error!r}"
    if not well_formed or found.seq < 1 or key.partition("/")[2] != _name(found.seq):
        return f"anchor {key} at {site} does not say what its name says"
    return found


def _key(ledger_id: str, seq: int) -> str:
    return f"{ledger_id}/{_name(seq)}"


def _name(seq: int) -> str:
    return f"{seq:012d}.json"


def _at_each(
    stores: Mapping[str, ObjectStore], ask: Callable[[ObjectStore], _Result]
) -> dict[str, _Result | Unavailable | Corrupted]:
    """Ask all stores at once, so that one that hangs does not delay the others."""

    def answer(store: ObjectStore) -> _Result | Unavailable | Corrupted:
        try:
            return ask(store)
        except (Unavailable, Corrupted) as error:
            return error

    with ThreadPoolExecutor(max(1, len(stores))) as pool:
        return dict(zip(stores, pool.map(answer, stores.values()), strict=True))


def set_aside(stores: Mapping[str, ObjectStore], ledger_id: str, after: int, when: str) -> dict[str, list[int]]:
    """Move the anchors of records beyond ``after`` out of the way, for a ledger that was restored from an older backup.

    They stay in the same bucket below ``LOST``; the caller writes down which they were. Safe to repeat.

    :param when: names the restore
    :return: site to the sequence numbers, of those sites that had any
    :raises Unavailable: a store does not answer: its anchors would contradict the ledger later
    """
    found: dict[str, list[int]] = {}
    for site, store in stores.items():
        store.ensure_bucket(BUCKET)
        for info in list(store.list(BUCKET, f"{ledger_id}/")):
            name = info.key.rpartition("/")[2].removesuffix(".json")
            data = store.get(BUCKET, info.key) if name.isdecimal() and int(name) > after else None
            if data is not None:
                store.put(BUCKET, f"{LOST}/{when}/{info.key}", data)
                store.delete(BUCKET, info.key)
                found.setdefault(site, []).append(int(name))
    return {site: sorted(seqs) for site, seqs in found.items()}
