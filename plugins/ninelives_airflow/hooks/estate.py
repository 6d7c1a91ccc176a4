"""From Airflow's Connections to the domain's ports."""

from __future__ import annotations

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from ninelives.adapters.connected import ConnectedEstate
from ninelives.errors import Unavailable
from ninelives.estate import load_estate
from ninelives.home import Home
from ninelives.ports import Connection


class AirflowConnections:
    """Airflow's Connections as the domain sees them."""

    def get(self, conn_id: str) -> Connection:
        if (found := self.find(conn_id)) is None:
            raise Unavailable(f"there is no Airflow Connection {conn_id!r}; create it as README.md says")
        return found

    def find(self, conn_id: str) -> Connection | None:
        try:
            found = BaseHook.get_connection(conn_id)
        except AirflowNotFoundException:
            return None
        return Connection(
            conn_id=conn_id,
            host=found.host,
            port=found.port,
            login=found.login,
            password=found.password,
            schema=found.schema,
            extra=found.extra_dejson,
        )


class EstateHook(ConnectedEstate, BaseHook):
    """The declared estate and everything that a task may reach in it."""

    def __init__(self) -> None:
        home = Home.from_environment()
        ConnectedEstate.__init__(self, load_estate(home.estate_file), AirflowConnections(), home)
        BaseHook.__init__(self)
