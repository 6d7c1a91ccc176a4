"""Make a release of a model file, and stage it: scanned, signed, with golden answers, and served to nobody."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path

from ninelives.errors import Refused
from ninelives.estate import Service
from ninelives.ports import Systems
from ninelives.releases.promotion import service_of, signed_name
from ninelives.releases.publish import (
    BUCKET,
    TOLERANCE,
    Release,
    digest_of,
    golden_answers,
    object_key,
    read_candidate,
    read_release,
    signature_key,
    stage,
)
from ninelives.releases.scan import scan


def stage_file(systems: Systems, service_name: str, version: str, onnx: bytes, *, data_version: str) -> Release:
    """Stage ``onnx`` at the service's first site as that version; the same file again is the same release.

    :raises Refused: the file is nothing that may be loaded, or another one is staged or serves under the version
    :raises Corrupted: it does not answer the service's golden requests
    """
    service = service_of(systems, service_name)
    what = f"stage {service.model} version {version}"
    if reasons := scan(onnx):
        raise Refused(what, reasons)
    store = systems.store(service.sites[0])
    serving = read_release(store, service.model)
    if serving and serving.version == version and serving.digest != digest_of(onnx):
        raise Refused(what, [f"version {version} serves, and is another file ({serving.digest}); take a new number"])
    there = read_candidate(store, service.model, version)
    release = there if there and there.digest == digest_of(onnx) else _release(service, version, onnx, data_version)
    stage(store, release, onnx)
    if systems.estate.vault and (signer := systems.signer()):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / signed_name(release)
            file.write_bytes(onnx)
            store.put(BUCKET, signature_key(service.model, version), signer.sign(file))
    return release


def _release(service: Service, version: str, onnx: bytes, data_version: str) -> Release:
    from ninelives.serving.model import OnnxModel

    digest = digest_of(onnx)
    inputs = [dict(golden.inputs) for golden in service.golden]
    try:
        outputs = OnnxModel(service.model, version, digest, onnx).answer(inputs)
    except (ValueError, ArithmeticError) as error:
        raise Refused(f"stage {service.model} version {version}", [f"it fails a golden request: {error}"]) from error
    return Release(
        model=service.model,
        version=version,
        digest=digest,
        object=object_key(service.model, digest),
        size=len(onnx),
        data_version=data_version,
        tolerance=TOLERANCE,
        golden=golden_answers(inputs, dict(outputs)),
        created_at=datetime.now(UTC),
        hardware=service.release.hardware,
    )
