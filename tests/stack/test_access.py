"""Permissions on a real server process that keeps IAM and bucket policies (moto), as its users would make and break
them; and a grant from a failover to its withdrawal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from support.access import FLIGHTS, MODELS, World, aws
from support.processes import free_port

from ninelives.access.audit import audit_access, refuse_drift
from ninelives.access.grants import grant_access, open_grants, revoke_access
from ninelives.errors import Refused, Unavailable

pytestmark = pytest.mark.stack

RUN = "asset_triggered__2026-01-31T12:00:00+00:00"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with aws(tmp_path_factory.mktemp("aws")) as url:
        yield url


@pytest.fixture
def world(server: str, tmp_path: Path) -> World:
    httpx.post(f"{server}/moto-api/reset", timeout=5)
    return World(tmp_path, server)


def test_drift_is_found_at_the_command_line_and_a_store_without_policies_is_never_called_sound(world: World) -> None:
    code, report = world.command()
    assert (code, report["verdict"], report["checked"]) == (0, "unknown", ["dublin"])
    (finding,) = report["findings"]
    assert (finding["site"], finding["kind"], finding["drift"]) == ("paris", "unchecked", False)
    assert "cannot be checked here" in finding["detail"]
    assert world.command("--site", "dublin")[1]["verdict"] == "met"

    world.allow("copier", "more", ["s3:*"], ["arn:aws:s3:::data/*"])
    code, report = world.command()
    assert (code, report["verdict"]) == (3, "missed")
    assert [one["kind"] for one in report["findings"] if one["drift"]] == ["wildcard"]


def test_each_way_to_drift_is_found(world: World) -> None:
    assert world.drift() == []
    world.iam.delete_user_policy(UserName="copier", PolicyName="copies")
    assert {kind for kind, _, _ in world.drift()} == {"missing"}
    world.allow("copier", "copies", ["s3:GetObject", "s3:PutObject"], [FLIGHTS, *MODELS])

    world.iam.create_group(GroupName="clerks")
    world.iam.create_user(UserName="clerk")
    world.iam.add_user_to_group(GroupName="clerks", UserName="clerk")
    read = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": FLIGHTS}
    document = json.dumps({"Version": "2012-10-17", "Statement": [read]})
    managed = world.iam.create_policy(PolicyName="reading", PolicyDocument=document)["Policy"]["Arn"]
    world.iam.attach_group_policy(GroupName="clerks", PolicyArn=managed)
    assert world.drift() == [("excess", "dataset flights", "clerk")]
    world.iam.detach_group_policy(GroupName="clerks", PolicyArn=managed)

    stranger = {**read, "Principal": {"AWS": "arn:aws:iam::999999999999:user/copier"}, "Action": "s3:DeleteObject"}
    world.s3.put_bucket_policy(Bucket="data", Policy=json.dumps({"Version": "2012-10-17", "Statement": [stranger]}))
    assert world.drift() == [("excess", "dataset flights", "copier@999999999999")]
    everybody = {**read, "Principal": "*"}
    world.s3.put_bucket_policy(Bucket="data", Policy=json.dumps({"Version": "2012-10-17", "Statement": [everybody]}))
    assert world.drift() == [("public", "dataset flights", "everybody")]
    world.s3.delete_bucket_policy(Bucket="data")
    world.s3.put_bucket_acl(Bucket="models", ACL="public-read")
    assert world.drift() == [("public", "bucket models", "everybody")]
    world.s3.put_bucket_acl(Bucket="data", GrantWrite='id="f00d"')
    assert ("excess", "dataset flights", "canonicaluser:f00d") in world.drift()
    world.s3.put_bucket_acl(Bucket="data", ACL="private")

    report, record = audit_access(world.systems, run="daily")
    assert (record.kind, record.facts["verdict"], record.facts["findings"][-1]["who"]) == (
        "access",
        "missed",
        "everybody",
    )
    with pytest.raises(Refused, match=r"bucket models: public.*see evidence 1"):
        refuse_drift(report, record)


def test_a_failover_grants_reading_for_a_time_and_it_is_withdrawn(world: World) -> None:
    systems = world.systems
    failover = {"service": "arrival-delay", "lost_site": "paris", "standby": "dublin", "incident": RUN}
    (record,) = grant_access(systems, **failover)
    assert grant_access(systems, **failover) == [record]  # a killed step run again
    (name,) = world.granted()
    assert name == "ninelives-arrival-delay-asset_triggered__2026-01-31T12-00-00-00-00"
    document = world.iam.get_role_policy(RoleName="serving", PolicyName=name)["PolicyDocument"]
    assert {action for one in document["Statement"] for action in one["Action"]} == {"s3:GetObject", "s3:ListBucket"}
    assert document["Statement"][0]["Resource"] == [FLIGHTS, MODELS[0], "arn:aws:s3:::data/_manifests/flights.json"]
    assert all("aws:CurrentTime" in one["Condition"]["DateLessThan"] for one in document["Statement"])
    assert world.drift() == []

    # Widened by somebody, or made by somebody under such a name: no grant any more.
    wider = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": MODELS[1]}
    forged = {**document, "Statement": [*document["Statement"], wider]}
    world.iam.put_role_policy(RoleName="serving", PolicyName=name, PolicyDocument=json.dumps(forged))
    assert ("excess", "model late-arrival", "serving") in world.drift()
    grant_access(systems, **failover)
    assert world.drift() == []

    assert [one.facts["outcome"] for one in revoke_access(systems, incident=RUN)] == ["withdrawn"]
    assert world.granted() == []
    assert revoke_access(systems, incident=RUN) == []


def test_where_buckets_have_a_prefix_they_are_judged_and_granted_by_their_whole_names(
    server: str, tmp_path: Path
) -> None:
    httpx.post(f"{server}/moto-api/reset", timeout=5)
    world = World(tmp_path, server, prefix="acme-dublin-")
    assert world.drift() == []
    failover = {"service": "arrival-delay", "lost_site": "paris", "standby": "dublin", "incident": RUN}
    (record,) = grant_access(world.systems, **failover)
    assert [resource for one in record.facts["document"]["Statement"] for resource in one["Resource"]] == [
        "arn:aws:s3:::acme-dublin-data/flights/*",
        "arn:aws:s3:::acme-dublin-models/arrival-delay/*",
        "arn:aws:s3:::acme-dublin-data/_manifests/flights.json",
        "arn:aws:s3:::acme-dublin-data",
        "arn:aws:s3:::acme-dublin-models",
    ]
    assert world.drift() == []

    world.iam.create_user(UserName="clerk")
    world.allow("clerk", "elsewhere", ["s3:GetObject"], [FLIGHTS])
    assert world.drift() == [], "another's bucket may be called data"
    world.allow("clerk", "reads", ["s3:GetObject"], ["arn:aws:s3:::acme-dublin-data/flights/*"])
    assert world.drift() == [("excess", "dataset flights", "clerk")]
    world.s3.put_bucket_acl(Bucket="acme-dublin-models", ACL="public-read")
    assert ("public", "bucket acme-dublin-models", "everybody") in world.drift()


def test_a_later_audit_removes_what_has_expired_and_a_failover_says_whom_it_lacks(world: World) -> None:
    systems = world.systems
    yesterday = datetime.now(UTC) - timedelta(days=1, minutes=1)
    failover = {"service": "late-arrival", "lost_site": "paris", "standby": "dublin", "incident": RUN}
    grant_access(systems, **failover, now=yesterday)
    assert world.granted()
    assert world.drift() == []  # its time is over: it gives nothing
    report, record = audit_access(systems)
    assert (report.drift, len(record.facts["expired"]), world.granted(), open_grants(systems.ledger())) == (
        (),
        1,
        [],
        [],
    )
    world.iam.delete_role(RoleName="serving")
    with pytest.raises(Refused, match="dublin has no user or role serving"):
        grant_access(systems, **{**failover, "incident": "next"})


def test_a_site_that_does_not_answer_is_unknown_and_fails_the_audit(world: World) -> None:
    lost = {**world.access, "extra": {"endpoint_url": f"http://127.0.0.1:{free_port()}"}}
    world.connect(lost)
    report, record = audit_access(world.systems)
    assert record.facts["verdict"] == "unknown"
    with pytest.raises(Unavailable, match=r"dublin.*cannot be checked now"):
        refuse_drift(report, record)
