"""Every difference between what is declared and what is there, and none where there is none."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ninelives.access.compare import Finding, compare
from ninelives.access.grants import needs, policy_name
from ninelives.estate import Estate
from ninelives.estate.document import read_document
from ninelives.ports import AccessPolicy

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
DATA = read_document(Path(__file__).parents[3] / "include/estates/demo/estate.yaml").data
FLIGHTS, MODEL = "arn:aws:s3:::data/flights/*", "arn:aws:s3:::models/arrival-delay/*"


def estate() -> Estate:
    data = json.loads(json.dumps(DATA))
    data["administrators"] = ["root-admin"]
    data["datasets"][0]["access"] = [
        {"who": "feeder", "may": ["read", "write"], "at": ["paris"]},
        {"who": "serving", "may": ["read"], "at": ["paris"], "in_failover": True},
        {"who": "copier", "may": ["read", "write"]},
    ]
    data["models"][0]["access"] = [{"who": "serving", "may": ["read"], "at": ["paris"], "in_failover": True}]
    data["models"][1]["access"] = [{"who": "copier", "may": ["read"]}]
    return Estate.model_validate(data)


def allow(who: str, actions: Any, *resources: str, **more: Any) -> AccessPolicy:
    statement = {"Effect": "Allow", "Action": actions, "Resource": list(resources), **more}
    return AccessPolicy(f"policy of {who}", {"Statement": [statement]}, who)


def bucket(principal: Any, actions: Any, *resources: str, **more: Any) -> AccessPolicy:
    statement = {"Effect": "Allow", "Principal": principal, "Action": actions, "Resource": list(resources), **more}
    return AccessPolicy("the policy of bucket data", {"Statement": [statement]}, account="1")


SOUND = [
    allow("feeder", ["s3:GetObject", "s3:PutObject"], FLIGHTS),
    allow("serving", "s3:GetObject", FLIGHTS, MODEL),
    allow("copier", ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"], FLIGHTS),
    allow("copier", "s3:GetObject", "arn:aws:s3:::models/late-arrival/*"),
    allow("root-admin", "*", "*"),
    allow("clerk", "s3:GetObject", "arn:aws:s3:::payroll/*"),
]


def found(*more: AccessPolicy, without: int | None = None, public: dict[str, str] | None = None) -> list[Finding]:
    policies = [one for index, one in enumerate(SOUND) if index != without]
    return compare(estate(), "paris", [*policies, *more], public or {}, NOW)


def test_what_is_declared_and_there_differs_in_nothing() -> None:
    assert found() == []


def test_each_missing_permission_is_named() -> None:
    (one,) = found(without=0)[:1]
    assert (one.kind, one.subject, one.who) == ("missing", "dataset flights", "feeder")
    assert [finding.subject for finding in found(without=1)] == ["dataset flights", "model arrival-delay"]
    denied = AccessPolicy("the policy of bucket data", {"Statement": {
        "Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::data/flights/2013/*",
    }})  # fmt: skip
    assert {(one.kind, one.who) for one in found(denied)} == {("missing", "feeder"), ("missing", "copier")}


@pytest.mark.parametrize(
    ("policy", "kinds", "who"),
    [
        (allow("clerk", "s3:GetObject", "arn:aws:s3:::data/flights/2013/01/01.parquet"), {"excess"}, "clerk"),
        (allow("serving", "s3:DeleteObject", FLIGHTS), {"excess"}, "serving"),
        (allow("clerk", "s3:GetObject", FLIGHTS, Condition={"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}), {"excess"},
         "clerk"),
        (allow("clerk", "s3:*", FLIGHTS), {"excess", "wildcard"}, "clerk"),
        (allow("feeder", "s3:Put*", FLIGHTS), {"wildcard"}, "feeder"),
        (allow("copier", "s3:GetObject", "arn:aws:s3:::data*/flights/*"), {"wildcard"}, "copier"),
        (bucket({"AWS": "arn:aws:iam::2:role/serving"}, "s3:GetObject", FLIGHTS), {"excess"}, "serving@2"),
        (bucket({"AWS": "arn:aws:iam::2:root"}, "s3:GetObject", FLIGHTS), {"excess"}, "account-2"),
        (bucket("*", "s3:GetObject", FLIGHTS), {"public"}, "everybody"),
        (bucket("*", "s3:GetObject", FLIGHTS, Condition={"StringLike": {"aws:Referer": "x"}}), {"public"}, "everybody"),
    ],
)  # fmt: skip
def test_each_permission_too_many_is_named(policy: AccessPolicy, kinds: set[str], who: str) -> None:
    drift = found(policy)
    assert {(one.kind, one.who) for one in drift} == {(kind, who) for kind in kinds}
    assert all(one.is_drift for one in drift)


def test_a_public_bucket_is_drift() -> None:
    (one,) = found(public={"data": "may read by its access list"})
    assert (one.kind, one.subject) == ("public", "bucket data")


def test_what_has_expired_gives_nothing_and_counts_for_nothing() -> None:
    over = {"DateLessThan": {"aws:CurrentTime": "2026-01-31T11:59:59Z"}}
    assert found(allow("clerk", "s3:GetObject", FLIGHTS, Condition=over)) == []
    assert found(allow("feeder", ["s3:GetObject", "s3:PutObject"], FLIGHTS, Condition=over), without=0)


def test_where_nothing_is_declared_nothing_is_called_sound() -> None:
    plain = Estate.model_validate(DATA)
    assert {(one.kind, one.is_drift) for one in compare(plain, "paris", [], {}, NOW)} == {("unchecked", False)}


def test_a_standby_needs_what_was_declared_for_failovers_and_it_does_not_have() -> None:
    (need,) = needs(estate(), "arrival-delay", "paris", "dublin")
    assert need.who == "serving"
    assert [target.resource for target in need.targets] == [FLIGHTS, MODEL]
    assert needs(estate(), "arrival-delay", "dublin", "paris") == []
    assert needs(estate(), "late-arrival", "paris", "dublin")[0].targets == need.targets[:1]


def test_a_grants_name_is_one_that_policies_may_have_and_tells_incidents_apart() -> None:
    assert policy_name("chat", "asset__2026-01-31T12:00:00+00:00") == "ninelives-chat-asset__2026-01-31T12-00-00-00-00"
    names = {policy_name("chat", "x" * 200 + end) for end in "ab"}
    assert len(names) == 2
    assert max(map(len, names)) <= 128
