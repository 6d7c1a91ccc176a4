"""Where Ninelives keeps its own files on a machine: ``$NINELIVES_HOME``, by default ``.ninelives`` below the cwd."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Home:
    """Folders below one root. None is created by asking for it."""

    root: Path

    @classmethod
    def from_environment(cls) -> Home:
        return cls(Path(os.environ.get("NINELIVES_HOME") or ".ninelives").resolve())

    @property
    def estate_file(self) -> Path:
        """``$NINELIVES_ESTATE``, by default the copy that ``ninelives stack up`` made."""
        return Path(os.environ.get("NINELIVES_ESTATE") or self.root / "estate.yaml").resolve()

    @property
    def connections_file(self) -> Path:
        """Mode 0600; the JSON that Airflow's local file secrets backend reads."""
        return self.root / "secrets" / "connections.json"

    @property
    def gateway(self) -> Path:
        """The gateway's state and the Envoy files compiled from it."""
        return self.root / "gateway"

    @property
    def golden(self) -> Path:
        """``<model>.json``: golden requests with known answers per release, for the prober."""
        return self.root / "golden"

    @property
    def probes(self) -> Path:
        """Parquet written by the prober, one folder per UTC day."""
        return self.root / "probes"

    @property
    def feed(self) -> Path:
        """Journal of the feeder's acknowledged writes."""
        return self.root / "feed"

    @property
    def injections(self) -> Path:
        """Journal of the faults injected and not yet undone."""
        return self.root / "injections"

    @property
    def experiments(self) -> Path:
        """``<name>.json``: experiments of one's own, in Chaos Toolkit's format, which drills run."""
        return self.root / "experiments"

    @property
    def looks(self) -> Path:
        """``<run>.jsonl``: what was seen of each experiment on users, look by look."""
        return self.root / "looks"

    @property
    def expectations(self) -> Path:
        """``<suite>/suite.json`` per dataset: ``$NINELIVES_EXPECTATIONS``, by default the folder of the source tree."""
        return Path(os.environ.get("NINELIVES_EXPECTATIONS") or Path(__file__).parents[2] / "expectations").resolve()

    @property
    def readiness(self) -> Path:
        """What the newest look at every standby found; ``ninelives status`` shows it."""
        return self.root / "readiness.json"

    @property
    def state(self) -> Path:
        """``<model>/``: models that go on learning, with every update that they learnt."""
        return self.root / "state"

    @property
    def playbooks(self) -> Path:
        """``<service>.md``: what a person does for this estate, kept in line with it."""
        return self.root / "playbooks"

    @property
    def dags(self) -> Path:
        """DAGs of one's own, which the local estate's Airflow runs beside those of Ninelives."""
        return self.root / "dags"

    @property
    def cache(self) -> Path:
        """Verified copies of the objects that a gate looked at; may be removed at any time."""
        return self.root / "cache"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def vault(self) -> Path:
        """The local estate's vault: the repository, and its keeper's own key and journal."""
        return self.root / "vault"

    @property
    def vault_keeper_file(self) -> Path:
        """The keeper's own connection: kept at the vault, and in no connection of Airflow's."""
        return Path(os.environ.get("NINELIVES_VAULT_KEEPER") or self.vault / "keeper.json").resolve()

    def site(self, name: str) -> Path:
        """The disk of a site: kept when the site is lost."""
        return self.root / "sites" / name
