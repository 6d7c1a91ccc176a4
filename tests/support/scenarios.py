"""A light local estate of its own for drills: two sites, gateway, keeper and ledger, and no Airflow."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from support.estate import free_base
from support.models import estate_of_two_sites, publish
from support.processes import wait_until

from ninelives.adapters.connected import ConnectedEstate
from ninelives.adapters.connections import FileConnections
from ninelives.drills.preflight import resolve_site
from ninelives.drills.run import is_back, undo_fault
from ninelives.drills.scenario import Drill
from ninelives.drills.scenarios import SCENARIOS
from ninelives.drills.state import state_facts
from ninelives.estate import load_estate
from ninelives.home import Home
from ninelives.injections import find_injection
from ninelives.releases.publish import read_release, record_golden
from ninelives.replication.replicate import replicate_dataset
from ninelives.stack import lifecycle, processes
from ninelives.stack.programs import Part

LIGHT = frozenset(Part) - {Part.GATEWAY, Part.KEEPER}
"""Parts that are left out."""

MEASURED = LIGHT - {Part.MLFLOW, Part.PROBER, Part.FEEDER}
STREAM = {
    "name": "arrivals",
    "site": "paris",
    "source": {"prefix": "flights/", "contains": "/part="},
    "format": "parquet",
    "every": "15min",
    "version": 1,
    "keys": ["id"],
    "fields": [
        {"name": "id", "type": "int64", "at_least": 0},
        {"name": "city", "type": "string", "allowed": ["paris", "dublin"]},
        {"name": "delay", "type": "int64", "nullable": True, "at_most": 1000},
    ],
}


ALWAYS = {"days": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"], "begin": "00:00", "end": "00:00", "zone": "UTC"}
PROVIDER = {
    "name": "airports",
    "contacts": ["ops@example.org"],
    "test": [ALWAYS],
    "feed": {"stream": "arrivals", "prefix": "recorded/", "contains": "/part=", "every": "1s"},
}


class World:
    def __init__(self, home: Home) -> None:
        self.home = home
        self.systems = ConnectedEstate(
            load_estate(home.root / "estate.yaml"), FileConnections(home.connections_file), home
        )
        self._drills = 0

    def fill(self) -> None:
        """Two models, a dataset with its copy, and replicas that are warm."""
        systems = self.systems
        for site in ("paris", "dublin"):
            for model in ("alpha", "beta"):
                publish(systems.store(site), model)
        for number in range(3):
            table = pa.table({"id": range(9), "city": ["paris", "dublin", "paris"] * 3, "delay": [None] * 9})
            data = io.BytesIO()
            pq.write_table(table.cast(pa.schema({"id": "int64", "city": "string", "delay": "int64"})), data)
            systems.store("paris").put("data", f"flights/part={number}.parquet", data.getvalue())
        for number in range(12):
            table = pa.table({"id": range(9 * number, 9 * number + 9), "city": ["paris"] * 9, "delay": [number] * 9})
            data = io.BytesIO()
            pq.write_table(table, data)
            systems.store("paris").put("data", f"recorded/part={number:02}.parquet", data.getvalue())
        replicate_dataset(systems, "flights", "paris", "dublin")
        for model in ("alpha", "beta"):
            release = read_release(systems.store("paris"), model)
            assert release is not None
            record_golden(self.home, release)
        for replica in (one for site in ("paris", "dublin") for one in systems.replicas(site)):
            for model in ("alpha", "beta"):
                replica.load(model)
        for service in ("alpha", "beta"):
            wait_until(lambda name=service: set(systems.gateway().healthy_sites(name).values()) == {2}, "warm replicas")

    def drill(self, scenario: str, service: str = "beta", *, looked_at: bool = True) -> Drill:
        """A new one at its usual site, whose own steady state is as it should be."""
        self._drills += 1
        state = self.systems.gateway().state()
        site = resolve_site(self.systems.estate, state, service, "", scenario)
        drill = Drill(f"drill-{self._drills}", scenario, service, site)
        assert not looked_at or SCENARIOS[scenario].reasons(self.systems, drill, state) == []
        return drill

    def process(self, program: str) -> psutil.Process:
        (pid,) = (row["pid"] for row in lifecycle.status(self.home)["programs"] if row["program"] == program)
        return psutil.Process(pid)

    def returned(self, drill: Drill) -> dict[str, Any]:
        """Undo, wait until the estate is as it was, and what the evidence will say about that."""
        undo_fault(self.systems, drill, by="test")
        wait_until(lambda: is_back(self.systems, drill), f"the return from {drill.subject}", every=0.1)
        injection = find_injection(self.home, drill.id)
        assert injection is not None
        assert injection.undone_by == "test"
        facts = dict(state_facts(self.systems, injection))
        assert facts["verdict"] == "met", facts
        lease = self.systems.ledger().current_lease("drill")
        assert lease is not None
        self.systems.ledger().release_lease(lease)
        return facts


@contextmanager
def light_estate(folder: Path, *, vault: bool = False, accelerators: bool = False) -> Iterator[World]:
    """Started below ``folder`` and filled; every process of it is gone afterwards.

    :param vault: with a vault of its own
    :param accelerators: each replica is on a machine of its own with a played accelerator, and each service needs one
    """
    declared = estate_of_two_sites(without="gamma").model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    declared["models"] = [model for model in declared["models"] if model["name"] != "gamma"]
    calendar = [
        {"scenario": "replica-wedged", "service": "beta", "every": "7d"},
        {"scenario": "site-loss", "service": "alpha", "every": "7d"},
    ]
    declared["drills"] |= {"calendar": calendar, "approval": "none"}
    if vault:
        declared["people"].append({"name": "hedy", "roles": ["keeper"]})
        declared["vault"] = {"site": "reykjavik", "keeper": "hedy"}
        declared["backups"] = {"schedule": "30 2 * * *", "rpo": "26h", "rto": "5min", "verify": "30 4 * * *"}
    if accelerators:
        played = {"kind": "stand-in"}
        for site in declared["sites"]:
            site["accelerators"] = [{"name": f"gpu-{site['name']}-{n}", "policy": played} for n in (1, 2)]
        for model in declared["models"]:
            model["need"] = {"parameters": 1000}
        for service in declared["services"]:
            service["release"] = {"hardware": "accelerator"}
    # Called as the feeder calls what it writes, which replays the demo's flights.
    text = json.dumps({**declared, "streams": [STREAM], "providers": [PROVIDER]}).replace('"rows"', '"flights"')
    (folder / "source.yaml").write_text(text)
    home = Home(folder / "home")
    environment = {
        "NINELIVES_PORT_BASE": str(free_base()),
        "NINELIVES_PROBE_RATE": "20",
        "NINELIVES_HOME": str(home.root),
        "NINELIVES_ESTATE": str(home.root / "estate.yaml"),
    }
    with patch.dict(os.environ, environment):
        try:
            lifecycle.up(home, folder / "source.yaml", LIGHT - {Part.VAULT} if vault else LIGHT)
            world = World(home)
            world.fill()
            yield world
        finally:
            lifecycle.down(home)
    assert processes.remaining(home) == []
