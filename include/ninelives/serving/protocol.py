"""Open Inference Protocol V2 as JSON, without any transport: what a client sends and what an answer means.

A request has one tensor per feature, of shape ``[rows, 1]``; its datatype follows from the values: ``BYTES`` for text,
``INT64``, ``FP64``, ``BOOL``. The headers below say what V2 has no field for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ninelives.ports import Answer, Features, Scalar

SITE_HEADER = "x-ninelives-site"
VERSION_HEADER = "x-ninelives-model-version"
DEGRADED_HEADER = "x-ninelives-degraded"
WANTED_HEADER = "x-ninelives-wanted-version"
"""Of a request, set by the gateway: which version answers the first try."""
STABLE_HEADER = "x-ninelives-stable-version"
"""Of a request, set by the gateway: which version answers every other try."""
ARM_HEADER = "x-ninelives-arm"
"""Of a request, set by the gateway: ``stable``, ``canary``, ``shadow``, ``beside``, or the arm of an experiment, which
the answer is marked with too."""
EXPERIMENT_HEADER = "x-ninelives-experiment"
"""Of an answer to somebody who is in an experiment: its name."""
CLASS_HEADER = "x-ninelives-class"
"""Of a request, set by whoever sends it: ``inference``, or ``batch``, which gives way to users."""
TRAFFIC_HEADER = "ninelives-traffic"
"""Of a request that no user sent: ``probe``, or ``drill`` while something is broken on purpose.

Not ``x-ninelives-*``, which the gateway takes out of requests before it writes its log.
"""
ATTEMPT_HEADER = "x-envoy-attempt-count"

MAX_BODY_BYTES = 1 << 20
"""The largest request that the gateway and the model server read."""


def datatype_of(values: Sequence[Scalar]) -> str:
    """V2 datatype that holds all of ``values``; raises ``ValueError`` where text, booleans and numbers are mixed."""
    kinds = {type(value) for value in values}
    for datatype, members in (("BOOL", {bool}), ("INT64", {int}), ("FP64", {int, float}), ("BYTES", {str})):
        if kinds and kinds <= members:
            return datatype
    raise ValueError(f"no datatype holds {', '.join(sorted(kind.__name__ for kind in kinds)) or 'nothing'} together")


def encode_request(rows: Sequence[Features]) -> dict[str, Any]:
    """The V2 infer request for ``rows``; raises ``ValueError`` for no rows or rows with different features."""
    if not rows or not rows[0]:
        raise ValueError("an inference needs at least one row with at least one feature")
    names = tuple(rows[0])
    if any(set(row) != set(names) for row in rows):
        raise ValueError("all rows of one request must have the same features")
    return {"inputs": [_tensor(name, [row[name] for row in rows]) for name in names]}


def encode_answer(model: str, answer: Mapping[str, Scalar]) -> dict[str, Any]:
    """A V2 response with one value per output and no model version: no model answered. For fallbacks."""
    return {"model_name": model, "outputs": [_tensor(name, [value]) for name, value in answer.items()]}


def decode_response(document: Any, headers: Mapping[str, str], latency: float) -> Answer:
    """What a V2 response says.

    :param document: the parsed JSON body
    :param headers: with lower-case names, or case-insensitive
    :param latency: seconds
    :raises ValueError: this is not a V2 response
    """
    outputs = document.get("outputs") if isinstance(document, dict) else None
    if not isinstance(outputs, list) or not outputs:
        raise ValueError("the answer has no list of outputs")
    decoded: dict[str, list[Scalar]] = {}
    for output in outputs:
        if not isinstance(output, dict) or not isinstance(output.get("name"), str):
            raise ValueError("an output of the answer has no name")
        decoded[output["name"]] = flatten(output.get("data"), output["name"])
    version = headers.get(VERSION_HEADER) or document.get("model_version")
    return Answer(
        outputs=decoded,
        model_version=None if version is None else str(version),
        degraded=headers.get(DEGRADED_HEADER),
        latency=latency,
        site=headers.get(SITE_HEADER),
    )


def flatten(data: Any, name: str) -> list[Scalar]:
    """``data`` of the tensor ``name`` in row-major order, nested or flat; raises ``ValueError`` for anything else."""
    if not isinstance(data, list):
        raise ValueError(f"{name}: data must be a list")
    flat: list[Scalar] = []
    pending: list[Any] = [data]
    while pending:  # no recursion: the sender chooses the depth
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(reversed(item))
        elif isinstance(item, str | int | float):
            flat.append(item)
        else:
            raise ValueError(f"{name}: data must hold texts, numbers and booleans only")
    return flat


def _tensor(name: str, values: Sequence[Scalar]) -> dict[str, Any]:
    return {"name": name, "shape": [len(values), 1], "datatype": datatype_of(values), "data": list(values)}
