import io
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from unit.replication.memory import MemoryStore

from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.estate import Estate, load_estate
from ninelives.flights import train as training
from ninelives.flights.data import DATASET, Flights, history, write_partitions
from ninelives.flights.pipeline import release_of
from ninelives.flights.train import OUTPUTS, Progress, TrainedModel, read_days, train
from ninelives.home import Home
from ninelives.releases.golden import answers_match
from ninelives.releases.publish import TOLERANCE
from ninelives.replication.manifest import read_manifest
from ninelives.serving.model import OnnxModel

MODELS = sorted(OUTPUTS)
QUICK = {**training.PARAMETERS, "n_estimators": 10}


@pytest.fixture(scope="module")
def days(flights: Flights) -> pa.Table:
    """Ten weeks: enough to learn from, quick to learn."""
    return pa.concat_tables([flights.day(day) for day in history(70)])


@pytest.fixture(scope="module")
def estate() -> Estate:
    return load_estate(Home.from_environment().estate_file)


@pytest.fixture(scope="module")
def trained(days: pa.Table) -> dict[str, TrainedModel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "PARAMETERS", QUICK)
        return {model: train(model, days) for model in MODELS}


@pytest.mark.parametrize("model", MODELS)
def test_a_request_as_users_send_it_gets_the_trained_models_answer(
    model: str, estate: Estate, trained: dict[str, TrainedModel]
) -> None:
    served = OnnxModel(model, "1", "", trained[model].onnx)
    golden = [dict(g.inputs) for s in estate.services if s.model == model for g in s.golden]
    assert golden
    assert answers_match(trained[model].answer(golden), served.answer(golden), TOLERANCE)
    (output,) = served.metadata()["outputs"]
    assert (output["name"], output["shape"][-1]) == (OUTPUTS[model], 1)


@pytest.mark.parametrize("model", MODELS)
def test_what_the_model_never_saw_is_answered_alike(
    model: str, estate: Estate, trained: dict[str, TrainedModel]
) -> None:
    row = dict(estate.services[0].golden[0].inputs) | {"carrier": "ZZ", "dest": "QQQ", "distance": 99999}
    assert answers_match(
        trained[model].answer([row]), OnnxModel(model, "1", "", trained[model].onnx).answer([row]), TOLERANCE
    )


def test_probabilities_are_probabilities(estate: Estate, trained: dict[str, TrainedModel]) -> None:
    golden = [dict(g.inputs) for s in estate.services for g in s.golden]
    (answers,) = trained["late-arrival"].answer(golden).values()
    assert all(0 < float(answer) < 1 for answer in answers)


def test_a_copy_that_answers_otherwise_is_refused(days: pa.Table, monkeypatch) -> None:
    monkeypatch.setattr(training, "PARAMETERS", QUICK)
    monkeypatch.setattr(training, "MAX_CONVERSION_ERROR", 0.0)
    with pytest.raises(Refused, match="differs by up to"):
        train("arrival-delay", days)


def test_data_are_read_as_the_manifest_says_or_not_at_all(flights: Flights) -> None:
    store = MemoryStore("paris")
    write_partitions(store, history(3), flights=flights)
    manifest = read_manifest(store, DATASET)
    assert manifest is not None
    assert read_days(store, manifest).equals(pa.concat_tables([flights.day(day) for day in history(3)]))
    store.flip(manifest.objects[1].key)
    with pytest.raises(Corrupted, match="day=2013-01-02"):
        read_days(store, manifest)


def test_other_rows_under_the_same_key_are_noticed(flights: Flights) -> None:
    store = MemoryStore("paris")
    write_partitions(store, history(3), flights=flights)
    manifest, buffer = read_manifest(store, DATASET), io.BytesIO()
    assert manifest is not None
    pq.write_table(flights.day(history()[5]), buffer)
    store.put("data", manifest.objects[0].key, buffer.getvalue())
    with pytest.raises(Corrupted):
        read_days(store, manifest)


@pytest.mark.parametrize("model", MODELS)
def test_the_same_data_give_the_same_bytes(
    model: str, days: pa.Table, trained: dict[str, TrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "PARAMETERS", QUICK)
    again = train(model, days)
    assert again.metrics == trained[model].metrics
    assert again.onnx == trained[model].onnx


def test_no_day_is_on_both_sides(days: pa.Table) -> None:
    dates = np.repeat(np.arange(50), 7)
    assert training._first_held_out(dates) == 45 * 7
    with pytest.raises(Refused, match="in the order"):
        training._first_held_out(dates[::-1])
    with pytest.raises(Refused, match="two days"):
        training._first_held_out(np.zeros(10, dtype=np.int64))


@pytest.mark.parametrize(("model", "measure"), [("arrival-delay", "mae_minutes"), ("late-arrival", "brier")])
def test_no_better_than_a_constant_is_not_better(model: str, measure: str, trained: dict[str, TrainedModel]) -> None:
    same = {**trained[model].metrics, measure: trained[model].metrics[f"baseline_{measure}"]}
    assert not replace(trained[model], metrics=same).beats_baseline
    assert not replace(trained[model], metrics={**same, measure: float("nan")}).beats_baseline


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_the_models_beat_the_baseline_on_the_latest_days_of_the_history(model: str, flights: Flights) -> None:
    whole = train(model, pa.concat_tables([flights.day(day) for day in history()]))
    assert whole.beats_baseline
    assert whole.metrics["rows"] == 273_355
    assert whole.metrics["onnx_max_error"] < 1e-4


def test_no_held_out_day_is_learned_from(days: pa.Table, monkeypatch) -> None:
    monkeypatch.setattr(training, "PARAMETERS", QUICK)
    disturbed = days.to_pandas()
    later = disturbed.index >= days.num_rows - int(days.num_rows * training.HELD_OUT) + 2000
    disturbed.loc[later, "arr_delay"] += 1000
    table = pa.Table.from_pandas(disturbed, schema=days.schema, preserve_index=False)
    assert train("arrival-delay", table).onnx == train("arrival-delay", days).onnx


# --- checkpoints -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_from_any_checkpoint_training_ends_with_the_very_bytes_of_one_without_a_break(
    model: str, days: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "PARAMETERS", {**training.PARAMETERS, "n_estimators": 40})
    unbroken = train(model, days)
    kept: list[Progress] = []
    watched = train(model, days, on_checkpoint=kept.append)
    assert watched.onnx == unbroken.onnx, "keeping checkpoints changes nothing"
    assert [one.rounds for one in kept] == [10, 20, 30]
    for number, begun in enumerate(kept):
        later: list[Progress] = []
        resumed = train(model, days, begun, later.append)
        assert later == kept[number + 1 :], "the checkpoints after it are the same text"
        assert resumed.onnx == unbroken.onnx
        assert resumed.metrics == unbroken.metrics
        mine, theirs = (one.native.named_steps["model"] for one in (resumed, unbroken))
        assert mine.get_params() == theirs.get_params()


def test_what_a_checkpoint_raises_ends_the_training(days: pa.Table) -> None:
    def gone(_: Progress) -> None:
        raise Unavailable("the store is gone")

    with pytest.raises(Unavailable):
        train("late-arrival", days, on_checkpoint=gone)


@pytest.mark.parametrize("rounds", [20, 80])
def test_a_checkpoint_that_is_not_of_this_training_is_refused(rounds: int, days: pa.Table, monkeypatch) -> None:
    kept: list[Progress] = []
    monkeypatch.setattr(training, "PARAMETERS", {**QUICK, "n_estimators": 11})
    train("late-arrival", days, on_checkpoint=kept.append)
    for trees in (kept[0].trees, "no trees"):
        with pytest.raises(Refused, match="resume"):
            train("late-arrival", days, Progress(rounds, trees))


def test_a_trained_release_needs_what_a_service_of_its_model_declares(
    trained: dict[str, TrainedModel], estate: Estate
) -> None:
    document = estate.model_dump(mode="json")
    services = document["services"]
    document["services"] = [*services, {**services[0], "name": "another"}]

    def hardware(model: str, *declared: str) -> str:
        for service, one in zip(document["services"], declared, strict=True):
            service["release"] = {**service["release"], "hardware": one}
        now = datetime.now(UTC)
        return release_of(Estate.model_validate(document), trained[model], "1", "none", now).hardware.value

    model, other = (service["model"] for service in services[:2])
    assert hardware(model, "cpu", "accelerator", "cpu") == "cpu"
    assert hardware(model, "cpu", "cpu", "accelerator") == "accelerator"
    assert hardware(other, "cpu", "accelerator", "cpu") == "accelerator"
