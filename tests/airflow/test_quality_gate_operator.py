"""The gate as a task: what fails for good, what is tried again, and what ends up in XCom."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from support.gate import GatedSite, gated_site, january, objects, publish
from support.processes import ROOT

from ninelives.flights.data import day_key, to_parquet
from ninelives_airflow.operators.gate import QualityGateOperator

pytestmark = [pytest.mark.airflow, pytest.mark.stack, pytest.mark.slow]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GatedSite]:
    with gated_site(tmp_path) as site:
        monkeypatch.setenv("NINELIVES_HOME", str(site.home.root))
        for conn_id, connection in site.connections.items():
            monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))
        yield site


def gate(**more: Any) -> QualityGateOperator:
    return QualityGateOperator(task_id="verify_flights", dataset="flights", site="dublin", **more)


def run(operator: QualityGateOperator) -> Any:
    return operator.execute({})  # type: ignore[arg-type]


def test_a_pass_returns_a_small_dict_and_a_no_fails_for_good_with_every_reason(site: GatedSite) -> None:
    flights = january()
    whole = objects(flights)
    manifest = publish(site.store, whole)
    answer = run(gate())
    assert answer == {
        "verdict": "pass",
        "rows": flights.source.num_rows,
        "expectations": answer["expectations"],
        "failures": 0,
        "suite_sha256": answer["suite_sha256"],
        "fingerprint": manifest.fingerprint,
        "evidence": 1,
    }
    assert len(json.dumps(answer)) < 400

    newest = date(2013, 1, 31)
    without = to_parquet(flights.day(newest).drop_columns(["carrier"]), newest)
    publish(site.store, whole | {day_key(newest): without})
    operator = gate()
    with pytest.raises(AirflowFailException, match=r"block.*schema of carrier.*missing.*see evidence 2"):
        run(operator)
    assert operator.evidence == 2


def test_the_gate_of_the_documentation_works_in_a_foreign_dag(site: GatedSite, tmp_path: Path) -> None:
    publish(site.store, objects(january()))
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "gates.md").read_text(), re.DOTALL)
    assert len(re.findall(r"# [123]$", example, re.MULTILINE)) == 3, "three lines, as it says"
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "theirs.py").write_text(example)
    bag = DagBag(str(tmp_path / "dags"))
    assert bag.import_errors == {}
    dag = bag.dags["train_nightly"]
    assert dag.get_task("train").upstream_task_ids == {"check_flights"}
    assert run(dag.get_task("check_flights"))["verdict"] == "pass"  # type: ignore[arg-type]

    one_day = gate(interval="2013-01-01T05:00Z/2013-01-02T05:00Z")
    assert run(one_day)["rows"] == 842


def test_data_that_cannot_be_judged_fails_for_good(site: GatedSite) -> None:
    with pytest.raises(AirflowFailException, match=r"error.*has no manifest of flights"):
        run(gate())


def test_a_store_that_does_not_answer_is_tried_again(site: GatedSite) -> None:
    site.processes.lose()
    with pytest.raises(AirflowException) as caught:
        run(gate())
    assert not isinstance(caught.value, AirflowFailException)


def test_the_fields_can_be_templates_and_nothing_heavy_is_imported_for_it() -> None:
    assert set(QualityGateOperator.template_fields) == {"dataset", "site", "interval"}
    program = (
        "import sys, airflow.sdk; before = set(sys.modules)\n"
        "from ninelives_airflow.operators.gate import QualityGateOperator\n"
        "QualityGateOperator(task_id='t', dataset='{{ params.d }}', site='{{ params.s }}')\n"
        "new = {m.split('.')[0] for m in set(sys.modules) - before}\n"
        "heavy = new & {'great_expectations', 'duckdb', 'pandas', 'pyarrow', 'boto3', 'mlflow'}\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
