"""What pydantic found wrong, in words that say what to do."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from difflib import get_close_matches
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ninelives.estate.document import UNREADABLE, Loc
from ninelives.estate.units import NAME, VERSION, shown

_FORMS = {
    NAME: "is not a name; write lower-case letters, digits and hyphens, a letter first, at most 40 characters",
    VERSION: 'is not a version; write its number in quotes, like "8"',
}


def explain(error: ValidationError, kind: type[BaseModel]) -> Iterator[tuple[Loc, str]]:
    """Where and what, for every mistake of form; nothing about values that could not be read in the first place.

    :param kind: the model that refused, below which the places are
    """
    for detail in error.errors(include_url=False):
        # A list of which no item is right counts as too short as well.
        if detail["input"] is not UNREADABLE and not (detail["type"] == "too_short" and detail["input"]):
            message = _message(detail, kind)
            yield detail["loc"], message or detail["msg"]


def closest(word: str, known: Collection[str]) -> str:
    """``did you mean …?`` or what there is, to follow a message about ``word``."""
    if not known:
        return "there is none yet"
    # Comparing with every name of a big estate would make a file full of mistakes slow to refuse.
    if len(known) > 100:
        return f"none of the {len(known):,} has this name"
    names = sorted(known)
    if len(word) <= 60 and (matches := get_close_matches(word, names, n=1)):
        return f"did you mean {matches[0]}?"
    return f"known: {', '.join(names[:10])}{', …' if len(names) > 10 else ''}"


def _message(detail: ErrorDetails, kind: type[BaseModel]) -> str | None:
    loc, value, context = detail["loc"], detail["input"], detail.get("ctx", {})
    match detail["type"]:
        case "missing":
            field = _model_at(kind, loc[:-1]).model_fields[str(loc[-1])]
            return f"is missing; add it: {field.description}" if field.description else "is missing; add it"
        case "extra_forbidden":
            hint = closest(str(loc[-1]), _model_at(kind, loc[:-1]).model_fields)
            return f"is not a known key; remove it or correct it: {hint}"
        case "value_error":
            return str(context["error"])
        case "enum":
            choices = str(context["expected"]).replace("'", "")
            return f"{shown(value)} is not a choice; write {choices}"
        case "string_pattern_mismatch":
            wanted = _FORMS.get(context["pattern"], f"is not of the form {context['pattern']}")
            return f"{shown(value)} {wanted}"
        case "string_type":
            quotes = ", in quotes" if isinstance(value, int | float) else ""
            return f"{shown(value)} is not text; write text{quotes}"
        case "tuple_type":
            return f"{shown(value)} is not a list; write [first, second]"
        case "too_short":
            return "is empty; give at least one"
        case "model_type" | "dict_type":
            return f"{shown(value)} is not a mapping; write key: value pairs"
    return None


def _model_at(kind: Any, loc: Loc) -> type[BaseModel]:
    """The part of the model ``kind`` that describes the mapping at ``loc``."""
    for part in loc:
        if isinstance(part, str):
            kind = kind.model_fields[part].annotation
        if get_origin(kind) in (tuple, Union, UnionType):
            # ``tuple[Site, ...]`` and ``Fallback | None``: the model comes first, and an index changes nothing.
            kind = get_args(kind)[0]
    return kind  # type: ignore[no-any-return]
