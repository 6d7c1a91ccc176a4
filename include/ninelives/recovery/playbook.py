"""What a person does for one service, step by step: generated from the estate, the model and readiness.

A playbook that was written once is wrong by the time it is needed. This one is rendered anew at every look at
readiness; where it differs from the one that is kept, that one was stale. It holds no value that changes by itself,
like an age.
"""

from __future__ import annotations

import difflib
import hashlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ninelives.errors import NinelivesError
from ninelives.estate import Approval, Mode, Role, Service
from ninelives.estate.units import format_duration
from ninelives.files import write_atomically
from ninelives.ports import Record, Systems
from ninelives.recovery.failback import approval_of
from ninelives.recovery.standby import ServiceReadiness, State
from ninelives.releases.anatomy import anatomy_of
from ninelives.releases.publish import BUCKET, digest_of, read_release

KIND = "playbook"
AUDIT = "playbook-audit"
MOST_LINES = 40
"""Lines of difference that are shown of a stale playbook."""


@dataclass(frozen=True)
class Build:
    """The release that the playbook is about; ``unknown`` where no site could give it."""

    version: str = "unknown"
    digest: str = "unknown"
    architecture: str = "unknown"
    dependencies: str = "unknown"
    dependency_hash: str = "unknown"


@dataclass(frozen=True)
class Step:
    """One thing to do. ``run`` can be pasted as it is."""

    title: str
    run: tuple[str, ...]
    expect: str
    check: tuple[str, ...]
    undo: str


def find_build(systems: Systems, service: Service, known: Mapping[str, str] | None = None) -> Build:
    """The release as the first site that answers has it.

    :param known: front matter of the kept playbook: a release that it names is not taken apart again
    """
    for site in service.sites:
        try:
            store = systems.store(site)
            release = read_release(store, service.model)
            if release is None:
                continue
            if known and known.get("digest") == release.digest and known.get("architecture", "unknown") != "unknown":
                fields = {name: known.get(name, "unknown") for name in Build.__dataclass_fields__}
                return Build(**{**fields, "version": release.version})
            data = store.get(BUCKET, release.object) or b""
            if digest_of(data) != release.digest:
                continue  # damaged here: another site may have it whole
            anatomy = anatomy_of(data)
        except NinelivesError:
            continue  # readiness says so, and another site may do
        found = ", ".join(anatomy.dependencies)
        return Build(release.version, release.digest, anatomy.architecture, found, anatomy.dependency_hash)
    # No site answers, and that is when the playbook is needed: it says what was known.
    return Build(**{name: (known or {}).get(name, "unknown") for name in Build.__dataclass_fields__})


def render_playbook(systems: Systems, service: Service, readiness: ServiceReadiness, build: Build) -> str:
    """The whole text, in Markdown with a front matter. Pure but for what ``systems`` declares and where its home is."""
    estate, policy = systems.estate, systems.estate.recovery.failback
    front = {
        "service": service.name,
        "owner": service.owner,
        "mode": str(service.mode),
        **({"standby": str(service.standby)} if service.mode is Mode.ACTIVE_PASSIVE else {}),
        "sites": ", ".join(service.sites),
        "model": service.model,
        "version": build.version,
        "digest": build.digest,
        "architecture": build.architecture,
        "dependencies": build.dependencies,
        "dependency_hash": build.dependency_hash,
        "rto": format_duration(service.objective.rto),
        "rpo": format_duration(service.objective.rpo),
    }
    lines = ["---", *(f"{key}: {value}" for key, value in front.items()), "---", f"# Playbook: {service.name}", ""]
    lines += [
        "Made by Ninelives from the estate, the release and readiness; `ninelives playbook check` finds it when it is",
        "stale. Paste this first, in a shell on a machine of this estate:",
        "",
        f"    export NINELIVES_HOME={shlex.quote(str(systems.home.root))}",
        f"    export NINELIVES_ESTATE={shlex.quote(str(systems.home.estate_file))}",
        "",
    ]
    sections: list[tuple[str, Sequence[Step]]] = [("Where things stand", [_look(service)])]
    if first := list(mending(systems, service, readiness)):
        sections.append(("Mend first: a failover would stop at this", first))
    if service.mode is Mode.ACTIVE_PASSIVE:
        sections += [(f"{site} is lost while {service.name} is served there", _loss(service, site)) for site in
                     service.sites]  # fmt: skip
        four_eyes = approval_of(estate) is Approval.FOUR_EYES
        by = "another person, in Airflow's UI," if four_eyes else "nobody"
        as_whom = f" --as {_operator(systems, service)}" if four_eyes else ""
        shares = ", ".join(f"{share}%" for share in (*policy.shares, 100))
        watched = f"{shares}, each but the last watched for {format_duration(policy.hold)}"
        sections.append((f"Back to {service.sites[0]}", _failback(service, by, as_whom, watched)))
    else:
        sections += [(f"{site} is lost", _ride_through(service, site)) for site in service.sites]
    sections.append(("Keep automation from acting", [_freeze(systems, service)]))
    for title, steps in sections:
        lines += [f"## {title}", ""]
        for number, step in enumerate(steps, start=1):
            lines += shown(number, step)
    return "\n".join(lines).rstrip() + "\n"


def shown(number: int, step: Step) -> Iterator[str]:
    """One step in Markdown, line by line."""
    yield from (f"### {number}. {step.title}", "", "Run:", "")
    yield from (f"    {command}" for command in step.run)
    yield from ("", f"Expect: {step.expect}", "")
    if step.check:
        yield from ("Check:", "")
        yield from (f"    {command}" for command in step.check)
        yield ""
    yield from (f"Undo: {step.undo}", "")


def _look(service: Service) -> Step:
    return Step(
        "See where it is, why, and what its loss would do",
        (f"ninelives why {service.name}", f"ninelives readiness {service.name}"),
        f"`{service.name} ... is served from` a site, and for each standby every item with what was found. Exit code "
        "0: it could be moved now; 3: it could not, and the first reason is named.",
        (),
        "nothing was changed.",
    )


def _loss(service: Service, site: str) -> list[Step]:
    others = [other for other in service.sites if other != site]
    rto = format_duration(service.objective.rto)
    return [
        Step(
            "Let automation act, or do what it does",
            (f"ninelives recover fail-over {site} --service {service.name}",),
            f"`judge failover: done` within {rto}, and exit code 0. It is refused, with the reason, where the service "
            f"was moved already or no standby ({', '.join(others)}) is ready. Without Airflow add `--here`.",
            (f"ninelives why {service.name}",),
            f"once {site} is well again: the next step, then the section that leads back.",
        ),
        Step(
            f"Take {site} back when it is well",
            (f"ninelives recover return-site {site}",),
            f"`reopen site: done` and exit code 0: its data was reconciled, the gate said yes, its replicas answer "
            f"right. {service.name} stays where it is.",
            ("ninelives status",),
            f"`ninelives recover fail-over {site}` closes it again.",
        ),
    ]


def _failback(service: Service, by: str, as_whom: str, watched: str) -> list[Step]:
    first = service.sites[0]
    return [
        Step(
            f"Move {service.name} back step by step",
            (f"ninelives recover fail-back {service.name}{as_whom}",),
            f"both sites are reconciled, the gate is asked, {by} is asked to approve, then {first} gets {watched}. "
            "`judge failback: done` and exit code 0. Refused while the reason for the failover stands.",
            (f"ninelives why {service.name}",),
            "while it goes on: mark the run as failed in Airflow, and all traffic returns to where it was. Afterwards: "
            f"`ninelives recover fail-over {first} --service {service.name}`.",
        )
    ]


def _ride_through(service: Service, site: str) -> list[Step]:
    others = ", ".join(other for other in service.sites if other != site)
    return [
        Step(
            f"Close {site} where automation has not",
            (f"ninelives recover fail-over {site}",),
            f"exit code 0; {others} serves alone. {service.name} needs no move.",
            (f"ninelives why {service.name}",),
            "the next step.",
        ),
        Step(
            f"Take {site} back when it is well",
            (f"ninelives recover return-site {site}",),
            "`reopen site: done` and exit code 0.",
            ("ninelives status",),
            f"`ninelives recover fail-over {site}` closes it again.",
        ),
    ]


def _operator(systems: Systems, service: Service) -> str:
    """Somebody who may: the owner where the owner operates."""
    operators = systems.estate.people_with(Role.OPERATOR)
    return service.owner if service.owner in operators else next(iter(operators), "OPERATOR")


def _freeze(systems: Systems, service: Service) -> Step:
    by = _operator(systems, service)
    return Step(
        "Freeze, and thaw as soon as you can",
        (f'ninelives automation freeze --by {by} --for 2h --reason "why, for whoever is called"',),
        "who froze it, until when. Declared losses then move nothing by themselves; people still can.",
        ("ninelives automation status",),
        f"`ninelives automation thaw --by {by}`, which names the losses that nobody has acted on.",
    )


def mending(systems: Systems, service: Service, readiness: ServiceReadiness) -> Iterator[Step]:
    """A step for each thing at a standby that would stop a failover now."""
    for standby in readiness.standbys:
        for item in standby.items:
            if item.stops and item.state is State.FAIL:
                yield mend(systems, service, standby.site, item.name)


def mend(systems: Systems, service: Service, site: str, name: str) -> Step:
    """What mends the item ``name`` of readiness at ``site``."""
    dataset = systems.estate.dataset_of(service).name
    check = (f"ninelives readiness {service.name}",)
    passes = f"`{name}` at {site} passes"
    run: tuple[str, ...]
    match name:
        case "release" | "model":
            run = (f"ninelives replicate run {dataset} --to {site}",)
            return Step(f"{site}: bring the release again", run, "exit code 0", check, "not needed: a copy is added.")
        case "gate":
            run = (f"ninelives gate run {dataset} --site {site}", f"ninelives gate explain {dataset} --site {site}")
            said = "the verdict, and which rows fail; exit code 0 where the data may serve"
            return Step(f"{site}: ask the gate again", run, said, check, "not needed: it only reads.")
        case "licence":
            run = ("ninelives licence status",)
            said = "which seats are in use, and what is over"
            return Step(f"{site}: free or buy seats", run, said, check, "nothing was changed.")
        case "permissions":
            run = (f"ninelives access check --site {site}",)
            return Step(f"{site}: give what is missing", run, "each finding by name", check, "nothing was changed.")
        case "accelerators":
            hosts = [one.name for one in systems.estate.site_by_name[site].accelerators]
            run = tuple(f"ninelives accelerators check --site {site} --host {host}" for host in hosts)
            said = "on each of these machines: which device, and whether it wants a reset, a reboot or an exchange"
            return Step(f"{site}: mend the accelerator", run, said, check, "nothing was changed.")
        case "residency":
            run = (f"ninelives estate check {shlex.quote(str(systems.home.estate_file))}",)
            said = "which site is in none of the data's regions; name the region of the site, or another site"
            return Step(f"{site}: keep to the data's regions", run, said, check, "nothing was changed.")
        case "automation":
            run = ("ninelives automation status", f"ninelives automation thaw --by {_operator(systems, service)}")
            return Step("Thaw automation", run, "`automation acts`", check, "freeze it again.")
        case "gateway":
            run = (f"ninelives recover return-site {site}",)
            undo = f"`ninelives recover fail-over {site}`."
            return Step(f"{site}: take it back through the gate", run, "`reopen site: done`", check, undo)
        case "drill":
            run = ("ninelives drill list", "ninelives status")
            said = "the drill that is under way; it gives the site back by itself"
            return Step(f"{site}: wait for the drill's end", run, said, check, "nothing was changed.")
        case _:
            run = ("ninelives stack status", f"ninelives stack restore {site}")
            said = f"{passes}. Outside the local estate: start the site's store and model servers by your own means"
            return Step(f"{site}: start what is down ({name})", run, said, check, f"`ninelives stack lose {site}`.")


# --- kept --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Playbook:
    """The playbook as it is now, beside the one that is kept."""

    service: str
    text: str
    kept: str | None

    @property
    def stale(self) -> bool:
        return self.text != self.kept

    @property
    def differences(self) -> list[str]:
        """What the kept one has otherwise, line by line; empty where it is fresh."""
        if self.kept is None:
            return ["no playbook is kept yet"]
        found = difflib.unified_diff(self.kept.splitlines(), self.text.splitlines(), "kept", "now", lineterm="", n=0)
        return list(found)[:MOST_LINES]

    @property
    def build(self) -> dict[str, str]:
        return front_matter(self.text)


def front_matter(text: str) -> dict[str, str]:
    """``key: value`` lines between the first two rulers; empty where there are none."""
    head = text.split("---\n", 2)
    lines = head[1].splitlines() if len(head) == 3 and not head[0] else []
    return dict(line.split(": ", 1) for line in lines if ": " in line)


def make_playbook(systems: Systems, readiness: ServiceReadiness) -> Playbook:
    """Render it from what there is now. Writes nothing."""
    service = systems.estate.service_by_name[readiness.service]
    path = systems.home.playbooks / f"{service.name}.md"
    kept = path.read_text("utf-8") if path.is_file() else None
    build = find_build(systems, service, front_matter(kept or ""))
    return Playbook(service.name, render_playbook(systems, service, readiness, build), kept)


def audit_playbooks(systems: Systems, found: Sequence[ServiceReadiness], *, run: str) -> tuple[dict[str, str], Record]:
    """Compare every kept playbook with what it would say now, leave evidence, and change nothing.

    :return: the first difference of each that is stale, by service, and the record
    """
    made = [make_playbook(systems, one) for one in found]
    stale = {one.service: _first(one.differences) for one in made if one.stale}
    facts = {"verdict": "missed" if stale else "met", "stale": stale, "run": run}
    ledger, key = systems.ledger(), f"{AUDIT}/{systems.estate.name}/{run}"
    return stale, ledger.written(key) or ledger.append(AUDIT, systems.estate.name, facts, once=key)


def _first(differences: Sequence[str]) -> str:
    return next(line for line in differences if not line.startswith(("---", "+++", "@@")))


def keep_playbook(systems: Systems, playbook: Playbook, *, run: str) -> Record | None:
    """Make it the kept one and leave evidence of what has changed; ``None`` where nothing has."""
    if not playbook.stale:
        return None
    folder = systems.home.playbooks
    folder.mkdir(parents=True, exist_ok=True)
    build = playbook.build
    facts: dict[str, Any] = {
        "sha256": hashlib.sha256(playbook.text.encode()).hexdigest(),
        "build": {name: build[name] for name in ("version", "digest", "architecture", "dependency_hash")},
        "differences": playbook.differences,
        "run": run,
    }
    ledger, key = systems.ledger(), f"{KIND}/{playbook.service}/{run}"
    record = ledger.written(key) or ledger.append(KIND, playbook.service, facts, once=key)
    write_atomically(folder / f"{playbook.service}.md", playbook.text.encode())
    return record
