"""The models of one server: read from the site's own store by digest, verified, warmed, checked, only then ready."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ninelives.errors import Corrupted, NinelivesError, Refused, Unavailable
from ninelives.estate.model import Hardware
from ninelives.ports import Features, ObjectStore, Scalar
from ninelives.releases.golden import answers_match
from ninelives.serving.model import OnnxModel

log = logging.getLogger(__name__)

BUCKET = "models"
WARM_UP_PASSES = 10
"""Passes over the golden requests before a model counts as warm."""

PROVIDER = "CUDAExecutionProvider"
"""ONNX Runtime's name of NVIDIA's accelerators."""

RECALL_AFTER = 5.0
"""Seconds"""

_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Pointer:
    """``<model>/release.json``: the release that a site serves."""

    version: str
    sha256: str
    object: str
    tolerance: float
    golden: tuple[tuple[Features, dict[str, list[Scalar]]], ...]
    accelerator: bool = False
    """It must not be served by the processor."""

    @classmethod
    def parse(cls, model: str, data: bytes) -> Pointer:
        """Raises ``Corrupted`` for anything that does not name one verifiable release with golden answers."""
        try:
            document = json.loads(data)
            digest = _DIGEST.fullmatch(document["digest"])
            if digest is None or document["model"] != model:
                raise ValueError("it names another model or no sha256 digest")
            golden = tuple((dict(case["inputs"]), dict(case["outputs"])) for case in document["golden"])
            if not golden:
                raise ValueError("it has no golden answers, so that nobody can tell whether the model is right")
            return cls(
                version=str(document["version"]),
                sha256=digest[1],
                object=str(document["object"]),
                tolerance=float(document["tolerance"]),
                golden=golden,
                accelerator=Hardware(document.get("hardware", Hardware.CPU)) is Hardware.ACCELERATOR,
            )
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise Corrupted(f"{model}/release.json cannot be used: {error!r}; publish the release again") from error


class Repository:
    """What is loaded; every method is safe to call from several threads.

    :param cache: folder for verified copies, so that a restart does not need the store; ``None``: no cache
    :param wanted: models that belong to this server from the start
    :param provider: ONNX Runtime's, for releases that must be served by an accelerator
    """

    def __init__(
        self, store: ObjectStore, cache: Path | None, wanted: Iterable[str] = (), provider: str = PROVIDER
    ) -> None:
        self.draining = False
        self._provider = provider
        self._store = store
        self._cache = cache
        self._models: dict[str, OnnxModel] = {}
        self._beside: dict[tuple[str, str], OnnxModel] = {}
        self._reasons: dict[str, str] = {}
        self._wanted = set(wanted)
        self._loading: dict[str, threading.Lock] = {}
        self._recalled: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()
        for name in self._wanted:
            _check_name(name)

    def get(self, name: str) -> OnnxModel | None:
        return self._models.get(name)

    def get_version(self, name: str, version: str) -> OnnxModel | None:
        """Exactly this version, whether it is the release that is served or stands beside it."""
        served = self._models.get(name)
        return served if served and served.version == version else self._beside.get((name, version))

    def versions(self, name: str) -> tuple[str, ...]:
        served = self._models.get(name)
        beside = [version for model, version in tuple(self._beside) if model == name]
        return tuple(dict.fromkeys([*([served.version] if served else []), *beside]))

    def load_version(self, name: str, version: str) -> OnnxModel:
        """Load a version beside the release that is served, verified and warm like that; raises as ``load``."""
        _check_name(name)
        if not _VERSION.fullmatch(version):
            raise Refused("model version", [f"{version[:60]!r} is not a version number"])
        with self._loading_of(name):
            if found := self.get_version(name, version):
                return found
            data = self._store.get(BUCKET, f"{name}/releases/{version}.json")
            if data is None:
                raise Unavailable(f"site {self._store.site} has no candidate {version} of model {name}")
            pointer = Pointer.parse(name, data)
            if pointer.version != version:
                raise Corrupted(f"{name}/releases/{version}.json at {self._store.site} is version {pointer.version}")
            model = self._proven(name, pointer, self._bytes(name, pointer, read_store=True)[0])
            self._beside[name, version] = model
            return model

    def recall(self, name: str, version: str) -> None:
        """Load a version in the background, once at a time: a process that was started anew has forgotten it.

        One that cannot be loaded is tried again at the earliest after ``RECALL_AFTER``.
        """
        with self._lock:
            if time.monotonic() < self._recalled.get((name, version), 0.0):
                return
            self._recalled[name, version] = time.monotonic() + RECALL_AFTER

        def load() -> None:
            try:
                self.load_version(name, version)
            except NinelivesError as error:
                log.warning("%s version %s cannot be loaded again: %s", name, version, error)

        threading.Thread(target=load, name=f"recall {name} {version}", daemon=True).start()

    def unload_version(self, name: str, version: str) -> None:
        """Forget a version that stands beside; the release that is served stays."""
        _check_name(name)
        with self._loading_of(name):
            self._beside.pop((name, version), None)

    def knows(self, name: str) -> bool:
        """Whether the model is or was meant to be here: absent for now, rather than unknown."""
        return name in self._wanted or name in self._reasons

    def ready(self, name: str) -> bool:
        return not self.draining and name in self._models

    def all_ready(self) -> bool:
        return not self.draining and all(name in self._models for name in tuple(self._wanted))

    def index(self) -> list[dict[str, str]]:
        """The V2 repository index, with why a model is not there."""
        rows = []
        for name in sorted(self._wanted | set(self._reasons) | set(self._models)):
            model, reason = self._models.get(name), self._reasons.get(name, "")
            state = "READY" if model else "UNAVAILABLE"
            rows.append({"name": name, "version": model.version if model else "", "state": state, "reason": reason})
        return rows

    def load(self, name: str) -> OnnxModel:
        """Load the release that the site's store names now; the version before answers until the new one is ready.

        :raises Unavailable: the store does not answer, or has no release of the model
        :raises Corrupted: the object is not what the release says, or its golden answers are wrong
        """
        _check_name(name)
        with self._loading_of(name):
            try:
                data = self._store.get(BUCKET, f"{name}/release.json")
                if data is None:
                    raise Unavailable(f"site {self._store.site} has no release of model {name} yet")
                model = self._install(name, Pointer.parse(name, data), read_store=True)
                self._keep(f"{name}/release.json", data)
                self._forget_old(name, model)
                self._wanted.add(name)
            except NinelivesError as error:
                self._reasons[name] = str(error)
                raise
            return model

    def unload(self, name: str) -> None:
        """Take the model out of service; unloading what is not loaded is not an error."""
        _check_name(name)
        with self._loading_of(name):
            self._wanted.discard(name)
            self._models.pop(name, None)
            self._reasons[name] = "unloaded"

    def keep_loading(self, stop: threading.Event) -> None:
        """Load every wanted model, from the cache while the store does not answer, and return when all came from it.

        Runs in a thread of its own until then, so that the server is live meanwhile; ``stop`` ends it early.
        """
        pending, pause, told = sorted(self._wanted), 0.25, dict[str, str]()
        while pending and not stop.is_set():
            for name in list(pending):
                if name not in self._wanted:  # unloaded meanwhile
                    pending.remove(name)
                    continue
                try:
                    self.load(name)
                    pending.remove(name)
                except NinelivesError as error:
                    if told.get(name) != str(error):  # the same reason, every five seconds, would hide the others
                        told[name] = str(error)
                        log.warning("%s is not loaded yet: %s: %s", name, type(error).__name__, error)
                    if isinstance(error, Unavailable) and name not in self._models:
                        self._load_cached(name)
            if pending:
                stop.wait(pause)
                pause = min(pause * 2, 5.0)

    def _install(self, name: str, pointer: Pointer, *, read_store: bool) -> OnnxModel:
        current = self._models.get(name)
        if current and (current.digest, current.version) == (pointer.sha256, pointer.version):
            self._reasons[name] = ""
            return current
        data, fresh = self._bytes(name, pointer, read_store=read_store)
        model = self._proven(name, pointer, data)
        if fresh:
            self._keep(_object_file(name, pointer.sha256), data)
        with self._lock:
            if current:  # whoever still asks for it by its number gets it, until it is unloaded
                self._beside[name, current.version] = current
            self._beside.pop((name, model.version), None)
            self._models[name] = model
            self._reasons[name] = ""
        log.info("%s version %s is ready", name, model.version)
        return model

    def _proven(self, name: str, pointer: Pointer, data: bytes) -> OnnxModel:
        """Warm, and right on every golden request, on the hardware that the release says."""
        provider = self._provider if pointer.accelerator else None
        model = OnnxModel(name, pointer.version, pointer.sha256, data, provider)
        for _ in range(WARM_UP_PASSES):
            for inputs, outputs in pointer.golden:
                try:
                    got = model.answer([inputs])
                except (ValueError, ArithmeticError) as error:
                    raise Corrupted(f"model {name} version {model.version} fails a golden request: {error}") from error
                if not answers_match(outputs, got, pointer.tolerance):
                    raise Corrupted(
                        f"model {name} version {model.version} is not the model that was released: for {inputs} it "
                        f"answers {dict(got)}, the release says {outputs}"
                    )
        return model

    def _bytes(self, name: str, pointer: Pointer, *, read_store: bool) -> tuple[bytes, bool]:
        """The object, verified, and whether it is fresh from the store; from the cache where a good copy is."""
        kept = self._kept(_object_file(name, pointer.sha256))
        if kept is not None and hashlib.sha256(kept).hexdigest() == pointer.sha256:
            return kept, False
        if not read_store:
            raise Unavailable(f"no good copy of {name} version {pointer.version} is cached")
        data = self._store.get(BUCKET, pointer.object)
        if data is None:
            raise Unavailable(f"site {self._store.site} lacks {BUCKET}/{pointer.object}, which its release names")
        if (found := hashlib.sha256(data).hexdigest()) != pointer.sha256:
            raise Corrupted(
                f"{BUCKET}/{pointer.object} at site {self._store.site} has sha256 {found}, the release says "
                f"{pointer.sha256}; copy it again from another site"
            )
        return data, True

    def _load_cached(self, name: str) -> None:
        data = self._kept(f"{name}/release.json")
        if data is None:
            return
        try:
            with self._loading_of(name):
                self._install(name, Pointer.parse(name, data), read_store=False)
            log.warning("%s comes from the local cache: the store does not answer", name)
        except NinelivesError as error:
            log.warning("the cached %s is of no use: %s", name, error)

    def _kept(self, path: str) -> bytes | None:
        try:
            return (self._cache / path).read_bytes() if self._cache else None
        except OSError:
            return None  # a cache may be empty; the store decides

    def _keep(self, path: str, data: bytes) -> None:
        if self._cache is None:
            return
        target = self._cache / path
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except OSError as error:  # a full disk must not keep a verified model from serving
            log.warning("%s is not cached: %s", path, error)
            temporary.unlink(missing_ok=True)

    def _forget_old(self, name: str, model: OnnxModel) -> None:
        if self._cache is None:
            return
        for file in (self._cache / name / "sha256").glob("*.onnx"):
            if file.stem != model.digest:
                file.unlink(missing_ok=True)

    def _loading_of(self, name: str) -> threading.Lock:
        with self._lock:
            return self._loading.setdefault(name, threading.Lock())


def _object_file(name: str, sha256: str) -> str:
    return f"{name}/sha256/{sha256}.onnx"


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Refused("model name", [f"{str(name)[:60]!r} is not a name: small letters, digits and hyphens only"])
