"""A part of a backup put back into the local estate itself: loaded beside its place, checked, and swapped in at once.

For the real loss of a part, above all of the control plane (ledger and Airflow). Nothing is thrown away: the database
that was there stays beside the new one under a dated name, and an artefact with other bytes in a dated folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ninelives.adapters.connected import ConnectedEstate
from ninelives.adapters.ledger import migrate
from ninelives.adapters.postgres_dumps import count_rows, unfinished_runs
from ninelives.backups.contents import ARTEFACTS
from ninelives.backups.judge import learnt_until
from ninelives.backups.manifest import BackupManifest
from ninelives.backups.proof import states_verify
from ninelives.backups.restore import fetch, staged, workplace
from ninelives.backups.run import resolve, snapshots
from ninelives.drills.from_vault import judge_runs
from ninelives.errors import Corrupted, NinelivesError, Refused, Unavailable
from ninelives.evidence.anchor import anchor, set_aside
from ninelives.files import sync_folder
from ninelives.home import Home
from ninelives.ports import ObjectStore, UnfinishedRun
from ninelives.releases.publish import BUCKET as MODELS
from ninelives.stack import databases, lifecycle
from ninelives.stack.local import LocalEstate
from ninelives.stack.programs import Part, primary_site
from ninelives.stack.rebuild import check_ledger, put_tree
from ninelives.state.kept import check_model, locked, models

KIND = "restore"
"""Of the evidence, in the ledger as it is afterwards."""
TARGETS = ("ledger", "registry", "airflow", "models", "state")


@dataclass(frozen=True)
class Replaced:
    snapshot: str
    made_at: str
    targets: tuple[str, ...]
    kept: dict[str, str]
    """Database to what the one before is called now; ``artefacts`` and ``state`` to the folder that has theirs."""
    objects: int
    """Put back into the sites' stores: what was lost of models, and of the registry's artefacts."""
    records_lost: int
    """Of evidence: anchored at the sites, and not in the backup."""
    runs: tuple[dict[str, str], ...]
    """What becomes of every run of Airflow's that had not ended."""
    evidence: int


def restore_into(home: Home, name: str, targets: Sequence[str], *, replace: bool = False) -> Replaced:
    """Put ``targets`` of a backup in their place; all databases change at once, or none. The estate stays stopped.

    :param name: ``latest``, or the beginning of a snapshot's id
    :param replace: also where the target holds more than the backup does, which is then set aside
    :raises Refused: the estate runs, or a target is newer than the backup
    :raises Corrupted: what came out of the vault is not what was backed up
    :raises Unavailable: the vault, PostgreSQL or a store does not answer
    """
    if unknown := sorted(set(targets) - set(TARGETS)):
        raise Refused("restore", [f"nothing can be restored into {', '.join(unknown)}, only into {', '.join(TARGETS)}"])
    if running := _running(home):
        said = f"{', '.join(running[:3])} and others run" if len(running) > 3 else f"{', '.join(running)} runs"
        raise Refused("restore", [said, "stop the estate first: `ninelives stack down`"])
    lifecycle.up(home, without=frozenset(Part) - {Part.VAULT}, remember=False)
    try:
        return _restore(home, name, tuple(targets), replace)
    finally:
        lifecycle.down(home)


def _running(home: Home) -> list[str]:
    return [row["program"] for row in lifecycle.status(home)["programs"] if row["state"] != "STOPPED"]


def _restore(home: Home, name: str, targets: tuple[str, ...], replace: bool) -> Replaced:
    systems, local = ConnectedEstate.of_home(home), LocalEstate.recorded(home)
    snapshot = resolve(snapshots(systems), name)
    with staged(workplace(home)) as folder:
        manifest = fetch(systems, snapshot, folder, targets)
        parts = [target for target in targets if target not in ("models", "state")]
        dumps = {one: folder / part / one for part in parts for one in manifest.parts[part].facts["databases"]}
        if (newer := _newer(local, systems, folder, manifest, targets)) and not replace:
            raise Refused("restore", [*newer, "what is there would be set aside: say --replace if it should be"])
        databases.load_beside(local, dumps)
        if "ledger" in targets:
            check_ledger(local, manifest)
        if problems := states_verify(folder, manifest) if "state" in targets else []:
            raise Corrupted(f"{'; '.join(problems)}; restore an older backup")
        then = _unfinished(local, f"airflow{databases.RESTORED}") if "airflow" in targets else None
        now = _unfinished(local, "airflow") if then is not None else None
        kept = databases.swap(local, tuple(dumps), datetime.now(UTC)) if dumps else {}
        if "ledger" in targets:
            migrate(local.database_url("ledger_owner", "ledger"), writer_role="ledger_writer")
        if "mlflow_auth" in dumps:
            databases.set_registry_password(local)
        objects = _models(systems, folder) if "models" in targets else 0
        if "registry" in targets:
            aside = workplace(home) / f"artefacts-before-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
            objects += _artefacts(systems, folder, aside)
            kept |= {"artefacts": str(aside)} if aside.exists() else {}
        if "state" in targets:
            aside = workplace(home) / f"state-before-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
            _states(home, folder / "state", aside)
            kept |= {"state": str(aside)} if aside.exists() else {}
    runs = judge_runs(then, now) if then is not None else []
    ledger = systems.ledger()
    head, lost = ledger.head().seq, dict[str, list[int]]()
    if "ledger" in targets:
        lost = set_aside(systems.stores(), ledger.ledger_id, head, f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    facts: dict[str, Any] = {
        "snapshot": snapshot.id,
        "targets": list(targets),
        "kept": kept,
        "objects": objects,
        "runs": runs,
        "records_lost": max((seq for seqs in lost.values() for seq in seqs), default=head) - head,
        "anchors_set_aside": lost,
    }
    record = ledger.append(KIND, systems.estate.name, facts)
    anchor(ledger, systems.stores())
    return Replaced(
        snapshot.id,
        snapshot.made_at.isoformat(),
        targets,
        kept,
        objects,
        facts["records_lost"],
        tuple(runs),
        record.seq,
    )


def _newer(
    local: LocalEstate, systems: ConnectedEstate, folder: Path, manifest: BackupManifest, targets: Sequence[str]
) -> list[str]:
    """Where the target holds what the backup does not; what cannot be read holds nothing."""
    found = []
    for part in targets:
        if part == "models":
            found += _other_releases(systems, folder)
            continue
        if part == "state":
            found += _other_updates(systems.home, manifest)
            continue
        said = manifest.parts[part]
        rows = 0
        for database in said.facts["databases"]:
            try:
                rows += count_rows(databases.superuser(local, database), part)
            except Unavailable:
                continue
        if rows > (said.rows or 0):
            found.append(f"{part} holds {rows} rows, the backup {said.rows}")
        if part == "registry" and (other := _other_artefacts(_primary(systems), folder / "registry" / "artefacts")):
            more = f" and {len(other) - 1} more" if len(other) > 1 else ""
            found.append(f"an artefact of the registry has other bytes than in the backup: {other[0]}{more}")
    return found


def _primary(systems: ConnectedEstate) -> ObjectStore:
    return systems.store(primary_site(systems.estate))


def _other_artefacts(store: ObjectStore, artefacts: Path) -> list[str]:
    """Keys of those that the registry's store has with other bytes."""
    keys = (path.relative_to(artefacts).as_posix() for path in sorted(artefacts.rglob("*")) if path.is_file())
    return [key for key in keys if store.get(ARTEFACTS, key) not in (None, (artefacts / key).read_bytes())]


def _artefacts(systems: ConnectedEstate, folder: Path, aside: Path) -> int:
    """What the primary lacks of the registry's artefacts; what has other bytes there goes to the folder ``aside``."""
    store, artefacts = _primary(systems), folder / "registry" / "artefacts"
    for key in _other_artefacts(store, artefacts):
        (aside / key).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        (aside / key).write_bytes(store.get(ARTEFACTS, key) or b"")
    return put_tree(store, ARTEFACTS, artefacts, only_missing=True)


def _other_releases(systems: ConnectedEstate, folder: Path) -> list[str]:
    return [
        f"{site} serves another release of {path.parent.name} than the backup has"
        for site, store in systems.stores().items()
        for path in sorted((folder / "models" / "pointers" / site).glob("*/release.json"))
        if store.get(MODELS, f"{path.parent.name}/{path.name}") not in (None, path.read_bytes())
    ]


def _other_updates(home: Home, manifest: BackupManifest) -> list[str]:
    """Where a model has learnt what the backup does not have; one that is damaged has learnt nothing."""
    found = []
    for model, learnt in learnt_until(manifest).items():
        end = learnt.end
        try:
            there = check_model(home.state / model)
        except (Corrupted, OSError):
            continue
        if there.seq > end.seq or (there.seq == end.seq and there != end):
            found.append(f"{model} has learnt {there.seq} updates, of which the backup has {end.seq} or others")
    return found


def _states(home: Home, states: Path, aside: Path) -> None:
    """Model by model, by a rename; what was there goes to the folder ``aside``."""
    home.state.mkdir(exist_ok=True)
    for folder in models(states):
        place = home.state / folder.name
        with ExitStack() as held:
            if place.exists():
                held.enter_context(locked(place))
                aside.mkdir(mode=0o700, parents=True, exist_ok=True)
                place.rename(aside / folder.name)
            folder.rename(place)
    sync_folder(home.state)


def _models(systems: ConnectedEstate, folder: Path) -> int:
    """At each site the objects of the models that it had, then its pointers; what is right already is left alone."""
    models, count = folder / "models", 0
    for site, store in systems.stores().items():
        pointers = models / "pointers" / site
        for path in sorted(pointers.glob("*")):
            count += _put_missing(store, models / "objects", path.name)
        count += _put_missing(store, pointers)
    return count


def _put_missing(store: ObjectStore, folder: Path, below: str = "") -> int:
    return put_tree(store, MODELS, folder, below=below, only_missing=True)


def _unfinished(local: LocalEstate, database: str) -> list[UnfinishedRun] | None:
    """``None`` where the database that is to be replaced cannot be read: that is why it is replaced."""
    try:
        return unfinished_runs(databases.superuser(local, database))
    except NinelivesError:
        if database.endswith(databases.RESTORED):
            raise
        return None
