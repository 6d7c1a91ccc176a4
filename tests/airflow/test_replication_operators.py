"""What the tasks of a replication do besides copying: all that belongs to a dataset is tried, and the lag is judged."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from unit.replication.test_unknown_lag import Systems

from ninelives.errors import Refused, Unavailable
from ninelives.replication.checkpoints import whole_checkpoints, write_checkpoint
from ninelives.replication.replicate import Shard
from ninelives.replication.run import replicate_and_record
from ninelives_airflow.operators.replication import JudgeLagOperator, ReplicateModelsOperator

pytestmark = pytest.mark.airflow

LINK = {"dataset": "flights", "source": "paris", "target": "dublin", "shard": "1/1"}
DAY = "flights/day=1"


class Estate(Systems):
    """No site is closed."""

    def gateway(self) -> Any:
        return SimpleNamespace(state=lambda: SimpleNamespace(closed_sites=frozenset()))


@pytest.fixture
def estate(tmp_path: Path) -> Estate:
    made = Estate(tmp_path)
    for store in made.sites.values():
        for bucket in ("data", "models", "mlflow"):
            store.ensure_bucket(bucket)
    made.paris.put("data", DAY, b"flights")
    return made


PUSHED: dict[str, Any] = {}


def act(operator: Any, systems: Estate) -> Any:
    PUSHED.clear()
    push = SimpleNamespace(xcom_push=lambda *, key, value: PUSHED.update({key: value}))
    return operator.act(systems, {"ti": push})


def test_everything_that_belongs_to_a_dataset_goes_along(estate: Estate) -> None:
    version = estate.keep({"a": b"1"}, "paris")
    estate.paris.put("mlflow", "1/run/artifacts/MLmodel", b"flavors: {}")
    write_checkpoint(estate.paris, "arrival-delay", 1, {"weights": b"1"})
    done = act(ReplicateModelsOperator(task_id="replicate_models", link=LINK), estate)
    assert done["releases"]["arrival-delay"] == {"version": None, "copied": 0}
    assert done["artefacts"] == {"copied": 1}
    assert PUSHED["progress"]["objects"] == 1, "shown on the run while it copies"
    assert done["checkpoints"] == {"arrival-delay": {"newest": 1, "brought": [1]}}
    assert done["versions"]["versions"] == 1
    assert any(version.removesuffix(".dir")[2:] in name for name in estate.names("dublin"))


def test_one_that_is_refused_keeps_none_of_the_others_back(estate: Estate) -> None:
    estate.paris.put("models", "arrival-delay/release.json", b"{")
    write_checkpoint(estate.paris, "arrival-delay", 1, {"weights": b"1"})
    with pytest.raises(Exception, match="the release pointer"):
        act(ReplicateModelsOperator(task_id="replicate_models", link=LINK), estate)
    assert [one.step for one in whole_checkpoints(estate.sites["dublin"], "arrival-delay")] == [1]


def test_the_judge_lets_a_new_estate_pass_and_no_copy_that_has_been_unknown_for_its_rpo(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = JudgeLagOperator(task_id="judge_lag")
    assert act(judge, estate)["flights@dublin"]["verdict"] == "unknown"  # nobody has replicated it yet
    replicate_and_record(estate, "flights", "paris", "dublin")
    assert act(judge, estate)["flights@dublin"]["verdict"] == "met"
    estate.sites["dublin"].down = True
    with pytest.raises(Unavailable):
        replicate_and_record(estate, "flights", "paris", "dublin")
    assert act(judge, estate)["flights@dublin"]["verdict"] == "unknown"
    later = datetime.now(UTC) + estate.estate.dataset_by_name["flights"].rpo + timedelta(seconds=1)
    monkeypatch.setattr("ninelives.replication.run.utc_now", lambda: later)
    with pytest.raises(Refused, match="has not been known for 900 s"):
        act(judge, estate)


def test_the_evidence_of_the_last_shard_says_what_that_shard_has_done_too(estate: Estate) -> None:
    for number in range(2, 26):
        estate.paris.put("data", f"flights/day={number}", b"%d" % number)
    done = [replicate_and_record(estate, "flights", "paris", "dublin", shard=Shard(number, 3)) for number in (1, 2, 3)]
    assert all(one.result.copied for one in done), "each shard has something"
    assert sum(one.result.copied for one in done) == sum(one.result.verified for one in done) == 25
    last = estate.ledger().records(kind="replication", limit=1)[0].facts
    assert (last["shard"], last["objects"]) == ("all of 3", 25)
    assert last["copied"] == done[-1].result.copied
