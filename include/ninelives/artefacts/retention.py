"""Which versions of a model may be deleted: pure, the clock passed in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ninelives.artefacts.uses import Key
from ninelives.estate.artefacts import ArtefactRetention
from ninelives.estate.units import format_duration
from ninelives.ports import ModelVersion


@dataclass(frozen=True)
class Retention:
    """``kept``: version to every reason why it stays; ``due``: version to the rule that lets it go."""

    kept: Mapping[Key, tuple[str, ...]]
    due: Mapping[Key, str]


def plan(
    registered: Sequence[ModelVersion],
    rules: Mapping[str, ArtefactRetention | None],
    uses: Mapping[Key, Iterable[str]],
    now: datetime,
) -> Retention:
    """Decide about every registered version: one reason to stay is enough.

    :param rules: of each model of the estate; without one nothing of the model goes, and nothing of others' models does
    :param uses: who uses or holds a version
    """
    kept: dict[Key, tuple[str, ...]] = {}
    due: dict[Key, str] = {}
    newest: dict[str, list[str]] = {}
    for one in registered:
        newest.setdefault(one.model, []).append(one.version)
    for model, versions in newest.items():
        rule = rules.get(model)
        newest[model] = sorted(versions, key=int, reverse=True)[: rule.keep if rule else None]
    for one in registered:
        key, rule = (one.model, one.version), rules.get(one.model)
        reasons = sorted(uses.get(key, ()))
        if rule is None:
            why = "the estate declares no retention" if one.model in rules else "no model of this estate"
            kept[key] = (*reasons, why)
            continue
        if one.version in newest[one.model]:
            reasons.append("the newest" if rule.keep == 1 else f"one of the {rule.keep} newest")
        if one.created_at is None:
            reasons.append("nothing says how old it is")
        elif now - one.created_at < rule.keep_for:
            reasons.append(f"younger than {format_duration(rule.keep_for)}")
        if reasons:
            kept[key] = tuple(reasons)
        else:
            due[key] = f"keep {rule.keep}, keep_for {format_duration(rule.keep_for)}"
    return Retention(kept, due)
