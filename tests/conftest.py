"""An Airflow of the tests' own: set before anything imports Airflow, away from any other on this machine."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HOME = Path(tempfile.mkdtemp(prefix="ninelives-tests-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)

os.environ.update(
    AIRFLOW_HOME=str(HOME / "airflow"),
    AIRFLOW__CORE__DAGS_FOLDER=str(ROOT / "dags"),
    AIRFLOW__CORE__PLUGINS_FOLDER=str(ROOT / "plugins"),
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{HOME}/airflow.db",
    AIRFLOW__LOGGING__LOGGING_LEVEL="WARNING",
    NINELIVES_HOME=str(HOME / "ninelives"),
    NINELIVES_ESTATE=str(ROOT / "include" / "estates" / "demo" / "estate.yaml"),
    GX_ANALYTICS_ENABLED="false",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first: `make test` lets a second process go through all others meanwhile."""
    items.sort(key=lambda item: item.path.name != "test_drill.py")
