"""Airflow's cluster policies, in ``$AIRFLOW_HOME/config``: live runs go before backfills."""

from ninelives_airflow.policies import task_instance_mutation_hook

__all__ = ["task_instance_mutation_hook"]
