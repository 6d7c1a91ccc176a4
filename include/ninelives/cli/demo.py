"""``ninelives demo``: from nothing to a measured loss of a site, in one command."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ninelives.cli.common import console, emit, errors
from ninelives.errors import NinelivesError, Unavailable
from ninelives.home import Home

if TYPE_CHECKING:
    from ninelives.adapters.airflow_api import AirflowApi
    from ninelives.adapters.connected import ConnectedEstate

PARSED_WITHIN = 120.0
"""Seconds that Airflow may take to read the DAGs after its first start."""

READY_WITHIN = 300.0
"""Seconds that replication, gates and the prober may take until a drill may start."""

_END_WITH_THE_GATE = ("replicate_data", "return_site", "reconcile_sites")
"""DAGs after which every copy has a verdict; the second starts the third."""


def demo() -> None:
    """Start the demo estate, lose a site on purpose, and say what users felt. Exit 0 met, 1 error, 3 missed."""
    from ninelives.adapters.connected import ConnectedEstate
    from ninelives.cli import drill
    from ninelives.cli.stack import start

    home = Home.from_environment()
    began = time.monotonic()
    _say("Starting two sites, gateway, registry, database and Airflow")
    new_passwords = start(home).new_passwords
    systems = ConnectedEstate.of_home(home)
    api = drill.airflow_api(systems)
    _prepare(systems, api)
    _say("Waiting until a drill may start: replicated, gated, measured")
    _await_preflight(systems)
    service = systems.estate.services[0].name
    _say(f"Losing the site that serves {service}; nothing below helps it to recover")
    run_id = drill.start_drill(api, scenario="site-loss", service=service, site="active")
    drill.follow_run(api, drill.DAG, run_id, tell=lambda line: errors.print(line))
    record = drill.find_drill(systems, run_id)
    if record is None:
        raise Unavailable(f"the drill {run_id} left no evidence; read its tasks in Airflow")
    console.print()
    console.print("[bold]What users felt[/bold]")
    emit(record, as_json=False, text=lambda: drill.drill_report(record))
    console.print(_next_steps(systems, new_passwords, time.monotonic() - began))
    raise typer.Exit(drill.exit_code(record))


def _say(text: str) -> None:
    errors.print(f"[bold]{text} ...[/bold]")


def _prepare(systems: ConnectedEstate, api: AirflowApi) -> None:
    """Train and publish where there is no release yet; wait for the copy of it at every site."""
    from ninelives.cli import drill
    from ninelives.releases.publish import read_release

    models = [model.name for model in systems.estate.models]

    def missing(site: str) -> list[str]:
        return [model for model in models if read_release(systems.store(site), model) is None]

    primary = systems.estate.datasets[0].primary
    if trained := bool(missing(primary)):
        _say("Training two models on 336,776 real flights")
        _await_dags(api, {"train_model", "replicate_data", "fail_over", "return_site", "run_drill"})
        run_id = api.trigger("train_model", {})
        state = drill.follow_run(api, "train_model", run_id, tell=lambda line: errors.print(line))
        if state != "success":
            raise Unavailable(f"train_model ended as {state}; open {api.url}/dags/train_model/runs/{run_id}")
    if any(missing(site) for site in systems.estate.site_names) or not _is_gated(systems):
        _say("Copying data, models and registry to the standby, and running the gate on each copy")
        _await_dags(api, set(_END_WITH_THE_GATE))
        started = trained  # a release starts replicate_data by itself; without one the calendar may be minutes away
        deadline = time.monotonic() + READY_WITHIN
        while any(missing(site) for site in systems.estate.site_names) or not _is_gated(systems):
            if time.monotonic() > deadline:
                raise Unavailable(f"the copies are not complete; open {api.url}/dags/replicate_data")
            if not started and not any(api.under_way(dag) for dag in _END_WITH_THE_GATE):
                api.trigger("replicate_data", {})
                started = True
            time.sleep(1)


def _is_gated(systems: ConnectedEstate) -> bool:
    """Whether the gate has judged exactly what each site holds now, so that a failover finds its verdict."""
    from ninelives.gates.evidence import has_verdict

    return all(
        has_verdict(systems, dataset.name, site)
        for dataset in systems.estate.datasets
        for site in (dataset.primary, *dataset.copies)
    )


def _await_dags(api: AirflowApi, wanted: set[str]) -> None:
    deadline = time.monotonic() + PARSED_WITHIN
    while not wanted <= (found := set(api.dag_ids())):
        if problems := api.import_errors():
            raise Unavailable(f"Airflow cannot read {problems[0]['filename']}: {problems[0]['stack_trace'][-800:]}")
        if time.monotonic() > deadline:
            raise Unavailable(
                f"Airflow has not read {', '.join(sorted(wanted - found))} yet; see the dag-processor's log"
            )
        time.sleep(0.5)


def _await_preflight(systems: ConnectedEstate) -> None:
    """Wait for every reason against a drill to go away, telling which ones are left."""
    from ninelives.drills.preflight import check_preflight, resolve_site
    from ninelives.drills.scenario import Drill

    service = systems.estate.services[0].name
    deadline, told = time.monotonic() + READY_WITHIN, None
    while True:
        try:
            site = resolve_site(systems.estate, systems.gateway().state(), service, "active")
            reasons = check_preflight(systems, Drill("preflight", "site-loss", service, site)).reasons
            if not reasons and not _is_gated(systems):
                reasons = ("the gate is still judging the newest data; a failover now would wait for it",)
        except NinelivesError as error:
            reasons = (str(error),)
        if not reasons:
            return
        if time.monotonic() > deadline:
            raise Unavailable("the estate did not get ready for a drill: " + "; ".join(reasons))
        if reasons[0] != told:
            told = reasons[0]
            errors.print(f"  [dim]not yet: {told}[/dim]", highlight=False)
        time.sleep(1)


def _next_steps(systems: ConnectedEstate, new_passwords: dict[str, str], seconds: float) -> str:
    operator = next(person.name for person in systems.estate.people)
    api = systems.connections.get("ninelives_airflow_api")
    file = systems.home.root / "secrets" / "airflow-passwords.json"
    shown = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
    password = new_passwords.get(operator) or f"in {shown}"
    return (
        f"\nTook {seconds:.0f} s. It goes on running:\n"
        f"  Airflow   {api.url}   user {operator}, password {password}\n"
        "  look      ninelives status · ninelives drill list · ninelives evidence verify   (in .venv/bin)\n"
        "  again     make demo            stop   make down"
    )
