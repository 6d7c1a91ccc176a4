"""An estate together with the real systems behind it. Each client library is imported when it is first needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ninelives.estate import Estate, Service, load_estate
from ninelives.estate.accelerators import Host
from ninelives.estate.artefacts import RegistryRole
from ninelives.estate.model import AccessKind, Engine, GateEngine
from ninelives.estate.streams import Stream
from ninelives.home import Home
from ninelives.ports import (
    Accelerators,
    AccessControl,
    Answer,
    Connection,
    Connections,
    Databases,
    FaultControl,
    Features,
    Gateway,
    Ledger,
    ObjectCopier,
    ObjectStore,
    Rebuilder,
    Registry,
    RegistryAccounts,
    Replica,
    Scheduler,
    Signer,
    SiteControl,
    Topic,
    Vault,
)

if TYPE_CHECKING:
    from ninelives.gates.verdict import ExpectationEngine


class ConnectedEstate:
    """Everything of an estate that can be reached; nothing is contacted before it is used."""

    def __init__(self, estate: Estate, connections: Connections, home: Home) -> None:
        self.estate = estate
        self.connections = connections
        self.home = home
        self._stores: dict[str, ObjectStore] = {}
        self._access: dict[str, AccessControl] = {}

    @classmethod
    def of_home(cls, home: Home) -> ConnectedEstate:
        """The estate of this machine, with the connections that ``ninelives stack up`` wrote."""
        from ninelives.adapters.connections import FileConnections

        return cls(load_estate(home.estate_file), FileConnections(home.connections_file), home)

    def store(self, site: str) -> ObjectStore:
        from ninelives.adapters.s3 import S3ObjectStore

        if site not in self._stores:  # a client costs a fifth of a second to make, and is safe in several threads
            self._stores[site] = S3ObjectStore.from_connection(self.connections.get(f"ninelives_{site}_store"), site)
        return self._stores[site]

    def stores(self) -> dict[str, ObjectStore]:
        return {site: self.store(site) for site in self.estate.site_names}

    def copier(self, dataset: str | None = None) -> ObjectCopier:
        from ninelives.adapters.rclone import RcloneCopier

        if dataset is not None and self.estate.dataset_by_name[dataset].engine is Engine.DATASYNC:
            from ninelives.adapters.datasync import DataSyncCopier

            return DataSyncCopier(RcloneCopier())
        return RcloneCopier()

    def replicas(self, site: str) -> list[Replica]:
        from ninelives.adapters.open_inference import V2Replica

        connection = self.connections.get(f"ninelives_{site}_replicas")
        machines = {url: name for name, urls in connection.extra.get("machines", {}).items() for url in urls}
        return [V2Replica(url, key=connection.password, machine=machines.get(url)) for url in connection.extra["urls"]]

    def client(self, service: Service) -> Callable[[Sequence[Features]], Answer]:
        from ninelives.adapters.open_inference import GatewayClient

        return GatewayClient(self.connections.get("ninelives_gateway").extra["url"], service.name, service.model)

    def control(self, site: str) -> SiteControl:
        from ninelives.adapters.supervisor import SupervisorSite

        return SupervisorSite.from_connection(self.connections.get(f"ninelives_{site}_control"), site)

    def faults(self) -> FaultControl:
        from ninelives.adapters.faults import SupervisedFaults

        return SupervisedFaults(self.connections, self.home)

    def gateway(self) -> Gateway:
        if self.estate.kubernetes is not None:
            from ninelives.adapters.kubernetes import KubernetesGateway

            return KubernetesGateway.from_connections(self.connections, self.estate)
        from ninelives.adapters.envoy import EnvoyGateway

        return EnvoyGateway.from_connections(self.connections, self.estate)

    def access(self, site: str) -> AccessControl | None:
        from ninelives.adapters.iam import AwsAccess

        if self.estate.site_by_name[site].access is AccessKind.NONE:
            return None
        if site not in self._access:
            how, store = (self.connections.get(f"ninelives_{site}_{kind}") for kind in ("access", "store"))
            self._access[site] = AwsAccess(how, site, store)
        return self._access[site]

    def topic(self, stream: Stream) -> Topic:
        from ninelives.adapters.broker_kafka import KafkaTopic

        connection = self.connections.get(f"ninelives_{stream.site}_broker")
        return KafkaTopic.from_connection(connection, stream.source.topic or "", stream.source.group)

    def ledger(self) -> Ledger:
        from ninelives.adapters.ledger import SqlLedger

        return SqlLedger.from_connection(self.connections.get("ninelives_ledger"))

    def registry(self) -> Registry:
        from ninelives.adapters.mlflow import MlflowRegistry

        return MlflowRegistry(self.connections.get("ninelives_mlflow"), self._releaser)

    def _releaser(self, model: str) -> Connection:
        from ninelives.adapters.mlflow_accounts import connection_for

        return connection_for(self.connections, self.estate, model, RegistryRole.RELEASER)

    def accounts(self) -> RegistryAccounts:
        from ninelives.adapters.mlflow_accounts import MlflowAccounts

        return MlflowAccounts(self.connections.get("ninelives_mlflow"))

    def accelerators(self, site: str, host: Host) -> Accelerators:
        from ninelives.adapters.nvml import probe_of
        from ninelives.adapters.stand_in import StandIn

        if host.policy.kind == StandIn.kind:
            return StandIn.of(self.connections.get(f"ninelives_{site}_control"), site, host.name)
        return probe_of(host.policy.kind)

    def scheduler(self) -> Scheduler:
        from ninelives.adapters.airflow_api import AirflowApi

        return AirflowApi.from_connection(self.connections.get("ninelives_airflow_api"))

    def vault(self) -> Vault:
        from ninelives.adapters.restic import Restic

        return Restic.from_connection(self.connections.get("ninelives_vault"))

    def signer(self) -> Signer | None:
        from ninelives.adapters.model_signing import ModelSigner

        return ModelSigner.from_connection(self.connections.get("ninelives_vault"))

    def databases(self) -> Databases:
        from ninelives.adapters.postgres_dumps import PostgresDatabases

        return PostgresDatabases(self.connections)

    def rebuilder(self) -> Rebuilder:
        from ninelives.adapters.rebuild import ChildRebuilder

        return ChildRebuilder(self.connections, self.home, self.estate.name)

    def expectations(self, dataset: str | None = None) -> ExpectationEngine:
        from ninelives.adapters.great_expectations import GreatExpectations

        if dataset is not None and self.estate.dataset_by_name[dataset].gate_engine is GateEngine.SPARK:
            from ninelives.adapters import gx_spark

            return GreatExpectations(spark=gx_spark.place(self.connections.find(gx_spark.CONNECTION)))
        return GreatExpectations()
