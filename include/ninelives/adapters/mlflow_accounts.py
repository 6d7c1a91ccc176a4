"""The accounts and roles of an MLflow server with its own basic auth, by its REST interface."""

from __future__ import annotations

from typing import Any

from ninelives.access.registry import account_with
from ninelives.adapters.http_client import http_client
from ninelives.errors import Unavailable
from ninelives.estate import Estate
from ninelives.estate.artefacts import RegistryRole
from ninelives.ports import Accounts, Connection, Connections, Grant

WORKSPACE = "default"
TIMEOUT = 30.0
"""Seconds; a password is hashed slowly on purpose."""


def connection_for(connections: Connections, estate: Estate, model: str, role: RegistryRole) -> Connection:
    """How the estate's own tasks sign in to act in this role; as administrator where no account is declared for it.

    :raises Unavailable: there is no such connection
    """
    who = account_with(estate, model, role)
    return connections.get(f"ninelives_mlflow_{who}" if who else "ninelives_mlflow")


class MlflowAccounts:
    """``ports.RegistryAccounts``, signed in as the registry's administrator."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def read(self) -> Accounts:
        found = Accounts()
        users = self._ask("GET", "2.0", "users/list")["users"]
        found.users = {one["username"] for one in users if not one["is_admin"]}
        found.administrators = {one["username"] for one in users if one["is_admin"]} - {self.connection.login or ""}
        for role in self._roles():
            holders = self._holders(role["id"])
            if holders and not holders & found.users:
                continue  # what the administrator made is the administrator's, who may do everything anyway
            grants = self._ask("GET", "3.0", "roles/permissions/list", {"role_id": str(role["id"])})
            found.roles[role["name"]] = {
                Grant(one["resource_type"], one["resource_pattern"], one["permission"])
                for one in grants["role_permissions"]
            }
            found.holders[role["name"]] = holders & found.users
        return found

    def experiment(self, model: str) -> str | None:
        asked = {"experiment_name": model}
        found = self._ask("GET", "2.0", "experiments/get-by-name", asked, gone="RESOURCE_DOES_NOT_EXIST")
        return str(found["experiment"]["experiment_id"]) if found else None

    def ensure_model(self, model: str) -> str:
        self._ask("POST", "2.0", "registered-models/create", {"name": model}, gone="RESOURCE_ALREADY_EXISTS")
        self._ask("POST", "2.0", "experiments/create", {"name": model}, gone="RESOURCE_ALREADY_EXISTS")
        return str(self.experiment(model))

    def ensure_user(self, name: str, password: str) -> None:
        body = {"username": name, "password": password}
        if not self._ask("POST", "2.0", "users/create", body, gone="RESOURCE_ALREADY_EXISTS"):
            self._ask("PATCH", "2.0", "users/update-password", body)

    def set_role(self, role: str, grants: set[Grant], holders: set[str]) -> None:
        there = next((one for one in self._roles() if one["name"] == role), None)
        number = there["id"] if there else self._make_role(role)
        held = self._ask("GET", "3.0", "roles/permissions/list", {"role_id": str(number)})["role_permissions"]
        kept = set()
        for one in held:
            grant = Grant(one["resource_type"], one["resource_pattern"], one["permission"])
            if grant in grants:
                kept.add(grant)
            else:
                self._ask("DELETE", "3.0", "roles/permissions/remove", {"role_permission_id": one["id"]})
        for grant in sorted(grants - kept):
            body = {"resource_type": grant.kind, "resource_pattern": grant.what, "permission": grant.permission}
            self._ask("POST", "3.0", "roles/permissions/add", {"role_id": number, **body})
        have = self._holders(number)
        for user in sorted(have - holders):
            self._ask("DELETE", "3.0", "roles/unassign", {"username": user, "role_id": number})
        for user in sorted(holders - have):
            self._ask("POST", "3.0", "roles/assign", {"username": user, "role_id": number})

    def remove_role(self, role: str) -> None:
        for one in self._roles():
            if one["name"] == role:
                self._ask("DELETE", "3.0", "roles/delete", {"role_id": one["id"]})

    def _roles(self) -> list[dict[str, Any]]:
        return list(self._ask("GET", "3.0", "roles/list", {"workspace": WORKSPACE})["roles"])

    def _make_role(self, role: str) -> Any:
        return self._ask("POST", "3.0", "roles/create", {"workspace": WORKSPACE, "name": role})["role"]["id"]

    def _holders(self, number: Any) -> set[str]:
        users = {one["id"]: one["username"] for one in self._ask("GET", "2.0", "users/list")["users"]}
        assigned = self._ask("GET", "3.0", "roles/users/list", {"role_id": str(number)})["assignments"]
        return {users[one["user_id"]] for one in assigned}

    def _ask(
        self, method: str, version: str, path: str, body: dict[str, Any] | None = None, *, gone: str = ""
    ) -> dict[str, Any]:
        """The answer; empty where it is the error ``gone``."""
        import httpx

        url = f"/api/{version}/mlflow/{path}"
        how: dict[str, Any] = {"params": body} if method == "GET" else {"json": body}
        signed = (self.connection.login or "", self.connection.password or "")
        try:
            with http_client(self.connection.url, auth=signed, timeout=TIMEOUT) as client:
                answer = client.request(method, url, **how)
                if gone and answer.status_code in (400, 404) and answer.json().get("error_code") == gone:
                    return {}
                answer.raise_for_status()
                return dict(answer.json()) if answer.content else {}
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable(f"MLflow at {self.connection.url}: {method} {url}: {error!r}") from error
