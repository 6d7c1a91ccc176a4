"""Make the secrets that docker-compose.yaml mounts: ``python deploy/make_secrets.py``. Keeps those that exist."""

from __future__ import annotations

import base64
import json
import os
import secrets
from pathlib import Path

FOLDER = Path(__file__).parent / "secrets"
SITES = ("paris", "dublin")


def token(name: str, size: int = 32) -> str:
    """A random secret, made once and kept in ``deploy/secrets/NAME`` (mode 0600)."""
    path = FOLDER / name
    if not path.exists():
        write(path, secrets.token_hex(size))
    return path.read_text()


def write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def main() -> None:
    FOLDER.mkdir(mode=0o700, exist_ok=True)
    owner = token("postgres_password")
    writer = token("ledger_writer_password")
    redis = token("redis_password")
    for name, size in (("airflow_jwt", 64), ("airflow_api_secret", 64), ("service_password", 24)):
        token(name, size)
    if not (FOLDER / "airflow_fernet").exists():
        write(FOLDER / "airflow_fernet", base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())
    base = f"postgresql+psycopg2://ninelives:{owner}@postgres"
    write(FOLDER / "airflow_database", f"{base}/airflow")
    write(FOLDER / "airflow_results", f"db+postgresql://ninelives:{owner}@postgres/airflow")
    write(FOLDER / "airflow_broker", f"redis://:{redis}@redis:6379/0")
    write(FOLDER / "mlflow_database", f"{base}/mlflow")
    write(FOLDER / "ledger_owner", f"{base}/ledger")
    connections: dict[str, dict[str, object]] = {
        "ninelives_gateway": {
            "conn_type": "generic",
            "extra": {
                "url": "http://gateway:8080", "admin": "http://gateway:9901", "folder": "/var/lib/ninelives/gateway",
            },
        },
        "ninelives_ledger": {
            "conn_type": "postgres", "host": "postgres", "port": 5432, "schema": "ledger",
            "login": "ledger_writer", "password": writer,
        },
        "ninelives_mlflow": {"conn_type": "http", "host": "mlflow", "port": 5000},
        "ninelives_airflow_api": {
            "conn_type": "http", "host": "api-server", "port": 8080,
            "login": "ninelives", "password": token("service_password", 24),
        },
    }  # fmt: skip
    for site in SITES:
        connections[f"ninelives_{site}_store"] = {
            "conn_type": "aws", "login": token(f"{site}_access_key", 8), "password": token(f"{site}_secret_key"),
            "extra": {"endpoint_url": f"http://site-{site}:9000", "region_name": "local"},
        }  # fmt: skip
        connections[f"ninelives_{site}_replicas"] = {
            "conn_type": "generic", "password": token(f"{site}_replica_key"),
            "extra": {"urls": [f"http://site-{site}:9001", f"http://site-{site}:9002"]},
        }  # fmt: skip
        connections[f"ninelives_{site}_control"] = {
            "conn_type": "generic", "login": "ninelives", "password": token(f"{site}_control_password"),
            "extra": {
                "server": f"http://site-{site}:9009", "group": f"site-{site}", "answers": [],
                "programs": {"store": ["store"], "replica": ["replica-1", "replica-2"]},
                "addresses": {
                    "store": f"http://site-{site}:9000",
                    "replica-1": f"http://site-{site}:9001/v2/health/live",
                    "replica-2": f"http://site-{site}:9002/v2/health/live",
                },
            },
        }  # fmt: skip
    path = FOLDER / "connections.json"
    others = json.loads(path.read_text()) if path.exists() else {}  # like that of a vault, which only you can know
    write(path, json.dumps({**others, **connections}, indent=1))


if __name__ == "__main__":
    main()
