"""A new version's signature against everybody who declared what they send and read. Pure but for ``signature_of``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ninelives.estate.outside import Consumer, Datatype

_ELEMENTS = {
    1: Datatype.FP32,
    2: Datatype.UINT8,
    3: Datatype.INT8,
    6: Datatype.INT32,
    7: Datatype.INT64,
    8: Datatype.BYTES,
    9: Datatype.BOOL,
    11: Datatype.FP64,
}
"""``TensorProto.DataType`` of ONNX as the protocol names it."""


@dataclass(frozen=True)
class Signature:
    """Name to type of what a model takes and gives."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True, order=True)
class Break:
    """One thing that one consumer relies on and would lose."""

    consumer: str
    field: str
    what: str

    def __str__(self) -> str:
        return f"{self.consumer}: {self.field} {self.what}"


def compare(signature: Signature, consumers: Iterable[Consumer]) -> list[Break]:
    """Every consumer and field that the signature would break, in order; empty where it breaks nobody.

    Outputs that nobody reads may come and go. Types must be the same: no side of the protocol converts.
    """
    return sorted(
        Break(consumer.name, field, what) for consumer in consumers for field, what in _breaks(signature, consumer)
    )


def _breaks(signature: Signature, consumer: Consumer) -> Iterable[tuple[str, str]]:
    for field, kind in consumer.sends.items():
        found = signature.inputs.get(field)
        if found is None:
            yield field, "is sent, and the new version does not take it"
        elif found != kind:
            yield field, f"is sent as {kind.value}, and the new version takes {found}"
    for field, taken in signature.inputs.items():
        if field not in consumer.sends:
            yield field, f"({taken}) is needed by the new version, and not sent"
    for field, kind in consumer.reads.items():
        found = signature.outputs.get(field)
        if found is None:
            yield field, "is read, and the new version does not give it"
        elif found != kind:
            yield field, f"is read as {kind.value}, and the new version gives {found}"


def signature_of(onnx_bytes: bytes) -> Signature:
    """Of a model in ONNX; a type that the protocol has no name for keeps its number, and so equals nothing declared."""
    from ninelives.releases.scan import ends_of

    inputs, outputs = ends_of(onnx_bytes)
    return Signature(
        {name: _named(form[0]) for name, form in inputs.items()},
        {name: _named(form[0]) for name, form in outputs.items()},
    )


def _named(element: int) -> str:
    known = _ELEMENTS.get(element)
    return known.value if known else f"ONNX type {element}"
