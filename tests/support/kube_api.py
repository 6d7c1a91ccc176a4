"""A stand-in for one site's API server, in a process of its own: ``python -m support.kube_api``.

It speaks the REST of HTTPRoutes and EndpointSlices that steering uses: server-side apply (whole objects, one manager,
lists replaced as a whole), versions of objects and 409, generations, watches, 404, 422 by the published schemas, 401,
and 403 by the rules of a Role. A thread plays the gateway's controller and writes the routes' status. Of nodes, pods,
Deployments, disruption budgets and autoscalers it lists, in pages, what the test gave it. Pods that are created in
``ninelives-looks`` are run: on the machine that their node selector names, as a process of this one with the machine's
environment, after the rules of the restricted Pod Security Standard. It was never compared with a real API server: it
has no other admission, defaults, rules in CEL or shared ownership of fields, and no container, scheduler or kubelet.
Its first line on standard output is its port; ``POST /stand-in`` changes what it does.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from support.manifests import core_problems, problems

ROUTES = "/apis/gateway.networking.k8s.io/v1/namespaces/ninelives/httproutes"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/ninelives/endpointslices"
PODS = "/api/v1/namespaces/ninelives-looks/pods"
LISTS = {
    "/api/v1/nodes": ("", "nodes"),
    "/api/v1/namespaces/ninelives/pods": ("", "pods"),
    "/apis/apps/v1/namespaces/ninelives/deployments": ("apps", "deployments"),
    "/apis/policy/v1/namespaces/ninelives/poddisruptionbudgets": ("policy", "poddisruptionbudgets"),
    "/apis/autoscaling/v2/namespaces/ninelives/horizontalpodautoscalers": ("autoscaling", "horizontalpodautoscalers"),
}
"""Collections by path, with group and resource."""


class Cluster:
    """What the API server keeps, and what the test told it to do."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.version = 0
        self.routes: dict[str, dict[str, Any]] = {}
        self.events: list[tuple[int, str, dict[str, Any]]] = []
        self.pods: dict[str, dict[str, Any]] = {}
        self.made: list[dict[str, Any]] = []
        self.logs: dict[str, str] = {}
        self.settings: dict[str, Any] = {
            "roles": {},
            "slices": {},
            "rejects": None,
            "fails": None,
            "deaf": False,
            "lists": {},
            "machines": {},
        }

    def apply(self, name: str, wanted: dict[str, Any]) -> tuple[int, Any]:
        """Status and answer of a server-side apply."""
        expected = wanted["metadata"].pop("resourceVersion", None)
        with self.changed:
            known = self.routes.get(name)
            if expected and (known is None or known["metadata"]["resourceVersion"] != expected):
                return 409, _status(409, "Conflict", "the object has been modified; apply your changes to the latest")
            if found := problems(wanted):
                return 422, _status(422, "Invalid", "; ".join(found))
            route = copy.deepcopy(wanted)
            generation = 1 if known is None else known["metadata"]["generation"]
            if known is not None and known["spec"] != route["spec"]:
                generation += 1
            route["metadata"]["generation"] = generation
            if known is not None and "status" in known:
                route["status"] = known["status"]
            self._store(name, route, "ADDED" if known is None else "MODIFIED")
            return 200 if known else 201, self.routes[name]

    def control(self) -> None:
        """The gateway's controller: says of each new generation what it makes of it."""
        while True:
            with self.changed:
                self.changed.wait_for(lambda: not self.settings["deaf"] and self._waiting())
                for name in self._waiting():
                    route = copy.deepcopy(self.routes[name])
                    refusal = self.settings["rejects"]
                    resolved = {"type": "ResolvedRefs", "status": "False" if refusal else "True",
                                "reason": refusal or "ResolvedRefs"}  # fmt: skip
                    accepted = {"type": "Accepted", "status": "True", "reason": "Accepted"}
                    more = {"message": "", "observedGeneration": route["metadata"]["generation"],
                            "lastTransitionTime": "2026-01-01T00:00:00Z"}  # fmt: skip
                    parent = {"controllerName": "stand-in", "parentRef": {"name": "ninelives"}}
                    route["status"] = {"parents": [{**parent, "conditions": [accepted | more, resolved | more]}]}
                    self._store(name, route, "MODIFIED")

    def start(self, pod: dict[str, Any]) -> tuple[int, Any]:
        """Create a pod, and run it on its machine if there is one of that name."""
        if found := core_problems(pod):
            return 422, _status(422, "Invalid", "; ".join(found))
        if found := unrestricted(pod):
            return 403, _status(403, "Forbidden", f'violates PodSecurity "restricted": {", ".join(found)}')
        name = pod["metadata"]["name"]
        with self.changed:
            self.made.append(copy.deepcopy(pod))
            self.version += 1
            pod["metadata"] |= {"uid": f"uid-{name}", "resourceVersion": str(self.version)}
            node = pod["spec"].get("nodeSelector", {}).get("kubernetes.io/hostname")
            bound = {"type": "PodScheduled", "status": str(node in self.settings["machines"])}
            pod["status"] = {"phase": "Pending", "conditions": [bound]}
            self.pods[name] = pod
            if node in self.settings["machines"]:
                machine = self.settings["machines"][node]
                threading.Thread(target=self.run, args=(name, machine), daemon=True).start()
            return 201, copy.deepcopy(pod)

    def run(self, name: str, machine: dict[str, str]) -> None:
        """What a kubelet does, without the container: the image's Python is this one."""
        (container,) = self.pods[name]["spec"]["containers"]
        command = [*container["command"], *container.get("args", ())]
        assert command[0] == "python", command
        own = {one["name"]: one["value"] for one in container.get("env", ())}
        done = subprocess.run([sys.executable, *command[1:]], env={**machine, **own}, capture_output=True, text=True)
        ended = {"exitCode": done.returncode, "reason": "Error" if done.returncode else "Completed"}
        with self.changed:
            self.logs[name] = done.stdout + done.stderr
            self.pods[name]["status"] = {
                "phase": "Failed" if done.returncode else "Succeeded",
                "containerStatuses": [{"name": container["name"], "image": container["image"], "imageID": "",
                                       "ready": False, "restartCount": 0, "state": {"terminated": ended}}],
            }  # fmt: skip

    def beyond(self, position: int) -> bool:
        return len(self.events) > position

    def _waiting(self) -> list[str]:
        def seen(route: dict[str, Any]) -> int:
            parents = route.get("status", {}).get("parents", [])
            return min((one["observedGeneration"] for each in parents for one in each["conditions"]), default=0)

        return [name for name, route in self.routes.items() if seen(route) < route["metadata"]["generation"]]

    def _store(self, name: str, route: dict[str, Any], event: str) -> None:
        self.version += 1
        route["metadata"] |= {"resourceVersion": str(self.version), "uid": f"uid-{name}"}
        self.routes[name] = route
        self.events.append((self.version, event, copy.deepcopy(route)))
        self.changed.notify_all()


def unrestricted(pod: dict[str, Any]) -> list[str]:
    """What of the pod the restricted Pod Security Standard forbids, as far as it is looked at here."""
    spec, found = pod["spec"], []
    own = spec.get("securityContext", {})
    found += [one for one in ("hostNetwork", "hostPID", "hostIPC") if spec.get(one)]
    found += [one["name"] for one in spec.get("volumes", ()) if "hostPath" in one]
    found += [] if own.get("runAsNonRoot") else ["runAsNonRoot"]
    found += [] if own.get("seccompProfile", {}).get("type") == "RuntimeDefault" else ["seccompProfile"]
    for container in spec["containers"]:
        more = container.get("securityContext", {})
        found += ["privileged"] if more.get("privileged") else []
        found += [] if more.get("allowPrivilegeEscalation") is False else ["allowPrivilegeEscalation"]
        found += [] if more.get("capabilities", {}).get("drop") == ["ALL"] else ["capabilities"]
    return found


def matches(labels: dict[str, str], selector: str) -> bool:
    """Of a selector's ``a=b``, ``a!=b`` and ``!a``."""
    for one in filter(None, selector.split(",")):
        if one.startswith("!"):
            held = one[1:] not in labels
        elif "!=" in one:
            name, _, value = one.partition("!=")
            held = labels.get(name) != value
        else:
            name, _, value = one.partition("=")
            held = labels.get(name) == value
        if not held:
            return False
    return True


def _status(code: int, reason: str, message: str) -> dict[str, Any]:
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
            "message": message}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cluster: Cluster

    def log_message(self, *_: Any) -> None: ...

    def _answer(self, code: int, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _may(self, verb: str, group: str, resource: str) -> bool:
        """Whether the bearer's Role allows it, and no fault is set; answers if not."""
        rules = self.cluster.settings["roles"].get(self.headers.get("Authorization", "").removeprefix("Bearer "))
        if rules is None:
            self._answer(401, _status(401, "Unauthorized", "Unauthorized"))
            return False
        if not any(
            group in one["apiGroups"] and resource in one["resources"] and verb in one["verbs"] for one in rules
        ):
            what = f'{resource}.{group} is forbidden: User "test" cannot {verb} resource "{resource}"'
            self._answer(403, _status(403, "Forbidden", what))
            return False
        if (fault := self.cluster.settings["fails"]) and verb in fault:
            self._answer(fault[verb], _status(fault[verb], "Fault", "the test wants it so"))
            return False
        return True

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.startswith(PODS):
            if self._may("create", "", "pods"):
                self._answer(*self.cluster.start(body))
            return
        with self.cluster.changed:
            self.cluster.settings |= body
            self.cluster.changed.notify_all()
        self._answer(200, {})

    def do_PATCH(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        url = urlsplit(self.path)
        if url.path.startswith(PODS):
            if self._may("patch", "", "pods"):
                self._answer(200, self._pod(url.path, body["metadata"]["labels"]))
            return None
        name = url.path.removeprefix(f"{ROUTES}/")
        if self.headers["Content-Type"] != "application/apply-patch+yaml" or "fieldManager" not in parse_qs(url.query):
            return self._answer(415, _status(415, "UnsupportedMediaType", "only server-side apply, with fieldManager"))
        if not self._may("patch", "gateway.networking.k8s.io", "httproutes"):
            return None
        if name not in self.cluster.routes and not self._may("create", "gateway.networking.k8s.io", "httproutes"):
            return None
        return self._answer(*self.cluster.apply(name, body))

    def do_DELETE(self) -> None:
        if self._may("delete", "", "pods"):
            self._answer(200, self._pod(urlsplit(self.path).path))
            self.cluster.pods.pop(self.path.rsplit("/", 1)[1], None)

    def _pod(self, path: str, labels: dict[str, str] | None = None) -> dict[str, Any]:
        """By its path, with more ``labels``."""
        with self.cluster.changed:
            pod = self.cluster.pods[path.rsplit("/", 1)[1]]
            pod["metadata"]["labels"] |= labels or {}
            return copy.deepcopy(pod)

    def _pods(self, path: str, query: dict[str, str]) -> None:
        name, _, part = path.removeprefix(PODS).strip("/").partition("/")
        if not self._may("get" if name else "list", "", "pods/log" if part else "pods"):
            return
        with self.cluster.changed:
            known, log = copy.deepcopy(self.cluster.pods), self.cluster.logs.get(name, "")
        if not name:
            items = [one for one in known.values() if matches(one["metadata"]["labels"], query["labelSelector"])]
            self._answer(200, {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
        elif name not in known:
            self._answer(404, _status(404, "NotFound", f'pods "{name}" not found'))
        elif part:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(log.encode())))
            self.end_headers()
            self.wfile.write(log.encode())
        else:
            self._answer(200, known[name])

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if url.path == "/stand-in":
            return self._answer(200, {"made": self.cluster.made, "left": sorted(self.cluster.pods)})
        if url.path.startswith(PODS):
            return self._pods(url.path, query)
        if url.path == SLICES:
            if self._may("list", "discovery.k8s.io", "endpointslices"):
                self._answer(200, {"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1", "metadata": {},
                                   "items": _slices(self.cluster, query["labelSelector"])})  # fmt: skip
        elif url.path == ROUTES:
            verb = "watch" if query.get("watch") else "list"
            if self._may(verb, "gateway.networking.k8s.io", "httproutes"):
                self.close_connection = True
                with suppress(BrokenPipeError, ConnectionResetError):  # whoever watched has seen enough
                    self._watch(query)
        elif (listed := LISTS.get(url.path)) and "limit" in query:
            if self._may("list", *listed):
                self._list(listed[1], query)
        elif self._may("get", "gateway.networking.k8s.io", "httproutes"):
            name = url.path.removeprefix(f"{ROUTES}/")
            with self.cluster.changed:
                route = copy.deepcopy(self.cluster.routes.get(name))
            if route is None:
                return self._answer(404, _status(404, "NotFound", f'httproutes "{name}" not found'))
            self._answer(200, route)
        return None

    def _list(self, resource: str, query: dict[str, str]) -> None:
        """What the test gave, in pages as they are asked for."""
        items, begin, size = self.cluster.settings["lists"].get(resource, []), int(query.get("continue", 0)), 3
        more = {"continue": str(begin + size)} if begin + size < len(items) else {}
        self._answer(200, {"kind": "List", "apiVersion": "v1", "metadata": more, "items": items[begin : begin + size]})

    def _watch(self, query: dict[str, str]) -> None:
        """Without a version first what there is, as added; then every change, until the time is over."""
        name = query["fieldSelector"].removeprefix("metadata.name=")
        deadline = time.monotonic() + float(query["timeoutSeconds"])
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with self.cluster.changed:
            position = len(self.cluster.events)
            waiting = [("ADDED", copy.deepcopy(self.cluster.routes[name]))] if name in self.cluster.routes else []
        while True:
            for kind, route in waiting:
                line = json.dumps({"type": kind, "object": route}).encode() + b"\n"
                self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
            self.wfile.flush()
            with self.cluster.changed:
                if not self.cluster.changed.wait_for(
                    partial(self.cluster.beyond, position), deadline - time.monotonic()
                ):
                    break
                events, position = self.cluster.events[position:], len(self.cluster.events)
                waiting = [(kind, one) for _, kind, one in events if one["metadata"]["name"] == name]
        self.wfile.write(b"0\r\n\r\n")


def _slices(cluster: Cluster, selector: str) -> list[dict[str, Any]]:
    label, _, name = selector.partition("=")
    ready = cluster.settings["slices"].get(name, [])
    endpoints = [{"addresses": [f"10.0.0.{n + 1}"], "conditions": {"ready": one}} for n, one in enumerate(ready)]
    return [{"metadata": {"name": name, "labels": {label: name}}, "addressType": "IPv4", "endpoints": endpoints}]


def main() -> None:
    Handler.cluster = Cluster()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=Handler.cluster.control, daemon=True).start()
    print(server.server_port, flush=True)
    server.serve_forever()


class StandIn:
    """One running stand-in, from outside."""

    def __init__(self, process: subprocess.Popen[str] | None, port: int) -> None:
        self._process = process
        self.port = port

    def set(self, **settings: Any) -> None:
        import httpx

        httpx.post(f"http://127.0.0.1:{self.port}/stand-in", json=settings).raise_for_status()

    def pods(self) -> dict[str, Any]:
        """Every pod that was ``made``, as it was asked for, and the names of those that are ``left``."""
        import httpx

        found: dict[str, Any] = httpx.get(f"http://127.0.0.1:{self.port}/stand-in").raise_for_status().json()
        return found

    def kill(self) -> None:
        assert self._process is not None, "another process started it"
        self._process.kill()
        self._process.wait()

    def kube_config(self, token: str) -> str:
        """As the connection has it."""
        return json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "it",
                "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it", "namespace": "ninelives"}}],
                "clusters": [{"name": "it", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
                "users": [{"name": "it", "user": {"token": token}}],
            }
        )


@contextmanager
def stand_in() -> Iterator[StandIn]:
    from support.estate import ROOT

    process = subprocess.Popen(
        [sys.executable, "-m", "support.kube_api"], cwd=ROOT / "tests", stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield StandIn(process, int(process.stdout.readline()))
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
