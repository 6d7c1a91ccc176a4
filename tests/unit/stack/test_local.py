"""What is written before anything runs: ports, secrets, connections, configurations."""

from __future__ import annotations

import configparser
import json
import os
import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ninelives.adapters.connections import FileConnections
from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.estate import Estate, load_estate
from ninelives.home import Home
from ninelives.stack import airflow, launch, supervisord
from ninelives.stack.local import LocalEstate, supervisor_socket
from ninelives.stack.ports import Ports, check_free, port_base
from ninelives.stack.programs import AIRFLOW_COMPONENTS
from ninelives.stack.secrets import Secrets

PROJECT = Path(__file__).parents[3]
AIRFLOW_KEYS = {"conn_type", "host", "port", "login", "password", "schema", "extra"}


@pytest.fixture
def local(tmp_path: Path) -> LocalEstate:
    home = Home(tmp_path / "a % home")
    home.root.mkdir()
    estate = load_estate(PROJECT / "include" / "estates" / "demo" / "estate.yaml")
    return LocalEstate(home, estate, Ports(20000, estate.site_names), Secrets(home.root / "secrets" / "secrets.json"))


def test_no_port_is_used_twice_and_clones_a_hundred_apart_do_not_meet() -> None:
    sites = tuple(f"site{number}" for number in range(10))
    one, other = Ports(18400, sites).named(), Ports(18500, sites).named()
    assert len(set(one.values())) == len(one)
    assert not set(one.values()) & set(other.values())


@pytest.mark.parametrize("base", [80, 65530])
def test_a_base_without_room_is_refused(base: int) -> None:
    with pytest.raises(Refused, match="NINELIVES_PORT_BASE"):
        Ports(base, ("paris", "dublin"))


def test_the_base_comes_from_the_environment_then_from_the_last_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NINELIVES_PORT_BASE", raising=False)
    assert (port_base(None), port_base(19000)) == (18400, 19000)
    monkeypatch.setenv("NINELIVES_PORT_BASE", "21000")
    assert port_base(19000) == 21000
    monkeypatch.setenv("NINELIVES_PORT_BASE", "many")
    with pytest.raises(Refused, match="whole number"):
        port_base(None)


def test_a_taken_port_is_refused_with_its_use_its_holder_and_what_to_set() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(
            Refused, match=rf"port {port} \(gateway\) is held by .*pid {os.getpid()}.*NINELIVES_PORT_BASE"
        ):
            check_free({"gateway": port})
    check_free({"gateway": port})


def test_secrets_are_private_stable_and_saved_before_they_are_used(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "secrets.json"
    value = Secrets(path).token("a")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    again = Secrets(path)
    assert (again.token("a"), again.made) == (value, [])
    assert again.token("b") != value


def test_a_spoilt_secrets_file_stops_the_start_instead_of_making_new_passwords(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    path.write_text("{")
    with pytest.raises(Corrupted, match="passwords are lost"):
        Secrets(path)


def test_connections_are_what_airflow_reads_and_what_adapters_read(local: LocalEstate, tmp_path: Path) -> None:
    found = local.connections()
    assert {
        "ninelives_paris_store",
        "ninelives_dublin_replicas",
        "ninelives_paris_control",
        "ninelives_gateway",
        "ninelives_ledger",
        "ninelives_mlflow",
        "ninelives_airflow_api",
    } <= set(found)
    assert all(set(entry) <= AIRFLOW_KEYS for entry in found.values())
    path = tmp_path / "connections.json"
    path.write_text(json.dumps(found))
    store = FileConnections(path).get("ninelives_paris_store")
    assert store.extra["endpoint_url"] == "http://127.0.0.1:20013", "the way from outside its site"
    assert store.password
    assert store.password not in repr(store)
    with pytest.raises(Unavailable, match="ninelives_rome_store"):
        FileConnections(path).get("ninelives_rome_store")


def test_a_missing_connections_file_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="ninelives stack up"):
        FileConnections(tmp_path / "none.json").get("ninelives_gateway")


def test_supervisord_reads_its_configuration_back_from_a_path_with_spaces_and_percent(local: LocalEstate) -> None:
    from supervisor.options import ServerOptions  # type: ignore[import-untyped]

    supervisord.write_config(local)
    local.home.logs.mkdir()
    path = supervisord.config_file(local)
    assert path.stat().st_mode & 0o777 == 0o600
    options = ServerOptions()
    options.realize(["-c", str(path)])
    assert options.logfile == str(local.log_of("supervisord"))
    assert options.server_configs[0]["file"] == str(local.supervisor_socket)
    groups = {group.name: group.process_configs for group in options.process_group_configs}
    assert set(groups) == {program.group for program in local.programs}
    for config in groups["site-paris"]:
        assert (config.stopsignal.name, config.killasgroup, config.stopasgroup) == ("SIGKILL", True, True)
        assert config.stdout_logfile == str(local.log_of(config.name))
    (gateway,) = groups["gateway"]
    assert gateway.stdout_logfile == str(local.home.logs / "access.jsonl"), "its requests, apart from what it says"
    assert gateway.stderr_logfile == str(local.log_of("gateway"))
    assert not any(config.autostart for configs in groups.values() for config in configs)


def test_no_secret_is_on_a_command_line(local: LocalEstate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "binary", lambda name: f"/bin/{name}")
    monkeypatch.setattr("ninelives.stack.postgres._unprivileged", lambda data: ())
    local.connections()
    airflow.settings(local, PROJECT)
    words = [word for program in local.programs for word in launch.command(local, program).arguments]
    secrets = json.loads((local.home.root / "secrets" / "secrets.json").read_text())
    assert len(secrets) > 10
    assert not [name for name, value in secrets.items() if any(value in word for word in words)]


def test_where_an_accelerator_is_played_the_processor_plays_it_for_the_replicas_too(local: LocalEstate) -> None:
    document = local.estate.model_dump(mode="json")
    document["sites"][0]["accelerators"] = [{"name": "gpu-1", "policy": {"kind": "stand-in"}}]
    document["sites"][1]["accelerators"] = [{"name": "gpu-2"}]
    played = replace(local, estate=Estate.model_validate(document))
    told = {
        site: launch.command(played, played.program(f"{site}-replica-1")).environment.get("NINELIVES_PROVIDER")
        for site in played.estate.site_names
    }
    assert told == {"paris": "CPUExecutionProvider", "dublin": None}, "a real one is never played"


def test_airflow_has_no_administrator_and_listens_on_loopback_only(local: LocalEstate) -> None:
    parser = configparser.RawConfigParser()
    parser.read_string(airflow.render(airflow.settings(local, PROJECT)))
    assert parser["core"]["simple_auth_manager_users"] == "ada:op,grace:op,ninelives:op"
    assert parser["api"]["host"] == "127.0.0.1"
    assert len(parser["api_auth"]["jwt_secret"]) >= 64
    assert "%%" in parser["logging"]["base_log_folder"]
    for component in AIRFLOW_COMPONENTS:
        arguments = launch.command(local, local.program(f"airflow-{component}")).arguments
        # Airflow's log servers bind every interface and cannot be told otherwise.
        assert ("--skip-serve-logs" in arguments) == (component in {"scheduler", "triggerer"})


def test_airflow_reads_the_users_own_dags_and_lets_live_runs_go_before_backfills(local: LocalEstate) -> None:
    airflow.write_config(local)
    config = configparser.ConfigParser()
    config.read(local.airflow_home / "airflow.cfg")
    bundles = json.loads(config["dag_processor"]["dag_bundle_config_list"])
    assert [bundle["kwargs"].get("path") for bundle in bundles] == [None, str(local.home.dags)]
    assert local.home.dags.is_dir()
    assert int(config["scheduler"]["max_dagruns_per_loop_to_schedule"]) > 20
    policies: dict[str, Any] = {}
    exec((local.airflow_home / "config" / "airflow_local_settings.py").read_text(), policies)
    task = SimpleNamespace(priority_weight=7)
    for _ in range(2):  # Airflow applies it more than once
        policies["task_instance_mutation_hook"](task, SimpleNamespace(run_type="backfill"))
    assert -2_000_000 < task.priority_weight < 0
    live = SimpleNamespace(priority_weight=7)
    policies["task_instance_mutation_hook"](live, SimpleNamespace(run_type="scheduled"))
    policies["task_instance_mutation_hook"](live, None)
    assert live.priority_weight == 7


def test_a_users_own_settings_do_not_reach_the_programs(local: LocalEstate, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AIRFLOW__CORE__EXECUTOR", "AWS_PROFILE", "RCLONE_CONFIG", "MLFLOW_TRACKING_URI", "http_proxy"):
        monkeypatch.setenv(name, "mine")
    assert "mine" not in supervisord.environment(local).values()


def test_a_home_too_deep_for_a_socket_gets_a_short_one(tmp_path: Path) -> None:
    assert supervisor_socket(Home(Path("/srv/home"))) == Path("/srv/home/run/supervisor.sock")
    deep = supervisor_socket(Home(tmp_path / ("x" * 100)))
    assert len(os.fsencode(deep)) < 90
    assert deep != supervisor_socket(Home(tmp_path / ("y" * 100)))
