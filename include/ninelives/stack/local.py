"""The local estate as it was recorded under the home folder: what to run, where, with which secrets."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import ninelives
from ninelives.access.registry import registry_accounts
from ninelives.errors import Refused, Unavailable
from ninelives.estate import Estate, load_estate
from ninelives.estate.accelerators import STAND_IN
from ninelives.files import write_atomically
from ninelives.home import Home
from ninelives.stack.ports import Ports
from ninelives.stack.programs import Part, Program, parts, programs, site_group
from ninelives.stack.secrets import Secrets

SUPERVISOR_LOGIN = "ninelives"
SERVICE_ACCOUNT = "ninelives"
"""Airflow user of tasks and of the command line."""
MLFLOW_ADMIN = "admin"
BUCKETS = ("data", "models", "anchors", "mlflow")
REGION = "local"
_LONGEST_SOCKET = 90
"""Bytes; Linux allows 107, and supervisord first binds the name with its pid appended."""


@dataclass(frozen=True)
class Record:
    """What ``stack up`` was last told: ``stack.json``."""

    source: Path
    """The estate file as the user named it."""
    without: frozenset[Part]
    base: int


@dataclass(frozen=True)
class LocalEstate:
    home: Home
    estate: Estate
    ports: Ports
    secrets: Secrets
    without: frozenset[Part] = frozenset()

    @classmethod
    def recorded(cls, home: Home) -> LocalEstate:
        """As the last ``stack up`` left it; raises ``Unavailable`` where there was none."""
        record = read_record(home)
        if record is None:
            raise Unavailable(f"there is no local estate in {home.root}; start one with `ninelives stack up`")
        estate = load_estate(home.root / "estate.yaml")
        return cls(home, estate, Ports(record.base, estate.site_names), open_secrets(home), record.without)

    @property
    def programs(self) -> tuple[Program, ...]:
        return programs(self.estate, self.without)

    def program(self, name: str) -> Program:
        for program in self.programs:
            if program.name == name:
                return program
        raise Refused("no such program", [f"{name!r} is not one of {', '.join(p.name for p in self.programs)}"])

    def port_of(self, program: Program) -> int | None:
        names = {"gateway": "gateway", "airflow-api-server": "airflow-api"}
        return self.ports.named().get(names.get(program.name, program.name))

    def log_of(self, program: str) -> Path:
        return self.home.logs / f"{program}.log"

    @property
    def airflow_home(self) -> Path:
        return self.home.root / "airflow"

    @property
    def postgres_data(self) -> Path:
        return self.home.root / "postgres" / "data"

    @property
    def supervisor_socket(self) -> Path:
        return supervisor_socket(self.home)

    def store_folder(self, site: str) -> Path:
        return self.home.site(site) / "store"

    def access_key(self, site: str) -> tuple[str, str]:
        """Access key and secret of a site's store."""
        return self.secrets.token(f"{site}-store-key", 15), self.secrets.token(f"{site}-store-secret", 30)

    def database_url(self, role: str, database: str) -> str:
        password = self.secrets.token(f"postgres-{role}")
        return f"postgresql+psycopg2://{role}:{password}@127.0.0.1:{self.ports.postgres}/{database}"

    def connections(self) -> dict[str, dict[str, object]]:
        """Every connection of the estate, in the format of Airflow's local file secrets backend."""
        secrets, ports, loopback = self.secrets, self.ports, "127.0.0.1"
        found: dict[str, dict[str, object]] = {
            "ninelives_gateway": {
                "conn_type": "generic",
                "host": loopback,
                "port": ports.gateway,
                "extra": {
                    "url": f"http://{loopback}:{ports.gateway}",
                    "admin": f"http://{loopback}:{ports.gateway_admin}",
                    "folder": str(self.home.gateway),
                },
            },
            "ninelives_ledger": {
                "conn_type": "postgres",
                "host": loopback,
                "port": ports.postgres,
                "login": "ledger_writer",
                "password": secrets.token("postgres-ledger_writer"),
                "schema": "ledger",
            },
            "ninelives_mlflow": {
                "conn_type": "http",
                "host": loopback,
                "port": ports.mlflow,
                "login": MLFLOW_ADMIN,
                "password": secrets.token("mlflow-admin"),
            },
            "ninelives_airflow_api": {
                "conn_type": "http",
                "host": loopback,
                "port": ports.airflow,
                "login": SERVICE_ACCOUNT,
                "password": secrets.token(f"airflow-user-{SERVICE_ACCOUNT}"),
            },
        }
        for who in registry_accounts(self.estate):
            found[f"ninelives_mlflow_{who}"] = {
                "conn_type": "http",
                "host": loopback,
                "port": ports.mlflow,
                "login": who,
                "password": secrets.token(f"registry-user-{who}"),
            }
        supervisor = {"server": f"unix://{self.supervisor_socket}"}
        found["ninelives_control"] = {
            "conn_type": "generic",
            "login": SUPERVISOR_LOGIN,
            "password": secrets.token("supervisor"),
            "extra": {
                **supervisor,
                "programs": {"gateway": ["gateway"], "registry": ["mlflow"], "provider": ["feeder"]},
                "addresses": {
                    "gateway": f"http://{loopback}:{ports.gateway_admin}/ready",
                    "mlflow": f"http://{loopback}:{ports.mlflow}/health",
                },
            },
        }
        if self.estate.vault and self.estate.backups:
            from ninelives.stack.vault import connections

            found |= connections(self)
        for site in self.estate.site_names:
            at = ports.site(site)
            key, secret = self.access_key(site)
            store, link = f"http://{loopback}:{at.store}", f"http://{loopback}:{at.link}"
            replicas = [f"http://{loopback}:{port}" for port in at.replicas]
            served = [(f"{site}-replica-{number}", url) for number, url in enumerate(replicas, 1)]
            found[f"ninelives_{site}_store"] = {
                "conn_type": "aws",
                "login": key,
                "password": secret,
                "extra": {"endpoint_url": link, "region_name": REGION},
            }
            machines = self.estate.site_by_name[site].accelerators
            found[f"ninelives_{site}_replicas"] = {
                "conn_type": "generic",
                "password": secrets.token(f"{site}-replicas-key"),
                "extra": {
                    "urls": replicas,
                    **(
                        {"machines": {one.name: replicas[n :: len(machines)] for n, one in enumerate(machines)}}
                        if machines
                        else {}
                    ),
                },
            }
            found[f"ninelives_{site}_control"] = {
                "conn_type": "generic",
                "login": SUPERVISOR_LOGIN,
                "password": secrets.token("supervisor"),
                "extra": {
                    **supervisor,
                    "group": site_group(site),
                    "answers": [store, link, *(f"{url}/v2/health/live" for url in replicas)],
                    "programs": {
                        "store": [f"{site}-store"],
                        "link": [f"{site}-link"],
                        "replica": [name for name, _ in served],
                    },
                    "addresses": {
                        f"{site}-store": store,
                        f"{site}-link": link,
                        **{name: f"{url}/v2/health/live" for name, url in served},
                    },
                    "disk": str(self.store_folder(site)),
                    **({"accelerators": played} if (played := self.played(site)) else {}),
                },
            }
        return found

    def played(self, site: str) -> dict[str, dict[str, str]]:
        """Library and script of each machine of the site that is looked at through the stand-in."""
        library, scripts = self.home.root / "stand-in" / "libnvidia-ml.so.1", self.home.site(site) / "accelerators"
        return {
            one.name: {"library": str(library), "script": str(scripts / one.name)}
            for one in self.estate.site_by_name[site].accelerators
            if one.policy.kind == STAND_IN
        }


def open_secrets(home: Home) -> Secrets:
    return Secrets(home.root / "secrets" / "secrets.json")


def read_record(home: Home) -> Record | None:
    try:
        raw = json.loads((home.root / "stack.json").read_text("utf-8"))
    except FileNotFoundError:
        return None
    return Record(Path(raw["source"]), parts(raw["without"]), raw["base"])


def write_record(home: Home, record: Record, named_ports: dict[str, int]) -> None:
    raw = {"source": str(record.source), "without": sorted(record.without), "base": record.base}
    write_atomically(home.root / "stack.json", json.dumps(raw, indent=1).encode())
    write_atomically(home.root / "ports.json", json.dumps(named_ports, indent=1).encode())


def supervisor_socket(home: Home) -> Path:
    """Below the home folder, or, where that path is too long for a socket, in a private folder named after it."""
    import hashlib
    import os
    import tempfile

    path = home.root / "run" / "supervisor.sock"
    if len(os.fsencode(path)) <= _LONGEST_SOCKET:
        return path
    digest = hashlib.sha256(os.fsencode(home.root)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"ninelives-{os.getuid()}-{digest}" / "supervisor.sock"


def project_folder() -> Path:
    """The folder that holds ``dags/`` and ``plugins/``: the checkout, or the working directory beside a wheel."""
    candidates = (Path(ninelives.__file__).resolve().parents[2], Path.cwd())
    for folder in candidates:
        if (folder / "dags").is_dir() and (folder / "plugins").is_dir():
            return folder
    raise Refused(
        "cannot find dags/ and plugins/",
        [f"neither {candidates[0]} nor {candidates[1]} has them", "run the command in a checkout of Ninelives"],
    )
