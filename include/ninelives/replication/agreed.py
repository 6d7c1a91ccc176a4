"""The last state that both sites acknowledged, kept at both: ``_agreed/<dataset>/<site>+<site>.json``.

It is a statement about the past and stays true: an old one is safe to compare with, it only makes more look like a
creation. Which one is newer is told by ``epoch``, which counts agreements; clocks are not asked.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Self

import rfc8785
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ninelives.ports import ObjectStore
from ninelives.replication.manifest import BUCKET, Sha256

Keys = dict[str, Sha256]


class Deleting(BaseModel):
    """Deletions that a run was about to repeat at one site.

    ``manifest`` is the SHA-256 of the site's manifest then, ``wanted`` of the one that the run was about to write.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: Keys
    manifest: Sha256
    wanted: Sha256 | None = None


class Agreed(BaseModel):
    """What two sites agreed on: key to SHA-256 of the dataset's objects, model to SHA-256 of its release pointer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    sites: tuple[str, str]
    epoch: Annotated[int, Field(ge=1)]
    parent: Sha256 | None
    """``sha256`` of the agreement before."""
    objects: Keys
    releases: Keys
    deleting: dict[str, Deleting] = {}
    sha256: str = ""
    """Of all the rest, as canonical JSON."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.sha256 and self.sha256 != self._digest():
            raise ValueError("it is not what was written")
        return self

    def _digest(self) -> str:
        return hashlib.sha256(rfc8785.dumps(self.model_dump(mode="json", exclude={"sha256"}))).hexdigest()

    def sealed(self) -> Agreed:
        return self.model_copy(update={"sha256": self._digest()})

    def same_content(self, other: Agreed | None) -> bool:
        return other is not None and (self.objects, self.releases, self.deleting) == (
            other.objects,
            other.releases,
            other.deleting,
        )


def agreed_key(dataset: str, sites: tuple[str, str]) -> str:
    return f"_agreed/{dataset}/{'+'.join(sorted(sites))}.json"


def read_agreed(store: ObjectStore, dataset: str, sites: tuple[str, str]) -> Agreed | None:
    """The agreement that a site holds; ``None`` where it has none or a damaged one, which proves nothing.

    :raises Unavailable: the store does not answer
    """
    data = store.get(BUCKET, agreed_key(dataset, sites))
    if data is None:
        return None
    try:
        found = Agreed.model_validate_json(data)
    except ValidationError:
        return None
    right = found.sha256 and found.dataset == dataset and sorted(found.sites) == sorted(sites)
    return found if right else None


def newest(a: Agreed | None, b: Agreed | None) -> Agreed | None:
    """The later of two copies. Two different ones of the same epoch agree only on what both list."""
    if a is None or b is None or a == b:
        return a or b
    if a.epoch != b.epoch:
        return a if a.epoch > b.epoch else b
    return a.model_copy(
        update={
            "objects": dict(a.objects.items() & b.objects.items()),
            "releases": dict(a.releases.items() & b.releases.items()),
            "deleting": {},
        }
    ).sealed()


def write_agreed(store: ObjectStore, agreed: Agreed) -> None:
    store.put(BUCKET, agreed_key(agreed.dataset, agreed.sites), agreed.sealed().model_dump_json().encode())
