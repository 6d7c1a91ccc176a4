"""Tiny ONNX models with known answers, and releases made of them."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

from ninelives.estate import Estate
from ninelives.ports import ObjectStore


def sum_model(bias: float = 0.0, output: str = "total") -> bytes:
    """``total = a + b + bias``; ``a`` is a float and ``b`` an int64, both of shape [rows, 1]; ``tag`` is a text."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["b"], ["b_float"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["a", "b_float"], ["ab"]),
            helper.make_node("Add", ["ab", "bias"], [output]),
            helper.make_node("Identity", ["tag"], ["echo"]),
        ],
        "sum",
        [
            helper.make_tensor_value_info("a", TensorProto.FLOAT, [None, 1]),
            helper.make_tensor_value_info("b", TensorProto.INT64, [None, 1]),
            helper.make_tensor_value_info("tag", TensorProto.STRING, [None, 1]),
        ],
        [
            helper.make_tensor_value_info(output, TensorProto.FLOAT, [None, 1]),
            helper.make_tensor_value_info("echo", TensorProto.STRING, [None, 1]),
        ],
        [helper.make_tensor("bias", TensorProto.FLOAT, [1], [bias])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


ROW = {"a": 1.5, "b": 2, "tag": "x"}


def release_of(model: str, version: str, onnx: bytes, total: float) -> dict[str, Any]:
    """``release.json`` for ``onnx``, whose answer to ``ROW`` is ``total``."""
    digest = hashlib.sha256(onnx).hexdigest()
    return {
        "model": model,
        "version": version,
        "digest": f"sha256:{digest}",
        "object": f"{model}/sha256/{digest}.onnx",
        "size": len(onnx),
        "data_version": "none",
        "tolerance": 0.001,
        "golden": [{"inputs": ROW, "outputs": {"total": [total]}}],
        "created_at": datetime.now(UTC).isoformat(),
    }


def publish(store: ObjectStore, model: str, version: str = "1", bias: float = 0.0) -> dict[str, Any]:
    """Put a sum model and then its pointer into ``store``; its answer to ``ROW`` is ``3.5 + bias``."""
    onnx = sum_model(bias)
    release = release_of(model, version, onnx, 3.5 + bias)
    store.put("models", release["object"], onnx)
    store.put("models", f"{model}/release.json", json.dumps(release).encode())
    return release


def estate_of_two_sites(*, without: str = "") -> Estate:
    """Service ``alpha``: active-passive with a fallback; ``beta``: active-active with one; ``gamma``: without.

    :param without: leave this service out
    """
    objective = {"availability": "99.9%", "latency": "250ms", "quality": "99%", "rto": "60s", "rpo": "15min"}

    def service(name: str, mode: str, **more: Any) -> dict[str, Any]:
        return {
            "name": name,
            "owner": "ada",
            "model": name,
            "mode": mode,
            "sites": ["paris", "dublin"],
            "objective": {**objective, "window": "28d"},
            "golden": [{"inputs": ROW}],
            **more,
        }

    fallback = {"fallback": {"answer": {"total": 7.0}}}
    services = [
        service("alpha", "active-passive", **fallback),
        service("beta", "active-active", **fallback),
        service("gamma", "active-active"),
    ]
    return Estate.model_validate(
        {
            "name": "test",
            "people": [{"name": "ada", "roles": ["operator"]}],
            "sites": [{"name": "paris"}, {"name": "dublin"}],
            "datasets": [{"name": "rows", "primary": "paris", "copies": ["dublin"], "rpo": "15min", "suite": "rows"}],
            "models": [{"name": name, "trained_on": "rows", "warm_up": "1s"} for name in ("alpha", "beta", "gamma")],
            "services": [declared for declared in services if declared["name"] != without],
            "drills": {"max_duration": "5min", "min_good": "90%"},
        }
    )
