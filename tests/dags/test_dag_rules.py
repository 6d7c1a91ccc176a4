"""Rules that every DAG keeps, checked on the files and on what Airflow makes of them."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pendulum
import pytest

DAGS = sorted((Path(__file__).parents[2] / "dags").glob("*.py"))
ALLOWED_IMPORTS = ("airflow.sdk", "airflow.providers.standard", "pendulum", "ninelives_airflow")
HEAVY = ("boto3", "dvc", "duckdb", "great_expectations", "lightgbm", "mlflow", "onnxruntime", "sklearn", "sqlglot")

# In a process of its own: what parsing imports can only be seen where nothing else was imported before.
PARSE = r"""
import json, re, sys, time, warnings
warnings.simplefilter("ignore")
import airflow.sdk, airflow.providers.standard.operators.hitl, pendulum
from airflow.dag_processing.dagbag import DagBag
before = set(sys.modules)
started = time.process_time()
bag = DagBag(sys.argv[1])
def rule(task): return str(getattr(task.trigger_rule, "value", task.trigger_rule))
def given(task):
    kwargs = getattr(task, "partial_kwargs", {})
    return [kwargs.get(name, getattr(task, name, None)) for name in task.template_fields]
print(json.dumps({
    "seconds": time.process_time() - started,
    "errors": bag.import_errors,
    "new_modules": sorted({name.split(".")[0] for name in set(sys.modules) - before}),
    "dags": {
        dag.dag_id: {
            "file": dag.fileloc,
            "doc": dag.doc_md or "",
            "tags": sorted(dag.tags),
            "by_the_clock": "Cron" in type(getattr(dag.timetable, "timetable", dag.timetable)).__name__,
            "starts": dag.start_date is not None,
            "params": sorted(dag.params),
            "tasks": {
                task.task_id: {
                    "rule": rule(task),
                    "leaf": not task.downstream_task_ids,
                    "teardown": task.is_teardown,
                    "fails_run": task.on_failure_fail_dagrun,
                    "params": sorted(set(re.findall(r"params\.(\w+)", repr(given(task))))),
                }
                for task in dag.tasks
            },
        }
        for dag in bag.dags.values()
    },
}))
"""


@pytest.fixture(scope="module")
def parsed() -> dict:
    done = subprocess.run(
        [sys.executable, "-c", PARSE, str(DAGS[0].parent)], capture_output=True, text=True, timeout=120, check=True
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_every_dag_parses(parsed: dict) -> None:
    assert parsed["errors"] == {}
    assert sorted(parsed["dags"]) == [path.stem for path in DAGS]


def test_a_dag_is_named_like_its_file_and_explains_itself(parsed: dict) -> None:
    for dag_id, dag in parsed["dags"].items():
        assert Path(dag["file"]).stem == dag_id
        assert dag["doc"].strip().startswith("# "), f"{dag_id}: the docstring is its page in the UI"
        assert dag["tags"], dag_id


def test_no_leaf_hides_a_failure_and_every_teardown_fails_its_run(parsed: dict) -> None:
    for dag_id, dag in parsed["dags"].items():
        for task_id, task in dag["tasks"].items():
            if task["teardown"]:
                assert task["fails_run"], f"{dag_id}.{task_id}: a failed clean-up must fail the run"
            elif task["leaf"]:
                assert task["rule"] == "all_success", f"{dag_id}.{task_id}: a leaf that runs anyway hides failures"


def test_a_task_names_only_params_that_the_form_has_and_the_form_asks_for_none_in_vain(parsed: dict) -> None:
    for dag_id, dag in parsed["dags"].items():
        named = {name for task in dag["tasks"].values() for name in task["params"]}
        assert named == set(dag["params"]), dag_id


def test_task_ids_are_verb_and_noun(parsed: dict) -> None:
    for dag_id, dag in parsed["dags"].items():
        for task_id in dag["tasks"]:
            assert "_" in task_id.split(".")[-1], f"{dag_id}.{task_id}"


def test_a_dag_by_the_clock_has_no_start_date_so_that_a_new_estate_does_not_begin_with_last_nights_runs(
    parsed: dict,
) -> None:
    by_the_clock = {dag_id: dag["starts"] for dag_id, dag in parsed["dags"].items() if dag["by_the_clock"]}
    calendar = {
        "audit_access", "audit_playbooks", "back_up_estate", "check_readiness", "reconcile_sites", "rehearse_redeploy",
        "retire_versions", "run_drill", "verify_backups",
    }  # fmt: skip
    assert by_the_clock == dict.fromkeys(calendar, False)


def test_what_was_due_just_before_airflow_started_is_not_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.serialization.decoders import decode_timetable
    from airflow.serialization.encoders import encode_timetable
    from airflow.timetables.base import TimeRestriction

    from ninelives_airflow.defaults import calendar

    timetable = decode_timetable(encode_timetable(calendar("0 3 * * *")))
    now = pendulum.datetime(2026, 1, 2, 3, 1, tz="UTC")
    monkeypatch.setattr("airflow.timetables.trigger.utcnow", lambda: now)
    restriction = TimeRestriction(earliest=None, latest=None, catchup=False)
    first = timetable.next_dagrun_info(last_automated_data_interval=None, restriction=restriction)
    assert first
    assert first.run_after == pendulum.datetime(2026, 1, 3, 3, 0, tz="UTC")


def test_parsing_loads_nothing_heavy(parsed: dict) -> None:
    assert set(parsed["new_modules"]) & set(HEAVY) == set()


@pytest.mark.parametrize("path", DAGS, ids=lambda path: path.stem)
def test_a_dag_file_is_wiring_only(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert len(text.splitlines()) <= 100
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    for node in ast.walk(tree):
        modules = (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        for module in modules:
            assert module.startswith(ALLOWED_IMPORTS), f"{path.name} imports {module}"


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "plugins").rglob("*.py")), ids=lambda path: path.name
)
def test_no_task_code_touches_airflows_metadata_database(path: Path) -> None:
    # dag.test() does not enforce this; real workers do.
    forbidden = ("airflow.models", "airflow.settings", "airflow.utils.session")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert not node.module.startswith(forbidden), f"{path}: {node.module}"


@pytest.mark.parametrize("path", DAGS, ids=lambda path: path.stem)
def test_the_variable_of_a_task_is_its_id(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            for keyword in node.value.keywords:
                if keyword.arg == "task_id" and isinstance(node.targets[0], ast.Name):
                    assert isinstance(keyword.value, ast.Constant)
                    assert keyword.value.value == node.targets[0].id


def test_the_readme_lists_every_dag_as_its_docstring_says() -> None:
    script = DAGS[0].parents[1] / "scripts" / "dag_table.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
