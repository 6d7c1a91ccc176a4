"""Golden requests with known answers, from the prober's own disk: nothing that a lost site takes away is needed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ninelives.errors import Corrupted
from ninelives.ports import Scalar
from ninelives.serving.protocol import encode_request

Outputs = Mapping[str, Sequence[Scalar]]


@dataclass(frozen=True)
class Known:
    """What one release answers to one request."""

    outputs: Outputs
    tolerance: float


@dataclass(frozen=True)
class Case:
    """One golden request, with the known answer of each release that may answer it."""

    body: bytes
    """the V2 infer request"""
    answers: Mapping[str, Known]
    versions: frozenset[str]
    """Every release in the file, also those that this request is not known for."""


def parse_golden(data: bytes, source: str) -> tuple[Case, ...]:
    """The cases of ``<model>.json``: those that every release knows, or all where no case is known to every release.

    :raises Corrupted: this is not a file of golden answers
    """
    try:
        document = json.loads(data)
        requests: dict[str, tuple[bytes, dict[str, Known]]] = {}
        releases = {**document["releases"], **document.get("candidates", {})}  # a version on its way in answers too
        for version, release in releases.items():
            for golden in release["golden"]:
                key = json.dumps(golden["inputs"], sort_keys=True)
                body = json.dumps(encode_request([golden["inputs"]])).encode()
                outputs = {name: list(values) for name, values in golden["outputs"].items()}
                requests.setdefault(key, (body, {}))[1][version] = Known(outputs, float(release["tolerance"]))
        versions = frozenset(releases)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupted(f"{source}: not a file of golden answers ({error!r}); publish the release again") from error
    cases = [Case(body, answers, versions) for body, answers in requests.values()]
    return tuple([case for case in cases if case.answers.keys() == versions] or cases)


class GoldenFile:
    """The cases in a file, read again when the file changes. Once known, answers stay known if the file goes away."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cases: tuple[Case, ...] = ()
        self._seen: tuple[int, int, int] | None = None

    def refresh(self) -> bool:
        """Whether there was something new; raises ``Corrupted`` once per broken version of the file, keeps the rest."""
        try:
            stat = self.path.stat()
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if seen == self._seen:
                return False
            data = self.path.read_bytes()
        except FileNotFoundError:
            return False
        self._seen = seen
        self.cases = parse_golden(data, str(self.path))
        return True
