"""A user's own Airflow: the wheel in a fresh environment, our bundle and plugin beside a DAG that is not ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOREIGN = """
from airflow.sdk import DAG
from airflow.providers.standard.operators.empty import EmptyOperator
from ninelives_airflow.operators.gate import QualityGateOperator

with DAG("theirs", schedule=None):
    EmptyOperator(task_id="load_data") >> QualityGateOperator(task_id="check_data", dataset="flights", site="paris")
"""
LOOK = """
import json, sys, warnings
warnings.simplefilter("ignore")
from airflow.dag_processing.dagbag import DagBag
from airflow import plugins_manager
bags = [DagBag(path) for path in sys.argv[1:]]
import ninelives, select
print(json.dumps({
    "dags": sorted(dag_id for bag in bags for dag_id in bag.dags),
    "errors": {name: error for bag in bags for name, error in bag.import_errors.items()},
    "plugins": [plugin.name for plugin in plugins_manager._get_plugins()[0] if plugin.name == "ninelives"],
    "plugin_errors": plugins_manager._get_plugins()[1],
    "library": ninelives.__file__,
    "select": getattr(select, "__file__", "built in"),
}))
"""


@pytest.mark.slow
@pytest.mark.airflow
def test_the_wheel_the_bundle_and_the_plugin_work_beside_a_foreign_dag(tmp_path: Path) -> None:
    uv = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
    run = {"check": True, "capture_output": True, "text": True, "timeout": 300}
    wheels = tmp_path / "wheels"
    subprocess.run(
        [uv, "build", "--wheel", "--no-build-isolation", "--python", sys.executable, "-o", wheels, ROOT], **run
    )
    inside = {name for wheel in wheels.glob("*.whl") for name in zipfile.ZipFile(wheel).namelist()}
    ours = {
        str(path.relative_to(folder))
        for folder, package in ((ROOT / "include", "ninelives"), (ROOT / "plugins", "ninelives_airflow"))
        for path in (folder / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in inside if ".dist-info/" not in name} == ours, "all that the code reads, and nothing else"
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([uv, "venv", "--python", sys.executable, tmp_path / "venv"], **run)
    subprocess.run([uv, "pip", "sync", "--python", python, ROOT / "requirements.lock"], **run)
    subprocess.run([uv, "pip", "install", "--python", python, "--no-deps", *wheels.glob("*.whl")], **run)

    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "theirs.py").write_text(FOREIGN)
    shutil.copytree(ROOT / "plugins", tmp_path / "plugins", ignore=shutil.ignore_patterns("ninelives_airflow"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHONPATH"))}
    environment |= {
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(tmp_path / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    done = subprocess.run(
        [python, "-c", LOOK, ROOT / "dags", theirs], env=environment, cwd=tmp_path, check=False,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["errors"] == {}
    assert found["plugin_errors"] == {}
    assert found["dags"] == sorted([*(path.stem for path in (ROOT / "dags").glob("*.py")), "theirs"])
    assert found["plugins"] == ["ninelives"], "registered once, not twice"
    assert str(tmp_path / "venv") in found["library"], "the wheel's code, not the checkout's"
