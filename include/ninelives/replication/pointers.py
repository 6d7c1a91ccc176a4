"""Where a release pointer came from: each document that ``release.json`` ever was names the one before it.

``<model>/moves/<sha256 of the document>.json`` is written before the pointer moves and never changes, so the moves of
two sites merge by union, and whether one pointer descends from another can be told without asking any clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from ninelives.errors import Corrupted
from ninelives.ports import ObjectStore
from ninelives.replication.manifest import listed

BUCKET = "models"


class Move(BaseModel):
    """One step of a release pointer. ``at`` is shown to people and decides nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    document: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 (hex) of the pointer's bytes."""
    parent: str | None
    """The document before it; ``None`` for the first."""
    epoch: Annotated[int, Field(ge=1)]
    site: str
    by: str | None = None
    at: AwareDatetime


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def record_move(
    store: ObjectStore,
    model: str,
    before: bytes | None,
    after: bytes,
    *,
    by: str | None = None,
    at: datetime | None = None,
) -> Move:
    """Say that ``after`` follows ``before``; to be called before the pointer moves. Repeating it changes nothing.

    :raises Unavailable: the store does not answer; the pointer must not be moved then
    """
    moves = read_moves(store, model)
    document, parent = sha256(after), sha256(before) if before is not None else None
    if document in moves:
        return moves[document]
    epoch = moves[parent].epoch + 1 if parent in moves else 2 if parent else 1
    move = Move(
        model=model, document=document, parent=parent, epoch=epoch, site=store.site, by=by, at=at or datetime.now(UTC)
    )
    write_move(store, move)
    return move


def write_move(store: ObjectStore, move: Move) -> None:
    store.put(BUCKET, f"{move.model}/moves/{move.document}.json", move.model_dump_json().encode())


def read_moves(store: ObjectStore, model: str) -> dict[str, Move]:
    """Every move that a site knows, by document.

    :raises Corrupted: one cannot be read or is another's: descent cannot be told
    :raises Unavailable: the store does not answer
    """
    found: dict[str, Move] = {}
    for info in listed(store, BUCKET, f"{model}/moves/"):
        data = store.get(BUCKET, info.key)
        if data is None:
            continue
        try:
            move = Move.model_validate_json(data)
        except ValidationError as error:
            raise Corrupted(f"{BUCKET}/{info.key} at {store.site} is not a move: {error.errors()[0]['msg']}") from error
        if (move.model, info.key) != (model, f"{model}/moves/{move.document}.json"):
            raise Corrupted(f"{BUCKET}/{info.key} at {store.site} is a move of {move.model} to {move.document}")
        found[move.document] = move
    return found


def descends(document: str, ancestor: str, moves: Mapping[str, Move]) -> bool:
    """Whether ``document`` is ``ancestor`` or came from it."""
    seen = set()
    at: str | None = document
    while at is not None and at not in seen:
        if at == ancestor:
            return True
        seen.add(at)
        at = moves[at].parent if at in moves else None
    return False
