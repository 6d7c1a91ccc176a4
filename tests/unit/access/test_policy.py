"""What policies allow, against the rules themselves applied to every request of a small world."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninelives.access.policy import expires, possibly_allowed, read_statements, surely_allowed
from ninelives.ports import AccessPolicy

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
PEOPLE = ("ann", "bob")
ACTIONS = ("s3:GetObject", "s3:PutObject")
KEYS = ("d/x/1", "d/x/2", "d/x/11", "d/y/1", "e/x/1")
DATES = {True: NOW + timedelta(hours=1), False: NOW - timedelta(hours=1)}

documents = st.lists(
    st.fixed_dictionaries(
        {
            "Effect": st.sampled_from(["Allow", "Allow", "Deny"]),
            "Principal": st.sampled_from(
                ["*", {"AWS": "arn:aws:iam::1:role/ann"}, {"AWS": ["arn:aws:iam::1:user/bob"]}]
            ),
            "Action": st.sampled_from(["s3:GetObject", ["s3:PutObject"], "s3:*", "*", "S3:get*"]),
            "Resource": st.sampled_from(["*", "d/*", "d/x/*", "d/x/1", "d/x/?", "*/1", "d/*/1", "d/y/*"]),
        },
        optional={
            "Condition": st.sampled_from(
                [
                    {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}},
                    {"DateLessThan": {"aws:CurrentTime": DATES[True].isoformat()}},
                    {"DateLessThan": {"aws:CurrentTime": DATES[False].isoformat()}},
                    {
                        "DateLessThan": {"aws:CurrentTime": DATES[True].isoformat()},
                        "IpAddress": {"aws:SourceIp": "10.0.0.0/8"},
                    },
                ]
            )
        },
    ),
    max_size=5,
)


def matches(pattern: str, text: str) -> bool:
    return bool(re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), text))


def allowed(document: list[dict[str, Any]], who: str, action: str, key: str, from_inside: bool) -> bool:
    """The rules of evaluation: any denial wins, then any permission."""
    effects = set()
    for one in document:
        principal = one["Principal"]
        if principal != "*" and who not in str(principal):
            continue
        actions = one["Action"] if isinstance(one["Action"], list) else [one["Action"]]
        condition = one.get("Condition", {})
        ends = condition.get("DateLessThan", {}).get("aws:CurrentTime")
        if (
            any(matches(pattern.lower(), action.lower()) for pattern in actions)
            and matches(one["Resource"], key)
            and (from_inside or "IpAddress" not in condition)
            and (ends is None or datetime.fromisoformat(ends) > NOW)
        ):
            effects.add(one["Effect"])
    return effects == {"Allow"}


@given(document=documents)
def test_what_is_sure_holds_for_every_request_and_what_happens_was_possible(document: list[dict[str, Any]]) -> None:
    statements = read_statements([AccessPolicy("bucket", {"Statement": document}, account="1")], NOW)
    for who, action, prefix in product(PEOPLE, ACTIONS, ("d/", "d/x/")):
        answers = [
            allowed(document, who, action, key, inside)
            for key, inside in product([key for key in KEYS if key.startswith(prefix)], (True, False))
        ]
        if surely_allowed(statements, who, action, f"{prefix}*"):
            assert all(answers)
        if any(answers):
            assert possibly_allowed(statements, who, action, f"{prefix}*")


def read(**statement: Any) -> Any:
    whole = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*", **statement}
    return read_statements([AccessPolicy("it", {"Statement": {k: v for k, v in whole.items() if v}}, account="1")], NOW)


@pytest.mark.parametrize(
    ("principal", "name"),
    [
        ("*", "*"),
        ({"AWS": "*"}, "*"),
        ({"AWS": "arn:aws:iam::1:role/path/serving"}, "serving"),
        ({"AWS": "arn:aws:sts::1:assumed-role/serving/session"}, "serving"),
        ({"AWS": "arn:aws:iam::2:role/serving"}, "serving@2"),  # somebody else's, of the same name
        ({"AWS": "arn:aws:iam::2:root"}, "account-2"),
        ({"AWS": "2"}, "account-2"),
        ({"Service": "logs.amazonaws.com"}, "service:logs.amazonaws.com"),
    ],
)
def test_a_principal_has_one_name(principal: Any, name: str) -> None:
    (statement,) = read(Principal=principal)
    assert statement.who == {name}


@pytest.mark.parametrize(
    "changes",
    [
        {"Action": None, "NotAction": "s3:PutObject"},
        {"Resource": None, "NotResource": "arn:aws:s3:::other/*"},
        {"Principal": None, "NotPrincipal": {"AWS": "arn:aws:iam::1:user/bob"}},
        {"Resource": "arn:aws:s3:::data/${aws:username}/*"},
        {"Condition": {"DateGreaterThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"}}},
    ],
)
def test_what_cannot_be_told_is_possible_and_never_sure(changes: dict[str, Any]) -> None:
    statements = read(**{"Principal": "*", **changes})
    assert possibly_allowed(statements, "ann", "s3:GetObject", "arn:aws:s3:::data/x/*")
    assert not surely_allowed(statements, "ann", "s3:GetObject", "arn:aws:s3:::data/x/*")


def test_the_usual_refusal_of_plain_http_hides_no_permission() -> None:
    insecure = {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": "*"}
    insecure["Condition"] = {"Bool": {"aws:SecureTransport": "false"}}  # type: ignore[assignment]
    assert surely_allowed([*read(Principal="*"), *read(**insecure)], "ann", "s3:GetObject", "arn:aws:s3:::data/x/*")
    statements = [*read(Principal="*"), *read(Principal="*", Effect="Deny")]
    assert not surely_allowed(statements, "ann", "s3:GetObject", "arn:aws:s3:::data/x/*")
    assert possibly_allowed(statements, "ann", "s3:GetObject", "arn:aws:s3:::data/x/*") is None


def test_a_policy_ends_when_its_last_statement_does() -> None:
    def policy(*ends: str | None) -> AccessPolicy:
        limits = [{"Condition": {"DateLessThan": {"aws:CurrentTime": end}}} if end else {} for end in ends]
        return AccessPolicy("it", {"Statement": limits}, "ann")

    assert expires(policy("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z")) == datetime(2026, 1, 2, tzinfo=UTC)
    assert expires(policy("2026-01-01T00:00:00Z", None)) is None
