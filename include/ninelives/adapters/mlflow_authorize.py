"""Runs inside the registry's server: what its own permissions cannot tell apart.

MLflow lets whoever may edit a model both register versions and move its aliases (3.17: ``registered_model`` EDIT). Here
the two are two roles. MLflow calls this function for each request, by ``authorization_function`` in its ``auth.ini``;
its own accounts, passwords and permissions hold as well, so this can only take away. Whatever is not a reading request
and not in the lists below is for the administrator.
"""

from __future__ import annotations

import re
from typing import Any

from ninelives.access.registry import role_name
from ninelives.estate.artefacts import RegistryRole

_API = re.compile(r"/(?:ajax-)?api/[23]\.0/(mlflow|mlflow-artifacts)/(.*)")
_READING = re.compile(
    r"(runs|experiments|registered-models|model-versions|logged-models)/search|metrics/get-history|graphql"
)
_TRAINING = re.compile(
    r"runs/(create|update|log-metric|log-parameter|log-batch|log-model|log-inputs|set-tag|outputs|inputs)"
    r"|logged-models(/[^/]+(/(params|tags))?)?"
)
_ARTEFACTS = re.compile(r"(artifacts|mpu/(create|complete|abort)|presigned)(/.*)?")
_REGISTERING, _RELEASING = "model-versions/create", "registered-models/alias"


def authenticate() -> Any:
    """The signed-in account, or the response that refuses the request."""
    from flask import request
    from mlflow.server import auth

    signed_in = auth.authenticate_request_basic_auth()
    name = getattr(signed_in, "username", None)
    if name is None:
        return signed_in
    user = auth.store.get_user(name)
    if user.is_admin or request.method in ("GET", "HEAD", "OPTIONS"):
        return signed_in
    roles = {role.name for role in auth.store.list_user_roles(user.id)}
    if may(request.method, request.path, lambda: request.get_json(force=True, silent=True), roles):
        return signed_in
    return auth.make_forbidden_response()


def may(method: str, path: str, body: Any, roles: set[str]) -> bool:
    """Whether a request that is not a plain GET is let through to MLflow's own permissions.

    :param body: gives the parsed body when it is needed
    :param roles: names of the account's roles
    """
    found = _API.fullmatch(path)
    if found is None:
        return False
    part, rest = found[1], found[2]
    anywhere = {role for role in RegistryRole if any(name.startswith(role_name(role, "")) for name in roles)}
    if not anywhere:
        return False
    if part == "mlflow-artifacts":
        return method in ("PUT", "POST") and RegistryRole.TRAINER in anywhere and bool(_ARTEFACTS.fullmatch(rest))
    if method == "POST" and _READING.fullmatch(rest):
        return True
    if method == "POST" and rest in (_REGISTERING, _RELEASING):
        role = RegistryRole.TRAINER if rest == _REGISTERING else RegistryRole.RELEASER
        document = body()
        model = document.get("name") if isinstance(document, dict) else None
        return isinstance(model, str) and role_name(role, model) in roles
    return method in ("POST", "PATCH") and RegistryRole.TRAINER in anywhere and bool(_TRAINING.fullmatch(rest))
