"""The Compose file is read by a real Compose, which needs no Docker engine for that."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]


def compose() -> list[str]:
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, "version", "--short"], capture_output=True, text=True, check=False)
            major = done.stdout.strip().lstrip("v").split(".")[0]
            if major.isdecimal() and int(major) >= 2:
                return command
    pytest.skip("no Docker Compose 2 on this machine: the file was not read by the tool it is for")


def test_compose_accepts_the_file_with_the_secrets_that_the_script_makes(tmp_path: Path) -> None:
    command = compose()
    for name in ("docker-compose.yaml", "Dockerfile"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy", ignore=shutil.ignore_patterns("secrets"))
    subprocess.run([sys.executable, str(tmp_path / "deploy" / "make_secrets.py")], check=True)
    done = subprocess.run([*command, "config", "-q"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_secret_that_compose_mounts_is_made_privately_and_only_once(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy", ignore=shutil.ignore_patterns("secrets"))
    script = str(tmp_path / "deploy" / "make_secrets.py")
    subprocess.run([sys.executable, script], check=True)
    folder = tmp_path / "deploy" / "secrets"
    connections = json.loads((folder / "connections.json").read_text())
    mine = {"ninelives_vault": {"conn_type": "http", "host": "vault.example"}}
    (folder / "connections.json").write_text(json.dumps({**mine, **connections}, indent=1))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    subprocess.run([sys.executable, script], check=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    declared = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())["secrets"]
    assert {Path(one["file"]).name for one in declared.values()} <= set(before)


def test_nothing_but_gateway_and_airflow_is_published_and_only_on_loopback() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())["services"]
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert set(published) == {"api-server", "gateway"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)
