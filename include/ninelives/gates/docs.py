"""Data Docs: Great Expectations' page about a verdict, kept beside the data that was judged.

It is for people: no decision reads it, so a store that cannot take it leaves the verdict as it is.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

from ninelives.errors import Corrupted, NinelivesError, Refused
from ninelives.evidence.chain import is_intact
from ninelives.ports import ObjectStore, Record, Systems

BUCKET = "gate-docs"
KEPT = 200
"""Pages of one dataset at one site: of a verdict every five minutes those of the last sixteen hours, ten megabytes."""


def keep_docs(systems: Systems, dataset: str, site: str, at: datetime, page: str | None) -> dict[str, Any] | None:
    """Put the page into the site's store; what the evidence says of it, also that it could not be kept.

    :param page: HTML; ``None`` where the engine did not get as far as the expectations
    """
    if page is None:
        return None
    try:
        return {"site": site, **_keep(systems.store(site), dataset, at, page.encode())}
    except NinelivesError as error:
        return {"site": site, "problem": f"{type(error).__name__}: {error}"}


def _keep(store: ObjectStore, dataset: str, at: datetime, body: bytes) -> dict[str, Any]:
    store.ensure_bucket(BUCKET)
    key = f"{dataset}/{at.astimezone(UTC):%Y-%m-%dT%H-%M-%S.%fZ}.html"
    store.put(BUCKET, key, body)
    for old in sorted(info.key for info in store.list(BUCKET, f"{dataset}/"))[:-KEPT]:
        store.delete(BUCKET, old)
    return {"key": key, "sha256": hashlib.sha256(body).hexdigest()}


def read_docs(systems: Systems, record: Record) -> str:
    """The page of a gate's record.

    :raises Refused: it has none, or it was removed because there are newer ones
    :raises Corrupted: it, or the record, is not what was kept
    :raises Unavailable: the store does not answer
    """
    kept = record.facts.get("docs")
    what = f"Data Docs of evidence {record.seq}"
    if not is_intact(record):
        raise Corrupted(f"{what}: the record is not what was written; see `ninelives evidence verify`")
    if not kept:
        raise Refused(what, ["the check did not get as far as the expectations, or it is no gate's evidence"])
    if "key" not in kept:
        raise Refused(what, [f"they could not be kept: {kept['problem']}"])
    body = systems.store(kept["site"]).get(BUCKET, kept["key"])
    if body is None:
        raise Refused(what, [f"the newest {KEPT} are kept; `ninelives gate explain` asks again"])
    if hashlib.sha256(body).hexdigest() != kept["sha256"]:
        raise Corrupted(f"{what}: {BUCKET}/{kept['key']} at {kept['site']} is not what was kept")
    return body.decode()
