"""Accelerators, looked at where they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from ninelives_airflow.operators.base import EstateOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from ninelives_airflow.hooks.estate import EstateHook


class ValidateAcceleratorOperator(EstateOperator):
    """Look at this machine's accelerators, leave evidence, drain its replicas where one is faulty, and fail where they
    may not serve.

    The task goes to the queue that is called like the machine, to which that machine's worker listens alone.

    :param site: the machine's
    :param host: what the estate calls the machine
    """

    def __init__(self, *, site: str, host: str, **kwargs: Any) -> None:
        super().__init__(**{"queue": host, **kwargs})
        self.site = site
        self.host = host

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.accelerators.drain import follow
        from ninelives.accelerators.evidence import reasons_of, validate
        from ninelives.errors import Refused

        record = validate(systems, self.site, self.host, run=context["run_id"])
        self.evidence = record.seq  # the link is wanted most where something is wrong
        for finding in record.facts["findings"]:
            self.log.warning("%s", finding)
        done = follow(systems, self.site, self.host, record)
        for sentence in done:
            self.log.warning("%s", sentence)
        if reasons := reasons_of(record):
            raise Refused(f"accelerators of {record.subject}", [*reasons, *done, f"see evidence {record.seq}"])
        return {"devices": len(record.facts["devices"]), "evidence": record.seq}


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
