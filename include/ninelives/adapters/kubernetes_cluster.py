"""What a site's API server lists, for the audit of placement: read, and nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ninelives.adapters.kubernetes import TIMEOUT, _client, _told
from ninelives.compilers.kubernetes import declaration
from ninelives.errors import NinelivesError, Unavailable
from ninelives.estate import Estate
from ninelives.placement.audit import Cluster
from ninelives.ports import Connections

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

PAGE = 500
"""Objects asked for at once: the API server's own default of kubectl."""


def read_clusters(connections: Connections, estate: Estate) -> dict[str, Cluster | str]:
    """By site what there is, or why it could not be read: one that does not answer must not hide the others."""
    found: dict[str, Cluster | str] = {}
    for site in (one.site for one in declaration(estate).sites):
        try:
            client = _client(connections, f"ninelives_{site}_kubernetes")
            found[site] = read_cluster(client, site, declaration(estate).namespace)
        except NinelivesError as error:
            found[site] = str(error)
    return found


def read_cluster(client: ApiClient, site: str, namespace: str) -> Cluster:
    """As the account of the connection may see it.

    :raises Refused: it may not
    :raises Unavailable: the API server does not answer
    """
    from kubernetes.client import AppsV1Api, AutoscalingV2Api, CoreV1Api, PolicyV1Api

    def every(ask: Callable[..., Any], *arguments: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        page: dict[str, str] = {}
        while True:
            with _told(site, "") as told:
                answer = ask(*arguments, limit=PAGE, **page, _request_timeout=TIMEOUT, _preload_content=False)
                document = json.loads(answer.data)
            if told.absent:
                raise Unavailable(
                    f"the API server of {site} does not know what was to be listed; is it Kubernetes 1.27?"
                )
            items += document["items"]
            if not (after := document["metadata"].get("continue")):
                return items
            page = {"_continue": after}

    core = CoreV1Api(client)
    return Cluster(
        nodes=every(core.list_node),
        pods=every(core.list_namespaced_pod, namespace),
        deployments=every(AppsV1Api(client).list_namespaced_deployment, namespace),
        budgets=every(PolicyV1Api(client).list_namespaced_pod_disruption_budget, namespace),
        autoscalers=every(AutoscalingV2Api(client).list_namespaced_horizontal_pod_autoscaler, namespace),
    )
