from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninelives.ports import Scalar
from ninelives.serving.protocol import decode_response, encode_answer, encode_request, flatten

scalars = st.one_of(st.text(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.booleans())


def test_one_tensor_per_feature_with_the_datatype_of_its_values() -> None:
    request = encode_request([{"n": 1, "x": 1, "c": "UA", "b": True}, {"n": 2, "x": 1.5, "c": "B6", "b": False}])
    assert request == {
        "inputs": [
            {"name": "n", "shape": [2, 1], "datatype": "INT64", "data": [1, 2]},
            {"name": "x", "shape": [2, 1], "datatype": "FP64", "data": [1, 1.5]},
            {"name": "c", "shape": [2, 1], "datatype": "BYTES", "data": ["UA", "B6"]},
            {"name": "b", "shape": [2, 1], "datatype": "BOOL", "data": [True, False]},
        ]
    }


@pytest.mark.parametrize("rows", [[], [{}], [{"a": 1}, {"b": 1}], [{"a": 1}, {"a": "x"}], [{"a": True}, {"a": 1}]])
def test_rows_that_make_no_tensors_are_an_error(rows: list[dict[str, Scalar]]) -> None:
    with pytest.raises(ValueError, match=r"row|datatype"):
        encode_request(rows)


@given(st.dictionaries(st.text(min_size=1), scalars, min_size=1))
def test_a_fallback_answer_reads_back_as_it_was_declared(answer: dict[str, Scalar]) -> None:
    decoded = decode_response(encode_answer("m", answer), {"x-ninelives-degraded": "default"}, 0.1)
    assert decoded.outputs == {name: [value] for name, value in answer.items()}
    assert (decoded.degraded, decoded.model_version, decoded.site) == ("default", None, None)


def test_the_header_says_which_version_answered_and_the_body_where_it_is_missing() -> None:
    document = {"model_version": 3, "outputs": [{"name": "y", "data": [[1.0], [2.0]]}]}
    answer = decode_response(document, {}, 0.5)
    assert (answer.model_version, answer.outputs, answer.latency) == ("3", {"y": [1.0, 2.0]}, 0.5)
    assert decode_response(document, {"x-ninelives-model-version": "4"}, 0.5).model_version == "4"


@given(st.recursive(st.none() | scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_whatever_is_no_answer_is_said_to_be_none(document: Any) -> None:
    with pytest.raises(ValueError, match=r"output|answer|data"):
        decode_response({"outputs": document} if isinstance(document, list) else document, {}, 0.0)


def test_nesting_without_end_is_read_without_recursion() -> None:
    data: list[Any] = [1]
    for _ in range(100_000):
        data = [data]
    assert flatten(data, "x") == [1]
