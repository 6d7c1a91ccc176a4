"""Cluster policies for ``airflow_local_settings.py``: ``from ninelives_airflow.policies import …``.

Imported while Airflow reads its settings, so this module imports nothing of Airflow.
"""

from __future__ import annotations

from typing import Any

BEHIND = 1_000_000
"""How much less a task of a backfill weighs than the same task of a live run."""


def task_instance_mutation_hook(task_instance: Any, dag_run: Any) -> None:
    """Let live runs go first: of two tasks that wait for a slot, Airflow starts the heavier one, and of two equal
    ones that of the older interval, which is always the backfill's."""
    # The hook is called more than once for a task, so it must not subtract again.
    if getattr(dag_run, "run_type", None) == "backfill" and task_instance.priority_weight > -BEHIND // 2:
        task_instance.priority_weight -= BEHIND
