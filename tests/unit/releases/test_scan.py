from __future__ import annotations

import pickle

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from support.models import sum_model
from support.releases import flaky_model, slow_model

from ninelives.releases.scan import scan


@pytest.mark.parametrize("model", [sum_model(), flaky_model(0.0), slow_model(0.0, layers=2, width=4)])
def test_a_plain_onnx_model_is_let_in(model: bytes) -> None:
    assert scan(model) == []


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("it was run",))


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_refused_for_what_it_is_and_never_opened(protocol: int) -> None:
    assert "pickle" in scan(pickle.dumps(Bomb(), protocol))[0]


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04torch", b"#!/bin/sh\n", b"\x89HDF\r\n", pickle.dumps(Bomb(), 0), b"\n"]
)
def test_nothing_but_onnx_is_let_in(data: bytes) -> None:
    assert scan(data)


@given(st.binary(max_size=200))
def test_no_bytes_whatever_make_it_do_anything_but_answer(data: bytes) -> None:
    assert isinstance(scan(data), list)


def changed(what: str) -> bytes:
    model = onnx.load_model_from_string(sum_model())
    if what == "domain":
        model.opset_import.append(helper.make_opsetid("com.example", 1))
    elif what == "operator":
        model.graph.node.append(helper.make_node("Python", ["a"], ["z"], domain="ai.onnx.contrib"))
    elif what == "external":
        tensor = model.graph.initializer[0]
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../../secrets/connections.json")
    elif what == "hidden":  # in a branch, where a look at the outer graph finds nothing
        inner = helper.make_graph([helper.make_node("Evil", ["a"], ["z"], domain="evil")], "inner", [], [])
        model.graph.node.append(helper.make_node("If", ["a"], ["y"], then_branch=inner, else_branch=inner))
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("what", "why"),
    [("domain", "com.example"), ("operator", "contrib"), ("external", "beside it"), ("hidden", "evil")],
)
def test_what_could_reach_outside_of_the_file_is_refused(what: str, why: str) -> None:
    (reason,) = scan(changed(what))
    assert why in reason
