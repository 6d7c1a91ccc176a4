"""Missed intervals of the DAGs that the estate names: found, planned, filled by Airflow's own backfill, recorded."""
