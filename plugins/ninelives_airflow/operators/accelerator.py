"""Accelerators, looked at where they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from ninelives_airflow.defaults import on_kubernetes
from ninelives_airflow.operators.base import EstateOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from ninelives.ports import Record
    from ninelives_airflow.hooks.estate import EstateHook


class ValidateAcceleratorOperator(EstateOperator):
    """Look at this machine's accelerators, leave evidence, drain its replicas where one is faulty, and fail where they
    may not serve.

    The task goes to the queue that is called like the machine, to which that machine's worker listens alone.

    :param site: the machine's
    :param host: what the estate calls the machine; a template needs a ``queue`` beside it, which is none
    """

    template_fields = ("site", "host")

    def __init__(self, *, site: str, host: str, **kwargs: Any) -> None:
        super().__init__(**{"queue": host, **kwargs})
        self.site = site
        self.host = host

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.accelerators.evidence import validate

        return conclude(self, systems, validate(systems, self.site, self.host, run=context["run_id"]))


def conclude(task: Any, systems: EstateHook, look: Record) -> dict[str, Any]:
    """What follows from a look at ``task.host``: drained or given back, and ``Refused`` where it may not serve."""
    from ninelives.accelerators.drain import follow
    from ninelives.accelerators.evidence import reasons_of
    from ninelives.errors import Refused

    task.evidence = look.seq  # the link is wanted most where something is wrong
    done = follow(systems, task.site, task.host, look)
    for sentence in (*look.facts["findings"], *done):
        task.log.warning("%s", sentence)
    if reasons := reasons_of(look):
        raise Refused(f"accelerators of {look.subject}", [*reasons, *done, f"see evidence {look.seq}"])
    return {"devices": len(look.facts["devices"]), "evidence": look.seq}


def validation(site: str, host: str) -> BaseOperator:
    """The task that looks at a machine: its own worker's, or a pod on its node where the estate runs on Kubernetes."""
    task_id = f"validate_{host}"
    if on_kubernetes():
        # Its import costs seconds, and the provider is not everywhere.
        from ninelives_airflow.operators.accelerator_pod import ValidateAcceleratorPodOperator

        return ValidateAcceleratorPodOperator(task_id=task_id, site=site, host=host)
    return ValidateAcceleratorOperator(task_id=task_id, site=site, host=host)


class JudgeAcceleratorsOperator(EstateOperator):
    """Fail the run while a model could not be promoted for want of an accelerator that was found sound."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.accelerators.evidence import models_at, standing
        from ninelives.errors import Refused

        estate, ledger = systems.estate, systems.ledger()
        sites = [site.name for site in estate.sites if site.accelerators]
        if not sites:
            raise AirflowSkipException("No site declares machines with accelerators, so there is nothing to look at.")
        found = {
            f"{model}@{site}": standing(estate, ledger, site, model)
            for site in sites
            for model in models_at(estate, site)
        }
        if reasons := [f"{where}: {reason}" for where, one in found.items() for reason in one.reasons]:
            raise Refused("accelerators", reasons)
        return {"models": sorted(found)}
