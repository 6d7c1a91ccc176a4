"""Who judges a dataset's files: as it declares, where the connection says, and a plain refusal where it cannot be."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from ninelives.adapters import gx_spark
from ninelives.adapters.connected import ConnectedEstate
from ninelives.adapters.connections import FileConnections
from ninelives.adapters.great_expectations import GreatExpectations
from ninelives.errors import Refused
from ninelives.estate import Estate
from ninelives.estate.document import read_document
from ninelives.gates.suite import Suite
from ninelives.home import Home
from ninelives.ports import Connection

DEMO = Path(__file__).parents[3] / "include/estates/demo/estate.yaml"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which something that calls itself pyspark, and Java 17, can be found; neither is run."""
    (tmp_path / "libraries" / "pyspark").mkdir(parents=True)
    (tmp_path / "libraries" / "pyspark" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "libraries"))
    monkeypatch.delitem(sys.modules, "pyspark", raising=False)
    java(tmp_path, monkeypatch, "17.0.15")
    return tmp_path


def java(folder: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    program = folder / "jvm" / "bin" / "java"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-04-15' >&2\n")
    program.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(folder / "jvm"))


def systems(folder: Path, connections: dict[str, Any], **flights: Any) -> ConnectedEstate:
    document = json.loads(json.dumps(read_document(DEMO).data))
    document["datasets"][0] |= flights
    (folder / "connections.json").write_text(json.dumps(connections))
    estate = Estate.model_validate(document)
    return ConnectedEstate(estate, FileConnections(folder / "connections.json"), Home(folder))


def spark_of(systems: ConnectedEstate) -> Any:
    engine = systems.expectations("flights")
    assert isinstance(engine, GreatExpectations)
    return engine.spark


def test_duckdb_judges_what_declares_nothing_and_all_that_is_no_dataset(tmp_path: Path) -> None:
    assert spark_of(systems(tmp_path, {})) is None
    assert systems(tmp_path, {}, gate_engine="spark").expectations() == GreatExpectations()


def test_spark_runs_in_one_process_where_no_connection_says_otherwise(installed: Path) -> None:
    place = spark_of(systems(installed, {}, gate_engine="spark"))
    assert place == {"address": "local[*]", "settings": {}, "name": "in one process"}
    assert gx_spark.environment(place)["SPARK_LOCAL_IP"] == "127.0.0.1"


def test_spark_runs_where_the_connection_says_and_evidence_has_its_name_not_its_address(installed: Path) -> None:
    connection = {"conn_type": "spark", "host": "spark://10.0.0.7", "port": 7077}
    connection["extra"] = {"conf": {"spark.executor.memory": "8g", "spark.executor.cores": 4}, "deploy-mode": "client"}
    place = spark_of(systems(installed, {"ninelives_spark": connection}, gate_engine="spark"))
    assert place == {
        "address": "spark://10.0.0.7:7077",
        "settings": {"spark.executor.memory": "8g", "spark.executor.cores": "4"},
        "name": "at ninelives_spark",
    }
    assert "SPARK_LOCAL_IP" not in gx_spark.environment(place)


def test_spark_connect_needs_no_java_here_and_signs_in_with_the_password(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(installed / "nothing"))
    remote = Connection("ninelives_spark", host="sc://spark.example", port=15002, password="token-4711")
    assert gx_spark.place(remote)["address"] == "sc://spark.example:15002/;use_ssl=true;token=token-4711"


def test_without_pyspark_it_is_refused_with_what_to_install(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyspark", None)
    with pytest.raises(Refused, match=r"pip install 'ninelives\[gates,spark\]'.*gate_engine: duckdb"):
        spark_of(systems(installed, {}, gate_engine="spark"))


@pytest.mark.parametrize("version", ["1.8.0_392", "11.0.21"])
def test_a_java_that_is_too_old_is_refused_with_what_to_install(
    installed: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    java(installed, monkeypatch, version)
    with pytest.raises(Refused, match=rf"{version}.*install a Java runtime 17 or newer"):
        spark_of(systems(installed, {}, gate_engine="spark"))


@pytest.mark.parametrize("home", ["nothing", ""])
def test_without_java_it_is_refused_with_what_to_install(
    installed: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(installed / home) if home else "")
    monkeypatch.setenv("PATH", str(installed))
    with pytest.raises(Refused, match=r"openjdk-17-jre-headless"):
        spark_of(systems(installed, {}, gate_engine="spark"))


def test_a_suite_with_too_little_memory_for_spark_is_an_error_before_anything_is_started() -> None:
    reason = "Because the test says so."
    asked = {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "n"}, "reason": reason}
    document = {"dataset": "d", "schema": {"n": "int64"}, "min_rows": 1, "memory": "1GB", "expectations": [asked]}
    here = GreatExpectations(spark=gx_spark_place())
    (error,) = here.evaluate(Suite.model_validate(document), {}).errors
    assert error == "memory is 1000 MB, and a check by Spark needs 1500; let the suite have more"


def gx_spark_place() -> dict[str, Any]:
    return {"address": "local[*]", "settings": {}, "name": "in one process"}
