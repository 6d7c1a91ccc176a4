"""``ninelives tasks``."""

from __future__ import annotations

from datetime import UTC, datetime

from ninelives.cli.common import AsJson, console, emit
from ninelives.cli.recover import connected


def tasks(as_json: AsJson = False) -> None:
    """What needs a person now: why, until when, and the steps to paste. Answered in Airflow's Required Actions, but for
    what the next run of a DAG tries again by itself.
    """
    from ninelives.people.task import GIVE_UP, GO_ON, open_tasks, render_task

    systems = connected()
    found = open_tasks(systems.ledger(), datetime.now(UTC))
    document = [
        {**task.facts(), "options": [GO_ON, GIVE_UP] if task.stopped.waits else [], "evidence": task.evidence}
        for task in found
    ]

    if as_json:
        emit(document, as_json=True, text=str)
        return
    for task in found:
        console.print(f"# {task.stopped.headline}\n\n{render_task(systems, task)}", markup=False, soft_wrap=True)
    if not found:
        console.print("Nothing waits for a person.")
