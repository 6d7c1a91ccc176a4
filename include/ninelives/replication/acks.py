"""The journal of acknowledged writes: what RPO is measured against.

One JSON line per write, appended and fsynced after the store has acknowledged it. The line's newline is its commit: a
writer killed in mid-line leaves a torn last line, which never counted and which the next append cuts off.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from ninelives.errors import Corrupted
from ninelives.files import append_lines

JOURNAL = "acks.jsonl"
"""Name of the journal in ``home.feed``."""


class Ack(BaseModel):
    """A write that a store has acknowledged: ``size`` in bytes, ``acked_at`` UTC, ``monotonic_ns`` of the writer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seq: Annotated[int, Field(ge=0)]
    dataset: str
    key: str
    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    site: str
    acked_at: AwareDatetime
    monotonic_ns: int


def append_ack(path: Path, ack: Ack) -> None:
    """Append and fsync; when this returns the line survives a power cut.

    :raises OSError: the disk is full or not writable; the ack is then not recorded
    """
    append_lines(path, ack.model_dump_json().encode() + b"\n")


def read_acks(path: Path) -> list[Ack]:
    """Every recorded ack in the order written; ``[]`` where there is no journal. A torn last line never counted.

    :raises Corrupted: a line that was committed cannot be read
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    committed = data[: data.rfind(b"\n") + 1]
    acks = []
    for number, line in enumerate(committed.splitlines(), start=1):
        try:
            acks.append(Ack.model_validate_json(line))
        except ValidationError as error:
            raise Corrupted(
                f"{path}:{number}: not an acknowledged write ({error.errors()[0]['msg']}); "
                "RPO cannot be told from a damaged journal"
            ) from error
    return acks
