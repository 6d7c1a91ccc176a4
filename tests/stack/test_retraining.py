"""A training whose stores are killed under it goes on, where it can, and ends as one that nothing happened to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.processes import SiteProcesses, stopping

from ninelives.adapters.connected import ConnectedEstate
from ninelives.adapters.ledger import SqlLedger, migrate
from ninelives.adapters.s3 import S3ObjectStore
from ninelives.estate import Estate
from ninelives.flights import pipeline
from ninelives.flights.data import DATASET, Flights, history, write_partitions
from ninelives.flights.train import TrainedModel, read_days, train
from ninelives.home import Home
from ninelives.ports import Connections
from ninelives.replication.checkpoints import CHECKPOINTS, list_stream, manifest_key
from ninelives.training.attempt import Wait, attempt
from ninelives.training.records import Training, unfinished
from ninelives.versions.copies import make_whole

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.soak]

DAYS = history(70)


class Watched(S3ObjectStore):
    """The real store; ``before`` is told of each write just before it is sent."""

    before: Callable[[str, str], None] | None = None

    def put(self, bucket: str, key: str, data: bytes) -> None:
        if Watched.before is not None:
            Watched.before(self.site, key)
        super().put(bucket, key, data)


class Sites(ConnectedEstate):
    """Two real stores, and the ledger in a file."""

    def __init__(self, estate: Estate, connections: Connections, home: Home) -> None:
        super().__init__(estate, connections, home)
        for site in estate.site_names:
            self._stores[site] = Watched.from_connection(connections.get(f"ninelives_{site}_store"), site)

    def ledger(self) -> SqlLedger:
        return SqlLedger(f"sqlite:///{self.home.root / 'ledger.db'}")


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, SiteProcesses]]:
    folder = tmp_path_factory.mktemp("sites")
    sites = {site: SiteProcesses(site, folder / site, models="", replicas=0) for site in ("paris", "dublin")}
    with stopping(*sites.values()):
        for site in sites.values():
            site.start_store()
        yield sites


@pytest.fixture(scope="module")
def systems(processes: dict[str, SiteProcesses], tmp_path_factory: pytest.TempPathFactory) -> Sites:
    home = Home(tmp_path_factory.mktemp("home"))
    home.connections_file.parent.mkdir(parents=True)
    connections = {key: value for site in processes.values() for key, value in site.connections().items()}
    home.connections_file.write_text(json.dumps(connections))
    migrate(f"sqlite:///{home.root / 'ledger.db'}")
    return Sites.of_home(home)


@pytest.fixture(scope="module")
def version(systems: Sites) -> str:
    write_partitions(systems.store("paris"), DAYS, flights=Flights.load())
    data_version = str(pipeline.version_data(systems)["data_version"])
    make_whole(systems, DATASET, data_version, "dublin")
    return data_version


@pytest.fixture(scope="module")
def unbroken(systems: Sites, version: str) -> dict[str, TrainedModel]:
    days = read_days(systems.store("paris"), pipeline.training_data(systems))
    return {model: train(model, days) for model in ("arrival-delay", "late-arrival")}


class Job:
    """The demo's own training on the real stores; publishing asks the primary's store, and keeps what it was given."""

    def __init__(self, systems: Sites, model: str, data_version: str) -> None:
        self.systems = systems
        self.training: Training = pipeline.training_of(model, data_version)
        self.trained: TrainedModel | None = None

    def attempt(self) -> dict[str, Any] | Wait:
        return attempt(
            self.systems,
            self.training,
            lambda site, keeper: pipeline._fit(self.systems.store(site), self.training, keeper),
            self._publish,
            holder="test",
            gated=False,
        )

    def _publish(self, trained: TrainedModel, data_hash: str) -> dict[str, Any]:
        self.systems.store("paris").ping()
        self.trained = trained
        return {"data_hash": data_hash}


def kill_before(processes: dict[str, SiteProcesses], site: str, key: str, *also: str) -> None:
    """kill -9 of ``site`` (and ``also``) in mid-training, when it is about to be sent ``key``."""

    def before(where: str, what: str) -> None:
        if (where, what) == (site, key):
            Watched.before = None
            for lost in (site, *also):
                processes[lost].lose()

    Watched.before = before


def restore(processes: dict[str, SiteProcesses]) -> None:
    Watched.before = None
    for process in processes.values():
        if not process.store_process.running:
            process.start_store()


@pytest.fixture(autouse=True)
def _everything_runs(processes: dict[str, SiteProcesses]) -> Iterator[None]:
    yield
    restore(processes)


def same(job: Job, unbroken: dict[str, TrainedModel]) -> None:
    assert job.trained is not None
    expected = unbroken[job.training.model]
    assert job.trained.onnx == expected.onnx
    assert job.trained.metrics == expected.metrics
    assert unfinished(job.systems.ledger()) == []


def test_every_store_killed_in_mid_training_it_waits_and_then_goes_on_from_the_last_whole_checkpoint(
    systems: Sites, processes: dict[str, SiteProcesses], version: str, unbroken: dict[str, TrainedModel]
) -> None:
    job = Job(systems, "arrival-delay", version)
    # Its file is written, its manifest is not: a half-written checkpoint.
    kill_before(processes, "paris", manifest_key(job.training.stream, 40), "dublin")
    waiting = job.attempt()
    assert isinstance(waiting, Wait)
    assert waiting.needs[0] == ("store:paris", "store:dublin")
    assert pipeline.unfinished_trainings(systems) == [job.training]
    assert isinstance(job.attempt(), Wait), "still away: nothing is lost by trying"
    restore(processes)
    assert list_stream(systems.store("paris"), job.training.stream).half == (40,)
    done = job.attempt()
    assert isinstance(done, dict), done
    assert done["resumed_from"] == {"step": 30, "site": "paris"}
    assert done["checkpoints"] == 4
    same(job, unbroken)


def test_the_primary_killed_in_mid_training_it_goes_on_at_the_copy_and_only_publishing_waits(
    systems: Sites, processes: dict[str, SiteProcesses], version: str, unbroken: dict[str, TrainedModel]
) -> None:
    job = Job(systems, "late-arrival", version)
    kill_before(processes, "paris", manifest_key(job.training.stream, 50))
    waiting = job.attempt()
    assert isinstance(waiting, Wait)
    assert "trained at dublin" in waiting.text
    assert ("store:paris",) in waiting.needs
    restore(processes)
    # The primary comes back without the checkpoints of this training: the copy has them all.
    for info in list(systems.store("paris").list(CHECKPOINTS, job.training.stream)):
        systems.store("paris").delete(CHECKPOINTS, info.key)
    done = job.attempt()
    assert isinstance(done, dict), done
    assert (done["trained_at"], done["resumed_from"]) == ("paris", {"step": 70, "site": "dublin"})
    same(job, unbroken)
