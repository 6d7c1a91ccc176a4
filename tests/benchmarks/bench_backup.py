"""Backup, verification of every byte, and restore against bare restic, to vaults that are served alike.

Run: ``python tests/benchmarks/bench_backup.py [--rounds 3] [--megabytes 1000]``.

The weights of three models at two sites, which do not compress, and the small rest of an estate. Ours fetches them from
a site's store, checks them, adds the databases, signs nothing, and hands all of it to the same restic. ``restic`` is
given the folder as it is, ``fetched`` gets it by rclone from the same store first. Then each vault's bytes are all read
(``restic check --read-data``), and the backup is restored, ours with every byte compared with its manifest. Prints one
JSON document: medians of wall and CPU seconds of the whole process tree (stores, vaults and databases excluded), peak
memory in MB, and ratios to bare restic.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from bench_replication import measured

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "include"), str(ROOT / "tests")]

from sqlalchemy.engine import URL  # noqa: E402
from support.backups import BackedUp, backed_up  # noqa: E402
from support.models import release_of  # noqa: E402
from support.postgres import postgres  # noqa: E402
from support.vault import LOGIN, OPERATOR_KEY, PASSWORD, VaultProcess, running  # noqa: E402

from ninelives.adapters.rclone import find_rclone, rclone_environment  # noqa: E402
from ninelives.adapters.restic import find_restic  # noqa: E402

MODELS = ("alpha", "beta", "gamma")


def ours(step: str, home: Path, to: Path) -> None:
    """What the measured child does."""
    from ninelives.adapters.connected import ConnectedEstate
    from ninelives.adapters.connections import FileConnections
    from ninelives.backups.proof import examine
    from ninelives.backups.restore import restore
    from ninelives.backups.run import back_up
    from ninelives.estate import load_estate
    from ninelives.home import Home

    place = Home(home)
    systems = ConnectedEstate(load_estate(home / "estate.yaml"), FileConnections(place.connections_file), place)
    if step == "backup":
        facts = back_up(systems).facts
        assert facts["verdict"] == "met", facts["findings"]
    elif step == "verify":
        facts = examine(systems, whole=True).facts
        assert facts["verdict"] == "met", facts["problems"]
    else:
        restore(systems, "latest", to)


def fill(world: BackedUp, size: int) -> None:
    """The same at both sites."""
    for model in MODELS:
        weights = os.urandom(size // len(MODELS))
        release = release_of(model, "2", weights, 3.5)
        for site in world.sites:
            site.store.put("models", release["object"], weights)
            site.store.put("models", f"{model}/release.json", json.dumps(release).encode())


def measure(server: URL, empty: Path, folder: Path, size: int) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    bare = VaultProcess(folder / "bare", empty)
    source = folder / "fetched"
    with backed_up(folder, server, empty) as world, running(bare):
        fill(world, size)
        repository = f"rest:http://{LOGIN}:{PASSWORD}@127.0.0.1:{bare.port}/"
        keys = {"RESTIC_REPOSITORY": repository, "RESTIC_PASSWORD": OPERATOR_KEY, "GOMAXPROCS": "2"}
        restic = [find_restic(), "--no-cache", "--quiet"]
        paris = world.sites[0]
        fetched = measured(
            [find_rclone(), "copy", "paris:models", str(source), "--config", os.devnull, "--s3-no-check-bucket"],
            rclone_environment({"paris": paris.connection}),
        )
        steps = {
            "backup": [*restic, "backup", str(source)],
            "verify": [*restic, "check", "--read-data"],
            "restore": [*restic, "restore", "latest", "--target", str(folder / "restored-bare")],
        }
        for step, command in steps.items():
            found[f"{step}/restic"] = measured(command, keys)
            arguments = ["--ours", step, str(world.home.root), str(folder / "restored")]
            found[f"{step}/ours"] = measured([sys.executable, __file__, *arguments], {})
        alone = found["backup/restic"]
        both = {key: fetched[key] + alone[key] for key in ("wall_s", "cpu_s")}
        found["backup/fetched"] = {**both, "peak_mb": max(fetched["peak_mb"], alone["peak_mb"])}
        whole = sum(path.stat().st_size for path in (folder / "restored").rglob("*") if path.is_file())
        assert whole > size * 0.99, whole
    shutil.rmtree(folder)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--ours", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours:
        step, home, to = options.ours
        ours(step, Path(home), Path(to))
        return
    with tempfile.TemporaryDirectory(prefix="bench-backup-") as place, postgres() as server:
        root = Path(place)
        rounds = []
        for number in range(options.rounds):
            (root / str(number)).mkdir()
            rounds.append(measure(server, root / "empty", root / str(number), options.megabytes * 1_000_000))
            print(f"round {number + 1} done", file=sys.stderr)
    medians = {
        what: {key: round(statistics.median(one[what][key] for one in rounds), 2) for key in rounds[0][what]}
        for what in sorted(rounds[0])
    }
    for what, values in medians.items():
        bare = medians[f"{what.split('/')[0]}/restic"]
        values |= {f"{name}_ratio": round(values[name] / bare[name], 2) for name in ("wall_s", "cpu_s")}
    print(json.dumps({"megabytes": options.megabytes, "rounds": options.rounds, **medians}, indent=1))


if __name__ == "__main__":
    main()
