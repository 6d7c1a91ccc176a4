"""What an estate says about Kubernetes: what could not be run or steered there is found where it is written."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from unit.estate.test_check import changed

from ninelives.errors import EstateError
from ninelives.estate import load_estate
from ninelives.estate.check import check_references
from ninelives.estate.kubernetes import Kubernetes, Pods

IMAGE = "ninelives-serving@sha256:" + "0" * 64
SITES = [{"site": "paris", "pods": "10.1.0.0/16"}, {"site": "dublin", "pods": "10.2.0.0/16"}]


WITHOUT_COPIES = [("services.0.release.shadow", 0), ("services.1.release.shadow", 0)]


def declared(**more: Any) -> tuple[str, Any]:
    return "kubernetes", {"image": IMAGE, "sites": SITES, **more}


def test_an_estate_on_kubernetes_is_sound() -> None:
    assert check_references(changed(declared(), *WITHOUT_COPIES)) == []


@pytest.mark.parametrize(
    ("changes", "path", "message"),
    [
        ([declared(sites=SITES[:1])], "kubernetes.sites", "dublin serves and is not here"),
        ([declared(sites=[*SITES, SITES[0]])], "kubernetes.sites[2].site", "already"),
        (
            [declared(sites=[*SITES, {"site": "rome", "pods": "10.3.0.0/16"}])],
            "kubernetes.sites[2].site",
            "not declared below sites",
        ),
        ([declared(), ("services.0.fallback.cached_for", "5min")], "services[0].fallback.cached_for", "Gateway API"),
        (
            [declared(), ("services.0.fallback.service", "late-arrival")],
            "services[0].fallback.service",
            "the Gateway API cannot ask another service",
        ),
        ([declared()], "services[0].release.shadow", "which version is meant"),
        (
            [declared(), ("sites.0.accelerators", [{"name": "gpu-1"}])],
            "sites[0].accelerators[0].policy.optional",
            "a pod cannot read the kernel's log",
        ),
        (
            [declared(), ("services.0.name", "a" * 40), ("sites.0.name", "b" * 40), ("services.0.sites.0", "b" * 40)],
            "services[0].sites[0]",
            "longer than the 63 characters",
        ),
    ],
)
def test_what_kubernetes_cannot_do_names_its_field(changes: list[tuple[str, Any]], path: str, message: str) -> None:
    assert message in dict(check_references(changed(*changes)))[path]


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (Kubernetes, {"image": "ninelives-serving:latest", "sites": SITES}, "what a tag names may change"),
        (Kubernetes, {"image": IMAGE, "sites": [{"site": "paris", "pods": "10.1.0.1/16"}]}, "no range of addresses"),
        (Pods, {"replicas": 1}, "greater than or equal to 2"),
        (Pods, {"cpu": "half"}, "no share of processors"),
        (Pods, {"memory": "4"}, "no amount of memory"),
        (Pods, {"accelerator": "gpu"}, "no device"),
    ],
)
def test_what_kubernetes_would_not_read_is_refused(kind: type[Any], value: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        kind.model_validate(value)


def test_a_mistake_in_it_has_a_line_and_says_what_to_write(tmp_path: Any) -> None:
    path = tmp_path / "estate.yaml"
    path.write_text(yaml.safe_dump(changed(declared()).model_dump(mode="json") | {"kubernetes": {"imagee": IMAGE}}))
    with pytest.raises(EstateError) as caught:
        load_estate(path)
    problems = {problem.path: problem for problem in caught.value.problems}
    assert problems["kubernetes.imagee"].line > 0
    assert "did you mean image?" in problems["kubernetes.imagee"].message


def test_room_for_a_loss_is_asked_where_the_busiest_hour_is_known() -> None:
    """``late-arrival`` is at two sites at once, ``arrival-delay`` at one of two."""

    def wrong(service: int, capacity: int | None, **pods: Any) -> dict[str, str]:
        changes = [(f"services.{service}.pods", pods), (f"services.{service}.capacity", capacity)]
        return dict(check_references(changed(declared(), *WITHOUT_COPIES, *(one for one in changes if one[1]))))

    assert wrong(1, 10, peak=20, replicas=2) == {}
    assert "3 are needed at 10 requests/s each" in wrong(1, 10, peak=21, replicas=2)["services[1].pods.replicas"]
    assert "5 are needed" in wrong(0, 10, peak=50, autoscale={"most": 4})["services[0].pods.autoscale.most"]
    assert wrong(0, 10, peak=50, autoscale={"most": 5}) == {}
    assert "declare the service's capacity" in wrong(0, None, peak=50)["services[0].pods.peak"]
    assert "is below replicas" in wrong(0, 10, replicas=5, autoscale={"most": 4})["services[0].pods.autoscale.most"]
    on_devices = wrong(0, 10, accelerators=1, autoscale={"most": 4})
    assert "says little of an accelerator's" in on_devices["services[0].pods.autoscale"]
