"""The state of a model as arrays with labels, in one canonical file: equal states are equal bytes.

The file is safetensors (https://huggingface.co/docs/safetensors): eight bytes with the length of a JSON header, the
header, the numbers. It holds no code, and whatever reads safetensors reads it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ninelives.errors import Corrupted, Refused

_KINDS = {"F64": np.dtype("<f8"), "I64": np.dtype("<i8")}
_MAX_HEADER = 64 * 1024 * 1024
"""bytes"""


@dataclass(frozen=True, eq=False)
class Labelled:
    """A one-dimensional array and what each of its numbers belongs to, in an order that learning depends on."""

    labels: tuple[str, ...]
    values: npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class State:
    """All that a version has learnt, the counters of its optimiser included.

    :param form: what the arrays are of; a state fits only into a version of the same form
    """

    form: str
    arrays: Mapping[str, Labelled]

    def encode(self) -> bytes:
        """The canonical file.

        :raises Refused: a number is not finite: the model has diverged, and nobody may be answered by it
        """
        header: dict[str, Any] = {}
        labels, blocks, offset = {}, [], 0
        for name, array in sorted(self.arrays.items()):
            kind = "I64" if array.values.dtype.kind == "i" else "F64"
            block = np.ascontiguousarray(array.values, dtype=_KINDS[kind])
            if block.shape != (len(array.labels),):
                raise ValueError(f"{name} has {block.shape} numbers and {len(array.labels)} labels")
            if not np.isfinite(block).all():
                where = array.labels[int(np.argmin(np.isfinite(block)))]
                raise Refused("keep the state", [f"{name} of {where} is not finite: the model has diverged"])
            header[name] = {
                "dtype": kind, "shape": [len(block)], "data_offsets": [offset, offset + block.nbytes],
            }  # fmt: skip
            labels[name] = list(array.labels)
            blocks.append(block.tobytes())
            offset += block.nbytes
        header["__metadata__"] = {"form": self.form, "labels": _json(labels)}
        text = _json(header).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text + b"".join(blocks)

    @classmethod
    def decode(cls, data: bytes) -> State:
        """Inverse of ``encode``; raises ``Corrupted`` for any bytes that it would not have written."""
        try:
            size = int.from_bytes(data[:8], "little")
            if size > _MAX_HEADER or len(data) < 8 + size:
                raise ValueError("it ends before its header does")
            header = json.loads(data[8 : 8 + size])
            about = header.pop("__metadata__")
            labels, body, arrays = json.loads(about["labels"]), data[8 + size :], {}
            for name, told in header.items():
                start, end = told["data_offsets"]
                values = np.frombuffer(body[start:end], dtype=_KINDS[told["dtype"]])
                arrays[name] = Labelled(tuple(labels[name]), values)
            state = cls(about["form"], arrays)
            if state.encode() != data:
                raise ValueError("it is not in its canonical form")
        except (ValueError, KeyError, TypeError, AttributeError, Refused) as error:
            raise Corrupted(f"these bytes are no state: {error}; take the state from an export or replay it") from error
        return state


def digest_of(data: bytes) -> str:
    """SHA-256, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
