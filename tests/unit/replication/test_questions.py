"""Who may answer a question, and what the report says for people."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ninelives.errors import Refused
from ninelives.replication.questions import Decision, Question, Version, check_decider
from ninelives.replication.reconcile import ReconcileResult

AT = datetime(2026, 1, 31, 12, tzinfo=UTC)


def decide(chosen: tuple[str, ...], responded_by: str | None) -> Decision:
    return check_decider("q1", chosen=chosen, responded_by=responded_by, at=AT, operators=("ada", "bob"))


def test_one_answer_of_an_operator_is_a_decision() -> None:
    assert decide(("paris",), "bob") == Decision(choice="paris", by="bob", at=AT)


@pytest.mark.parametrize(
    ("chosen", "who", "words"),
    [
        (("paris",), None, "nobody has answered"),
        (("paris",), "grace", "grace has answered, and only ada, bob may"),
        ((), "ada", "ada gave 0 answers"),
        (("paris", "dublin"), "ada", "ada gave 2 answers"),
    ],
)
def test_anything_else_is_none(chosen: tuple[str, ...], who: str | None, words: str) -> None:
    with pytest.raises(Refused, match=words):
        decide(chosen, who)


def test_the_report_lists_what_was_merged_kept_and_decided() -> None:
    versions = tuple(Version(site=site, sha256="0" * 64, size=1, aside="x", written="w") for site in ("a", "b"))
    decision = decide(("b",), "ada")
    question = Question("q1", "object", "flights", "data", "flights/both", ("a", "b"), versions, decision=decision)
    result = ReconcileResult(
        "flights",
        "a",
        "b",
        copied_to_site=2,
        deleted_at_other=("flights/x",),
        questions=(question,),
        decided=(question,),
    )
    assert result.lines()[:4] == [
        "flights: 2 objects copied to a, 0 to b",
        "moved to the trash at b: flights/x",
        "decided by ada: b. flights/both differs between a and b: whose stays?",
        "open q1: flights/both differs between a and b: whose stays?",
    ]
