"""What an estate says about itself that cannot be true: references that lead nowhere, things nobody uses, promises that
cannot be kept together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise

from ninelives.estate.accelerators import STAND_IN
from ninelives.estate.cron import check_cron, longest_gap
from ninelives.estate.document import Loc, format_path
from ninelives.estate.explain import closest
from ninelives.estate.model import (
    AccessKind,
    Approval,
    DrillPolicy,
    Engine,
    Estate,
    Golden,
    Hardware,
    Mode,
    Right,
    Role,
    ScenarioName,
    Service,
    StandbyKind,
    Vault,
)
from ninelives.estate.residency import residency_breach
from ninelives.estate.streams import Format, contract_problems
from ninelives.estate.units import Value, format_duration

Finding = tuple[Loc, str]
MAX_LABEL = 63
"""Characters of a name in DNS (RFC 1035), and so of a Service."""


def check_references(estate: Estate) -> list[tuple[str, str]]:
    """Every contradiction as path (``services[0].objective.rto``) and message; empty for a sound estate."""
    return [(format_path(loc), message) for loc, message in find_contradictions(estate)]


def find_contradictions(estate: Estate, broken: Collection[str] = frozenset()) -> Iterator[Finding]:
    """Where and what.

    :param broken: parts of ``estate`` (``sites``, ``drills``, …) that lack items which could not be read. What might
        only seem wrong for want of them is not reported.
    """
    yield from _repeated_names(estate)
    yield from _unknown_references(estate, broken)
    yield from _unused(estate, broken)
    for index, service in enumerate(estate.services):
        for loc, message in _service(estate, service):
            yield ("services", index, *loc), message
    for index, stream in enumerate(estate.streams):
        for loc, message in contract_problems(stream):
            yield ("streams", index, *loc), message
        dataset_of = estate.dataset_by_name.get(stream.name)
        if dataset_of is not None and dataset_of.primary != stream.site:
            yield (
                ("streams", index, "site"),
                f"the dataset of the same name has its primary at {dataset_of.primary}; land the stream there",
            )
    for index, dataset in enumerate(estate.datasets):
        for number, site in enumerate(dataset.copies):
            if site == dataset.primary:
                yield (
                    ("datasets", index, "copies", number),
                    f"{site} is the primary, and a copy there is lost with it; name another site",
                )
    yield from _residency(estate, broken)
    yield from _engines(estate, broken)
    for part in ("datasets", "models"):
        for index, item in enumerate(getattr(estate, part)):
            for number, permission in enumerate(item.access):
                if permission.in_failover and Right.READ not in permission.may:
                    yield (
                        (part, index, "access", number, "in_failover"),
                        "a failover grants reading only; add read to may",
                    )
                if permission.in_failover and not permission.at:
                    yield (
                        (part, index, "access", number, "in_failover"),
                        "without at it holds at every site already, also when nothing has failed; name the sites in at",
                    )
    for index, number in _repeated([backfill.dag for backfill in estate.backfills]):
        yield ("backfills", index, "dag"), f"is named in backfills[{number}] already; remove one"
    yield from _requests(estate)
    if "services" not in broken:
        for index, service in enumerate(estate.services):
            if service.fallback and service.fallback.service:
                yield from _smaller(estate, index, service, service.fallback.service)
    yield from _backups(estate, broken)
    yield from _licences(estate, broken)
    yield from _providers(estate, broken)
    yield from _failback(estate, broken)
    yield from _machines(estate)
    if "services" not in broken:
        yield from _releases(estate, broken)
        yield from _experiments(estate)
    if not {"services", "sites"} & set(broken):
        yield from _kubernetes(estate)
    if "drills" not in broken:
        yield from _drills(estate, estate.drills, broken)


def _residency(estate: Estate, broken: Collection[str]) -> Iterator[Finding]:
    """Copies, failovers and streams that would take data out of its regions."""
    if "sites" in broken:
        return
    places: list[tuple[Loc, str, str]] = []
    for index, dataset in enumerate(estate.datasets):
        places.append((("datasets", index, "primary"), dataset.name, dataset.primary))
        places += ((("datasets", index, "copies", n), dataset.name, site) for n, site in enumerate(dataset.copies))
    for index, service in enumerate(estate.services):
        model = estate.model_by_name.get(service.model)
        if model is not None:
            places += (
                (("services", index, "sites", n), model.trained_on, site) for n, site in enumerate(service.sites)
            )
    for loc, name, site in places:
        if breach := residency_breach(estate, name, site):
            yield loc, f"{breach}; name another site, or the region of this one"


def _engines(estate: Estate, broken: Collection[str]) -> Iterator[Finding]:
    """Datasets that AWS's DataSync is to copy where it cannot."""
    for index, dataset in enumerate(estate.datasets):
        if dataset.engine is not Engine.DATASYNC:
            continue
        sites = [estate.site_by_name.get(name) for name in (dataset.primary, *dataset.copies)]
        elsewhere = [site.name for site in sites if site is not None and site.access is not AccessKind.AWS]
        if elsewhere and "sites" not in broken:
            yield (
                ("datasets", index, "engine"),
                f"datasync copies between S3 buckets on AWS only, and {', '.join(dict.fromkeys(elsewhere))} does not "
                "say access: aws; say so if it is there, or leave the copying to rclone",
            )
        if dataset.shards > 1:
            yield (
                ("datasets", index, "shards"),
                "DataSync works on one execution of a task at a time and spreads the work itself; leave shards out",
            )


def _backups(estate: Estate, broken: Collection[str]) -> Iterator[Finding]:
    """A vault that is not apart, a key in the wrong hands, and promises about backups that their schedule breaks."""
    vault, backups = estate.vault, estate.backups
    if backups is None and vault is not None and "backups" not in broken:
        yield ("vault",), "nothing is backed up into it; declare backups, or remove it"
    if vault is not None:
        yield from _vault(estate, vault, broken)
    if backups is None:
        return
    if vault is None and "vault" not in broken:
        yield ("backups",), "there is no vault to keep them in; declare one with its site and its keeper"
    gaps = {}
    for key in ("schedule", "verify"):
        try:
            gaps[key] = longest_gap(getattr(backups, key))
        except ValueError as error:
            yield ("backups", key), f'{error}; for every night at 2:30 UTC write "30 2 * * *"'
    if "schedule" in gaps and backups.rpo <= gaps["schedule"]:
        yield (
            ("backups", "rpo"),
            f"{format_duration(backups.rpo)} cannot be kept by a backup that is made every "
            f"{format_duration(gaps['schedule'])} at the least, and takes time; promise more, or back up more often",
        )
    if "verify" in gaps and backups.verify_within <= gaps["verify"]:
        yield (
            ("backups", "verify_within"),
            f"{format_duration(backups.verify_within)} cannot be kept by a proof that is made every "
            f"{format_duration(gaps['verify'])} at the least; allow more, or verify more often",
        )
    keep = backups.retention
    if keep.every < backups.rpo:
        yield (
            ("backups", "retention", "every"),
            f"{format_duration(keep.every)} is shorter than the rpo ({format_duration(backups.rpo)}); keep more",
        )
    steps = [("every", keep.every), ("daily", keep.daily), ("weekly", keep.weekly), ("monthly", keep.monthly)]
    for (shorter, before), (longer, after) in pairwise(steps):
        if after < before:
            yield (
                ("backups", "retention", longer),
                f"{format_duration(after)} is shorter than {shorter} ({format_duration(before)}), and so never counts; "
                "make it longer",
            )


def _vault(estate: Estate, vault: Vault, broken: Collection[str]) -> Iterator[Finding]:
    if vault.site in estate.site_by_name:
        yield ("vault", "site"), f"{vault.site} is a site, and backups there are lost with it; name another place"
    for dataset in estate.datasets if "sites" not in broken else ():
        if dataset.residency and vault.region not in dataset.residency:
            where = f"is in {vault.region}" if vault.region else "names no region"
            yield (
                ("vault", "region"),
                f"dataset {dataset.name}, and the models made of it, may not leave {', '.join(dataset.residency)}, and "
                f"the vault {where}; name another vault, or the region of this one",
            )
    if "people" in broken:
        return
    roles = {person.name: person.roles for person in estate.people}
    if vault.keeper not in roles:
        hint = closest(vault.keeper, roles)
        yield ("vault", "keeper"), f"{vault.keeper} is not declared below people; declare or correct the name: {hint}"
    elif Role.KEEPER not in roles[vault.keeper]:
        yield ("vault", "keeper"), f"{vault.keeper} does not have the role keeper; give it to them, or name another"
    elif Role.OPERATOR in roles[vault.keeper]:
        yield (
            ("vault", "keeper"),
            f"{vault.keeper} is an operator too: who runs the estate could remove its backups; name another",
        )


def _repeated_names(estate: Estate) -> Iterator[Finding]:
    outside = ("licences", "providers", "consumers", "experiments")
    for part in ("people", "sites", "datasets", "models", "services", "streams", "tables", *outside):
        names = [item.name for item in getattr(estate, part)]
        for index, first in _repeated(names):
            yield (part, index, "name"), f"{names[index]} is the name of {part}[{first}] already; choose another"
    for index, table in enumerate(estate.tables):
        if table.name in estate.dataset_by_name:
            yield ("tables", index, "name"), f"{table.name} is the name of a dataset already; choose another"
    lists: list[tuple[Loc, Sequence[str]]] = [
        *((("people", index, "roles"), person.roles) for index, person in enumerate(estate.people)),
        *((("datasets", index, "copies"), dataset.copies) for index, dataset in enumerate(estate.datasets)),
        *((("services", index, "sites"), service.sites) for index, service in enumerate(estate.services)),
        *(
            (("licences", index, part), getattr(licence, part))
            for index, licence in enumerate(estate.licences)
            for part in ("sites", "models", "services")
        ),
    ]
    for loc, values in lists:
        for index, _ in _repeated(values):
            yield (*loc, index), f"{values[index]} is named twice; remove one"


def _machines(estate: Estate) -> Iterator[Finding]:
    """Machines with accelerators that are named twice: each has a queue of its own."""
    places = [(site, number) for site, one in enumerate(estate.sites) for number in range(len(one.accelerators))]
    names = [estate.sites[site].accelerators[number].name for site, number in places]
    for index, first in _repeated(names):
        site, number = places[index]
        there = "sites[{}].accelerators[{}]".format(*places[first])
        yield ("sites", site, "accelerators", number, "name"), f"{names[index]} is {there} already; choose another"


def _repeated(values: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Index of each value that was there before, and of its first occurrence."""
    first: dict[str, int] = {}
    for index, value in enumerate(values):
        if first.setdefault(value, index) != index:
            yield index, first[value]


def _references(estate: Estate) -> Iterator[tuple[Loc, str, str]]:
    """Where a name is used, the name, and the part that must declare it."""
    for index, dataset in enumerate(estate.datasets):
        yield ("datasets", index, "primary"), dataset.primary, "sites"
        for number, site in enumerate(dataset.copies):
            yield ("datasets", index, "copies", number), site, "sites"
    for part in ("datasets", "models"):
        for index, item in enumerate(getattr(estate, part)):
            for number, permission in enumerate(item.access):
                for place, site in enumerate(permission.at):
                    yield (part, index, "access", number, "at", place), site, "sites"
    for index, stream in enumerate(estate.streams):
        yield ("streams", index, "site"), stream.site, "sites"
    for index, table in enumerate(estate.tables):
        yield ("tables", index, "site"), table.site, "sites"
    for index, model in enumerate(estate.models):
        yield ("models", index, "trained_on"), model.trained_on, "datasets"
    for index, backfill in enumerate(estate.backfills):
        for part in ("source", "dataset"):
            if name := getattr(backfill, part):
                yield ("backfills", index, part), name, "datasets"
    for index, service in enumerate(estate.services):
        yield ("services", index, "owner"), service.owner, "people"
        yield ("services", index, "model"), service.model, "models"
        for number, site in enumerate(service.sites):
            yield ("services", index, "sites", number), site, "sites"


def _licence_references(estate: Estate) -> Iterator[tuple[Loc, str, str]]:
    for index, licence in enumerate(estate.licences):
        for part in ("sites", "models", "services"):
            for number, name in enumerate(getattr(licence, part)):
                yield ("licences", index, part, number), name, part


def _outside_references(estate: Estate) -> Iterator[tuple[Loc, str, str]]:
    for index, consumer in enumerate(estate.consumers):
        yield ("consumers", index, "service"), consumer.service, "services"
    for index, experiment in enumerate(estate.experiments):
        yield ("experiments", index, "service"), experiment.service, "services"
    for index, provider in enumerate(estate.providers):
        if provider.feed is not None:
            yield ("providers", index, "feed", "stream"), provider.feed.stream, "streams"


def _unknown_references(estate: Estate, broken: Collection[str]) -> Iterator[Finding]:
    parts = ("people", "sites", "datasets", "models", "services", "streams")
    declared = {part: {item.name for item in getattr(estate, part)} for part in parts}
    for loc, name, part in (*_references(estate), *_licence_references(estate), *_outside_references(estate)):
        if part not in broken and name not in declared[part]:
            if part == "datasets" and name in estate.table_by_name:
                yield loc, f"{name} is a table, of which no copies are kept; name a dataset"
                continue
            hint = closest(name, declared[part])
            yield loc, f"{name} is not declared below {part}; declare it or correct the name: {hint}"


def _unused(estate: Estate, broken: Collection[str]) -> Iterator[Finding]:
    """Datasets are not among them: each is copied and judged, and one that no model is trained on may be what the suite
    of another refers to.
    """
    used: dict[str, set[str]] = {"sites": set(), "models": set()}
    for loc, name, part in _references(estate):
        if part in used and "access" not in loc:
            used[part].add(name)
    users = {"sites": ("services", "datasets", "streams", "tables"), "models": ("services",)}
    says = {"sites": "no service runs there and no dataset is kept there", "models": "no service serves it"}
    for part, names in used.items():
        if any(user in broken for user in users[part]):
            continue
        for index, item in enumerate(getattr(estate, part)):
            if item.name not in names:
                yield (part, index, "name"), f"{item.name} is declared, but {says[part]}; use it or remove it"


def _service(estate: Estate, service: Service) -> Iterator[Finding]:
    """Promises of one service that cannot be kept; relative to the service."""
    promise = service.objective
    if len(set(service.sites)) < 2:
        why = "an active-active service" if service.mode is Mode.ACTIVE_ACTIVE else "an active-passive service"
        yield ("sites",), f"{why} on one site is lost with it; name at least two sites"
    if promise.latency >= promise.rto:
        yield (
            ("objective", "latency"),
            f"a slow answer ({format_duration(promise.latency)}) may take as long as the whole outage "
            f"({format_duration(promise.rto)}); make latency shorter than rto",
        )
    if promise.rto >= promise.window:
        yield (
            ("objective", "window"),
            f"is not longer than the rto of {format_duration(promise.rto)}: one outage would fill it; make it longer",
        )
    model = estate.model_by_name.get(service.model)
    if model is None:
        return
    # The survivors of an active-active service are warm; a cold standby loads the model when it is needed.
    cold = service.mode is Mode.ACTIVE_PASSIVE and service.standby is StandbyKind.COLD
    if cold and promise.rto <= model.warm_up:
        yield (
            ("objective", "rto"),
            f"{format_duration(promise.rto)} is no longer than the warm-up of model {model.name} "
            f"({format_duration(model.warm_up)}), which a failover waits for; promise more, warm up faster, or keep a "
            "warm standby (standby: warm)",
        )
    if service.mode is Mode.ACTIVE_ACTIVE and service.standby is StandbyKind.WARM:
        yield ("standby",), "has no standby: every site of an active-active service serves; remove it"
    dataset = estate.dataset_by_name.get(model.trained_on)
    if dataset is None:
        return
    if promise.rpo < dataset.rpo:
        yield (
            ("objective", "rpo"),
            f"{format_duration(promise.rpo)} cannot be kept while dataset {dataset.name} may lose "
            f"{format_duration(dataset.rpo)}; promise more, or lower the rpo of the dataset",
        )
    declared = set(estate.site_names)
    for number, site in enumerate(service.sites):
        if site in declared and site != dataset.primary and site not in dataset.copies:
            yield (
                ("sites", number),
                f"{site} holds no copy of dataset {dataset.name}, which the gate there looks at; "
                f"add {site} to the copies of {dataset.name}, or take it from this list",
            )


def _licences(estate: Estate, broken: Collection[str]) -> Iterator[Finding]:
    """Licences that nobody needs, and services that could not be moved for want of one."""
    if {"services", "models", "sites"} & set(broken):
        return
    for index, licence in enumerate(estate.licences):
        if not licence.models and not licence.services:
            yield ("licences", index), "names neither models nor services, so nothing needs it; say what does"
        needing = [service for service in estate.services if licence in estate.licences_of(service)]
        for service in needing:
            for site in service.sites:
                if licence.sites and site not in licence.sites:
                    yield (
                        ("licences", index, "sites"),
                        f"{service.name} may be served from {site}, where it is not valid: a failover there would be "
                        "refused; buy it for that site, or take the site from the service",
                    )
        for number, site in enumerate(licence.sites):
            if needing and site in estate.site_names and not any(site in service.sites for service in needing):
                yield (
                    ("licences", index, "sites", number),
                    f"nothing that needs it is served from {site}; remove the site, or name what runs there",
                )
        home = sum(len(service.sites) if service.mode is Mode.ACTIVE_ACTIVE else 1 for service in needing)
        spare = licence.each if any(service.mode is Mode.ACTIVE_PASSIVE for service in needing) else 0
        if licence.seats < home * licence.each:
            yield (
                ("licences", index, "seats"),
                f"{licence.seats} are fewer than the {home * licence.each} that its services take before anything is "
                "lost; buy more, or name fewer services",
            )
        elif licence.seats < home * licence.each + spare and licence.grace is None:
            yield (
                ("licences", index, "seats"),
                f"{licence.seats} are all taken before anything is lost, so every failover would be refused; "
                f"buy {licence.each} more, or declare the grace that the vendor gives",
            )


def _providers(estate: Estate, broken: Collection[str]) -> Iterator[Finding]:
    """Providers that could never be drilled, although they have a feed for it."""
    if "streams" in broken:
        return
    for index, provider in enumerate(estate.providers):
        if provider.feed is None:
            if provider.sandbox:
                message = "says nothing without a feed: its stream and pace; declare one, or remove the sandbox"
                yield ("providers", index, "sandbox"), message
            continue
        stream = estate.stream_by_name.get(provider.feed.stream)
        if stream is not None and (stream.format is not Format.PARQUET or stream.source.prefix is None):
            yield ("providers", index, "feed", "stream"), f"{stream.name} is not of Parquet objects; name one that is"
        if not provider.test:
            yield (
                ("providers", index, "feed"),
                "can never be replayed: there is no test window; agree one with the provider, or remove the feed",
            )


def _failback(estate: Estate, broken: Collection[str]) -> Iterator[Finding]:
    policy = estate.recovery.failback
    if list(policy.shares) != sorted(set(policy.shares)):
        yield ("recovery", "failback", "shares"), "must grow from step to step; write them in order, each once"
    if policy.approval is Approval.FOUR_EYES and "people" not in broken:
        for _, message in _four_eyes(estate):
            yield ("recovery", "failback", "approval"), message


def _releases(estate: Estate, broken: Collection[str]) -> Iterator[Finding]:
    for number, service in enumerate(estate.services):
        policy, where = service.release, ("services", number, "release")
        shares = [step.share for step in policy.canary]
        if shares != sorted(set(shares)):
            yield (*where, "canary"), "shares must grow from step to step; write them in order, each once"
        if policy.canary[-1].hold > policy.patience:
            yield (*where, "patience"), "is over before the last step is; nothing could ever be promoted"
        if policy.approval is Approval.FOUR_EYES and "people" not in broken:
            for _, message in _four_eyes(estate):
                yield (*where, "approval"), message


def _experiments(estate: Estate) -> Iterator[Finding]:
    """Experiments that could never begin."""
    for index, experiment in enumerate(estate.experiments):
        service = estate.service_by_name.get(experiment.service)
        if service is not None and service.capacity is None:
            yield (
                ("experiments", index, "service"),
                f"{service.name} declares no capacity, so nobody knows what the loss of a site would need; declare it",
            )


def _kubernetes(estate: Estate) -> Iterator[Finding]:
    """What Kubernetes has no place for, or the Gateway API no words."""
    if (declared := estate.kubernetes) is None:
        return
    names = [one.site for one in declared.sites]
    for index, first in _repeated(names):
        yield ("kubernetes", "sites", index, "site"), f"is named in kubernetes.sites[{first}] already; remove one"
    for index, name in enumerate(names):
        if name not in estate.site_by_name:
            hint = closest(name, estate.site_by_name)
            yield ("kubernetes", "sites", index, "site"), f"{name} is not declared below sites; correct it: {hint}"
    for site in estate.site_names:
        if estate.services_at(site) and site not in names:
            yield ("kubernetes", "sites"), f"{site} serves and is not here: add it with the addresses of its pods"
    for number, one in enumerate(estate.sites):
        for place, host in enumerate(one.accelerators):
            if host.policy.kind == "nvidia" and "xid_log" not in host.policy.optional:
                yield (
                    ("sites", number, "accelerators", place, "policy", "optional"),
                    "a pod cannot read the kernel's log, so xid_log stays unknown there and would always block; name "
                    "it beside the others (XIDs that come while the pod listens are read all the same)",
                )
    for index, experiment in enumerate(estate.experiments):
        yield (
            ("experiments", index, "service"),
            f"the Gateway API draws lots for each request of {experiment.service}, where the same user must see the "
            "same version; remove the experiment, or serve without kubernetes",
        )
    for index, service in enumerate(estate.services):
        for part in ("service", "cached_for"):
            if service.fallback and getattr(service.fallback, part) is not None:
                yield (
                    ("services", index, "fallback", part),
                    "the Gateway API cannot ask another service, or keep answers, for a request that failed; remove it "
                    "(the default answer is given there too), or serve without kubernetes",
                )
        if service.release.shadow:
            yield (
                ("services", index, "release", "shadow"),
                "the Gateway API cannot tell a copied request which version is meant; write shadow: 0, or serve "
                "without kubernetes",
            )
        yield from ((("services", index, "pods", *loc), why) for loc, why in _room_for_a_loss(service))
        for number, site in enumerate(service.sites):
            if len(name := f"{service.name}-{site}") > MAX_LABEL:
                yield (
                    ("services", index, "sites", number),
                    f"{name} is the Service there, and longer than the {MAX_LABEL} characters that Kubernetes takes; "
                    "shorten one of the names",
                )


def _kind(value: Value) -> str:
    match value:
        case bool():
            return "true or false"
        case str():
            return "text"
    return "a number"


def _requests(estate: Estate) -> Iterator[Finding]:
    """Golden requests and fallback answers: one model has one set of inputs and one set of outputs."""
    inputs: dict[str, tuple[Loc, Golden]] = {}
    outputs: dict[str, tuple[Loc, set[str]]] = {}
    for index, service in enumerate(estate.services):
        for number, golden in enumerate(service.golden):
            loc: Loc = ("services", index, "golden", number, "inputs")
            first_loc, first = inputs.setdefault(service.model, (loc, golden))
            missing, added = first.inputs.keys() - golden.inputs.keys(), golden.inputs.keys() - first.inputs.keys()
            if missing or added:
                difference = [f"lacks {name[:60]!a}" for name in sorted(missing)[:5]]
                difference += [f"has {name[:60]!a} beside" for name in sorted(added)[:5]]
                yield (
                    loc,
                    f"{', '.join(difference)}: other than {format_path(first_loc)}, for the same model; "
                    "give every golden request the same features",
                )
            for name in sorted(first.inputs.keys() & golden.inputs.keys()):
                expected, found = _kind(first.inputs[name]), _kind(golden.inputs[name])
                if expected != found:
                    yield (
                        (*loc, name),
                        f"is {found}, but {expected} in {format_path(first_loc)}; give a feature one type everywhere",
                    )
        if service.fallback:
            loc = ("services", index, "fallback", "answer")
            answered = set(service.fallback.answer)
            first_loc, known = outputs.setdefault(service.model, (loc, answered))
            if answered != known:
                yield (
                    loc,
                    f"names other outputs than {format_path(first_loc)}, for the same model; "
                    "name the outputs that the model has",
                )


def _smaller(estate: Estate, index: int, service: Service, name: str) -> Iterator[Finding]:
    """A service that answers for another one: it must be there, and take the same requests."""
    loc: Loc = ("services", index, "fallback", "service")
    smaller = estate.service_by_name.get(name)
    if smaller is None:
        hint = closest(name, set(estate.service_by_name))
        yield loc, f"{name} is not declared below services; declare it or correct the name: {hint}"
    elif smaller.model == service.model:
        yield loc, f"{name} serves the same model, and is lost with it; name a service with a smaller one"
    elif smaller.golden[0].inputs.keys() != service.golden[0].inputs.keys():
        yield loc, f"{name} takes other features than {service.name}; name a service that takes the same"
    elif smaller.fallback and service.fallback and smaller.fallback.answer.keys() != service.fallback.answer.keys():
        yield loc, f"{name} gives other outputs than {service.name}; name a service that gives the same"


def _drills(estate: Estate, drills: DrillPolicy, broken: Collection[str]) -> Iterator[Finding]:
    if drills.schedule is not None:
        try:
            check_cron(drills.schedule)
        except ValueError as error:
            yield ("drills", "schedule"), f'{error}; for every night at 3:00 UTC write "0 3 * * *"'
    yield from _calendar(estate, drills, broken)
    if "people" not in broken:
        yield from _drill_people(estate, drills)
    if not estate.services:
        return
    slowest = max(estate.services, key=lambda service: service.objective.rto)
    if drills.max_duration <= slowest.objective.rto:
        yield (
            ("drills", "max_duration"),
            f"{format_duration(drills.max_duration)} is no longer than the rto of service {slowest.name} "
            f"({format_duration(slowest.objective.rto)}): the site would be back before a late recovery is seen; "
            "allow more",
        )
    modest = min(estate.services, key=lambda service: service.objective.quality)
    if drills.min_good > modest.objective.quality:
        yield (
            ("drills", "min_good"),
            f"{drills.min_good:.6g} is above the quality that service {modest.name} promises "
            f"({modest.objective.quality:.6g}): a drill would stop while the promise is kept; lower it",
        )


def _calendar(estate: Estate, drills: DrillPolicy, broken: Collection[str]) -> Iterator[Finding]:
    """Planned drills that cannot be carried out."""
    plans = [f"{one.scenario} of {one.service}{f' at {one.site}' if one.site else ''}" for one in drills.calendar]
    for index, first in _repeated(plans):
        yield ("drills", "calendar", index), f"{plans[index]} is planned in calendar[{first}] already; remove one"
    for index, one in enumerate(drills.calendar):
        loc: Loc = ("drills", "calendar", index)
        service = estate.service_by_name.get(one.service)
        if service is None:
            if "services" not in broken:
                hint = closest(one.service, estate.service_by_name)
                yield (*loc, "service"), f"{one.service} is not declared below services; correct the name: {hint}"
            continue
        if one.scenario is ScenarioName.ACCELERATOR_FAULT and "sites" not in broken:
            yield from ((loc, why) for why in _not_played(estate, service, one.site))
        if one.scenario is ScenarioName.EXPERIMENT:
            if one.site is None:
                yield loc, "does not say which experiment; name it below site"
        elif one.site is None:
            continue
        elif not one.scenario.at_a_site:
            yield (*loc, "site"), f"{one.scenario} is not about one site; leave site out"
        elif one.site not in service.sites:
            yield (*loc, "site"), f"{service.name} is not at {one.site}; name one of {', '.join(service.sites)}"


def _room_for_a_loss(service: Service) -> Iterator[Finding]:
    """Replicas that could not bear the busiest hour when a site is lost, and scaling that would not do what it says."""
    pods = service.pods
    if pods.autoscale and pods.autoscale.most < pods.replicas:
        yield (
            ("autoscale", "most"),
            f"{pods.autoscale.most} is below replicas, {pods.replicas}; allow as many",
        )
    if pods.autoscale and pods.accelerators:
        yield (
            ("autoscale",),
            "adds replicas by the load of processors, which says little of an accelerator's; remove it, and scale by "
            "what waits in the model server's queue, for example with KEDA",
        )
    if pods.peak is not None and service.capacity is None:
        yield ("peak",), "says nothing while nobody knows what a replica answers; declare the service's capacity"
    if (need := service.needed) is not None and pods.most < need:
        yield (
            ("autoscale", "most") if pods.autoscale else ("replicas",),
            f"{pods.most} at each site answer too little of {pods.peak} requests/s once one is lost: {need} are needed "
            f"at {service.capacity} requests/s each; allow as many",
        )


def _not_played(estate: Estate, service: Service, site: str | None) -> Iterator[str]:
    """Why no fault of an accelerator could be played to the service."""
    if service.release.hardware is Hardware.CPU:
        yield f"{service.name} is served by the processor; name a service whose release says hardware: accelerator"
        return
    sites = [one for one in estate.sites if one.name in ((site,) if site else service.sites)]
    if not any(host.policy.kind == STAND_IN for one in sites for host in one.accelerators):
        where = " or ".join(one.name for one in sites) or "its sites"
        yield f"no machine at {where} has policy: {{kind: {STAND_IN}}}, and a real device cannot be broken; declare one"


def _drill_people(estate: Estate, drills: DrillPolicy) -> Iterator[Finding]:
    if not estate.people_with(Role.OPERATOR):
        yield ("people",), "nobody has the role operator, so nobody may run a drill or a failover; give it to someone"
    elif drills.approval is Approval.FOUR_EYES:
        yield from _four_eyes(estate)


def _four_eyes(estate: Estate) -> Iterator[Finding]:
    """Two people are needed who may."""
    operators, approvers = set(estate.people_with(Role.OPERATOR)), set(estate.people_with(Role.APPROVER))
    if not approvers:
        yield ("drills", "approval"), "four-eyes needs an approver, and nobody has that role; give it to someone"
    elif operators and not any(operator != approver for operator in operators for approver in approvers):
        yield (
            ("drills", "approval"),
            f"four-eyes needs two people, and {min(operators)} is the only operator and the only approver; "
            "add an approver",
        )
