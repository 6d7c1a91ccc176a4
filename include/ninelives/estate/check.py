"""What an estate says about itself that cannot be true: references that lead nowhere, things nobody uses, promises that
cannot be kept together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from ninelives.estate.cron import check_cron
from ninelives.estate.document import Loc, format_path
from ninelives.estate.explain import closest
from ninelives.estate.model import (
    AccessKind,
    Approval,
    DrillPolicy,
    Engine,
    Estate,
    Golden,
    Mode,
    Right,
    Role,
    Service,
)
from ninelives.estate.residency import residency_breach
from ninelives.estate.streams import contract_problems
from ninelives.estate.units import Value, format_duration

Finding = tuple[Loc, str]


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
    for index, number in _repeated([backfill.dag for backfill in estate.backfills]):
        yield ("backfills", index, "dag"), f"is named in backfills[{number}] already; remove one"
    yield from _requests(estate)
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


def _repeated_names(estate: Estate) -> Iterator[Finding]:
    for part in ("people", "sites", "datasets", "models", "services", "streams", "tables"):
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
    ]
    for loc, values in lists:
        for index, _ in _repeated(values):
            yield (*loc, index), f"{values[index]} is named twice; remove one"


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


def _unknown_references(estate: Estate, broken: Collection[str]) -> Iterator[Finding]:
    parts = ("people", "sites", "datasets", "models")
    declared = {part: {item.name for item in getattr(estate, part)} for part in parts}
    for loc, name, part in _references(estate):
        if part not in broken and name not in declared[part]:
            if part == "datasets" and name in estate.table_by_name:
                yield loc, f"{name} is a table, of which no copies are kept; name a dataset"
                continue
            hint = closest(name, declared[part])
            yield loc, f"{name} is not declared below {part}; declare it or correct the name: {hint}"


def _unused(estate: Estate, broken: Collection[str]) -> Iterator[Finding]:
    used: dict[str, set[str]] = {"sites": set(), "datasets": set(), "models": set()}
    for loc, name, part in _references(estate):
        if part in used and "access" not in loc:
            used[part].add(name)
    used["datasets"].update(stream.name for stream in estate.streams)
    users = {
        "sites": ("services", "datasets", "streams", "tables"),
        "datasets": ("models", "streams", "backfills"),
        "models": ("services",),
    }
    says = {
        "sites": "no service runs there and no dataset is kept there",
        "datasets": "no model is trained on it",
        "models": "no service serves it",
    }
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
    # The survivors of an active-active service are warm; a passive site starts its replicas when it is needed.
    if service.mode is Mode.ACTIVE_PASSIVE and promise.rto <= model.warm_up:
        yield (
            ("objective", "rto"),
            f"{format_duration(promise.rto)} is no longer than the warm-up of model {model.name} "
            f"({format_duration(model.warm_up)}), which a failover waits for; promise more, or warm up faster",
        )
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


def _drills(estate: Estate, drills: DrillPolicy, broken: Collection[str]) -> Iterator[Finding]:
    if drills.schedule is not None:
        try:
            check_cron(drills.schedule)
        except ValueError as error:
            yield ("drills", "schedule"), f'{error}; for every night at 3:00 UTC write "0 3 * * *"'
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


def _drill_people(estate: Estate, drills: DrillPolicy) -> Iterator[Finding]:
    operators, approvers = set(estate.people_with(Role.OPERATOR)), set(estate.people_with(Role.APPROVER))
    if not operators:
        yield ("people",), "nobody has the role operator, so nobody may run a drill or a failover; give it to someone"
    elif drills.approval is not Approval.FOUR_EYES:
        return
    elif not approvers:
        yield ("drills", "approval"), "four-eyes needs an approver, and nobody has that role; give it to someone"
    elif not any(operator != approver for operator in operators for approver in approvers):
        yield (
            ("drills", "approval"),
            f"four-eyes needs two people, and {min(operators)} is the only operator and the only approver; "
            "add an approver",
        )
