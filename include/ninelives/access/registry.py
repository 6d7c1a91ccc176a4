"""Who may do what with a model in the registry: declared, compared with its accounts, and brought there.

Each declared role of each model is one role of the registry, which holds the permissions; accounts hold roles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ninelives.errors import Refused
from ninelives.estate import Estate
from ninelives.estate.artefacts import RegistryRole
from ninelives.ports import Systems

PREFIX = "ninelives"


def role_name(role: RegistryRole, model: str) -> str:
    return f"{PREFIX}:{role}:{model}"


def registry_accounts(estate: Estate) -> list[str]:
    """Whose accounts the estate declares; none: the registry's are nobody's business here."""
    return sorted({account.who for model in estate.models for account in model.registry})


@dataclass(frozen=True, order=True)
class Grant:
    kind: str
    """``registered_model`` or ``experiment``."""
    what: str
    permission: str
    """``READ`` or ``EDIT``"""


@dataclass
class Accounts:
    """The registry's accounts, but for its administrator."""

    users: set[str] = field(default_factory=set)
    roles: dict[str, set[Grant]] = field(default_factory=dict)
    """Role to what it gives."""
    holders: dict[str, set[str]] = field(default_factory=dict)
    """Role to the accounts that have it."""


class RegistryAccounts(Protocol):
    """Keeps the registry's accounts. All raise ``Unavailable``."""

    def read(self) -> Accounts: ...

    def experiment(self, model: str) -> str | None:
        """The id of the model's experiment, ``None`` where there is none yet."""
        ...

    def ensure_model(self, model: str) -> str:
        """Make the registered model and its experiment where they are missing; the experiment's id."""
        ...

    def ensure_user(self, name: str, password: str) -> None:
        """Make the account, or give it this password."""
        ...

    def set_role(self, role: str, grants: set[Grant], holders: set[str]) -> None:
        """Make the role give exactly this to exactly these."""
        ...

    def remove_role(self, role: str) -> None: ...


def declared(estate: Estate, experiments: Mapping[str, str]) -> Accounts:
    """What the estate wants.

    :param experiments: model to the id of its experiment
    """
    wanted = Accounts()
    for model in estate.models:
        for account in model.registry:
            name, edits = role_name(account.role, model.name), account.role is not RegistryRole.READER
            trains = account.role is RegistryRole.TRAINER
            wanted.users.add(account.who)
            wanted.holders.setdefault(name, set()).add(account.who)
            wanted.roles[name] = {
                Grant("registered_model", model.name, "EDIT" if edits else "READ"),
                Grant("experiment", experiments[model.name], "EDIT" if trains else "READ"),
            }
    return wanted


def differences(wanted: Accounts, found: Accounts) -> Iterator[str]:
    """Every difference as a sentence: what is missing, and what somebody has who was not declared for it."""
    for user in sorted(wanted.users - found.users):
        yield f"{user} has no account"
    for role in sorted(wanted.roles.keys() | found.roles.keys()):
        should, does = wanted.roles.get(role, set()), found.roles.get(role, set())
        for grant in sorted(should - does):
            yield f"{role} lacks {grant.permission} on {grant.kind} {grant.what}"
        for grant in sorted(does - should):
            yield f"{role} has {grant.permission} on {grant.kind} {grant.what}, which nobody declared"
    for role in sorted(wanted.holders.keys() | found.holders.keys()):
        should_have, have = wanted.holders.get(role, set()), found.holders.get(role, set())
        for user in sorted(should_have - have):
            yield f"{user} does not have {role}"
        for user in sorted(have - should_have):
            yield f"{user} has {role}, which nobody declared"


def check(systems: Systems, accounts: RegistryAccounts) -> list[str]:
    """Every difference; none where the estate declares no account, as nothing was promised then.

    :raises Unavailable: the registry does not answer
    """
    if not registry_accounts(systems.estate):
        return []
    found = {model.name: accounts.experiment(model.name) for model in systems.estate.models if model.registry}
    missing = [f"{model} has no experiment in the registry" for model, number in found.items() if number is None]
    wanted = declared(systems.estate, {model: number or "(none)" for model, number in found.items()})
    return [*missing, *differences(wanted, accounts.read())]


def apply(systems: Systems, accounts: RegistryAccounts) -> list[str]:
    """Bring the registry's accounts to what is declared; what was different before.

    Roles of ours that nobody declares any more go; what somebody made by hand stays, and ``check`` tells it.

    :raises Refused: no password is known for an account
    :raises Unavailable: the registry does not answer; run again
    """
    estate = systems.estate
    passwords: dict[str, str] = {}
    for who in registry_accounts(estate):
        found = systems.connections.find(f"ninelives_mlflow_{who}")
        if found is None or not found.password:
            raise Refused(
                "registry accounts", [f"the connection ninelives_mlflow_{who} has no password; make it first"]
            )
        passwords[who] = found.password
    experiments = {model.name: accounts.ensure_model(model.name) for model in estate.models if model.registry}
    wanted, there = declared(estate, experiments), accounts.read()
    before = list(differences(wanted, there)) if passwords else []
    for who, password in passwords.items():
        accounts.ensure_user(who, password)
    for role, grants in wanted.roles.items():
        accounts.set_role(role, grants, wanted.holders[role])
    for role in sorted(there.roles.keys() - wanted.roles.keys()):
        if role.startswith(f"{PREFIX}:"):
            accounts.remove_role(role)
    return before
