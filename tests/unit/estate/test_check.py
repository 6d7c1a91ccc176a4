"""Contradictions in an estate: each is found where it is, and a sound estate has none."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from benchmarks.bench_estate import big_estate

from ninelives.estate import Estate, load_estate
from ninelives.estate.check import check_references
from ninelives.estate.document import read_document

DEMO = Path(__file__).parents[3] / "include/estates/demo/estate.yaml"
DATA = read_document(DEMO).data


def changed(*changes: tuple[str, Any]) -> Estate:
    """The demo estate with other values at dotted paths; a value of ``None`` removes the key or item."""
    data = copy.deepcopy(DATA)
    for path, value in changes:
        *way, last = (int(part) if part.isdigit() else part for part in path.split("."))
        node = data
        for part in way:
            node = node[part]
        if value is None:
            del node[last]
        elif isinstance(node, list) and last == len(node):
            node.append(value)
        else:
            node[last] = value
    return Estate.model_validate(data)


def test_the_demo_estate_is_sound() -> None:
    assert check_references(changed()) == []


ON_AWS = [("datasets.0.engine", "datasync"), ("sites.0.access", "aws"), ("sites.1.access", "aws")]


def test_datasync_between_sites_on_aws_is_sound() -> None:
    assert check_references(changed(*ON_AWS)) == []


BOOKINGS = {"name": "bookings", "site": "paris", "table": "sales.bookings", "suite": "bookings"}
TABLE = ("tables", [BOOKINGS])


def test_a_table_uses_its_site_and_needs_nobody_who_uses_it() -> None:
    assert check_references(changed(("sites.2", {"name": "rome"}), ("tables", [BOOKINGS | {"site": "rome"}]))) == []


CASES: list[tuple[list[tuple[str, Any]], str, str]] = [
    # References that lead nowhere
    ([("datasets.0.primary", "pariss")], "datasets[0].primary", "did you mean paris?"),
    ([("datasets.0.copies.1", "rome")], "datasets[0].copies[1]", "known: dublin, paris"),
    ([("models.0.trained_on", "trains")], "models[0].trained_on", "not declared below datasets"),
    ([("services.0.owner", "bob")], "services[0].owner", "not declared below people"),
    ([("services.0.model", "arival-delay")], "services[0].model", "did you mean arrival-delay?"),
    ([("services.0.sites.2", "rome")], "services[0].sites[2]", "not declared below sites"),
    # The other way round: what nobody uses
    ([("sites.2", {"name": "rome"})], "sites[2].name", "no service runs there"),
    ([("models.2", DATA["models"][0] | {"name": "unused"})], "models[2].name", "no service serves it"),
    ([("backfills", [{"dag": "score", "source": "flihgts"}])], "backfills[0].source", "did you mean flights?"),
    ([("backfills", [{"dag": "score"}, {"dag": "score"}])], "backfills[1].dag", "named in backfills[0] already"),
    # A table, of which nothing here keeps copies
    ([("tables", [BOOKINGS | {"site": "rome"}])], "tables[0].site", "not declared below sites"),
    ([("tables", [BOOKINGS | {"name": "flights"}])], "tables[0].name", "name of a dataset already"),
    ([TABLE, ("models.0.trained_on", "bookings")], "models[0].trained_on", "no copies are kept; name a dataset"),
    ([TABLE, ("backfills", [{"dag": "a", "source": "bookings"}])], "backfills[0].source", "bookings is a table"),
    # An engine that cannot work there
    ([("datasets.0.engine", "datasync")], "datasets[0].engine", "paris, dublin does not say access: aws"),
    (
        [("datasets.0.engine", "datasync"), ("sites.0.access", "aws")],
        "datasets[0].engine",
        "only, and dublin does not say access: aws",
    ),
    (
        [*ON_AWS, ("datasets.0.shards", 2)],
        "datasets[0].shards",
        "one execution of a task at a time",
    ),
    # Names given twice
    ([("people.1.name", "ada")], "people[1].name", "name of people[0] already"),
    ([("sites.2", {"name": "paris"})], "sites[2].name", "name of sites[0] already"),
    ([("services.1.name", "arrival-delay")], "services[1].name", "name of services[0] already"),
    ([("services.0.sites.2", "paris")], "services[0].sites[2]", "named twice"),
    ([("datasets.0.copies.1", "dublin")], "datasets[0].copies[1]", "named twice"),
    ([("people.0.roles.1", "operator")], "people[0].roles[1]", "named twice"),
    # Promises that cannot be kept
    ([("services.0.objective.rto", "9s")], "services[0].objective.rto", "the warm-up of model arrival-delay (10s)"),
    ([("services.0.objective.rto", "10s")], "services[0].objective.rto", "no longer than the warm-up"),
    ([("services.1.standby", "warm")], "services[1].standby", "has no standby: every site of an active-active service"),
    ([("services.0.objective.rpo", "14min")], "services[0].objective.rpo", "dataset flights may lose 15min"),
    ([("services.0.objective.latency", "60s")], "services[0].objective.latency", "shorter than rto"),
    ([("services.0.objective.window", "60s")], "services[0].objective.window", "make it longer"),
    ([("services.0.sites", ["paris"])], "services[0].sites", "active-passive service on one site"),
    ([("services.1.sites", ["paris"])], "services[1].sites", "active-active service on one site"),
    ([("services.1.sites", ["paris", "paris"])], "services[1].sites", "active-active service on one site"),
    ([("datasets.0.copies.1", "paris")], "datasets[0].copies[1]", "is the primary"),
    (
        [("sites.2", {"name": "rome"}), ("services.0.sites.2", "rome")],
        "services[0].sites[2]",
        "rome holds no copy of dataset flights",
    ),
    # Data that may not leave its regions
    (
        [("datasets.0.residency", ["eu"]), ("sites.0.region", "eu"), ("sites.1.region", "us")],
        "datasets[0].copies[0]",
        "dataset flights may not leave eu, and dublin is in us",
    ),
    (
        [("datasets.0.residency", ["eu"]), ("sites.0.region", "eu")],
        "services[0].sites[1]",
        "may not leave eu, and dublin names no region",
    ),
    ([("datasets.0.residency", ["us"]), ("sites.1.region", "us")], "datasets[0].primary", "paris names no region"),
    # Permissions
    (
        [("datasets.0.access", [{"who": "app", "may": ["read"], "at": ["pariss"]}])],
        "datasets[0].access[0].at[0]",
        "did you mean paris?",
    ),
    (
        [("models.0.access", [{"who": "app", "may": ["write"], "at": ["paris"], "in_failover": True}])],
        "models[0].access[0].in_failover",
        "add read",
    ),
    (
        [("datasets.0.access", [{"who": "app", "may": ["read"], "in_failover": True}])],
        "datasets[0].access[0].in_failover",
        "name the sites in at",
    ),
    # Requests and answers
    ([("services.0.golden.2.inputs.hour", None)], "services[0].golden[2].inputs", "lacks 'hour'"),
    ([("services.0.golden.2.inputs.rain", 1)], "services[0].golden[2].inputs", "has 'rain' beside"),
    ([("services.0.golden.1.inputs.hour", "7")], "services[0].golden[1].inputs.hour", "is text, but a number in"),
    ([("services.0.golden.1.inputs.hour", True)], "services[0].golden[1].inputs.hour", "is true or false"),
    (
        [
            ("services.1.model", "arrival-delay"),
            ("models.1", None),
            ("services.1.fallback", {"answer": {"late": 1}}),
            ("services.1.objective.rto", "60s"),
        ],
        "services[1].fallback.answer",
        "other outputs than services[0].fallback.answer",
    ),
    (
        [("services.0.fallback.service", "late")],
        "services[0].fallback.service",
        "late is not declared below services",
    ),
    (
        [("services.0.fallback.service", "arrival-delay")],
        "services[0].fallback.service",
        "serves the same model, and is lost with it",
    ),
    # Drills
    ([("drills.max_duration", "60s")], "drills.max_duration", "the rto of service arrival-delay (1min)"),
    ([("drills.min_good", "99.5%")], "drills.min_good", "above the quality that service"),
    ([("drills.schedule", "0 3 * *")], "drills.schedule", "has 4 fields"),
    ([("people.0.roles", ["approver"])], "people", "nobody has the role operator"),
    ([("drills.approval", "four-eyes"), ("people.1.roles", ["operator"])], "drills.approval", "needs an approver"),
    (
        [("drills.approval", "four-eyes"), ("people.0.roles", ["operator", "approver"]), ("people.1", None)],
        "drills.approval",
        "ada is the only operator and the only approver",
    ),
]


@pytest.mark.parametrize(("changes", "path", "words"), CASES, ids=[f"{path}: {words}" for _, path, words in CASES])
def test_a_contradiction_is_found_where_it_is(changes: list[tuple[str, Any]], path: str, words: str) -> None:
    found = dict(check_references(changed(*changes)))
    assert words in found.get(path, f"not found; only {found}")


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param([("services.1.objective.rto", "1s")], id="survivors of an active-active service are warm"),
        pytest.param([("drills.approval", "four-eyes")], id="an operator and another approver are four eyes"),
        pytest.param(
            [
                ("drills.approval", "four-eyes"),
                ("people.0.roles", ["operator", "approver"]),
                ("people.1.roles", ["operator"]),
            ],
            id="the only approver may approve what the other operator asks for",
        ),
        pytest.param([("drills.schedule", None)], id="drills by hand only"),
        pytest.param([("services.0.golden.1.inputs.hour", 7.5)], id="a feature may be whole or not: both are numbers"),
        pytest.param(
            [
                ("datasets.0.residency", ["eu", "uk"]),
                *(
                    (f"{place}.region", region)
                    for place, region in (("sites.0", "eu"), ("sites.1", "uk"), ("vault", "uk"))
                ),
            ],
            id="data may be in each of its regions",
        ),
        pytest.param([("datasets.1", DATA["datasets"][0] | {"name": "carriers"})], id="what only a suite refers to"),
        pytest.param([("drills.min_good", "99%")], id="a drill may stop exactly at the promised quality"),
    ],
)
def test_what_can_be_kept_is_accepted(changes: list[tuple[str, Any]]) -> None:
    assert check_references(changed(*changes)) == []


def test_all_contradictions_are_named_at_once() -> None:
    estate = changed(
        ("services.0.owner", "bob"),
        ("services.1.sites", ["paris"]),
        ("drills.max_duration", "1s"),
        ("sites.2", {"name": "x"}),
    )
    assert [path for path, _ in check_references(estate)] == [
        "services[0].owner",
        "sites[2].name",
        "services[1].sites",
        "drills.max_duration",
    ]


def test_an_estate_of_a_thousand_services_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "estate.yaml"
    path.write_text(big_estate(), "utf-8")
    assert len(load_estate(path).services) == 1000


def test_a_planned_fault_of_an_accelerator_needs_a_service_on_one_and_a_machine_that_is_played() -> None:
    plan = ("drills.calendar.0", {"scenario": "accelerator-fault", "service": "late-arrival", "every": "30d"})
    needs_one = ("services.1.release.hardware", "accelerator")
    real = ("sites.0.accelerators", [{"name": "gpu-1"}])
    played = ("sites.0.accelerators", [{"name": "gpu-1", "policy": {"kind": "stand-in"}}])

    def found(*changes: tuple[str, Any]) -> str:
        return dict(check_references(changed(plan, *changes))).get("drills.calendar[0]", "")

    assert "is served by the processor" in found(played)
    assert "no machine at paris or dublin has policy: {kind: stand-in}" in found(needs_one, real)
    assert found(needs_one, played) == ""
