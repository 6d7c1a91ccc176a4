"""What a clean machine needs to serve a version again: packages with hashes, our code, platform, data version.

Written once when a version is registered or staged, at every site that answers, in a bucket of its own:

    <model>/<version>.json       the record below
    <model>/<version>.cdx.json   the same packages as an SBOM (CycloneDX)
    code/<sha256>.zip            the Python code that served it
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.ports import Ledger, ObjectStore

BUCKET = "redeploy"
KIND = "redeployment"
"""Of the evidence that names the hash of each record."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Package(_Frozen):
    """A distribution; ``hashes`` are those of its files, as pip writes them (``sha256:...``), empty where unknown."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")]
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9.!+_-]{1,60}$")]
    hashes: tuple[Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")], ...] = ()
    licence: str = ""
    needs: tuple[str, ...] = ()


class Hardware(_Frozen):
    """Where it was registered; ``memory`` in bytes."""

    system: str
    machine: str
    cpus: int
    memory: int


class Redeployment(_Frozen):
    """The record. ``needs`` is what the estate says of the hardware: ``cpu`` or ``accelerator``."""

    format: Literal[1] = 1
    model: str
    version: str
    digest: str
    data_version: str
    python: Annotated[str, Field(pattern=r"^3\.\d+\.\d+")]
    packages: Annotated[tuple[Package, ...], Field(min_length=1)]
    code: Sha256
    ninelives: str
    hardware: Hardware
    needs: str
    recorded_at: AwareDatetime

    def requirements(self) -> str:
        """For ``pip install --require-hashes --no-deps``: these files and no others.

        :raises Refused: a package has no hash, so that whatever the registry gives would be taken
        """
        if unknown := [f"{one.name} {one.version}" for one in self.packages if not one.hashes]:
            raise Refused(
                f"redeploy {self.model} version {self.version}",
                [f"the record has no hash of {', '.join(unknown)}: point NINELIVES_LOCK to the lock file where "
                 "versions are registered, and register the next one"],
            )  # fmt: skip
        return "".join(
            " \\\n    ".join([f"{one.name}=={one.version}", *(f"--hash={value}" for value in one.hashes)]) + "\n"
            for one in self.packages
        )


def record_key(model: str, version: str) -> str:
    return f"{model}/{version}.json"


def sbom_key(model: str, version: str) -> str:
    return f"{model}/{version}.cdx.json"


def code_key(sha256: str) -> str:
    return f"code/{sha256}.zip"


def evidence_key(model: str, version: str, digest: str) -> str:
    return f"{KIND}/{model}/{version}/{digest}"


def read_redeployment(
    stores: Mapping[str, ObjectStore], ledger: Ledger, model: str, version: str, digest: str
) -> tuple[Redeployment, bytes]:
    """The record and the code, from the first site that has both, and the SBOM, as the ledger says they were written.

    :raises Refused: none was written for that version
    :raises Unavailable: the sites that answer have them not, and one does not answer
    :raises Corrupted: every site answers, and none has them unchanged
    """
    what = f"redeploy {model} version {version}"
    known = ledger.written(evidence_key(model, version, digest))
    if known is None:
        raise Refused(what, ["nothing was recorded when it was registered; `release stage` and `train_model` do it"])
    keys = {
        "record": record_key(model, version), "code": code_key(str(known.facts["code"])),
        "sbom": sbom_key(model, version),
    }  # fmt: skip
    problems, away = list[str](), False
    for site, store in stores.items():
        try:
            found = {name: store.get(BUCKET, key) for name, key in keys.items()}
        except Unavailable as error:
            problems.append(f"{site}: {error}")
            away = True
            continue
        wrong = {name: data for name, data in found.items() if data is None or _sha256(data) != known.facts[name]}
        if not wrong:
            return parse_redeployment(found["record"] or b""), found["code"] or b""
        problems += [f"{site}: {BUCKET}/{keys[name]} is {'missing' if data is None else 'not what was written'}"
                     for name, data in wrong.items()]  # fmt: skip
    text = f"{what}: no site has all that evidence {known.seq} names: {'; '.join(problems)}; restore {BUCKET} at one"
    raise Unavailable(text) if away else Corrupted(text)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def parse_redeployment(data: bytes) -> Redeployment:
    """Raises ``Corrupted`` for anything that is no record."""
    try:
        return Redeployment.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise Corrupted(f"no record of a redeployment: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
