"""Online learning by river: a linear model on scaled numbers and one-hot texts, trained by Adam.

river keeps all that it has learnt in dictionaries, most of them public; ``_weights`` is not, and a contract test holds
what is said here. Exported and imported again, it goes on with the very bits of one that never stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ninelives.errors import Corrupted, Refused
from ninelives.ports import Features
from ninelives.state.arrays import Labelled, State
from ninelives.state.learner import Spec

_ALONE = ("value",)
"""The label of a number that belongs to no feature."""


class RiverLinear:
    """``state.learner.Learner``; a ``Build``.

    :raises Corrupted: ``state`` is of another form or lacks an array
    :raises Refused: the extra ``online`` is not installed
    """

    def __init__(self, spec: Spec, state: State | None = None) -> None:
        try:
            from river import linear_model, optim, preprocessing
        except ImportError as error:
            raise Refused("learn", ["river is not installed here: pip install 'ninelives[online]'"]) from error
        self._spec = spec
        self._scaler: Any = preprocessing.StandardScaler()
        # Absolute error, as the demo's batch model: a few flights that are hours late must not pull all the others.
        self._model: Any = linear_model.LinearRegression(
            optimizer=optim.Adam(spec.learning_rate), loss=optim.losses.Absolute(), l2=spec.l2
        )
        if state is not None:
            self._take(state)

    def learn(self, features: Features, target: float) -> None:
        numbers, texts = self._split(features)
        self._scaler.learn_one(numbers)
        self._model.learn_one({**self._scaler.transform_one(numbers), **texts}, float(target))

    def answer(self, features: Features) -> float:
        numbers, texts = self._split(features)
        known = {name: value for name, value in numbers.items() if name in self._scaler.counts}
        return float(self._model.predict_one({**self._scaler.transform_one(known), **texts}))

    def export(self) -> State:
        model, adam, scaler = self._model, self._model.optimizer, self._scaler
        floats: dict[str, Mapping[str, float]] = {
            "adam.m": {} if adam.m is None else adam.m.to_dict(),
            "adam.v": {} if adam.v is None else adam.v.to_dict(),
            "intercept": {_ALONE[0]: model.intercept},
            "scaler.means": dict(scaler.means),
            "scaler.variances": dict(scaler.vars),
            "weights": model.weights,
        }
        whole: dict[str, Mapping[str, int]] = {
            "adam.iterations": {_ALONE[0]: adam.n_iterations},
            "scaler.counts": dict(scaler.counts),
        }
        arrays = {name: _array(values, "f8") for name, values in floats.items()}
        return State(self._spec.form, arrays | {name: _array(values, "i8") for name, values in whole.items()})

    def _take(self, state: State) -> None:
        from river.utils import VectorDict

        if state.form != self._spec.form:
            raise Corrupted("the state is of another form than the version; migrate it first")
        try:
            held = {name: dict(zip(a.labels, a.values.tolist(), strict=True)) for name, a in state.arrays.items()}
            self._scaler.counts.update(held["scaler.counts"])
            self._scaler.means.update(held["scaler.means"])
            self._scaler.vars.update(held["scaler.variances"])
            self._model._weights = VectorDict(held["weights"])
            self._model.intercept = held["intercept"][_ALONE[0]]
            adam = self._model.optimizer
            adam.n_iterations = held["adam.iterations"][_ALONE[0]]
            if adam.n_iterations:
                adam.m, adam.v = VectorDict(held["adam.m"]), VectorDict(held["adam.v"])
        except KeyError as error:
            raise Corrupted(f"the state lacks {error}; replay it from the log") from error

    def _split(self, features: Features) -> tuple[dict[str, float], dict[str, float]]:
        if problem := self._spec.check(features, whole=False):
            raise Refused("take these features", [problem])
        numbers = {name: float(features[name]) for name in self._spec.numbers if name in features}
        return numbers, {f"{name}={features[name]}": 1.0 for name in self._spec.texts if name in features}


def _array(values: Mapping[str, Any], dtype: str) -> Labelled:
    return Labelled(tuple(values), np.array(list(values.values()), dtype=f"<{dtype}"))
