"""What a release is built of, apart from what it has learned: its architecture, and what it needs to run.

A model that is trained again has other numbers and the same anatomy; one whose anatomy changes may need another
runtime, other memory and another playbook.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ninelives.errors import Corrupted


@dataclass(frozen=True)
class Anatomy:
    architecture: str
    """SHA-256 (hex) over the operators with their wiring, and the inputs and outputs with their types and shapes."""
    dependencies: tuple[str, ...]
    """Operator sets with their versions, and the version of the format: what a runtime must support."""

    @property
    def dependency_hash(self) -> str:
        return _hash(list(self.dependencies))


def anatomy_of(onnx_bytes: bytes) -> Anatomy:
    """Take a model apart.

    :raises Corrupted: it is not an ONNX model
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(onnx_bytes)
    except DecodeError as error:
        raise Corrupted(f"not an ONNX model: {error}; publish it again") from error
    graph = model.graph
    ends = [[_end(value) for value in part] for part in (graph.input, graph.output)]
    sets = sorted(f"{one.domain or 'ai.onnx'}={one.version}" for one in model.opset_import)
    return Anatomy(_hash([*ends, list(_nodes(graph))]), (f"onnx-ir={model.ir_version}", *sets))


def _nodes(graph: Any) -> Iterator[list[Any]]:
    """Operators in their order, those of branches and loops included; never what was learned."""
    for node in graph.node:
        names = sorted(attribute.name for attribute in node.attribute)
        yield [node.domain, node.op_type, list(node.input), list(node.output), names]
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _nodes(inner)


def _end(value: Any) -> list[Any]:
    tensor = value.type.tensor_type
    return [value.name, tensor.elem_type, [one.dim_value or one.dim_param or None for one in tensor.shape.dim]]


def _hash(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
