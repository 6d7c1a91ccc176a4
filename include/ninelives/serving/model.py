"""One ONNX model, ready to answer V2 requests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ninelives.errors import Corrupted, Refused
from ninelives.ports import Features, Scalar
from ninelives.serving.protocol import decode_response, encode_request, flatten

CPU = "CPUExecutionProvider"
MAX_ROWS = 4096
_DATATYPES = {
    "tensor(float)": ("FP32", np.float32),
    "tensor(double)": ("FP64", np.float64),
    "tensor(int64)": ("INT64", np.int64),
    "tensor(int32)": ("INT32", np.int32),
    "tensor(bool)": ("BOOL", np.bool_),
    "tensor(string)": ("BYTES", np.object_),
}
_SENT = {"BOOL", "BYTES", "FP16", "FP32", "FP64"} | {
    f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)
}


class OnnxModel:
    """An inference session on one thread; safe to use from several.

    :param provider: ONNX Runtime's name of an accelerator, on which all of it must run; none: the processor
    :raises Corrupted: onnxruntime cannot read it, or it has inputs that V2 over JSON cannot carry
    :raises Refused: the provider is not there, or a part of the model would run on the processor instead
    """

    def __init__(self, name: str, version: str, digest: str, onnx: bytes, provider: str | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # replicas share a machine
        options.log_severity_level = 3
        if provider:
            # Left to itself, onnxruntime warns, serves on the processor, and nobody asks why it is slow.
            if provider not in (there := onnxruntime.get_available_providers()):
                raise Refused(f"serve {name} version {version} on {provider}", [f"there are only {', '.join(there)}"])
            if provider != CPU:  # which plays an accelerator where the local estate's machines have played ones
                options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            self._session = onnxruntime.InferenceSession(
                onnx, options, providers=[provider or CPU], enable_fallback=int(not provider)
            )
        except Exception as error:  # onnxruntime's own classes have no common base below Exception
            if provider:
                raise Refused(f"serve {name} version {version} on {provider}", [str(error)]) from error
            raise Corrupted(f"model {name} version {version}: onnxruntime cannot read it: {error}") from error
        if provider and self._session.get_providers()[0] != provider:
            used = ", ".join(self._session.get_providers())
            raise Refused(f"serve {name} version {version} on {provider}", [f"onnxruntime took {used} instead"])
        self.name, self.version, self.digest = name, version, digest
        self._inputs = {spec.name: spec for spec in self._session.get_inputs()}
        # A classifier's list of dictionaries has no tensor form; its probabilities are there as a tensor too.
        self._outputs = {spec.name: spec for spec in self._session.get_outputs() if spec.type in _DATATYPES}
        strange = [f"{spec.name} {spec.type}" for spec in self._inputs.values() if spec.type not in _DATATYPES]
        if strange or not self._outputs:
            raise Corrupted(f"model {name} version {version} cannot be served: {', '.join(strange) or 'no output'}")

    def metadata(self) -> dict[str, Any]:
        """The V2 model metadata."""
        return {
            "name": self.name,
            "versions": [self.version],
            "platform": "onnx_onnxruntime",
            "inputs": [_describe(spec) for spec in self._inputs.values()],
            "outputs": [_describe(spec) for spec in self._outputs.values()],
        }

    def infer(self, request: Any) -> dict[str, Any]:
        """Answer a parsed V2 request.

        :raises ValueError: the request is not one that this model can answer; the message says why
        :raises ArithmeticError: the model answered NaN or infinity, which is no answer
        """
        if not isinstance(request, dict):
            raise ValueError("the request must be a JSON object")
        wanted = self._wanted(request.get("outputs"))
        results = self._session.run(wanted, self._feeds(request.get("inputs")))
        answer: dict[str, Any] = {"model_name": self.name, "model_version": self.version}
        if isinstance(request.get("id"), str):
            answer["id"] = request["id"]
        answer["outputs"] = [self._output(name, array) for name, array in zip(wanted, results, strict=True)]
        return answer

    def answer(self, rows: Sequence[Features]) -> Mapping[str, Sequence[Scalar]]:
        """Outputs for ``rows``, through the same path as a request."""
        return decode_response(self.infer(encode_request(rows)), {}, 0.0).outputs

    def _wanted(self, outputs: Any) -> list[str]:
        if outputs is None or outputs == []:
            return list(self._outputs)
        if not isinstance(outputs, list):
            raise ValueError("outputs must be a list")
        wanted: dict[str, None] = {}
        for output in outputs:
            name = output.get("name") if isinstance(output, dict) else None
            if not isinstance(name, str) or name not in self._outputs:
                raise ValueError(f"{_short(name)} is no output of {self.name}; it has {', '.join(self._outputs)}")
            wanted[name] = None
        return list(wanted)

    def _feeds(self, inputs: Any) -> dict[str, npt.NDArray[Any]]:
        if not isinstance(inputs, list):
            raise ValueError("inputs must be a list of tensors")
        feeds: dict[str, npt.NDArray[Any]] = {}
        for tensor in inputs:
            name = tensor.get("name") if isinstance(tensor, dict) else None
            if not isinstance(name, str) or name not in self._inputs:
                raise ValueError(f"{_short(name)} is no input of {self.name}; it takes {', '.join(self._inputs)}")
            if name in feeds:
                raise ValueError(f"{name} is given twice")
            feeds[name] = _array(self._inputs[name], tensor)
        if missing := [name for name in self._inputs if name not in feeds]:
            raise ValueError(f"missing inputs: {', '.join(missing)}")
        if len({array.shape[:1] for array in feeds.values()}) > 1:
            raise ValueError("all inputs must have the same number of rows")
        return feeds

    def _output(self, name: str, array: npt.NDArray[Any]) -> dict[str, Any]:
        data = array.ravel().tolist()
        if array.dtype.kind == "f" and not all(map(math.isfinite, data)):
            raise ArithmeticError(f"model {self.name} version {self.version} answered a number that is not finite")
        datatype = _DATATYPES[self._outputs[name].type][0]
        return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": data}


def _array(spec: Any, tensor: Mapping[str, Any]) -> npt.NDArray[Any]:
    """The tensor as the model wants it; a cast that would change a value is refused."""
    name, shape, sent = spec.name, tensor.get("shape"), tensor.get("datatype")
    if not isinstance(sent, str) or sent not in _SENT:
        raise ValueError(f"{name}: {_short(sent)} is no datatype; use BYTES, BOOL, INT64 or FP64")
    if not isinstance(shape, list) or not all(type(size) is int and size > 0 for size in shape):
        raise ValueError(f"{name}: shape must be a list of positive whole numbers")
    fixed = [size if isinstance(size, int) else None for size in spec.shape]
    if len(shape) != len(fixed) or any(want not in (None, size) for want, size in zip(fixed, shape, strict=True)):
        raise ValueError(f"{name}: shape {_short(shape)} does not fit {['any' if f is None else f for f in fixed]}")
    if shape and shape[0] > MAX_ROWS:
        raise ValueError(f"{name}: at most {MAX_ROWS} rows in one request")
    data = flatten(tensor.get("data"), name)
    if len(data) != math.prod(shape):
        raise ValueError(f"{name}: shape {shape} holds {math.prod(shape)} values, data has {len(data)}")
    datatype, dtype = _DATATYPES[spec.type]
    if (datatype == "BYTES") != (sent == "BYTES") or (datatype == "BOOL") != (sent == "BOOL"):
        raise ValueError(f"{name}: the model takes {datatype}, not {sent}")
    accepted: type | tuple[type, ...] = {"BYTES": str, "BOOL": bool}.get(datatype, (int, float))
    for value in data:
        if not isinstance(value, accepted) or (isinstance(value, bool) and datatype != "BOOL"):
            raise ValueError(f"{name}: {_short(value)} is not {sent}")
    if datatype == "BYTES":
        try:
            "".join(map(str, data)).encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{name}: the text is not valid Unicode") from error
        return np.array(data, dtype=np.object_).reshape(shape)
    array: npt.NDArray[Any]
    try:
        if datatype.startswith("INT") and any(value != int(value) for value in data):
            raise ValueError(f"{name}: the model takes whole numbers")
        with np.errstate(over="ignore"):
            array = np.array([int(v) for v in data] if datatype.startswith("INT") else data, dtype=dtype)
    except OverflowError as error:
        raise ValueError(f"{name}: a number is too large for {datatype}") from error
    if datatype.startswith("FP") and not np.isfinite(array).all():
        raise ValueError(f"{name}: numbers must be finite in {datatype}")
    return array.reshape(shape)


def _describe(spec: Any) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else -1 for size in spec.shape]
    return {"name": spec.name, "datatype": _DATATYPES[spec.type][0], "shape": shape}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
