"""Read an estate file, and say everything that is wrong with it at once."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ninelives.errors import EstateError, EstateProblem
from ninelives.estate.check import Finding, find_contradictions
from ninelives.estate.document import MAX_PROBLEMS, Document, Loc, format_path, read_document
from ninelives.estate.experiment import Experiment
from ninelives.estate.explain import explain
from ninelives.estate.model import Dataset, DrillPolicy, Estate, Licence, Model, Person, Service, Site, Table
from ninelives.estate.outside import Consumer, Provider
from ninelives.estate.streams import Stream

_ITEMS: dict[str, type[BaseModel]] = {
    "people": Person,
    "sites": Site,
    "datasets": Dataset,
    "models": Model,
    "services": Service,
    "streams": Stream,
    "tables": Table,
    "licences": Licence,
    "providers": Provider,
    "consumers": Consumer,
    "experiments": Experiment,
}


def load_estate(path: Path) -> Estate:
    """Read and check the estate at ``path``.

    Takes bounded time and memory whatever the file holds. Raises ``EstateError`` with every problem of form, reference
    and promise (the first 1,000 of them); where a part of the file cannot be read, the checks that need that part wait
    until it can.
    """
    document = read_document(path)
    estate, findings = _check(document.data)
    problems = document.problems
    problems += (EstateProblem(document.file, document.line(loc), format_path(loc), text) for loc, text in findings)
    if problems:
        raise EstateError(_shortened(document, problems))
    return estate


def _shortened(document: Document, problems: list[EstateProblem]) -> list[EstateProblem]:
    if len(problems) <= MAX_PROBLEMS:
        return problems
    note = f"has more than {MAX_PROBLEMS:,} problems; these are the first"
    return [EstateProblem(document.file, 0, "", note), *sorted(problems)[:MAX_PROBLEMS]]


def _check(data: Any) -> tuple[Estate, list[Finding]]:
    """The estate in ``data``, whole where there are no findings, else of what could be read.

    Items are validated one by one: pydantic collects every error before it says the first, which would take gigabytes
    for a hostile file.
    """
    parts = dict(data) if isinstance(data, dict) else data
    findings: list[Finding] = []
    kept: dict[str, list[int]] = {}
    broken: set[str] = set()
    for part, kind in _ITEMS.items():
        written = data.get(part) if isinstance(data, dict) else None
        if not isinstance(written, list):
            continue
        items: list[BaseModel] = []
        kept[part] = []
        for index, item in enumerate(written):
            if len(findings) > MAX_PROBLEMS:
                broken.add(part)
                break
            try:
                items.append(kind.model_validate(item))
                kept[part].append(index)
            except ValidationError as error:
                broken.add(part)
                findings += (((part, index, *loc), text) for loc, text in _first(explain(error, kind)))
        parts[part] = items
    try:
        estate = Estate.model_validate(parts)
    except ValidationError as error:
        # A list is also too short when none of its items could be read, which was said already.
        findings += ((loc, text) for loc, text in _first(explain(error, Estate)) if not broken.intersection(loc[:1]))
        broken.update(str(detail["loc"][0]) for detail in error.errors(include_url=False) if detail["loc"])
        estate = _readable(parts, kept, broken)
    findings += ((_original(loc, kept), text) for loc, text in _first(find_contradictions(estate, broken)))
    return estate, findings


def _first(findings: Iterator[Finding]) -> Iterator[Finding]:
    """As many as are reported, and one more to know that there were more."""
    return islice(findings, MAX_PROBLEMS + 1)


def _readable(parts: Any, kept: dict[str, list[int]], broken: set[str]) -> Estate:
    """An estate of the items that are well formed, without what is missing or wrong."""
    if not isinstance(parts, dict):
        broken.update(_ITEMS, ("drills",))
    readable: dict[str, Any] = {part: tuple(parts[part]) if part in kept else () for part in _ITEMS}
    if "drills" not in broken:
        readable["drills"] = DrillPolicy.model_validate(parts["drills"])
    return Estate.model_construct(**readable)


def _original(loc: Loc, kept: dict[str, list[int]]) -> Loc:
    """``loc`` in the file, from ``loc`` among the items that could be read."""
    if len(loc) > 1 and isinstance(loc[1], int):
        return (loc[0], kept[str(loc[0])][loc[1]], *loc[2:])
    return loc
