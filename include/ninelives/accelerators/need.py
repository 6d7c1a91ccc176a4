"""What a model needs of an accelerator, with the arithmetic shown."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from ninelives.accelerators.policy import FromFile

GIB = 2**30


class Cache(FromFile):
    """The keys and values that attention keeps of each token."""

    layers: PositiveInt
    heads: PositiveInt = Field(description="Of keys and values, which may be fewer than those of queries.")
    head_dim: PositiveInt
    bytes: PositiveInt = 2
    tokens: PositiveInt = Field(description="Longest sequence.")
    batch: PositiveInt = Field(default=1, description="Sequences at once.")


class Need(FromFile):
    """Of one device; a model that is spread over several says what falls to each."""

    parameters: PositiveInt
    bytes: float = Field(default=2, gt=0, description="Per parameter; 0.5 for four bits.")
    cache: Cache | None = None
    activations: int = Field(default=0, ge=0, description="Bytes, as measured.")
    overhead: int = Field(default=GIB, ge=0, description="Bytes of the runtime itself: context, kernels, workspace.")
    compute_capability: tuple[int, int] | None = Field(default=None, description="The least, e.g. [9, 0].")
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
