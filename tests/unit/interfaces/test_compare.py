"""A new signature against who declared what they send and read: the consumer and the field are named."""

from __future__ import annotations

from dataclasses import replace

import onnx
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from support.models import sum_model

from ninelives.estate.outside import Consumer, Datatype
from ninelives.interfaces import Break, Signature, compare, interface_breaks, signature_of

BOARD = Consumer.model_validate(
    {
        "name": "departure-board",
        "service": "arrival-delay",
        "contact": "boards@example.org",
        "sends": {"hour": "INT64", "carrier": "BYTES"},
        "reads": {"arrival_delay": "FP32"},
    }
)
SAME = Signature({"hour": "INT64", "carrier": "BYTES"}, {"arrival_delay": "FP32"})

types = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(Datatype), min_size=1)


def test_the_declared_signature_and_one_with_more_outputs_break_nobody() -> None:
    assert compare(SAME, [BOARD]) == []
    assert compare(Signature(SAME.inputs, {**SAME.outputs, "low": "FP32"}), [BOARD]) == []


def test_each_broken_field_is_named_with_its_consumer() -> None:
    new = Signature({"hour": "FP32", "airline": "BYTES"}, {"delay": "FP32"})
    assert [str(one) for one in compare(new, [BOARD])] == [
        "departure-board: airline (BYTES) is needed by the new version, and not sent",
        "departure-board: arrival_delay is read, and the new version does not give it",
        "departure-board: carrier is sent, and the new version does not take it",
        "departure-board: hour is sent as INT64, and the new version takes FP32",
    ]
    assert compare(Signature(SAME.inputs, {"arrival_delay": "FP64"}), [BOARD]) == [
        Break("departure-board", "arrival_delay", "is read as FP32, and the new version gives FP64")
    ]


@given(types, types, types, types)
def test_no_break_is_found_exactly_where_all_is_sent_and_read_as_the_model_has_it(
    sends: dict[str, Datatype], reads: dict[str, Datatype], takes: dict[str, Datatype], gives: dict[str, Datatype]
) -> None:
    one = Consumer(name="one", service="s", contact="c", sends=sends, reads=reads)
    kept = sends == takes and reads.items() <= gives.items()
    assert (compare(Signature(takes, gives), [one]) == []) == kept


def test_a_field_of_another_shape_breaks_whoever_sends_or_reads_it() -> None:
    shapes = {"hour": ["any", 1], "carrier": ["any", 1], "arrival_delay": ["any", 1], "low": ["any", 1]}
    old = replace(SAME, shapes=shapes)
    assert compare(old, [BOARD], old) == []
    assert compare(replace(SAME, shapes={**shapes, "low": ["any", 3]}), [BOARD], old) == [], "nobody reads it"
    new = replace(SAME, shapes={**shapes, "arrival_delay": ["any", 3], "hour": ["any"]})
    assert [str(one) for one in compare(new, [BOARD], old)] == [
        "departure-board: arrival_delay has the shape [any, 1], and [any, 3] in the new version",
        "departure-board: hour has the shape [any, 1], and [any] in the new version",
    ]


def test_the_signature_of_a_model_is_in_the_words_of_the_protocol() -> None:
    value = helper.make_tensor_value_info
    ends = [value("hour", TensorProto.INT64, [None, 1])], [value("out", TensorProto.COMPLEX64, [None, 1])]
    graph = helper.make_graph([helper.make_node("Cast", ["hour"], ["out"], to=TensorProto.COMPLEX64)], "g", *ends)
    found = signature_of(helper.make_model(graph).SerializeToString())
    assert found == Signature(
        {"hour": "INT64"},
        {"out": f"ONNX type {onnx.TensorProto.COMPLEX64}"},
        {"hour": ["any", 1], "out": ["any", 1]},
    )


def test_an_interface_that_callers_cannot_use_any_more_is_named_field_by_field() -> None:
    old = sum_model()
    assert interface_breaks(old, sum_model(2.0)) == []
    (gone,) = interface_breaks(old, sum_model(output="sum"))
    assert "no output total" in gone
    model = onnx.load_model_from_string(old)
    model.graph.input[0].name = "distance"
    model.graph.input[1].type.tensor_type.elem_type = TensorProto.FLOAT
    breaks = " ".join(interface_breaks(old, bytes(model.SerializeToString())))
    assert "needs the input distance" in breaks
    assert "no input a any more" in breaks
    assert "the input b was" in breaks
