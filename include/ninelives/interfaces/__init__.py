"""A new version's signature against everybody who declared what they send and read. Pure.

Where nobody declared anything, the old version's own inputs and outputs stand for what callers rely on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
    shapes: Mapping[str, Sequence[int | str]] = dataclasses.field(default_factory=dict)
    """Of inputs and outputs; ``any`` where a size is not fixed."""


@dataclass(frozen=True, order=True)
class Break:
    """One thing that one consumer relies on and would lose."""

    consumer: str
    field: str
    what: str

    def __str__(self) -> str:
        return f"{self.consumer}: {self.field} {self.what}"


def compare(signature: Signature, consumers: Iterable[Consumer], old: Signature | None = None) -> list[Break]:
    """Every consumer and field that the signature would break, in order; empty where it breaks nobody.

    Outputs that nobody reads may come and go. Types must be the same: no side of the protocol converts.

    :param old: of the version that they call now, whose shapes are what they know; none: shapes are not compared
    """
    return sorted(
        Break(consumer.name, name, what)
        for consumer in consumers
        for name, what in (*_breaks(signature, consumer), *_reshaped(signature, old, consumer))
    )


def _reshaped(signature: Signature, old: Signature | None, consumer: Consumer) -> Iterable[tuple[str, str]]:
    for name in {*consumer.sends, *consumer.reads}:
        before, after = old.shapes.get(name) if old else None, signature.shapes.get(name)
        if before and after and before != after:
            yield name, f"has the shape {_shown(before)}, and {_shown(after)} in the new version"


def _shown(shape: Sequence[int | str]) -> str:
    return f"[{', '.join(map(str, shape))}]"


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
    inputs, outputs = _ends_of(onnx_bytes)
    return Signature(
        {name: _named(form[0]) for name, form in inputs.items()},
        {name: _named(form[0]) for name, form in outputs.items()},
        {name: form[1:] for name, form in (inputs | outputs).items()},
    )


def _named(element: int) -> str:
    known = _ELEMENTS.get(element)
    return known.value if known else f"ONNX type {element}"


def interface_breaks(old: bytes, new: bytes) -> list[str]:
    """What callers of ``old`` send or read that ``new`` does not take or give; more outputs break nobody.

    :param old: a version in ONNX; like ``new``, one that was scanned
    """
    (old_in, old_out), (new_in, new_out) = _ends_of(old), _ends_of(new)
    reasons = [f"it needs the input {name}, which nobody sends" for name in new_in if name not in old_in]
    reasons += [f"it has no input {name} any more, which callers send" for name in old_in if name not in new_in]
    reasons += [f"it has no output {name} any more, which callers read" for name in old_out if name not in new_out]
    for what, before, after in (("input", old_in, new_in), ("output", old_out, new_out)):
        reasons += [
            f"the {what} {name} was {before[name]} and is {after[name]} (element type, shape)"
            for name in before
            if name in after and before[name] != after[name]
        ]
    return reasons


def _ends_of(onnx_bytes: bytes) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Inputs and outputs: name to element type and shape."""
    import onnx

    graph = onnx.load_model_from_string(onnx_bytes).graph
    stored = {tensor.name for tensor in graph.initializer}
    inputs = {value.name: _form(value) for value in graph.input if value.name not in stored}
    return inputs, {value.name: _form(value) for value in graph.output}


def _form(value: Any) -> list[Any]:
    tensor = value.type.tensor_type
    return [tensor.elem_type, *(size.dim_value or "any" for size in tensor.shape.dim)]
