"""A model artefact is hostile input until it was looked at: what may be loaded, and what of it is refused.

Only ONNX is served, so nothing else is let in: a pickle, an archive or a script is not scanned for what it would do, it
is refused for what it is. Of an ONNX file, what could reach outside of it is refused too.
"""

from __future__ import annotations

from typing import Any

from ninelives.errors import Corrupted

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
"""Operator sets of the standard; any other's operators are code of somebody's own."""

MAX_BYTES = 2 * 1024**3
"""Protocol Buffers hold no more."""

_STRANGERS = {
    b"\x80": "a Python pickle, which runs code when it is loaded",
    b"PK\x03\x04": "a ZIP archive (PyTorch and Keras save pickles and code in one)",
    b"\x89HDF": "an HDF5 file, which may hold code",
    b"\x93NUMPY": "a NumPy file, which may hold a pickle",
    b"#!": "a script",
    b"\x7fELF": "a program",
}


def scan(onnx_bytes: bytes) -> list[str]:
    """Why the artefact may not be loaded, one sentence each; nothing in it is run."""
    for start, what in _STRANGERS.items():
        if onnx_bytes.startswith(start):
            return [f"it is {what}; only ONNX is served"]
    if len(onnx_bytes) > MAX_BYTES:
        return [f"it has {len(onnx_bytes)} bytes, an ONNX file at most {MAX_BYTES}"]
    import onnx

    from ninelives.releases.anatomy import anatomy_of

    try:
        anatomy_of(onnx_bytes)
    except Corrupted as error:
        return [str(error)]
    model = onnx.load_model_from_string(onnx_bytes)
    if not model.graph.node or not model.opset_import:
        return ["it has no operators or no operator set: not an ONNX model; only ONNX is served"]
    reasons = [
        f"it uses operators of {one.domain!r}, which are no part of the standard"
        for one in model.opset_import
        if one.domain not in DOMAINS
    ]
    if model.functions:
        reasons.append("it defines functions of its own")
    strange = {node.domain for graph in _graphs(model.graph) for node in graph.node} - DOMAINS
    reasons += [f"it uses operators of {domain!r}, which are no part of the standard" for domain in sorted(strange)]
    outside = [
        tensor.name
        for graph in _graphs(model.graph)
        for tensor in [*graph.initializer, *_attribute_tensors(graph)]
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data
    ]
    if outside:
        reasons.append(f"it reads files beside it ({', '.join(outside[:3])}), which no digest covers")
    return list(dict.fromkeys(reasons))


def _graphs(graph: Any) -> list[Any]:
    """The graph with those of its branches and loops."""
    found = [graph]
    for one in found:
        for node in one.node:
            for attribute in node.attribute:
                found += [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
    return found


def _attribute_tensors(graph: Any) -> list[Any]:
    return [
        tensor
        for node in graph.node
        for attribute in node.attribute
        for tensor in [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]
    ]
