"""Everything is lost: the estate built anew from the vault alone, in an empty home folder.

What is needed is this software and the vault's connection. The backup is checked byte by byte before anything of it is
used, databases are checked beside their place, and every model is asked its golden requests at each replica and through
the gateway. What the vault cannot give back is named.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ninelives.adapters.connected import ConnectedEstate
from ninelives.adapters.connections import FileConnections
from ninelives.adapters.ledger import migrate
from ninelives.backups.contents import ARTEFACTS
from ninelives.backups.judge import learnt_until
from ninelives.backups.manifest import BackupManifest
from ninelives.backups.proof import ledger_problems, states_verify
from ninelives.backups.restore import fetch_from, staged
from ninelives.backups.run import clear, resolve
from ninelives.errors import Corrupted, Refused
from ninelives.estate import Estate, load_estate
from ninelives.evidence.anchor import anchor
from ninelives.files import write_atomically
from ninelives.home import Home
from ninelives.ports import ObjectStore, Signer, Snapshot, Systems, Vault
from ninelives.releases.golden import answers_match
from ninelives.releases.publish import BUCKET as MODELS
from ninelives.releases.publish import Release, record_golden
from ninelives.stack import databases, lifecycle, postgres, processes
from ninelives.stack.local import LocalEstate, supervisor_socket
from ninelives.stack.programs import Part, primary_site
from ninelives.versions.objects import BUCKET as VERSIONS

KIND = "rebuild"
"""Of the evidence in the ledger that was brought back."""
_STATE = "state.json"
"""Of what was compiled for the gateway all else follows from it, and from where things are now."""


@dataclass
class Rebuilt:
    """``steps``: seconds from asking the vault to the end of each; ``lacking``: what no backup could give back."""

    snapshot: str
    made_at: str
    findings: tuple[str, ...]
    """What was wrong with the sources when the backup was made."""
    steps: dict[str, float] = field(default_factory=dict)
    answers: int = 0
    """Golden requests that were answered rightly, over all replicas and the gateway."""
    records: int = 0
    """Of the ledger; the last one is hashed in the signed backup."""
    lacking: tuple[str, ...] = ()
    seconds: float = 0.0

    def facts(self) -> dict[str, Any]:
        return asdict(self)


def rebuild(
    home: Home,
    name: str,
    vault: Vault,
    signer: Signer | None,
    *,
    estate: str = "",
    without: frozenset[Part] = frozenset(),
    report: lifecycle.Report = lifecycle.silent,
) -> Rebuilt:
    """Build an estate of a backup in the empty ``home`` and return once all of it answers; on failure nothing runs.

    A killed call is begun anew by the next one, which takes away what the first has left.

    :param name: ``latest``, or the beginning of a snapshot's id
    :param estate: whose backup; may be left out where the vault holds those of one estate only
    :param without: parts that are not started
    :raises Refused: ``home`` is not empty, or there is no such backup
    :raises Corrupted: what came out of the vault is not what was backed up, or does not work
    :raises Unavailable: the vault does not answer, or a program does not start
    """
    begin = time.monotonic()
    snapshot = _choose(vault, name, estate)
    done = Rebuilt(snapshot.id, snapshot.made_at.isoformat(), ())

    def took(step: str) -> None:
        done.steps[step] = round(time.monotonic() - begin, 3)
        report(step, done.steps[step])

    with _begun(home, snapshot), staged(home.root) as folder:
        manifest = fetch_from(vault, signer, snapshot, folder)
        done.findings = manifest.findings
        took("restored and checked")
        if problems := states_verify(folder, manifest):
            raise Corrupted(f"{'; '.join(problems)}; rebuild from an older backup")
        declared, release_files = _files(home, folder)
        try:
            lifecycle.up(home, home.root / "estate.yaml", frozenset(Part))
            took("database and sites started")
            _databases(home, folder, manifest)
            took("databases checked and in place")
            systems = ConnectedEstate(declared, FileConnections(home.connections_file), home)
            ledger = systems.ledger()
            done.records = ledger.head().seq
            _objects(systems, folder)
            took("objects in place")
            releases = [(site, _release(path)) for site, path in release_files]
            for _, release in releases:
                record_golden(home, release)
            done.answers = _served(systems, releases)
            took("models answer at every replica")
            lifecycle.up(home, without=without)
            if Part.GATEWAY not in without:
                done.answers += _through_the_gateway(systems, releases)
            took("everything answers")
            done.lacking = lacking(declared, manifest)
            done.seconds = round(time.monotonic() - begin, 3)
            anchor(ledger, systems.stores())
            ledger.append(KIND, declared.name, done.facts(), once=f"{KIND}/{snapshot.id}/{home.root.name}")
        except BaseException:
            lifecycle.down(home)
            raise
    return done


def take_away(home: Home) -> None:
    """End whatever was rebuilt in ``home``, finished or not, and remove the folder; may be called at any time."""
    if home.root.exists():
        processes.end(processes.remaining(home))
        lifecycle.down(home)
        clear(home.root)
        socket = supervisor_socket(home)
        if not socket.is_relative_to(home.root):  # the path was too long for one
            clear(socket.parent)


def lacking(estate: Estate, manifest: BackupManifest) -> tuple[str, ...]:
    """What the vault cannot give back, one sentence each. Pure."""
    made = f"{manifest.made_at:%Y-%m-%d %H:%M:%S} UTC"
    head = manifest.parts["ledger"].facts.get("head", {}).get("seq", 0)
    return (
        f"whatever was written after {made}: evidence after record {head}, and runs that began later",
        *(
            f"updates that {model} learnt after number {learnt.end.seq}: send them again, each key counts once"
            for model, learnt in sorted(learnt_until(manifest).items())
        ),
        *(
            f"the data of {one.name}, of which {', '.join((one.primary, *one.copies))} had copies: bring it from where "
            "one is left, or from its source; `ninelives data restore` names the files of each model"
            for one in estate.datasets
        ),
        "passwords and keys: made anew. What Airflow had encrypted with its lost key must be entered again",
        "its vault: the rebuilt estate backs up into one of its own; keep the old one until that holds a backup",
        "what users felt until then, the feeder's journal, task logs: they are in no backup",
        *(f"already when it was backed up: {finding}" for finding in manifest.findings),
    )


def _choose(vault: Vault, name: str, estate: str) -> Snapshot:
    found = vault.snapshots()
    tags = {tag for one in found for tag in one.tags if tag.startswith("estate:")}
    if len(tags) > 1 and not estate:
        names = ", ".join(sorted(tag.removeprefix("estate:") for tag in tags))
        raise Refused("rebuild", [f"the vault holds backups of {names}: say which with --estate"])
    tag = f"estate:{estate}" if estate else next(iter(tags), "")
    return resolve([one for one in found if tag in one.tags], name)


@contextmanager
def _begun(home: Home, snapshot: Snapshot) -> Iterator[None]:
    """Only an empty folder is built in, or one that a killed rebuild has left."""
    marker = home.root / "rebuilding.json"
    if marker.exists():
        take_away(home)
    if home.root.exists() and any(home.root.iterdir()):
        raise Refused(f"rebuild in {home.root}", ["it is not empty: set NINELIVES_HOME to an empty folder"])
    home.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(marker, json.dumps({"snapshot": snapshot.id}).encode())
    yield
    marker.unlink()


def _files(home: Home, folder: Path) -> tuple[Estate, list[tuple[str, Path]]]:
    """Put estate, suites and the gateway's state in their places; the pointers that sites served by."""
    source = folder / "estate" / "estate.yaml"
    declared = load_estate(source)
    write_atomically(home.root / "estate.yaml", source.read_bytes())
    state = folder / "estate" / "gateway" / _STATE
    if state.exists():
        home.gateway.mkdir(parents=True, exist_ok=True)
        write_atomically(home.gateway / _STATE, state.read_bytes())
    for part, place in (("suites", home.root / "expectations"), ("state", home.state)):
        if (folder / part).is_dir():
            (folder / part).rename(place)
    pointers = folder / "models" / "pointers"
    return declared, [
        (site, path) for site in declared.site_names for path in sorted((pointers / site).glob("*/release.json"))
    ]


def _databases(home: Home, folder: Path, manifest: BackupManifest) -> None:
    local = LocalEstate.recorded(home)
    dumps = {
        name: folder / part / name
        for part in ("ledger", "registry", "airflow")
        for name in manifest.parts[part].facts["databases"]
    }
    if unknown := sorted(dumps.keys() - postgres.DATABASES.keys()):
        raise Refused("rebuild", [f"the local estate has no database {', '.join(unknown)}"])
    databases.load_beside(local, dumps)
    check_ledger(local, manifest)
    databases.swap(local, tuple(dumps), datetime.now(UTC))
    migrate(local.database_url("ledger_owner", "ledger"), writer_role="ledger_writer")
    if "mlflow_auth" in dumps:
        databases.set_registry_password(local)


def check_ledger(local: LocalEstate, manifest: BackupManifest) -> None:
    """:raises Corrupted: the ledger that was loaded beside is not what the backup says"""
    from ninelives.adapters.ledger import SqlLedger

    database = f"{manifest.parts['ledger'].facts['databases'][0]}{databases.RESTORED}"
    ledger = SqlLedger.from_connection(databases.superuser(local, database), timeout=30)
    try:
        problems = ledger_problems(ledger, manifest, {})
    finally:
        ledger.close()  # a database that somebody is signed in to cannot be swapped
    if problems:
        raise Corrupted(f"{'; '.join(problems[:5])}; restore an older backup")


def _objects(systems: Systems, folder: Path) -> None:
    """Objects first and pointers last, so that whoever reads a pointer finds its object; each is read back."""
    primary = systems.store(primary_site(systems.estate))
    put_tree(primary, ARTEFACTS, folder / "registry" / "artefacts")
    put_tree(primary, VERSIONS, folder / "versions")
    pointers = folder / "models" / "pointers"
    for site, store in systems.stores().items():
        served = {path.name for path in (pointers / site).glob("*")}
        for model in sorted(served):
            put_tree(store, MODELS, folder / "models" / "objects", below=model)
        put_tree(store, MODELS, pointers / site)


def put_tree(store: ObjectStore, bucket: str, folder: Path, below: str = "", *, only_missing: bool = False) -> int:
    """Put every file of ``folder`` (below ``below``) into a bucket and read it back; return how many were put.

    :param only_missing: leave what the store has already, with the same bytes
    :raises Corrupted: an object reads back otherwise than it was written
    """
    store.ensure_bucket(bucket)
    count = 0
    for path in sorted((folder / below).rglob("*")):
        if not path.is_file():
            continue
        data, key = path.read_bytes(), path.relative_to(folder).as_posix()
        if only_missing and store.get(bucket, key) == data:
            continue
        store.put(bucket, key, data)
        if store.get(bucket, key) != data:
            raise Corrupted(f"{bucket}/{key} at {store.site} reads back otherwise than it was written")
        count += 1
    return count


def _release(path: Path) -> Release:
    return Release.model_validate_json(path.read_bytes())


def _served(systems: Systems, releases: Sequence[tuple[str, Release]]) -> int:
    """Load each model at each replica of the sites that had it, and ask its golden requests there."""
    asked = 0
    for site, release in releases:
        for replica in systems.replicas(site):
            replica.load(release.model)
            for golden in release.golden:
                answer = replica.infer(release.model, [golden.inputs])
                if not answers_match(golden.outputs, answer.outputs, release.tolerance):
                    raise Corrupted(f"{replica.url} answers {release.model}@{release.version} otherwise than it did")
                asked += 1
    return asked


def _through_the_gateway(systems: Systems, releases: Sequence[tuple[str, Release]]) -> int:
    """Ask every service whose model came back, as its users do."""
    by_model = {release.model: release for _, release in releases}
    asked = 0
    for service in systems.estate.services:
        if (release := by_model.get(service.model)) is None:
            continue
        _await_healthy(systems, service.name)
        for golden in release.golden:
            answer = systems.client(service)([golden.inputs])
            if not answers_match(golden.outputs, answer.outputs, release.tolerance):
                raise Corrupted(f"{service.name} answers otherwise than {release.model}@{release.version} did")
            asked += 1
    return asked


def _await_healthy(systems: Systems, service: str, patience: float = 30.0) -> None:
    deadline = time.monotonic() + patience
    while not any(systems.gateway().healthy_sites(service).values()):
        if time.monotonic() > deadline:
            raise Corrupted(f"{service} has no healthy replica in the rebuilt estate after {patience:.0f} s")
        time.sleep(0.1)


def main() -> None:
    """``python -m ninelives.stack.rebuild FOLDER``: take away what was rebuilt there."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    take_away(Home(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
