"""Who may do what with a model in the registry: declared, compared with its accounts, and brought there.

Each declared role of each model is one role of the registry, which holds the permissions; accounts hold roles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ninelives.access.compare import Finding, Kind
from ninelives.errors import Refused
from ninelives.estate import Estate
from ninelives.estate.artefacts import RegistryRole
from ninelives.ports import Accounts, Grant, Systems

PREFIX = "ninelives"
REGISTRY = "registry"
"""Where findings are that are at no site."""


def role_name(role: RegistryRole, model: str) -> str:
    return f"{PREFIX}:{role}:{model}"


def registry_accounts(estate: Estate) -> list[str]:
    """Whose accounts the estate declares; none: the registry's are nobody's business here."""
    return sorted({account.who for model in estate.models for account in model.registry})


def account_with(estate: Estate, model: str, role: RegistryRole) -> str | None:
    """The account that the estate's own tasks sign in with where they act in this role: the first that has it."""
    accounts = estate.model_by_name[model].registry if model in estate.model_by_name else ()
    return next((account.who for account in accounts if account.role is role), None)


def declared(estate: Estate, experiments: Mapping[str, str]) -> Accounts:
    """What the estate wants.

    :param experiments: model to the id of its experiment
    """
    wanted = Accounts(administrators=set(estate.administrators))
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


def differences(wanted: Accounts, found: Accounts) -> Iterator[Finding]:
    """Every difference: what is missing, and what somebody has who was not declared for it."""

    def finding(kind: Kind, subject: str, who: str, detail: str) -> Finding:
        return Finding(REGISTRY, kind, subject, who, detail)

    for user in sorted(wanted.users - found.users - found.administrators):
        yield finding(Kind.MISSING, "accounts", user, "has no account")
    for user in sorted(found.administrators - wanted.administrators):
        yield finding(Kind.EXCESS, "accounts", user, "is an administrator, which nobody declared")
    for role in sorted(wanted.roles.keys() | found.roles.keys()):
        should, does = wanted.roles.get(role, set()), found.roles.get(role, set())
        for grant in sorted(should - does):
            yield finding(Kind.MISSING, f"role {role}", "", f"lacks {grant}")
        for grant in sorted(does - should):
            yield finding(Kind.EXCESS, f"role {role}", "", f"has {grant}, which nobody declared")
    for role in sorted(wanted.holders.keys() | found.holders.keys()):
        should_have, have = wanted.holders.get(role, set()), found.holders.get(role, set())
        for user in sorted(should_have - have):
            yield finding(Kind.MISSING, f"role {role}", user, "does not have it")
        for user in sorted(have - should_have):
            yield finding(Kind.EXCESS, f"role {role}", user, "has it, which nobody declared")


def check(systems: Systems) -> list[Finding]:
    """Every difference; none where the estate declares no account, as nothing was promised then.

    :raises Unavailable: the registry does not answer
    """
    estate = systems.estate
    if not registry_accounts(estate):
        return []
    accounts = systems.accounts()
    found = {model.name: accounts.experiment(model.name) for model in estate.models if model.registry}
    missing = [
        Finding(REGISTRY, Kind.MISSING, f"model {model}", "", "has no experiment")
        for model, number in found.items()
        if number is None
    ]
    wanted = declared(estate, {model: number or "(none)" for model, number in found.items()})
    return [*missing, *differences(wanted, accounts.read())]


def apply(systems: Systems) -> list[Finding]:
    """Bring the registry's accounts to what is declared; what was different before.

    Roles of ours that nobody declares any more go; what somebody made by hand stays, and ``check`` tells it.

    :raises Refused: no password is known for an account
    :raises Unavailable: the registry does not answer; run again
    """
    estate, accounts = systems.estate, systems.accounts()
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
