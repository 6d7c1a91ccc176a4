"""Rehearse that a clean machine can serve a release again, from its record alone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.ports import Record, Replica, Systems
from ninelives.releases.golden import answers_match
from ninelives.releases.promotion import service_of
from ninelives.releases.publish import BUCKET, Release, digest_of, pointer_key, read_release
from ninelives.releases.redeploy import Redeployment, read_redeployment

KIND = "redeploy_rehearsal"


@dataclass(frozen=True)
class Served:
    """A model server in an environment of its own. ``packages`` are all that is installed there."""

    replica: Replica
    packages: Mapping[str, str]
    build_seconds: float
    start_seconds: float


class CleanRoom(Protocol):
    def __call__(self, record: Redeployment, code: bytes, files: Mapping[str, bytes]) -> AbstractContextManager[Served]:
        """A new environment from the record, which serves the bucket's ``files``; gone again at the end.

        :raises Refused: it cannot be built from the record: another Python, a hash that differs
        :raises Unavailable: the packages cannot be had, or the server does not come up
        """
        ...


def rehearse(systems: Systems, service_name: str, clean_room: CleanRoom, *, run: str) -> Record:
    """Build, serve, ask the golden requests; evidence says met or missed, why, and the seconds that it took.

    :param run: names this rehearsal
    :raises Refused: nobody recorded how to serve the release, or there is none
    :raises Unavailable: packages, stores or the ledger do not answer: nothing is known of the release then, and no
        evidence says anything of it
    :raises Corrupted: record, code or model are not what was written
    """
    service = service_of(systems, service_name)
    release, onnx = _release(systems, service.model, service.sites)
    record, code = read_redeployment(systems.stores(), systems.ledger(), release.model, release.version, release.digest)
    files = {pointer_key(release.model): release.model_dump_json().encode(), release.object: onnx}
    began, reasons, seconds = time.monotonic(), list[str](), dict[str, float]()
    try:
        with clean_room(record, code, files) as served:
            seconds |= {"build": served.build_seconds, "start": served.start_seconds}
            reasons += _foreign(record, served.packages)
            asked = time.monotonic()
            reasons += _wrong(served.replica, release)
            seconds["answers"] = time.monotonic() - asked
    except (Refused, Corrupted) as error:
        reasons.append(str(error))
    seconds["total"] = time.monotonic() - began
    facts = {
        "model": release.model, "version": release.version, "digest": release.digest, "run": run,
        "verdict": "missed" if reasons else "met", "reasons": reasons, "golden": len(release.golden),
        "packages": len(record.packages), "python": record.python, "data_version": record.data_version,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }  # fmt: skip
    return systems.ledger().append(KIND, service.name, facts)


def _release(systems: Systems, model: str, sites: tuple[str, ...]) -> tuple[Release, bytes]:
    """From the first of the service's sites that has it whole."""
    problems, away, known = list[str](), False, False
    for site in sites:
        try:
            store = systems.store(site)
            release = read_release(store, model)
            onnx = store.get(BUCKET, release.object) if release else None
            if release and onnx is not None and digest_of(onnx) == release.digest:
                return release, onnx
            known = known or release is not None
            problems.append(
                f"{site}: {f'{BUCKET}/{release.object} is not what its release says' if release else 'none'}"
            )
        except Unavailable as error:
            away = True
            problems.append(f"{site}: {error}")
        except Corrupted as error:
            known = True
            problems.append(f"{site}: {error}")
    text = f"rehearse {model}: no site gives a whole release of it: {'; '.join(problems)}"
    if away:
        raise Unavailable(text)
    if known:
        raise Corrupted(f"{text}; replicate_data copies what another site has, or publish it again")
    raise Refused(f"rehearse {model}", ["no site has a release of it yet; train_model, or release stage and promote"])


def _foreign(record: Redeployment, packages: Mapping[str, str]) -> list[str]:
    """What is installed and not recorded, or the other way round."""
    recorded = {one.name: one.version for one in record.packages}
    found = {name.lower().replace("_", "-").replace(".", "-"): version for name, version in packages.items()}
    return [
        f"{name} is {found.get(name, 'missing')} there, the record says {recorded.get(name, 'nothing')}"
        for name in sorted({*recorded, *found})
        if recorded.get(name) != found.get(name)
    ]


def _wrong(replica: Replica, release: Release) -> list[str]:
    wrong = []
    for number, golden in enumerate(release.golden, start=1):
        expected = {name: list(values) for name, values in golden.outputs.items()}
        answer = replica.infer(release.model, [golden.inputs])
        if not answers_match(expected, answer.outputs, release.tolerance):
            wrong.append(f"golden request {number}: it answers {dict(answer.outputs)}, the release says {expected}")
    return wrong
