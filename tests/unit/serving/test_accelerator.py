"""A release that needs an accelerator is never served by the processor: by the real onnxruntime, whose wheel here has
providers for the processor alone, so that every way in which an accelerator can be missing is real.
"""

from __future__ import annotations

import json

import pytest
from support.models import ROW, sum_model
from support.promotion import MODEL, Fuse, MemoryStore, release_of

from ninelives.errors import Corrupted, Refused
from ninelives.estate.model import Hardware
from ninelives.releases.publish import BUCKET, Release, pointer_key, publish
from ninelives.serving.model import CPU, OnnxModel
from ninelives.serving.repository import Repository


def published(hardware: Hardware) -> MemoryStore:
    release, onnx = release_of("1", 0.0)
    store = MemoryStore("paris", Fuse())
    publish(store, release.model_copy(update={"hardware": hardware}), onnx)  # type: ignore[arg-type]
    return store


def test_a_provider_that_is_not_there_is_an_error_and_no_fallback() -> None:
    with pytest.raises(Refused, match=r"on CUDAExecutionProvider: there are only .*CPUExecutionProvider"):
        OnnxModel("sum", "1", "0" * 64, sum_model(), "CUDAExecutionProvider")


def test_a_provider_that_is_there_and_takes_nothing_of_the_model_is_an_error_too() -> None:
    import onnxruntime

    assert "AzureExecutionProvider" in onnxruntime.get_available_providers(), "it answers no operator of ours"
    with pytest.raises(Refused, match=r"AzureExecutionProvider.*CPU"):
        OnnxModel("sum", "1", "0" * 64, sum_model(), "AzureExecutionProvider")


def test_a_replica_without_an_accelerator_never_gets_ready_with_a_release_that_needs_one() -> None:
    repository = Repository(published(Hardware.ACCELERATOR), None, [MODEL])  # type: ignore[arg-type]
    with pytest.raises(Refused, match="CUDAExecutionProvider"):
        repository.load(MODEL)
    assert not repository.ready(MODEL)
    assert "CUDAExecutionProvider" in repository.index()[0]["reason"]


def test_where_the_processor_plays_the_accelerator_it_serves_such_a_release() -> None:
    repository = Repository(published(Hardware.ACCELERATOR), None, provider=CPU)  # type: ignore[arg-type]
    assert repository.load(MODEL).answer([ROW])["total"] == [3.5]


def test_a_release_that_says_nothing_of_hardware_or_cpu_is_served_by_the_processor() -> None:
    store = published(Hardware.CPU)
    assert Repository(store, None).load(MODEL).answer([ROW])["total"] == [3.5]  # type: ignore[arg-type]
    document = json.loads(store.objects[BUCKET, pointer_key(MODEL)])
    del document["hardware"]
    store.objects[BUCKET, pointer_key(MODEL)] = json.dumps(document).encode()
    assert Release.model_validate(document).hardware is Hardware.CPU
    assert Repository(store, None).load(MODEL).answer([ROW])["total"] == [3.5]  # type: ignore[arg-type]


def test_a_release_that_names_hardware_that_nobody_knows_is_not_served() -> None:
    store = published(Hardware.CPU)
    document = json.loads(store.objects[BUCKET, pointer_key(MODEL)]) | {"hardware": "abacus"}
    store.objects[BUCKET, pointer_key(MODEL)] = json.dumps(document).encode()
    with pytest.raises(Corrupted, match="abacus"):
        Repository(store, None).load(MODEL)  # type: ignore[arg-type]
