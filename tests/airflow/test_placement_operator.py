"""The audit of placement as a task, against stand-ins for both sites' API servers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from support.cluster import running
from support.kube_api import stand_in

from ninelives.adapters.ledger import SqlLedger, migrate
from ninelives.compilers.kubernetes import compile_site
from ninelives.estate import load_estate
from ninelives.placement.audit import KIND
from ninelives_airflow.hooks.estate import EstateHook
from ninelives_airflow.operators.placement import AuditPlacementOperator

pytestmark = [pytest.mark.airflow, pytest.mark.stack]
ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "kubernetes" / "estate.yaml"


def run(task: AuditPlacementOperator) -> Any:
    return task.execute({"run_id": "run-1"})  # type: ignore[typeddict-item]


def test_drift_fails_at_once_a_silent_cluster_after_its_retries_and_each_leaves_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    estate, task = load_estate(GOLDEN), AuditPlacementOperator(task_id="audit_clusters")
    monkeypatch.setenv("NINELIVES_ESTATE", str(shutil.copy(GOLDEN, tmp_path)))
    migrate(f"sqlite:///{tmp_path / 'ledger.db'}")
    monkeypatch.setattr(EstateHook, "ledger", lambda _: SqlLedger(f"sqlite:///{tmp_path / 'ledger.db'}"))
    rules = [rule for one in compile_site(estate, "paris")["replicas.yaml"] for rule in one.get("rules", ())]
    with stand_in() as paris, stand_in() as dublin:
        for site, server in {"paris": paris, "dublin": dublin}.items():
            connection = {"conn_type": "kubernetes", "extra": {"kube_config": server.kube_config("steering")}}
            monkeypatch.setenv(f"AIRFLOW_CONN_NINELIVES_{site.upper()}_KUBERNETES", json.dumps(connection))
            server.set(roles={"steering": rules}, lists=running(estate, site))
        assert run(task) == {"verdict": "met", "evidence": 1}
        paris.kill()
        with pytest.raises(AirflowException, match=r"the API server of paris did not answer.*see evidence 2") as silent:
            run(task)
        assert not isinstance(silent.value, AirflowFailException), "it may answer again"
        dublin.set(lists=running(estate, "dublin") | {"poddisruptionbudgets": []})
        with pytest.raises(AirflowFailException, match="dublin late disruption budget: is not there"):
            run(task)
    records = EstateHook().ledger().records(kind=KIND)
    assert [(one.facts["verdict"], one.facts["run"]) for one in records] == [
        (verdict, "run-1") for verdict in ("missed", "unknown", "met")
    ]
    assert task.evidence == 3


def test_an_estate_elsewhere_has_nothing_to_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NINELIVES_ESTATE", str(ROOT / "include" / "estates" / "demo" / "estate.yaml"))
    with pytest.raises(AirflowSkipException):
        run(AuditPlacementOperator(task_id="audit_clusters"))
