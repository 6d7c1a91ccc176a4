"""Labels: which answers were right, known only later, in batches of whoever joins the truth with the answers.

An answer says which version gave it; a batch counts, per version, the requests since the promotion began whose truth
has come and is in no batch before. Both versions belong into each batch: their truth comes equally late.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ninelives.errors import EstateError, EstateProblem, Refused
from ninelives.estate import Estate
from ninelives.ports import Ledger, Record
from ninelives.releases.canary import Labels

KIND = "labels"
_Count = Annotated[int, Field(ge=0, le=10**12, strict=True)]


class Labelled(BaseModel):
    """Of one version in a batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str = Field(pattern=r"^[0-9]{1,18}$")
    right: _Count
    wrong: _Count


_BATCH = TypeAdapter(Annotated[list[Labelled], Field(min_length=1, max_length=100)])


def read_batch(path: Path) -> list[Labelled]:
    """The batch in a JSON file.

    :raises EstateError: it cannot be read; names every place that is wrong
    """
    try:
        batch = _BATCH.validate_json(path.read_bytes())
    except OSError as error:
        raise EstateError([EstateProblem(str(path), 0, "", f"cannot be read: {error.strerror}")]) from error
    except ValidationError as error:
        raise EstateError(
            [EstateProblem(str(path), 0, ".".join(map(str, one["loc"])), one["msg"]) for one in error.errors()[:20]]
        ) from error
    versions = [one.version for one in batch]
    if len(set(versions)) < len(versions):
        raise EstateError([EstateProblem(str(path), 0, "", "a version stands twice; give its sums")])
    return batch


def record_labels(
    ledger: Ledger, estate: Estate, service: str, batch: Sequence[Labelled], *, once: str, by: str
) -> Record:
    """Keep one batch; the same one again is not counted again.

    :param once: the batch's own name
    :raises Refused: the estate does not have the service judged by labels, or other counts have this name
    """
    if not estate.service_by_name[service].release.labels:
        raise Refused("label", [f"{service} is not judged by labels; say release.labels: true in the estate"])
    facts = {"batch": once, "by": by, "labels": [one.model_dump() for one in batch]}
    return ledger.append(KIND, service, facts, once=f"{KIND}/{service}/{once}")


def labels_since(ledger: Ledger, service: str, since: datetime) -> list[Labels]:
    """Batches that came from ``since`` on; raises ``Corrupted`` where a record is not what was written."""
    return [
        Labels(
            record.at.timestamp(),
            right={one["version"]: one["right"] for one in record.facts["labels"]},
            wrong={one["version"]: one["wrong"] for one in record.facts["labels"]},
        )
        for record in ledger.records(kind=KIND, subject=service, since=since)
    ]
