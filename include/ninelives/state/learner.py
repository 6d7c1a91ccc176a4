"""What a version is: how it learns, which features it takes, what becomes of another one's state in it. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, Protocol, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ninelives.errors import Corrupted, Refused
from ninelives.ports import Features
from ninelives.state.arrays import Labelled, State

LARGEST = 1e100
"""Of a number, either way. Its square and the sum of 1e100 such squares are finite (float64 ends at 1.8e308), so that
no mean, variance or product overflows; a step of Adam is bounded by the learning rate whatever the numbers are."""
A_NUMBER = f"a number between -{LARGEST:g} and {LARGEST:g}"

Feature = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]


class Spec(BaseModel):
    """How a version learns. ``adds`` and ``drops`` declare what it takes more or less than the version before it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["river-linear"] = "river-linear"
    numbers: tuple[Feature, ...] = ()
    texts: tuple[Feature, ...] = ()
    learning_rate: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = 0.05
    """Of Adam (Kingma and Ba 2014, https://arxiv.org/abs/1412.6980)."""
    l2: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    adds: tuple[Feature, ...] = ()
    drops: tuple[Feature, ...] = ()

    @model_validator(mode="after")
    def _features_are_named_once(self) -> Self:
        names = [*self.numbers, *self.texts]
        if not names:
            raise ValueError("it takes no feature: name some below numbers or texts")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)}: a feature is a number or a text, once")
        return self

    @property
    def form(self) -> str:
        """What the arrays of a state belong to; how fast it learns is no part of it."""
        form = {"kind": self.kind, "numbers": sorted(self.numbers), "texts": sorted(self.texts)}
        return json.dumps(form, sort_keys=True, separators=(",", ":"))

    def check(self, features: Features, *, whole: bool = True) -> str | None:
        """Why a version cannot take ``features``, ``None`` where it can; more than it takes is no reason.

        :param whole: every feature must be there; an update from before a feature was added need not have it
        """
        for name in (*self.numbers, *self.texts):
            if name not in features:
                if whole:
                    return f"{name} is missing"
                continue
            value = features[name]
            if name in self.texts and not isinstance(value, str):
                return f"{name} must be a text, it is {value!r}"
            if name in self.numbers and not is_number(value):
                return f"{name} must be {A_NUMBER}, it is {value!r}"
        return None


def is_number(value: object) -> bool:
    """Whether it can be learnt: the log never forgets, so that one number too large would end the model for good."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST


def read_spec(path: Path) -> Spec:
    """Raises ``Refused`` for a file that is no spec, saying where."""
    try:
        return parse_spec(path.read_bytes())
    except OSError as error:
        raise Refused(f"read {path}", [str(error.strerror)]) from error
    except Corrupted as error:
        raise Refused(f"read {path}", [str(error)]) from error


def parse_spec(data: bytes) -> Spec:
    try:
        return Spec.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise Corrupted(f"{'.'.join(map(str, first['loc'])) or 'spec'}: {first['msg']}") from error


class Learner(Protocol):
    """A version with what it has learnt. The same updates in the same order give the same bytes of state."""

    def learn(self, features: Features, target: float) -> None: ...

    def answer(self, features: Features) -> float: ...

    def export(self) -> State: ...


Build = Callable[[Spec, State | None], Learner]
"""A learner of a version, with a state of its form or with none yet."""


def migrate(state: State, old: Spec, new: Spec) -> State:
    """``state`` of ``old`` as one of ``new``: the same where the forms are, else as ``new`` declares.

    What is added has learnt nothing yet, so that answers stay as they were; what is dropped is forgotten, everything
    that the optimiser knows of it included.

    :raises Refused: the forms differ by other features than ``adds`` and ``drops`` say
    """
    if state.form != old.form:
        raise Refused("hand the state over", ["it is not of the version that is said to have learnt it"])
    if old.form == new.form:
        return state
    before, after = _kinds(old), _kinds(new)
    added, dropped = set(after) - set(before), set(before) - set(after)
    reasons = [f"{name} was a {before[name]} and is a {after[name]}: give it another name"
               for name in sorted(set(before) & set(after)) if before[name] != after[name]]  # fmt: skip
    for verb, found, declared in (("adds", added, set(new.adds)), ("drops", dropped, set(new.drops))):
        if found != declared:
            said, is_so = (", ".join(sorted(names)) or "nothing" for names in (declared, found))
            reasons.append(f"the new version {verb} {is_so}, and declares that it {verb} {said}")
    if reasons:
        raise Refused("hand the state over", reasons)
    arrays = {name: _without(array, dropped) for name, array in state.arrays.items()}
    return State(new.form, arrays)


def _kinds(spec: Spec) -> dict[str, str]:
    return {**dict.fromkeys(spec.numbers, "number"), **dict.fromkeys(spec.texts, "text")}


def _without(array: Labelled, dropped: set[str]) -> Labelled:
    """A label is a number's name, or a text's name and value: ``carrier=UA``."""
    kept = [n for n, label in enumerate(array.labels) if label.partition("=")[0] not in dropped]
    return Labelled(tuple(array.labels[n] for n in kept), np.asarray(array.values)[kept])
