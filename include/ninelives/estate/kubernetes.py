"""How the estate's services run on Kubernetes: what its manifests need and nothing else in the estate says."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from ninelives.estate.declared import Declared
from ninelives.estate.units import Name, shown

_IMAGE = re.compile(r"[a-z0-9][a-z0-9._/:-]{0,254}@sha256:[0-9a-f]{64}")
_CPU = re.compile(r"[1-9][0-9]{0,5}m?")
_MEMORY = re.compile(r"[1-9][0-9]{0,5}[MGT]i")
_RESOURCE = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?/[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


def _image(value: Any) -> Any:
    if isinstance(value, str) and _IMAGE.fullmatch(value):
        return value
    raise ValueError(
        f"{shown(value)} does not name one image for ever; write name@sha256:… with the 64 digits of its digest, "
        "because what a tag names may change between two sites"
    )


def _cpu(value: Any) -> Any:
    if isinstance(value, str) and _CPU.fullmatch(value):
        return value
    raise ValueError(f"{shown(value)} is no share of processors; write thousandths like 500m, or '2' in quotes")


def _memory(value: Any) -> Any:
    if isinstance(value, str) and _MEMORY.fullmatch(value):
        return value
    raise ValueError(f"{shown(value)} is no amount of memory; write one like 512Mi or 4Gi")


def _resource(value: Any) -> Any:
    if isinstance(value, str) and _RESOURCE.fullmatch(value):
        return value
    raise ValueError(f"{shown(value)} is no device that Kubernetes can give; write one like nvidia.com/gpu")


def _network(value: Any) -> Any:
    try:
        return str(ipaddress.ip_network(value))
    except (ValueError, TypeError):
        raise ValueError(f"{shown(value)} is no range of addresses; write one like 10.1.0.0/16") from None


Image = Annotated[str, BeforeValidator(_image), Field(pattern=f"^{_IMAGE.pattern}$")]
Cpu = Annotated[str, BeforeValidator(_cpu), Field(pattern=f"^{_CPU.pattern}$")]
Memory = Annotated[str, BeforeValidator(_memory), Field(pattern=f"^{_MEMORY.pattern}$")]
Network = Annotated[str, BeforeValidator(_network)]
Resource = Annotated[str, BeforeValidator(_resource), Field(pattern=f"^{_RESOURCE.pattern}$")]


class Autoscale(Declared):
    """Replicas that come and go with the load, at each site."""

    most: int = Field(ge=2, le=500, description="At each site: what the loss of another site needs there.")
    cpu: int = Field(default=70, ge=10, le=95, description="Percent of its processors at which replicas are added.")


class Pods(Declared):
    """A service's replicas at each of its sites."""

    replicas: int = Field(default=2, ge=2, le=100, description="At each site; one alone is gone with its node.")
    cpu: Cpu = Field(default="1", description="Processors of each replica.")
    memory: Memory = Field(default="1Gi", description="Of each replica; more than it asks for it never gets.")
    autoscale: Autoscale | None = Field(default=None, description="None: as many as replicas says, whatever the load.")
    peak: int | None = Field(
        default=None, ge=1, le=10_000_000, description="Requests per second of the whole service at its busiest."
    )
    accelerators: int = Field(default=0, ge=0, le=16, description="Whole devices of each replica.")
    accelerator: Resource = Field(default="nvidia.com/gpu", description="What the node's device plugin calls one.")

    @property
    def most(self) -> int:
        """Replicas that there may be at each site."""
        return self.autoscale.most if self.autoscale else self.replicas


class KubernetesSite(Declared):
    """One site's own Kubernetes."""

    site: Name
    pods: Network = Field(description="The addresses of its pods, from which its gateway asks other sites' replicas.")


class Kubernetes(Declared):
    """The services run on Kubernetes, one cluster a site, and each site's gateway is steered there."""

    image: Image = Field(description="The model server, by digest.")
    sites: tuple[KubernetesSite, ...] = Field(min_length=1)
    namespace: Name = "ninelives"
    gateway_class: Name = Field(default="envoy-gateway", description="A GatewayClass of Envoy Gateway.")
    gateway_namespace: Name = Field(default="envoy-gateway-system", description="Where its proxies run.")
