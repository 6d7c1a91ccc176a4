"""A clean virtual environment, made of a record alone, that serves a model on loopback as a process of its own."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from select import select

from ninelives.adapters.open_inference import V2Replica
from ninelives.errors import Refused, Unavailable
from ninelives.releases.publish import BUCKET
from ninelives.releases.redeploy import Redeployment
from ninelives.releases.rehearse import Served

INSTALL_TIMEOUT = 600.0
START_TIMEOUT = 60.0
"""seconds"""
_MISSING = re.compile(r"No matching distribution found for (\S+)")
_UNREAD = re.compile(r"Could not fetch URL .*")


@contextmanager
def clean_room(record: Redeployment, code: bytes, files: Mapping[str, bytes]) -> Iterator[Served]:
    """``releases.rehearse.CleanRoom`` by venv and pip, which alone says where packages come from.

    The new environment sees neither this one's packages nor its variables. A process that is killed leaves a folder in
    the temporary directory, and no server: that one ends with it.
    """
    here = ".".join(map(str, sys.version_info[:2]))
    wanted = ".".join(record.python.split(".")[:2])
    if here != wanted:
        raise Refused("build the environment", [f"the record wants Python {wanted}, here is {here}: rehearse it there"])
    requirements = record.requirements()
    with _room_on_disk():
        temporary = tempfile.TemporaryDirectory(prefix="ninelives-redeploy-")
    with temporary as name:
        folder, began = Path(name), time.monotonic()
        with _room_on_disk():
            python = _built(folder, requirements, code)
            for key, data in files.items():
                path = folder / "store" / BUCKET / key
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        built = time.monotonic()
        with _serving(python, folder, record.model) as (port, packages):
            replica = V2Replica(f"http://127.0.0.1:{port}", timeout=10)
            yield Served(replica, packages, built - began, time.monotonic() - built)


@contextmanager
def _room_on_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"the environment cannot be built: {error}; make room, or set TMPDIR") from error


def _built(folder: Path, requirements: str, code: bytes) -> Path:
    """The environment's Python, with the packages and our code to import."""
    lines = folder / "requirements.txt"
    lines.write_text(requirements)
    _run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")])
    python = folder / "venv" / "bin" / "python"
    log = folder / "pip.log"
    # pip from outside: one in the environment would be a package that nobody recorded.
    _run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-input", "--no-deps",
         "--require-hashes", "--only-binary", ":all:", "--disable-pip-version-check", "--log", str(log),
         "-r", str(lines)], log,
    )  # fmt: skip
    with zipfile.ZipFile(io.BytesIO(code)) as archive:
        archive.extractall(folder / "code")  # its hash is in the ledger
    (packages,) = (folder / "venv" / "lib").glob("python3.*/site-packages")
    (packages / "ninelives.pth").write_text(f"{folder / 'code'}\n")
    return python


def _run(command: list[str], log: Path | None = None) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT, check=False)
    except (subprocess.TimeoutExpired, OSError) as error:
        raise Unavailable(f"the environment cannot be built: {error}") from error
    if done.returncode:
        said = " ".join(done.stderr.split())[-600:]
        if "DO NOT MATCH THE HASHES" in done.stderr:
            raise Refused("build the environment", [f"the registry gives other files than were recorded: {said}"])
        if log and (gone := _gone(done.stderr, log.read_text(errors="replace"))):
            raise Refused(
                "build the environment",
                [f"no registry that pip is told of has {gone} for this machine any more: put its recorded files into "
                 "one of your own, or register a new version"],
            )  # fmt: skip
        raise Unavailable(f"the environment cannot be built: {said}")


def _gone(errors: str, log: str) -> str | None:
    """What pip found at no registry, where every registry answered; ``None`` where one may only be away.

    pip says the same of a package that is gone and of a registry that is down; only its log tells them apart.
    """
    missing = _MISSING.search(errors)
    away = "Retrying (" in log or any("404 Client Error" not in line for line in _UNREAD.findall(log))
    return missing[1] if missing and not away else None


@contextmanager
def _serving(python: Path, folder: Path, model: str) -> Iterator[tuple[int, dict[str, str]]]:
    errors = folder / "server.log"
    command = [str(python), "-I", "-m", "ninelives.serving.alone", str(folder / "store"), model]
    plain = {"PATH": os.defpath, "HOME": str(folder), "LANG": "C.UTF-8"}
    with errors.open("wb") as log:
        server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=plain, cwd=folder,
            start_new_session=True,
        )  # fmt: skip
    try:
        assert server.stdout is not None  # noqa: S101
        ready, _, _ = select([server.stdout], [], [], START_TIMEOUT)
        line = server.stdout.readline() if ready else b""
        if not line:
            said = " ".join(errors.read_text(errors="replace").split())[-600:]
            raise Refused("serve the model", [f"the server did not come up: {said or 'it said nothing'}"])
        told = json.loads(line)
        _await_answer(server, told["port"], model)
        yield int(told["port"]), dict(told["packages"])
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
        server.communicate()


def _await_answer(server: subprocess.Popen[bytes], port: int, model: str) -> None:
    replica, until = V2Replica(f"http://127.0.0.1:{port}", timeout=5), time.monotonic() + START_TIMEOUT
    while server.poll() is None and time.monotonic() < until:
        try:
            if replica.ready(model):
                return
        except Unavailable:
            pass
        time.sleep(0.05)
    raise Unavailable("the server of the rehearsal does not answer")
