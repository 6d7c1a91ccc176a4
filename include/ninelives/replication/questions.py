"""What only a person can decide: both sides changed the same thing, and neither descends from the other.

A question is ``_questions/<id>.json`` at both sites, its versions' bytes are kept below ``_conflicts/``. The id is made
of what is in question, so the same conflict found twice is one question.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Literal

import rfc8785
from pydantic import AwareDatetime, ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ninelives.errors import Corrupted, Refused
from ninelives.ports import ObjectStore
from ninelives.replication.manifest import BUCKET, Sha256, listed

PREFIX = "_questions/"
DELETE, KEEP = "delete", "keep"

FORM = ConfigDict(extra="forbid")
Kind = Literal["object", "release", "deletions"]


@dataclass(frozen=True, config=FORM)
class Version:
    """One side's bytes: ``size`` in bytes, ``aside`` the key under which they are kept, ``written`` who wrote what."""

    site: str
    sha256: Sha256
    size: int
    aside: str
    written: str


@dataclass(frozen=True, config=FORM)
class Decision:
    """A person's answer; ``choice`` is one of the question's options."""

    choice: str
    by: str
    at: AwareDatetime


@dataclass(frozen=True, config=FORM)
class Question:
    """``subject`` is the object's key, the model's name, or the site that lacks many objects at once."""

    id: str
    kind: Kind
    dataset: str
    bucket: str
    subject: str
    options: tuple[str, ...]
    versions: tuple[Version, ...] = ()
    keys: tuple[str, ...] = ()
    """Of ``deletions``: what is gone at ``subject``."""
    settled: str | None = None
    """The site whose bytes hold the name until somebody has decided, because it kept serving; then what was chosen,
    once it is carried out."""
    decision: Decision | None = None

    def headline(self) -> str:
        """One line for people."""
        if self.kind == "deletions":
            return f"{len(self.keys)} objects of {self.dataset} are gone at {self.subject}: delete them everywhere?"
        what = f"Release of {self.subject}" if self.kind == "release" else self.subject
        return f"{what} differs between {' and '.join(version.site for version in self.versions)}: whose stays?"

    def details(self) -> str:
        """Markdown: who wrote what, and what each answer means."""
        if self.kind == "deletions":
            lines = [f"- `{key}`" for key in self.keys[:20]]
            more = [f"- and {len(self.keys) - 20} more"] if len(self.keys) > 20 else []
            return "\n".join(
                [*lines, *more, "", f"`{DELETE}` moves them to the trash, `{KEEP}` brings them back to {self.subject}."]
            )
        return "\n".join(
            [
                *(f"- **{v.site}**: {v.written}, {v.size} bytes, sha256 `{v.sha256}`" for v in self.versions),
                "",
                "The bytes of every version are kept at both sites, whatever you answer.",
                *([f"Until then {self.settled}'s are used, because it kept serving."] if self.settled else []),
            ]
        )


_QUESTION = TypeAdapter(Question)


def question_id(*parts: object) -> str:
    return hashlib.sha256(rfc8785.dumps([str(part) for part in parts])).hexdigest()[:16]


def read_questions(store: ObjectStore, dataset: str) -> dict[str, Question]:
    """Every question about ``dataset`` that a site knows, answered or not, by id.

    :raises Corrupted: one cannot be read: nobody would be asked
    :raises Unavailable: the store does not answer
    """
    found: dict[str, Question] = {}
    for info in listed(store, BUCKET, f"{PREFIX}{dataset}/"):
        data = store.get(BUCKET, info.key)
        if data is None:
            continue
        try:
            question = _QUESTION.validate_json(data)
        except ValidationError as error:
            why = error.errors()[0]["msg"]
            raise Corrupted(f"{BUCKET}/{info.key} at {store.site} is no question: {why}; remove it") from error
        found[question.id] = question
    return found


def write_question(store: ObjectStore, question: Question) -> None:
    """Unless it is there as it is."""
    key, data = f"{PREFIX}{question.dataset}/{question.id}.json", _QUESTION.dump_json(question, indent=1)
    if store.get(BUCKET, key) != data:
        store.put(BUCKET, key, data)


def check_decision(question: Question, choice: str) -> str:
    """:raises Refused: ``choice`` is no answer to the question"""
    if choice not in question.options:
        raise Refused(
            f"decision on {question.id}", [f"{choice!r} is no answer; choose {' or '.join(question.options)}"]
        )
    return choice


def check_decider(
    question: str, *, chosen: Sequence[str], responded_by: str | None, at: datetime, operators: Collection[str]
) -> Decision:
    """What a person has answered in the UI to the question with this id, as a decision.

    :param chosen: the answers given
    :param responded_by: who answered, ``None`` where no person did
    :param operators: who may decide
    :raises Refused: it is not one answer, or not by one who may decide
    """
    if responded_by is None or responded_by not in operators:
        who = responded_by or "nobody"
        raise Refused(f"decision on {question}", [f"{who} has answered, and only {', '.join(operators)} may"])
    if len(chosen) != 1:
        raise Refused(f"decision on {question}", [f"{responded_by} gave {len(chosen)} answers; one is needed"])
    return Decision(choice=chosen[0], by=responded_by, at=at)
