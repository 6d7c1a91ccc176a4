import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import ROW, sum_model

from ninelives.errors import Corrupted
from ninelives.serving.model import MAX_ROWS, OnnxModel
from ninelives.serving.protocol import encode_request

MODEL = OnnxModel("sum", "7", "0" * 64, sum_model())


def tensor(name: str, datatype: str, data: list[Any], shape: Any = None) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [len(data), 1] if shape is None else shape, "data": data}


def request_with(**changed: Any) -> dict[str, Any]:
    """A good request with some tensors replaced, or left out where they are ``None``."""
    good = {"a": tensor("a", "FP64", [1.5]), "b": tensor("b", "INT64", [2]), "tag": tensor("tag", "BYTES", ["x"])}
    return {"inputs": [tensor for tensor in ({**good, **changed}).values() if tensor is not None]}


def test_values_are_cast_to_what_the_model_takes() -> None:
    whole = tensor("a", "INT64", [1])  # the model takes float
    integral = tensor("b", "FP64", [2.0])  # the model takes int64
    answer = MODEL.infer(request_with(a=whole, b=integral))
    assert answer["outputs"][0] == {"name": "total", "datatype": "FP32", "shape": [1, 1], "data": [3.0]}
    assert (answer["model_name"], answer["model_version"]) == ("sum", "7")


def test_rows_and_order_are_kept() -> None:
    rows = [{"a": float(n), "b": n, "tag": f"t{n}"} for n in range(5)]
    assert MODEL.answer(rows) == {"total": [2.0 * n for n in range(5)], "echo": [f"t{n}" for n in range(5)]}


def test_only_the_outputs_asked_for_are_given_and_the_id_comes_back() -> None:
    answer = MODEL.infer({**request_with(), "id": "42", "outputs": [{"name": "echo"}]})
    assert ([output["name"] for output in answer["outputs"]], answer["id"]) == (["echo"], "42")


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ([], "object"),
        ({}, "inputs must be a list"),
        ({"inputs": [3]}, "is no input"),
        (request_with(a=None), "missing inputs: a"),
        ({"inputs": [*request_with()["inputs"], tensor("a", "FP64", [1.0])]}, "given twice"),
        (request_with(a=tensor("z", "FP64", [1.0])), "'z' is no input"),
        (request_with(a=tensor("a", "TEXT", [1.0])), "no datatype"),
        (request_with(a=tensor("a", "FP64", [1.0], shape=[1])), "does not fit"),
        (request_with(a=tensor("a", "FP64", [1.0, 2.0], shape=[1, 2])), "does not fit"),
        (request_with(a=tensor("a", "FP64", [1.0], shape=[-1, 1])), "positive"),
        (request_with(a=tensor("a", "FP64", [1.0], shape=[True, 1])), "positive"),
        (request_with(a=tensor("a", "FP64", [1.0], shape=[10**30, 1])), "at most"),
        (request_with(a=tensor("a", "FP64", [1.0], shape=[2, 1])), "holds 2 values"),
        (request_with(a=tensor("a", "FP64", [1.0, 2.0])), "same number of rows"),
        (request_with(a=tensor("a", "FP64", ["1"])), "is not FP64"),
        (request_with(a=tensor("a", "FP64", [None])), "texts, numbers"),
        (request_with(a=tensor("a", "FP64", [True])), "is not FP64"),
        (request_with(a=tensor("a", "BYTES", ["1"])), "takes FP32, not BYTES"),
        (request_with(a=tensor("a", "FP64", [1e300])), "finite"),
        (request_with(a=tensor("a", "FP64", [math.inf])), "finite"),
        (request_with(a=tensor("a", "INT64", [10**400])), "too large"),
        (request_with(b=tensor("b", "INT64", [2**63])), "too large"),
        (request_with(b=tensor("b", "FP64", [2.5])), "whole numbers"),
        (request_with(tag=tensor("tag", "BYTES", ["\ud800"])), "Unicode"),
        (request_with(tag=tensor("tag", "BYTES", [1])), "is not BYTES"),
        ({**request_with(), "outputs": "echo"}, "outputs must be a list"),
        ({**request_with(), "outputs": [{"name": "nope"}]}, "no output"),
    ],
)
def test_a_bad_request_is_refused_with_its_reason(request_: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        MODEL.infer(request_)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "data", "shape"]), inner),
    max_leaves=10,
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["a", "b", "tag"]), st.sampled_from(["name", "datatype", "shape", "data"]), json_values)
def test_no_hostile_field_gets_past_validation(name: str, field: str, value: Any) -> None:
    request = request_with()
    next(tensor for tensor in request["inputs"] if tensor["name"] == name)[field] = value
    try:
        answer = MODEL.infer(request)
    except ValueError:
        return
    json.dumps(answer, allow_nan=False)


def test_too_many_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        MODEL.infer(encode_request([ROW] * (MAX_ROWS + 1)))


def test_an_answer_that_is_not_finite_is_no_answer() -> None:
    big = OnnxModel("sum", "1", "0" * 64, sum_model(bias=3.4e38))
    with pytest.raises(ArithmeticError, match="not finite"):
        big.infer(request_with(a=tensor("a", "FP64", [3e38])))


def test_bytes_that_are_no_model_are_corrupted() -> None:
    with pytest.raises(Corrupted, match="cannot read"):
        OnnxModel("sum", "1", "0" * 64, b"not a model")


def test_metadata_names_inputs_and_outputs() -> None:
    metadata = MODEL.metadata()
    assert metadata["inputs"][0] == {"name": "a", "datatype": "FP32", "shape": [-1, 1]}
    assert [output["name"] for output in metadata["outputs"]] == ["total", "echo"]
