"""The machines of a site that have accelerators, what is asked of them, and what a model needs of one."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, field_validator

from ninelives.estate.declared import Declared
from ninelives.estate.units import Name

GIB = 2**30
STAND_IN = "stand-in"
"""Kind of a machine whose accelerator is played (``adapters/stand_in.py``): for drills, and no proof of a device."""


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


Count = Annotated[int, Field(gt=0, le=10**15), BeforeValidator(_number)]
Bytes = Annotated[int, Field(ge=0, le=10**15), BeforeValidator(_number)]


class Cache(Declared):
    """The keys and values that attention keeps of each token."""

    layers: Count
    heads: Count = Field(description="Of keys and values, which may be fewer than those of queries.")
    head_dim: Count
    bytes: Count = 2
    tokens: Count = Field(description="Longest sequence.")
    batch: Count = Field(default=1, description="Sequences at once.")


class Need(Declared):
    """Of one device; a model that is spread over several says what falls to each."""

    parameters: Count
    bytes: float = Field(default=2, gt=0, le=64, allow_inf_nan=False, description="Per parameter; 0.5 for four bits.")
    cache: Cache | None = None
    activations: Bytes = Field(default=0, description="Bytes, as measured.")
    overhead: Bytes = Field(default=GIB, description="Bytes of the runtime itself: context, kernels, workspace.")
    compute_capability: tuple[PositiveInt, NonNegativeInt] | None = Field(
        default=None, description="The least, e.g. [9, 0]."
    )
    cuda: PositiveInt | None = Field(default=None, description="CUDA's major version that the runtime was built for.")

    @property
    def weights(self) -> int:
        """bytes"""
        return int(self.parameters * self.bytes)

    @property
    def kept(self) -> int:
        """Bytes of the cache: 2 (keys, values) x layers x heads x head_dim x bytes x tokens x batch."""
        one = self.cache
        return 2 * one.layers * one.heads * one.head_dim * one.bytes * one.tokens * one.batch if one else 0

    @property
    def memory(self) -> int:
        """bytes"""
        return self.weights + self.kept + self.activations + self.overhead

    def arithmetic(self) -> str:
        parts = [f"weights {self.parameters} x {self.bytes:g} B = {self.weights / GIB:.2f} GiB"]
        if one := self.cache:
            factors = (2, one.layers, one.heads, one.head_dim, one.bytes, one.tokens, one.batch)
            parts.append(f"cache {' x '.join(map(str, factors))} B = {self.kept / GIB:.2f} GiB")
        parts += [f"activations {self.activations / GIB:.2f} GiB", f"overhead {self.overhead / GIB:.2f} GiB"]
        return " + ".join(parts) + f" = {self.memory / GIB:.2f} GiB"


class XidGate(StrEnum):
    """What one XID means for serving here."""

    BLOCK = "block"
    BLOCK_UNTIL_RESET = "block_until_reset"
    CORRELATE = "correlate"
    """Its severity depends on what nothing here decides, so it blocks."""
    WARN = "warn"
    IGNORE = "ignore"


class Policy(Declared):
    """Which findings block."""

    kind: str = Field(
        default="nvidia", description="nvidia, amd, gaudi, cpu, stand-in (drills only) or an entry point."
    )
    devices: tuple[str, ...] = Field(default=(), description="UUIDs that must be there, and no others; none: any.")
    ecc: bool = Field(default=True, description="Whether ECC must be on.")
    mig: bool = Field(default=False, description="Whether MIG must be on.")
    optional: tuple[str, ...] = Field(
        default=(
            "sram", "retired_pages", "repair", "nvlink", "fabric", "mig", "inforom", "throttling", "pcie_generation",
            "replays", "power", "tenants", "remap_banks",
        ),
        description="Checks that may stay unknown, in place of these: many devices cannot answer them.",
    )  # fmt: skip
    under_load: bool = Field(default=False, description="The device is busy, so that throttling blocks.")
    tenants: tuple[int, ...] = Field(default=(), description="Processes (PIDs) that may use it beside us.")
    xids: dict[NonNegativeInt, XidGate] = Field(
        default={}, description="What an XID means, where the table is to be overruled."
    )
    memory_margin: float = Field(default=1.1, ge=1, le=100, description="Free memory as a multiple of what is needed.")


class Host(Declared):
    """One machine."""

    name: Name = Field(description="Of the machine, and of the queue that its Airflow worker listens to alone.")
    policy: Policy = Field(default=Policy(), description="What is asked of its devices.")

    @field_validator("policy")
    @classmethod
    def _has_accelerators(cls, policy: Policy) -> Any:
        if policy.kind == "cpu":
            raise ValueError("a host that is named here has accelerators; leave it out where it has none")
        return policy
