"""The vault on real restic and a real append-only server: who may do what, and what happens when it goes away."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.processes import ROOT, wait_until
from support.vault import KEEPER_KEY, LOGIN, OPERATOR_KEY, PASSWORD, VaultProcess, flip, running

from ninelives.adapters.restic import Restic
from ninelives.errors import Corrupted, Refused, Unavailable

pytestmark = pytest.mark.stack
TAGS = ["estate:test", "sound"]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vault") / "empty"


@pytest.fixture
def vault(tmp_path: Path, empty: Path) -> Iterator[VaultProcess]:
    with running(VaultProcess(tmp_path / "vault", empty)) as process:
        yield process


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "weights").write_bytes(os.urandom(200_000))
    (folder / "ledger").mkdir()
    (folder / "ledger" / "head").write_text("12")
    (folder / "MANIFEST.json").write_text("{}")
    return folder


def test_what_was_added_comes_back_whole_or_in_part(vault: VaultProcess, source: Path, tmp_path: Path) -> None:
    added = vault.operator.add(source, tags=TAGS)
    (found,) = vault.operator.snapshots()
    assert (found.id, found.tags) == (added.snapshot, tuple(TAGS))
    assert added.bytes == 200_004
    assert added.added > 200_000
    assert vault.operator.read(found.id, "MANIFEST.json") == b"{}"
    vault.operator.restore(found.id, tmp_path / "part", parts=["ledger"])
    assert sorted(path.name for path in (tmp_path / "part").iterdir()) == ["MANIFEST.json", "ledger"]
    vault.operator.restore(found.id, tmp_path / "whole")
    assert (tmp_path / "whole/models/weights").read_bytes() == (source / "models/weights").read_bytes()
    assert vault.operator.add(source, tags=TAGS).added < 2_000, "what the vault has is not sent again"


def test_the_operator_can_add_and_never_remove_or_replace(vault: VaultProcess, source: Path) -> None:
    added = vault.operator.add(source, tags=TAGS)
    before = {path: path.read_bytes() for kind in ("data", "index", "keys", "snapshots") for path in vault.files(kind)}
    with httpx.Client(base_url=f"http://127.0.0.1:{vault.port}", auth=(LOGIN, PASSWORD)) as client:
        for kind in ("data", "index", "keys", "snapshots"):
            for path in vault.files(kind):
                for answer in (
                    client.delete(f"/{kind}/{path.name}"),
                    client.post(f"/{kind}/{path.name}", content=b"other bytes"),
                ):
                    assert answer.status_code == 403, (kind, answer)
        assert client.delete("/config").status_code == 403
        assert client.post("/config", content=b"other bytes").status_code == 403
        assert client.delete("/").status_code in (403, 404, 405)
        assert httpx.get(client.base_url.join("keys/"), auth=(LOGIN, "guessed")).status_code == 401
    assert {path: path.read_bytes() for path in before} == before
    assert [one.id for one in vault.operator.snapshots()] == [added.snapshot]


@pytest.mark.soak  # the engine asks three times before it believes that it may not
def test_the_engine_itself_removes_nothing_with_the_operators_rights(vault: VaultProcess, source: Path) -> None:
    added = vault.operator.add(source, tags=TAGS)
    before = {path: path.read_bytes() for kind in ("data", "index", "keys", "snapshots") for path in vault.files(kind)}
    keeper = next(key.id for key in vault.operator.list_keys() if key.user == "keeper")
    vault.operator.add_key("another key of the operator's", "operator")
    url = f"rest:http://127.0.0.1:{vault.port}/"
    for one in (vault.operator, Restic(url, "another key of the operator's", login=(LOGIN, PASSWORD))):
        for refused in (lambda: one.remove([added.snapshot]), lambda: one.remove_key(keeper)):  # noqa: B023
            with pytest.raises(Refused, match="does not let this login do that"):
                refused()
    assert {path: path.read_bytes() for path in before} == before
    assert [one.id for one in vault.operator.snapshots()] == [added.snapshot]
    assert vault.operator.examine([1], 1).problems == ()


def test_no_way_of_writing_a_path_or_of_asking_removes_or_replaces(vault: VaultProcess, source: Path) -> None:
    vault.operator.add(source, tags=TAGS)
    files = {path: path.read_bytes() for kind in ("data", "index", "keys", "snapshots") for path in vault.files(kind)}
    login = base64.b64encode(f"{LOGIN}:{PASSWORD}".encode()).decode()
    for path in vault.files("snapshots"):
        inside = path.relative_to(vault.folder).as_posix()
        for way in (
            f"/{inside}",
            f"/locks/../{inside}",
            f"/locks/%2e%2e/{inside}",
            f"/locks/..%2f{inside}",
            f"//{inside}",
        ):
            for method in ("DELETE", "POST", "PUT", "MOVE", "PATCH"):
                with socket.create_connection(("127.0.0.1", vault.port), timeout=10) as link:
                    link.sendall(
                        f"{method} {way} HTTP/1.1\r\nHost: vault\r\nAuthorization: Basic {login}\r\n"
                        f"Destination: /locks/x\r\nContent-Length: 5\r\nConnection: close\r\n\r\nother".encode()
                    )
                    answer = link.makefile("rb").readline().split()[1]
                assert answer[:1] in b"345", (method, way, answer)
    assert {path: path.read_bytes() for path in files} == files


def test_the_keeper_removes_and_the_server_shows_it_at_once(vault: VaultProcess, source: Path) -> None:
    first = vault.operator.add(source, tags=TAGS)
    (source / "models/weights").write_bytes(os.urandom(200_000))
    second = vault.operator.add(source, tags=TAGS)
    assert vault.keeper.arrivals().keys() == {first.snapshot, second.snapshot}
    size = sum(path.stat().st_size for path in vault.files("data"))
    vault.keeper.remove([first.snapshot])
    assert [one.id for one in vault.operator.snapshots()] == [second.snapshot]
    assert sum(path.stat().st_size for path in vault.files("data")) < size - 190_000
    found = vault.operator.examine([1], 1)
    assert (found.problems, found.strays) == ((), ())


def test_a_key_is_rotated_and_a_lost_one_replaced_by_the_other(vault: VaultProcess, source: Path) -> None:
    vault.operator.add(source, tags=TAGS)
    url, login = f"rest:http://127.0.0.1:{vault.port}/", (LOGIN, PASSWORD)
    old = next(key for key in vault.operator.list_keys() if key.current)
    # Rotation: the operator adds its successor, the keeper takes the old one away.
    made = vault.operator.add_key("the operator's next password", "operator")
    for nobodys in ("", "0" * 9, "no key"):
        with pytest.raises(Refused, match="see `backup key list`"):
            vault.keeper.remove_key(nobodys)
    vault.keeper.remove_key(old.id)
    with pytest.raises(Refused, match="no key of the vault fits"):
        vault.operator.snapshots()
    renewed = Restic(url, "the operator's next password", login=login)
    assert len(renewed.snapshots()) == 1
    assert {key.id for key in renewed.list_keys() if key.user == "operator"} == {made}
    # The keeper's is lost: whoever can still read lets a new one in.
    renewed.add_key("the keeper's next password", "keeper")
    assert len(Restic(str(vault.folder), "the keeper's next password").snapshots()) == 1


def test_no_password_is_on_a_command_line_or_in_a_message(vault: VaultProcess, source: Path) -> None:
    seen = vault.folder.with_name("seen")
    spy = vault.folder.with_name("restic-spy")
    spy.write_text(f'#!/bin/sh\necho "$@" >>{seen}\nexec restic "$@"\n')
    spy.chmod(0o755)
    url = f"rest:http://127.0.0.1:{vault.port}/"
    watched = Restic(url, OPERATOR_KEY, login=(LOGIN, PASSWORD), binary=str(spy))
    watched.add(source, tags=TAGS)
    watched.add_key("another long password", "operator")
    words = seen.read_text()
    assert "key add" in words
    for secret in (OPERATOR_KEY, PASSWORD, "another long password"):
        assert secret not in words
    with pytest.raises(Refused) as refused:
        Restic(url, "a wrong one", login=(LOGIN, PASSWORD)).snapshots()
    assert PASSWORD not in str(refused.value)
    assert "a wrong one" not in str(refused.value)


def test_a_vault_that_is_not_there_is_unavailable_and_not_corrupted(vault: VaultProcess, source: Path) -> None:
    vault.operator.add(source, tags=TAGS)
    vault.kill()
    for ask in (vault.operator.snapshots, lambda: vault.operator.examine([1], 1)):
        began = time.monotonic()
        with pytest.raises(Unavailable):
            ask()
        assert time.monotonic() - began < 30


@pytest.mark.soak
def test_a_vault_that_goes_away_in_mid_backup_is_given_up_and_the_next_run_goes_on(
    vault: VaultProcess, source: Path
) -> None:
    (source / "models/large").write_bytes(os.urandom(80_000_000))
    code = (
        "from pathlib import Path; import sys; from ninelives.adapters.restic import Restic\n"
        f"Restic({vault.operator._repository!r}, {OPERATOR_KEY!r}, login={(LOGIN, PASSWORD)!r})"
        f".add(Path({str(source)!r}), tags=['t'])"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT / "include")},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_until(lambda: len(vault.files("data")) >= 2, "some packs have arrived", every=0.005)
        vault.kill()
        _, said = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode != 0
    assert "Unavailable" in said
    vault.start()
    assert vault.operator.snapshots() == [], "a backup that did not end is none"
    vault.operator.add(source, tags=TAGS)
    found = vault.operator.examine([1], 1)
    assert found.problems == ()


def test_what_a_killed_run_leaves_is_told_as_stray_and_not_as_damage(vault: VaultProcess, source: Path) -> None:
    vault.operator.add(source, tags=TAGS)
    foreign = vault.folder.with_name("other")
    shutil.copytree(vault.folder, foreign)
    (source / "models/weights").write_bytes(os.urandom(200_000))
    Restic(str(foreign), KEEPER_KEY).add(source, tags=TAGS)
    for path in sorted((foreign / "data").rglob("*")):  # its packs arrive, its index and its snapshot never do
        target = vault.folder / path.relative_to(foreign)
        if path.is_file() and not target.exists():
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)
    found = vault.operator.examine([1], 1)
    assert found.problems == ()
    assert len(found.strays) == 2
    assert all("belongs to no backup" in stray for stray in found.strays)


def test_a_restore_of_a_damaged_backup_says_so(vault: VaultProcess, source: Path, tmp_path: Path) -> None:
    added = vault.operator.add(source, tags=TAGS)
    flip(max(vault.files("data"), key=lambda path: path.stat().st_size), 8 * 1000)
    with pytest.raises(Corrupted):
        vault.operator.restore(added.snapshot, tmp_path / "to")
