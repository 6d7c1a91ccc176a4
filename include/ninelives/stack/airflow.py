"""Airflow's settings for the local estate. All of them go to ``airflow.cfg``, mode 0600: nothing secret in a process's
environment. The numbers are measured ones where a comment says so."""

from __future__ import annotations

import configparser
import io
import json
import subprocess
import sys
from pathlib import Path

from ninelives.adapters.http_client import http_client
from ninelives.errors import Unavailable
from ninelives.estate import Estate
from ninelives.estate.model import Role
from ninelives.files import write_atomically
from ninelives.stack.local import SERVICE_ACCOUNT, LocalEstate, project_folder
from ninelives.stack.secrets import private_folder

LOCAL_SETTINGS = """import sys

from ninelives_airflow.policies import task_instance_mutation_hook

if "scheduler" in sys.argv:
    import ninelives_airflow.preload

__all__ = ["task_instance_mutation_hook"]
"""
"""Airflow reads cluster policies from a module of a fixed name; one in a wheel's entry point is not applied to new
tasks unless there is such a module. Measured: a task costs 1.2 s of CPU, and 0.4 s less if it need not import."""


def airflow_environment(local: LocalEstate) -> dict[str, str]:
    return {"AIRFLOW_HOME": str(local.airflow_home), "NINELIVES_HOME": str(local.home.root)}


def airflow_users(estate: Estate) -> tuple[str, ...]:
    """Everybody in the estate who acts on it, and the account that tasks and the command line use.

    Who only keeps the vault has nothing to do here: whoever can run DAGs can run them with the connections they have.
    """
    people = (person.name for person in estate.people if set(person.roles) != {Role.KEEPER})
    return (*people, SERVICE_ACCOUNT)


def password_name(user: str) -> str:
    """What the user's password is called among the secrets."""
    return f"airflow-user-{user}"


def passwords(local: LocalEstate) -> dict[str, str]:
    return {name: local.secrets.token(password_name(name), 12) for name in airflow_users(local.estate)}


def settings(local: LocalEstate, project: Path) -> dict[str, dict[str, object]]:
    """Section to option to value."""
    secrets, ports = local.secrets, local.ports
    url = f"http://127.0.0.1:{ports.airflow}"
    connections = json.dumps({"connections_file_path": str(local.home.connections_file)})
    backend = "airflow.secrets.local_filesystem.LocalFilesystemBackend"
    return {
        "core": {
            "dags_folder": project / "dags",
            "plugins_folder": project / "plugins",
            "load_examples": False,
            "executor": "LocalExecutor",
            "parallelism": 8,  # tasks mostly wait; each is a forked process of about 100 MB
            "max_active_tasks_per_dag": 8,
            "dags_are_paused_at_creation": False,
            "fernet_key": secrets.fernet_key("airflow-fernet"),
            "execution_api_server_url": f"{url}/execution/",
            # Everybody may run and clear; nobody administers. Who may approve is decided by the gate itself.
            "simple_auth_manager_users": ",".join(f"{name}:op" for name in airflow_users(local.estate)),
            "simple_auth_manager_passwords_file": _passwords_file(local),
        },
        "database": {
            "sql_alchemy_conn": local.database_url("airflow", "airflow"),
            "load_default_connections": False,
            "sql_alchemy_pool_size": 5,
        },
        "api": {
            "host": "127.0.0.1",
            "port": ports.airflow,
            "base_url": url,
            "workers": 1,
            "secret_key": secrets.token("airflow-secret-key", 64),
            "expose_config": False,
            "expose_stacktrace": False,
        },
        "api_auth": {"jwt_secret": secrets.token("airflow-jwt", 64)},
        "scheduler": {
            # Measured: idle, scheduler and database take 0.36 of a core at 0.1 s and 0.18 at 0.3 s, for 0.1 s a hop.
            "scheduler_idle_sleep_time": 0.3,
            "task_instance_heartbeat_sec": 5,  # measured: a killed worker is noticed after 31 s instead of 5 minutes
            "task_instance_heartbeat_timeout": 30,
            "task_instance_heartbeat_timeout_detection_interval": 5,
            "orphaned_tasks_check_interval": 30,
            "scheduler_health_check_threshold": 30,
            "trigger_timeout_check_interval": 5,
            # The scheduler looks at live runs before backfill ones and at no more than this many: with the default of
            # 20, twenty waiting live runs stop every backfill.
            "max_dagruns_per_loop_to_schedule": 200,
            "enable_health_check": False,
        },
        "dag_processor": {
            "dag_bundle_config_list": json.dumps(_bundles(local)),
            "parsing_processes": 1,
            "min_file_process_interval": 300,  # a changed file is read sooner, see refresh_interval
            "refresh_interval": 30,
            "print_stats_interval": 0,
        },
        "logging": {
            "base_log_folder": local.home.logs / "airflow",
            "logging_level": "INFO",
            "colored_console_log": False,
        },
        "secrets": {"backend": backend, "backend_kwargs": connections},
        "workers": {
            "secrets_backend": backend,
            "secrets_backend_kwargs": connections,
            # For so long a supervisor may overlook that its task has ended. A task that is parked and goes on within
            # that time looks to the scheduler as if it had died, and is tried once more.
            "min_heartbeat_interval": 1,
        },
        "triggerer": {"capacity": 100},
        "usage_data_collection": {"enabled": False},
    }


def _bundles(local: LocalEstate) -> list[dict[str, object]]:
    """The DAGs of Ninelives, and the user's own."""
    classpath = "airflow.dag_processing.bundles.local.LocalDagBundle"
    return [
        {"name": "ninelives", "classpath": classpath, "kwargs": {}},
        {"name": "own", "classpath": classpath, "kwargs": {"path": str(local.home.dags)}},
    ]


def render(sections: dict[str, dict[str, object]]) -> str:
    """As INI; ``%`` is doubled because Airflow interpolates."""
    parser = configparser.RawConfigParser()
    for section, options in sections.items():
        parser.add_section(section)
        for name, value in options.items():
            parser.set(section, name, str(value).replace("%", "%%"))
    text = io.StringIO()
    parser.write(text)
    return text.getvalue()


def write_config(local: LocalEstate) -> None:
    """``airflow.cfg`` and the users' passwords."""
    private_folder(local.airflow_home)
    private_folder(local.home.dags)
    private_folder(local.airflow_home / "config")
    write_atomically(local.airflow_home / "config" / "airflow_local_settings.py", LOCAL_SETTINGS.encode())
    config = render(settings(local, project_folder()))
    write_atomically(local.airflow_home / "airflow.cfg", config.encode(), mode=0o600)
    # Airflow locks and reads this file while it runs, so it is only replaced when somebody joined or left.
    wanted = json.dumps(passwords(local)).encode()
    path = _passwords_file(local)
    if not path.exists() or path.read_bytes() != wanted:
        write_atomically(path, wanted, mode=0o600)


def migrate(local: LocalEstate, environment: dict[str, str]) -> None:
    """Bring Airflow's database to this version's schema, once per version; raises ``Unavailable`` with the log."""
    from importlib.metadata import version

    wanted, done = version("apache-airflow-core"), local.airflow_home / "migrated"
    if done.exists() and done.read_text("utf-8") == wanted:
        return
    log = local.log_of("airflow-migrate")
    with log.open("wb") as output:
        ran = subprocess.run(
            [sys.executable, "-m", "airflow", "db", "migrate"],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**environment, **airflow_environment(local)},
            check=False,
        )
    if ran.returncode:
        raise Unavailable(f"`airflow db migrate` failed, see {log}:\n{tail(log)}")
    write_atomically(done, wanted.encode())


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a log file, indented."""
    try:
        text = log.read_bytes()[-20_000:].decode("utf-8", "replace")
    except FileNotFoundError:
        return "    (no log was written)"
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:]) or "    (the log is empty)"


def _passwords_file(local: LocalEstate) -> Path:
    return local.home.root / "secrets" / "airflow-passwords.json"


def healthy(local: LocalEstate) -> bool:
    """Whether the API server answers and has seen the other components alive."""
    import httpx

    try:
        with http_client(f"http://127.0.0.1:{local.ports.airflow}", timeout=5.0) as client:
            answer = client.get("/api/v2/monitor/health")
        parts = answer.json() if answer.status_code == 200 else {}
    except (httpx.HTTPError, ValueError):
        return False
    names = ("metadatabase", "scheduler", "dag_processor", "triggerer")
    return all((parts.get(name) or {}).get("status") == "healthy" for name in names)
