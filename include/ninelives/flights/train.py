"""Train the demo's two models, compare them with a baseline on later data, and convert them to ONNX exactly."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ninelives.errors import Corrupted, Refused
from ninelives.flights.data import day_numbers
from ninelives.flights.features import FEATURES, TEXT, with_labels
from ninelives.ports import Features, ObjectStore, Scalar
from ninelives.replication.manifest import BUCKET, Manifest

OUTPUTS = {"arrival-delay": "arrival_delay", "late-arrival": "late_probability"}
"""Model to the name of its output: minutes of arrival delay, and the probability of 15 or more."""

HELD_OUT = 0.1
"""Share of the days, the latest ones, that are never trained on."""

MAX_CONVERSION_ERROR = 1e-3
"""Largest difference between ONNX and the trained model on the held-out rows; float32 costs about 4e-5 minutes."""

PARAMETERS: dict[str, Any] = {
    "n_estimators": 80,
    "learning_rate": 0.1,
    "min_child_samples": 200,
    "random_state": 7,
    "deterministic": True,
    "force_row_wise": True,
    "n_jobs": 1,  # more threads than free cores make LightGBM ten times slower, and one is fast enough
    "verbose": -1,
}


@dataclass(frozen=True)
class TrainedModel:
    """A model with what is known about it; ``native`` is what was trained, ``onnx`` what is served."""

    name: str
    native: Any
    onnx: bytes
    metrics: dict[str, float]
    parameters: dict[str, Any]
    example: pa.Table

    @property
    def beats_baseline(self) -> bool:
        """Whether its error on the held-out days is smaller than that of the constant known beforehand."""
        measure = "mae_minutes" if self.name == "arrival-delay" else "brier"
        return self.metrics[measure] < self.metrics[f"baseline_{measure}"]

    def answer(self, rows: Sequence[Features]) -> dict[str, Sequence[Scalar]]:
        """What the trained model itself answers, not its ONNX copy."""
        frame = pa.table({name: [row[name] for row in rows] for name in FEATURES}).to_pandas()
        return {OUTPUTS[self.name]: [float(value) for value in _predict(self.name, self.native, frame)]}


def read_days(store: ObjectStore, manifest: Manifest) -> pa.Table:
    """Every flight that ``manifest`` lists, in the order of its keys; raises ``Corrupted`` where bytes differ."""
    tables = []
    for listed in manifest.objects:
        data = store.get(BUCKET, listed.key)
        if data is None or hashlib.sha256(data).hexdigest() != listed.sha256:
            raise Corrupted(f"{listed.key} at {store.site} is not what the manifest says; run replicate_data")
        tables.append(pq.read_table(io.BytesIO(data)).replace_schema_metadata())
    if not tables:
        raise Refused("train", [f"the manifest of {manifest.dataset} lists no object"])
    return pa.concat_tables(tables)


CHECKPOINT_EVERY = 10
"""Boosting rounds between two checkpoints."""


@dataclass(frozen=True)
class Progress:
    """Trees after so many boosting rounds, as LightGBM writes them: every number exactly as it was."""

    rounds: int
    trees: str


OnCheckpoint = Callable[[Progress], None]


def train(
    name: str, flights: pa.Table, begun: Progress | None = None, on_checkpoint: OnCheckpoint | None = None
) -> TrainedModel:
    """Train ``name`` on the earlier days and measure it on the latest tenth; the same data gives the same model.

    Going on from any checkpoint gives the very bytes that training without a break gives: the scores that boosting
    goes on from are the sums of the same numbers in the same order.

    :param flights: rows in the order of their days
    :param begun: where to go on, from an earlier training of the same model on the same data
    :param on_checkpoint: called every ``CHECKPOINT_EVERY`` rounds but after the last; what it raises ends the training
    :raises Refused: fewer than two days, ``begun`` is not of this training, or the ONNX copy answers differently from
        what was trained
    """
    import lightgbm
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OrdinalEncoder

    rows, without_label = with_labels(flights)
    cut = _first_held_out(day_numbers(flights.filter(pc.is_valid(flights["arr_delay"]))))
    past, later = rows.slice(0, cut).to_pandas(), rows.slice(cut).to_pandas()
    label = "arr_delay" if name == "arrival-delay" else "late"
    rounds, done = int(PARAMETERS["n_estimators"]), begun.rounds if begun else 0
    left = PARAMETERS | {"n_estimators": rounds - done}
    if label == "arr_delay":
        estimator = lightgbm.LGBMRegressor(objective="l1", **left)
    else:
        estimator = lightgbm.LGBMClassifier(**left)
    unknown = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, dtype=np.float32)
    numbers = [feature for feature in FEATURES if feature not in TEXT]
    columns = ColumnTransformer([("text", unknown, list(TEXT)), ("numbers", "passthrough", numbers)])
    model = Pipeline([("columns", columns), ("model", estimator)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both libraries warn about each other's names for columns
        model.fit(
            past[list(FEATURES)], past[label],
            model__init_model=_booster(begun, rounds), model__callbacks=_callbacks(done, rounds, on_checkpoint),
        )  # fmt: skip
        estimator.set_params(n_estimators=rounds)
        predicted = _predict(name, model, later[list(FEATURES)])
        onnx = _to_onnx(name, model)
    error = float(np.abs(_run_onnx(name, onnx, later) - predicted).max())
    if not error <= MAX_CONVERSION_ERROR:  # NaN is refused as well
        raise Refused("convert to ONNX", [f"{name} differs by up to {error:.2g} from what was trained"])
    metrics = _measure(label, past[label].to_numpy(), later[label].to_numpy(), predicted)
    metrics |= {"onnx_max_error": error, "rows": float(rows.num_rows), "rows_without_label": float(without_label)}
    return TrainedModel(name, model, onnx, metrics, PARAMETERS, rows.slice(cut, 5).select(list(FEATURES)))


def _booster(begun: Progress | None, rounds: int) -> Any:
    import lightgbm

    if begun is None:
        return None
    try:
        booster = lightgbm.Booster(model_str=begun.trees)
    except lightgbm.basic.LightGBMError as error:
        raise Refused("resume", [f"the checkpoint holds no trees: {error}"]) from error
    if not booster.num_trees() == begun.rounds < rounds:
        raise Refused(
            "resume", [f"the checkpoint says {begun.rounds} of {rounds} rounds, it has {booster.num_trees()}"]
        )
    return booster


def _callbacks(done: int, rounds: int, on_checkpoint: OnCheckpoint | None) -> list[Any] | None:
    if on_checkpoint is None:
        return None

    def after_round(env: Any) -> None:
        now = env.iteration + 1  # counts the rounds of the checkpoint as well
        if now % CHECKPOINT_EVERY == 0 and now < rounds:
            # Without the parameters, which count the rounds of this process only: the same trees are the same text.
            trees = re.sub(r"\nparameters:.*?end of parameters\n", "", env.model.model_to_string(), flags=re.DOTALL)
            on_checkpoint(Progress(now, trees))

    return [after_round]


def _first_held_out(dates: npt.NDArray[np.int64]) -> int:
    """The first row of the days that are held out: no day is on both sides."""
    days = np.unique(dates)
    if len(days) < 2 or np.any(np.diff(dates) < 0):
        raise Refused("train", ["the flights must be of two days or more, in the order of their days"])
    return int(np.searchsorted(dates, days[-max(1, round(len(days) * HELD_OUT))]))


def _predict(name: str, model: Any, frame: Any) -> npt.NDArray[np.float64]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = model.predict(frame) if name == "arrival-delay" else model.predict_proba(frame)[:, 1]
    return np.asarray(found, dtype=np.float64)


def _measure(
    label: str, past: npt.NDArray[Any], later: npt.NDArray[Any], predicted: npt.NDArray[np.float64]
) -> dict[str, float]:
    """Metrics on the held-out rows, and the same for a constant that was known beforehand."""
    from sklearn.metrics import brier_score_loss, mean_absolute_error, roc_auc_score

    if label == "arr_delay":
        constant = np.full(len(later), np.median(past))
        return {
            "mae_minutes": float(mean_absolute_error(later, predicted)),
            "baseline_mae_minutes": float(mean_absolute_error(later, constant)),
        }
    constant = np.full(len(later), past.mean())
    return {
        "roc_auc": float(roc_auc_score(later, predicted)),
        "brier": float(brier_score_loss(later, predicted)),
        "baseline_brier": float(brier_score_loss(later, constant)),
    }


def _to_onnx(name: str, model: Any) -> bytes:
    """One tensor per feature in, one named tensor of shape [n, 1] out."""
    import lightgbm
    import onnx
    from onnx import TensorProto, helper
    from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm
    from skl2onnx import convert_sklearn, update_registered_converter
    from skl2onnx.common.data_types import Int64TensorType, StringTensorType
    from skl2onnx.common.shape_calculator import (
        calculate_linear_classifier_output_shapes,
        calculate_linear_regressor_output_shapes,
    )

    if name == "arrival-delay":
        update_registered_converter(
            lightgbm.LGBMRegressor, "LgbmRegressor", calculate_linear_regressor_output_shapes, convert_lightgbm,
            options={"split": None},
        )  # fmt: skip
    else:
        update_registered_converter(
            lightgbm.LGBMClassifier, "LgbmClassifier", calculate_linear_classifier_output_shapes, convert_lightgbm,
            options={"nocl": [True, False], "zipmap": [True, False, "columns"]},
        )  # fmt: skip
    kinds = [
        (feature, StringTensorType([None, 1]) if feature in TEXT else Int64TensorType([None, 1]))
        for feature in FEATURES
    ]
    options = None if name == "arrival-delay" else {id(model): {"zipmap": False}}
    # Left to itself skl2onnx makes up a random name, and the same model would have another digest each time.
    graph = convert_sklearn(
        model, name=name, initial_types=kinds, options=options, target_opset={"": 17, "ai.onnx.ml": 3}
    )
    given = graph.graph.output[-1].name
    if name == "arrival-delay":
        graph.graph.node.append(helper.make_node("Identity", [given], [OUTPUTS[name]]))
    else:  # of the two classes' probabilities, the second
        graph.graph.initializer.append(helper.make_tensor("late_class", TensorProto.INT64, [1], [1]))
        graph.graph.node.append(helper.make_node("Gather", [given, "late_class"], [OUTPUTS[name]], axis=1))
    del graph.graph.output[:]
    graph.graph.output.append(helper.make_tensor_value_info(OUTPUTS[name], TensorProto.FLOAT, [None, 1]))
    onnx.checker.check_model(graph)
    return bytes(graph.SerializeToString(deterministic=True))


def _run_onnx(name: str, onnx: bytes, frame: Any) -> npt.NDArray[np.float64]:
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    feeds = {feature: frame[[feature]].to_numpy(dtype=object if feature in TEXT else np.int64) for feature in FEATURES}
    return np.asarray(session.run([OUTPUTS[name]], feeds)[0], dtype=np.float64).ravel()
