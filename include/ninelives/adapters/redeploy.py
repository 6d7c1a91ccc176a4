"""Writes down what a version is served by: installed packages, their hashes from the lock file, code and SBOM."""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import re
import zipfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import ninelives
from ninelives.errors import NinelivesError, Refused, Unavailable
from ninelives.ports import Record, Systems
from ninelives.releases.publish import Release
from ninelives.releases.redeploy import (
    BUCKET,
    KIND,
    Hardware,
    Package,
    Redeployment,
    code_key,
    evidence_key,
    record_key,
    sbom_key,
)

SERVING = ("httptools", "numpy", "onnxruntime", "pydantic", "pyyaml", "starlette", "uvicorn")
"""What ``ninelives.serving.alone`` imports; ``rehearse_redeploy`` proves that it is enough."""

_LOCKED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)")
_HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})")


def record_redeployment(systems: Systems, release: Release) -> Record:
    """Write the record of ``release`` at every site that answers, and its hashes into the ledger; once per version.

    :raises Unavailable: no site took it, or the ledger does not answer
    """
    ledger, key = systems.ledger(), evidence_key(release.model, release.version, release.digest)
    if known := ledger.written(key):
        return known
    code = pack_code()
    record = describe(release, hashlib.sha256(code).hexdigest())
    data, sbom = record.model_dump_json(indent=1).encode(), bill_of_materials(record)
    written, problems = [], []
    for site, store in systems.stores().items():
        try:
            store.ensure_bucket(BUCKET)
            store.put(BUCKET, code_key(record.code), code)
            store.put(BUCKET, sbom_key(release.model, release.version), sbom)
            store.put(BUCKET, record_key(release.model, release.version), data)
            written.append(site)
        except NinelivesError as error:
            problems.append(f"{site}: {error}")
    if not written:
        raise Unavailable(f"what {release.model} version {release.version} needs is recorded nowhere: {problems}")
    hashes = {"record": data, "sbom": sbom}
    facts = {
        "version": release.version, "digest": release.digest, "data_version": release.data_version,
        **{name: hashlib.sha256(one).hexdigest() for name, one in hashes.items()}, "code": record.code,
        "packages": len(record.packages), "sites": written, "problems": problems,
    }  # fmt: skip
    return ledger.append(KIND, release.model, facts, once=key)


def describe(release: Release, code: str) -> Redeployment:
    """The record of ``release`` as this process would serve it; described twice on one machine, the same."""
    return Redeployment(
        model=release.model,
        version=release.version,
        digest=release.digest,
        data_version=release.data_version,
        python=platform.python_version(),
        packages=installed(SERVING, locked_hashes(lock_file())),
        code=code,
        ninelives=ninelives.__version__,
        hardware=Hardware(
            system=platform.system(),
            machine=platform.machine(),
            cpus=os.cpu_count() or 1,
            memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        ),
        needs=release.hardware.value,
        recorded_at=release.created_at,
    )


def lock_file() -> Path:
    """``$NINELIVES_LOCK``, by default that of the source tree."""
    return Path(os.environ.get("NINELIVES_LOCK") or Path(ninelives.__file__).parents[2] / "requirements.lock")


def locked_hashes(path: Path) -> dict[tuple[str, str], tuple[str, ...]]:
    """Name and version to the hashes of a lock file as pip reads it; empty where there is no such file."""
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    current: tuple[str, str] | None = None
    for line in path.read_text().splitlines() if path.is_file() else []:
        if match := _LOCKED.match(line):
            current = (canonicalize_name(match[1]), match[2])
        if current and (hashes := _HASH.findall(line)):
            found[current] = (*found.get(current, ()), *hashes)
    return found


def installed(roots: Sequence[str], hashes: Mapping[tuple[str, str], tuple[str, ...]]) -> tuple[Package, ...]:
    """``roots`` and all that they need on this platform, as installed here, by name.

    :raises Refused: one is not installed
    """
    environment = {key: str(value) for key, value in default_environment().items()} | {"extra": ""}
    pending, found = [str(canonicalize_name(root)) for root in roots], dict[str, Package]()
    while pending:
        name = pending.pop()
        if name in found:
            continue
        try:
            known = metadata.distribution(name)
        except metadata.PackageNotFoundError as error:
            raise Refused(
                "record what serves the model", [f"{name} is not installed: install the extra serving"]
            ) from error
        needs = sorted(
            {
                str(canonicalize_name(one.name))
                for one in map(Requirement, known.requires or [])
                if one.marker is None or one.marker.evaluate(environment)
            }
        )
        pending += needs
        found[name] = Package(
            name=name,
            version=known.version,
            hashes=hashes.get((name, known.version), ()),
            licence=str(known.metadata.json.get("license_expression") or "")[:100],
            needs=tuple(needs),
        )
    return tuple(found[name] for name in sorted(found))


def pack_code() -> bytes:
    """Our own package as a ZIP archive; the same files are the same bytes."""
    root = Path(ninelives.__file__).parent
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(root.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                entry = zipfile.ZipInfo(f"ninelives/{path.relative_to(root).as_posix()}")
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, path.read_bytes())
    return buffer.getvalue()


def bill_of_materials(record: Redeployment) -> bytes:
    """CycloneDX 1.6 as JSON: the model, our code and the packages that serve it, and who needs whom.

    The same record is the same bytes.
    """
    from uuid import NAMESPACE_URL, uuid5

    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.license import LicenseExpression
    from cyclonedx.output.json import JsonV1Dot6
    from packageurl import PackageURL

    name = f"{record.model}@{record.version}"
    model = Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=record.model,
        version=record.version,
        bom_ref=name,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=record.digest.removeprefix("sha256:"))],
        properties=[
            Property(name="ninelives:data_version", value=record.data_version),
            Property(name="ninelives:python", value=record.python),
        ],
    )
    parts = {
        one.name: Component(
            type=ComponentType.LIBRARY,
            name=one.name,
            version=one.version,
            bom_ref=f"{one.name}=={one.version}",
            purl=PackageURL("pypi", name=one.name, version=one.version),
            licenses=[LicenseExpression(one.licence)] if one.licence else [],
        )
        for one in record.packages
    }
    ours = Component(
        type=ComponentType.LIBRARY,
        name="ninelives",
        version=record.ninelives,
        bom_ref=f"ninelives=={record.ninelives}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=record.code)],
    )
    bom = Bom(
        components=[ours, *parts.values()],
        metadata=BomMetaData(component=model, timestamp=record.recorded_at),
        serial_number=uuid5(NAMESPACE_URL, f"{name}/{record.digest}"),
    )
    for one in record.packages:
        bom.register_dependency(parts[one.name], [parts[need] for need in one.needs])
    bom.register_dependency(model, [ours, *(parts[root] for root in SERVING if root in parts)])
    return json.dumps(json.loads(JsonV1Dot6(bom).output_as_string()), indent=1, sort_keys=True).encode()
