"""Any server of the Open Inference Protocol V2 (Triton, KServe, MLServer, ours), and the gateway in front of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ninelives.adapters.http_client import http_client
from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.ports import Answer, Attempt, Attempts, Features
from ninelives.serving.protocol import TRAFFIC_HEADER, decode_response, encode_request

if TYPE_CHECKING:
    import httpx

LOAD_TIMEOUT = 120.0
"""Seconds for loading and warming up a model; a lost server is noticed earlier by the broken connection."""


class V2Replica:
    """``ports.Replica``: one model server.

    Each call raises ``Unavailable`` when the server does not answer or cannot now, and ``Refused`` when it says that
    the request or the key is wrong: trying again cannot help.

    :param key: bearer token of the model repository endpoints
    :param timeout: seconds
    :param machine: as the estate calls it; by default the first part of the URL's host
    """

    def __init__(self, url: str, key: str | None = None, timeout: float = 2.0, *, machine: str | None = None) -> None:
        self.url = url.rstrip("/")
        self.machine = machine or (urlsplit(url).hostname or "").split(".")[0]
        self._http = _Http(self.url, {"authorization": f"Bearer {key}"} if key else {}, timeout)

    def live(self) -> bool:
        return self._http.get("/v2/health/live").status_code == 200

    def ready(self, model: str) -> bool:
        return self._http.get(f"/v2/models/{model}/ready").status_code == 200

    def load(self, model: str) -> None:
        """Also raises ``Corrupted`` when the server found that the model is not what its release says."""
        self._http.post(f"/v2/repository/models/{model}/load", {}, timeout=LOAD_TIMEOUT)
        if not self.ready(model):  # V2 allows a server to load in the background
            raise Unavailable(f"{self.url} took the order to load {model}, but is not ready; try again")

    def unload(self, model: str) -> None:
        self._http.post(f"/v2/repository/models/{model}/unload", {})

    def infer(self, model: str, rows: Sequence[Features]) -> Answer:
        return self._http.infer(f"/v2/models/{model}/infer", rows)

    def load_version(self, model: str, version: str) -> None:
        body = {"parameters": {"version": version}}
        self._http.post(f"/v2/repository/models/{model}/load", body, timeout=LOAD_TIMEOUT)

    def unload_version(self, model: str, version: str) -> None:
        self._http.post(f"/v2/repository/models/{model}/unload", {"parameters": {"version": version}})

    def infer_version(self, model: str, version: str, rows: Sequence[Features]) -> Answer:
        return self._http.infer(f"/v2/models/{model}/versions/{version}/infer", rows)

    def attempts(self, model: str) -> Attempts:
        answer = self._http.post(f"/v2/repository/models/{model}/attempts", {}).json()
        try:
            return Attempts(
                boot=str(answer["boot"]),
                loaded=tuple(map(str, answer["loaded"])),
                by_arm={
                    (arm["arm"], arm["version"]): tuple(Attempt(*one) for one in arm["attempts"])
                    for arm in answer["arms"]
                },
            )
        except (KeyError, TypeError) as error:
            raise Unavailable(f"{self.url} does not say what it has answered: {error!r}") from error


class GatewayClient:
    """Asks a service through the gateway, as its users do; call it with rows. Raises like ``V2Replica``."""

    def __init__(self, url: str, service: str, model: str, timeout: float = 5.0) -> None:
        self._path = f"/services/{service}/v2/models/{model}/infer"
        self._http = _Http(url.rstrip("/"), {TRAFFIC_HEADER: "probe"}, timeout)  # no user's, and not counted as one

    def __call__(self, rows: Sequence[Features]) -> Answer:
        return self._http.infer(self._path, rows)


class _Http:
    """Requests with our errors; the connection pool is made on first use and is safe in several threads."""

    def __init__(self, url: str, headers: Mapping[str, str], timeout: float) -> None:
        self._url, self._headers, self._timeout = url, headers, timeout

    @cached_property
    def _client(self) -> httpx.Client:
        return http_client(self._url, headers=dict(self._headers), timeout=self._timeout)

    def get(self, path: str) -> httpx.Response:
        """The answer, whatever its status says."""
        return self._request("GET", path, None, None)

    def post(self, path: str, document: Any, timeout: float | None = None) -> httpx.Response:
        """The answer, if it is a good one."""
        answer = self._request("POST", path, document, timeout)
        if answer.status_code == 200:
            return answer
        message = f"{self._url}{path} answered {answer.status_code}: {_reason(answer)}"
        if answer.status_code == 422:
            raise Corrupted(message)
        if answer.status_code in (400, 401, 403, 413):
            raise Refused("model server", [message])
        raise Unavailable(message)

    def infer(self, path: str, rows: Sequence[Features]) -> Answer:
        request = encode_request(rows)
        started = time.perf_counter()
        answer = self.post(path, request)
        latency = time.perf_counter() - started
        try:
            return decode_response(answer.json(), answer.headers, latency)
        except ValueError as error:
            raise Unavailable(f"{self._url}{path} did not answer in the Open Inference Protocol: {error}") from error

    def _request(self, method: str, path: str, document: Any, timeout: float | None) -> httpx.Response:
        import httpx

        try:
            return self._client.request(method, path, json=document, timeout=timeout or self._timeout)
        except httpx.HTTPError as error:
            raise Unavailable(f"{self._url} did not answer {method} {path}: {type(error).__name__} {error}") from error


def _reason(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"])[:500]
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]
