"""Registers the plugin; everything is in ninelives_airflow, which Airflow's scan leaves alone."""

from ninelives_airflow.plugin import NinelivesPlugin  # noqa: F401
