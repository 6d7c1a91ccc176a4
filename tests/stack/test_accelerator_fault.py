"""A faulty accelerator in mid-service, by real replicas behind a real gateway; the device alone is played."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.models import ROW
from support.nvml_stub import GPU, StubbedMachine, build, with_accelerators
from support.processes import wait_until
from support.two_sites import Systems, two_sites

from ninelives.accelerators.drain import follow
from ninelives.accelerators.evidence import validate
from ninelives.errors import Unavailable
from ninelives.estate import Estate

pytestmark = pytest.mark.stack
SERVICE = "beta"
PLACES = [{"name": "paris", "accelerators": [{"name": "localhost"}]}, {"name": "dublin"}]


class Machine(Systems):
    played: StubbedMachine

    def accelerators(self, kind: str) -> Any:
        return self.played.probe(kind)


@pytest.fixture
def systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    with two_sites(tmp_path) as world:
        file = world.home.connections_file
        document = json.loads(file.read_text())
        urls = document["ninelives_paris_replicas"]["extra"]["urls"]
        document["ninelives_paris_replicas"]["extra"]["urls"] = [one.replace("127.0.0.1", "localhost") for one in urls]
        file.write_text(json.dumps(document))
        declared = with_accelerators(world.estate(), sites=PLACES).model_dump(mode="json")
        for service in declared["services"]:
            service["release"]["hardware"] = "accelerator" if service["name"] == SERVICE else "cpu"
        declared["models"][1]["need"] = GPU["need"]
        found = world.systems()
        systems = Machine(Estate.model_validate(declared), found.connections, found.home)
        systems.played = StubbedMachine(build(tmp_path), tmp_path, monkeypatch)
        yield systems


def look(systems: Machine, *faults: str) -> list[str]:
    systems.played.play(*faults)
    return follow(systems, "paris", "localhost", validate(systems, "paris", "localhost"))


def test_users_lose_no_answer_while_the_faulty_replica_is_drained_and_given_back(systems: Machine) -> None:
    ask = systems.client(systems.estate.service_by_name[SERVICE])
    answers, stop = Counter[str | None](), threading.Event()

    def users() -> None:
        while not stop.is_set():
            try:
                answer = ask([ROW])
                answers[answer.site if answer.degraded is None else "degraded"] += 1
            except Unavailable:
                answers["lost"] += 1

    def asked(more: int) -> Counter[str | None]:
        before = answers.copy()
        wait_until(lambda: answers.total() >= before.total() + more, f"{more} answers")
        return answers - before

    wait_until(lambda: systems.gateway().healthy_sites(SERVICE) == {"paris": 1, "dublin": 1}, "two healthy replicas")
    thread = threading.Thread(target=users)
    thread.start()
    try:
        assert look(systems) == []
        assert set(asked(100)) == {"paris", "dublin"}
        (done,) = look(systems, "ecc_volatile=1")
        assert done.startswith("beta is taken out of http://localhost:")
        wait_until(lambda: systems.gateway().healthy_sites(SERVICE).get("paris", 0) == 0, "paris is out")
        assert set(asked(100)) == {"dublin"}
        (done,) = look(systems)
        assert done.startswith("beta is back")
        wait_until(lambda: systems.gateway().healthy_sites(SERVICE).get("paris", 0) == 1, "paris is back")
        assert set(asked(100)) == {"paris", "dublin"}
    finally:
        stop.set()
        thread.join()
    assert (answers["lost"], answers["degraded"]) == (0, 0), answers
