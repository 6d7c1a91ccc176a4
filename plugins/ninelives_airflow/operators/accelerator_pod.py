"""Accelerators, looked at by a pod on their node; needs the provider ``cncf.kubernetes``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.cncf.kubernetes.callbacks import KubernetesPodOperatorCallback
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk.exceptions import AirflowException
from kubernetes.client import (
    CoreV1Api,
    V1Capabilities,
    V1Pod,
    V1PodSecurityContext,
    V1ResourceRequirements,
    V1SeccompProfile,
    V1SecurityContext,
    V1Toleration,
)

from ninelives.compilers.kubernetes import USER
from ninelives_airflow.failures import airflow_failures
from ninelives_airflow.hooks.estate import EstateHook
from ninelives_airflow.links import EvidenceLink
from ninelives_airflow.operators.accelerator import conclude

if TYPE_CHECKING:
    from airflow.sdk import Context


class _ReadLog(KubernetesPodOperatorCallback):
    """Keeps what the pod has printed before the provider deletes it."""

    @staticmethod
    def on_pod_completion(*, pod: V1Pod, client: CoreV1Api, operator: Any, **_: Any) -> None:
        # Unread, because the client takes a log that is JSON apart and prints it as Python.
        answer = client.read_namespaced_pod_log(
            pod.metadata.name, pod.metadata.namespace, container=operator.base_container_name, _preload_content=False
        )
        operator.said = answer.data.decode("utf-8", "replace")


class ValidateAcceleratorPodOperator(KubernetesPodOperator):
    """As ``ValidateAcceleratorOperator``, by a pod on the machine's node, waited for without a worker slot.

    The pod has the estate's image, the driver's library and nothing else: no device of its own, so that it need not
    wait for one that a replica uses; no secret, no network, no right in the cluster, no root. It prints what they say;
    the task judges that by the estate and leaves the evidence.

    :param site: the machine's, whose cluster ``ninelives_<site>_pods`` reaches
    :param host: what the estate, and Kubernetes by the label ``kubernetes.io/hostname``, calls the machine
    :param runtime_class: gives a container the driver's library, as NVIDIA's GPU operator names it
    """

    operator_extra_links = (EvidenceLink(),)

    def __init__(self, *, site: str, host: str, runtime_class: str | None = "nvidia", **kwargs: Any) -> None:
        super().__init__(
            **{
                "kubernetes_conn_id": f"ninelives_{site}_pods",
                "name": f"look-{host}",
                "deferrable": True,
                "callbacks": [_ReadLog],
                "get_logs": False,
                "log_events_on_startup": False,
                "log_pod_spec_on_failure": False,
                "poll_interval": 1,
                "startup_check_interval_seconds": 1,
                "active_deadline_seconds": 120,
                "node_selector": {"kubernetes.io/hostname": host},
                "tolerations": [V1Toleration(operator="Exists", effect=one) for one in ("NoSchedule", "NoExecute")],
                "runtime_class_name": runtime_class,
                "env_vars": {
                    "NVIDIA_VISIBLE_DEVICES": "all",
                    "NVIDIA_DRIVER_CAPABILITIES": "utility",
                    "PYTHONDONTWRITEBYTECODE": "1",
                },
                "container_resources": V1ResourceRequirements(
                    requests={"cpu": "100m", "memory": "256Mi"}, limits={"memory": "256Mi"}
                ),
                "automount_service_account_token": False,
                "security_context": V1PodSecurityContext(
                    run_as_non_root=True,
                    run_as_user=USER,
                    seccomp_profile=V1SeccompProfile(type="RuntimeDefault"),
                ),
                "container_security_context": V1SecurityContext(
                    allow_privilege_escalation=False,
                    read_only_root_filesystem=True,
                    capabilities=V1Capabilities(drop=["ALL"]),
                ),
                **kwargs,
            }
        )
        self.site = site
        self.host = host
        self.evidence: int | None = None
        self.said: str | None = None

    def execute(self, context: Context) -> Any:
        from ninelives.accelerators.evidence import declared_host
        from ninelives.compilers.kubernetes import declaration, looks_namespace

        with airflow_failures():
            estate = EstateHook().estate
            kubernetes = declaration(estate)
            policy = declared_host(estate, self.site, self.host).policy
        self.image, self.namespace = kubernetes.image, looks_namespace(kubernetes)
        self.cmds = ["python", "-m", "ninelives", "accelerators", "look"]
        self.arguments = ["--kind", policy.kind]
        return super().execute(context)

    def trigger_reentry(self, context: Context, event: dict[str, Any]) -> Any:
        """Judge what the pod has said, once the provider has seen it end and has deleted it."""
        try:
            super().trigger_reentry(context, event)
        except AirflowException:
            self.log.error("the pod has printed: %s", (self.said or "nothing")[-2000:])
            raise
        if self.said is None:
            raise AirflowException(f"the pod {event['name']} was gone before anybody read what it found; look again")
        with airflow_failures():
            found = self._conclude(context, self.said)
        context["ti"].xcom_push(key="return_value", value=found)  # the provider has switched off the usual way
        return found

    def _conclude(self, context: Context, said: str) -> dict[str, Any]:
        from ninelives.accelerators.evidence import declared_host, record
        from ninelives.accelerators.look import from_log
        from ninelives.errors import Corrupted

        systems = EstateHook()
        try:
            look = from_log(said)
        except ValueError as error:
            told = f"what the pod on {self.host} has printed is no look; is its image of this version? {error}"
            raise Corrupted(told) from error
        kind = declared_host(systems.estate, self.site, self.host).policy.kind
        left = record(systems, self.site, self.host, (kind, look), run=context["run_id"], machine=self.host)
        return conclude(self, systems, left)
