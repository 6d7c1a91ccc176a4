"""An experiment on real replicas and Envoy: who sees what, what stops it, and that nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from support.models import ROW
from support.promotion import release_of
from support.releases import ReleaseWorld, release_world

from ninelives.experiments.assign import Arm, Experiment, assign
from ninelives.ports import Assignment, VersionSplit
from ninelives.releases.publish import stage
from ninelives.serving.protocol import ARM_HEADER, EXPERIMENT_HEADER, VERSION_HEADER, encode_request

pytestmark = pytest.mark.stack
NAME, HEADER = "warmer-sums", "ninelives-unit"
KEYS = [*(f"user-{number}" for number in range(300)), "x", "with space", "a" * 70, "Zoë"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReleaseWorld]:
    with release_world(tmp_path_factory.mktemp("sites")) as started:
        yield started


def arms(world: ReleaseWorld, keys: list[str]) -> dict[str, tuple[str, str]]:
    """Per key the arm that its answer is marked with, and the version that answered."""
    found = {}
    with httpx.Client(base_url=world.envoy.url, trust_env=False) as client:
        for key in keys:
            headers = {HEADER: key.encode()} if key else {}
            answer = client.post("/services/alpha/v2/models/alpha/infer", json=encode_request([ROW]), headers=headers)
            assert answer.status_code == 200, answer.text
            assert (EXPERIMENT_HEADER in answer.headers) == (ARM_HEADER in answer.headers)
            found[key] = (answer.headers.get(ARM_HEADER, "outside"), answer.headers[VERSION_HEADER])
    return found


def test_a_user_has_the_arm_that_the_library_says_at_both_sites_and_after_the_gateway_was_killed(
    world: ReleaseWorld,
) -> None:
    systems = world.systems()
    for site in world.sites:
        stage(systems.store(site), *release_of("2", 1.0))
        for replica in systems.replicas(site):
            replica.load_version("alpha", "2")
    experiment = Experiment(NAME, 0.2)
    split = VersionSplit("1", {"1": 100}, assignment=Assignment(NAME, "2", experiment.parts, HEADER))
    systems.gateway().split("alpha", split, token=1)
    version = {Arm.EXPERIMENT: "2", Arm.CONTROL: "1", Arm.OUTSIDE: "1"}
    expected = {key: (arm.value, version[arm]) for key in KEYS for arm in [assign(experiment, key)]}
    assert arms(world, KEYS) == expected
    assert {arms(world, [""])[""] for _ in range(20)} == {("outside", "1")}, "nobody knows who that is"
    world.envoy.kill()
    world.envoy.start()
    world.envoy.await_healthy("alpha", paris=1, dublin=1)
    assert arms(world, KEYS) == expected
    systems.gateway().move("alpha", "dublin", token=1)
    assert arms(world, KEYS) == expected
    systems.gateway().move("alpha", "paris", token=2)
    systems.gateway().split("alpha", None, token=2)
    assert set(arms(world, KEYS).values()) == {("outside", "1")}
