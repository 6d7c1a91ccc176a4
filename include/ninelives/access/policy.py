"""What policies allow, as far as it can be told from outside.

Two questions that a condition, a variable or a ``Not…`` answers differently: what somebody is *sure* to be allowed, and
what somebody *might* be. A permission that is missing is judged by the first, one too many by the second, so that what
cannot be told never passes for sound. Service control policies, permission boundaries and session policies are not
looked at: they can only take away.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ninelives.access.patterns import covers, overlaps
from ninelives.ports import AccessPolicy

EVERYBODY = "*"
_ARN = re.compile(r"arn:[a-z-]+:(?:iam|sts)::(\d*):(.+)")


@dataclass(frozen=True)
class Statement:
    """One statement of a policy that has not expired."""

    allows: bool
    who: frozenset[str]
    actions: tuple[str, ...]
    """In lower case."""
    resources: tuple[str, ...]
    certain: bool
    """False where it holds only under a condition that nobody here can judge."""
    where: str

    def concerns(self, who: str) -> bool:
        return who in self.who or EVERYBODY in self.who

    def names(self, action: str) -> bool:
        return any(covers(pattern, action.lower()) for pattern in self.actions)


def read_statements(policies: Sequence[AccessPolicy], now: datetime) -> list[Statement]:
    """Every statement that is valid at ``now``."""
    return [found for policy in policies for one in _listed(policy.document.get("Statement"))
            if (found := _statement(policy, one, now))]  # fmt: skip


def expires(policy: AccessPolicy) -> datetime | None:
    """When the last of a policy's statements ends by itself; ``None`` where one never does."""
    ends = [_until(one.get("Condition") or {})[0] for one in _listed(policy.document.get("Statement"))]
    return max((end for end in ends if end), default=None) if all(ends) else None


def surely_allowed(statements: Sequence[Statement], who: str, action: str, resource: str) -> bool:
    """Whether ``who`` can do this to everything that matches ``resource``."""
    own = [one for one in statements if one.concerns(who) and one.names(action)]
    return any(
        one.allows and one.certain and any(covers(wide, resource) for wide in one.resources) for one in own
    ) and not any(not one.allows and any(overlaps(part, resource) for part in one.resources) for one in own)


def possibly_allowed(statements: Sequence[Statement], who: str, action: str, resource: str) -> Statement | None:
    """What might let ``who`` do this to something that matches ``resource``."""
    own = [one for one in statements if one.concerns(who) and one.names(action)]
    denied = [wide for one in own if not one.allows and one.certain for wide in one.resources]
    for one in own:
        for pattern in one.resources if one.allows else ():
            if overlaps(pattern, resource) and not any(covers(w, pattern) or covers(w, resource) for w in denied):
                return one
    return None


def _statement(policy: AccessPolicy, one: Mapping[str, Any], now: datetime) -> Statement | None:
    allows = one.get("Effect") == "Allow"
    until, rest = _until(one.get("Condition") or {})
    if (until and until <= now) or (not allows and _only_insecure(rest)):
        return None
    resources = [_resource(text) for text in _texts(one.get("Resource"))] if "Resource" in one else ["*"]
    plain = not rest and not {"NotAction", "NotResource", "NotPrincipal"} & one.keys()
    return Statement(
        allows=allows,
        who=frozenset([policy.who] if policy.who else _principals(one.get("Principal", "*"), policy.account)),
        actions=tuple(text.lower() for text in _texts(one.get("Action"))) if "Action" in one else ("*",),
        resources=tuple(resources),
        certain=plain and not any("${" in text for text in _texts(one.get("Resource"))),
        where=policy.where,
    )


def _until(condition: Mapping[str, Any]) -> tuple[datetime | None, dict[str, Any]]:
    """When the statement ends by itself, and the other conditions."""
    rest = {operator: dict(keys) for operator, keys in condition.items()}
    keys = rest.get("DateLessThan", {})
    name = next((key for key in keys if key.lower() == "aws:currenttime"), None)
    values = _texts(keys.get(name)) if name else []
    if len(values) != 1:
        return None, rest
    try:
        until = datetime.fromisoformat(values[0])
    except ValueError:
        return None, rest
    del keys[name]
    if not keys:
        del rest["DateLessThan"]
    return until if until.tzinfo else until.replace(tzinfo=UTC), rest


def _only_insecure(condition: Mapping[str, Any]) -> bool:
    """The usual refusal of connections without TLS, which ours have."""
    return {
        operator: {key.lower(): str(value).lower() for key, value in keys.items()}
        for operator, keys in condition.items()
    } == {"Bool": {"aws:securetransport": "false"}}


def _principals(principal: Any, account: str) -> Iterator[str]:
    if isinstance(principal, str):
        principal = {"AWS": principal}
    for kind, values in principal.items():
        for value in _texts(values):
            yield _name(value, account) if kind == "AWS" else f"{kind.lower()}:{value}"


def _name(text: str, account: str) -> str:
    """As it is declared: one's own users and roles by name, those of others as ``name@account``."""
    match = _ARN.fullmatch(text)
    if match is None:
        return f"account-{text}" if text.isdigit() else text
    owner, path = match.groups()
    if path == "root":
        return f"account-{owner}"
    parts = path.split("/")
    name = parts[1] if parts[0] == "assumed-role" and len(parts) > 1 else parts[-1]
    return name if not account or owner == account else f"{name}@{owner}"


def _resource(text: str) -> str:
    return re.sub(r"\$\{[^}]*\}", "*", re.sub(r"^arn:aws[a-z-]*:", "arn:aws:", text))


def _listed(value: Any) -> list[Mapping[str, Any]]:
    return [value] if isinstance(value, Mapping) else list(value or [])


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(one) for one in value or []]
