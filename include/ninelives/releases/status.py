"""Which version answers a service, which one answered then, and whether everything says the same."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from ninelives.errors import NinelivesError
from ninelives.experiments import journal as experiments
from ninelives.ports import Systems
from ninelives.releases import stays
from ninelives.releases.journal import Entry, Outcome, Stretch, approver, at, history, newest, read
from ninelives.releases.publish import BUCKET, pointer_key, read_release
from ninelives.replication.pointers import read_moves, sha256


def release_status(systems: Systems, service_name: str, now: datetime | None = None) -> dict[str, Any]:
    """``shares`` per version as the gateway has them, the newest ``run``, and ``problems``: one sentence each."""
    service, now = systems.estate.service_by_name[service_name], now or datetime.now(UTC)
    journals, gateway = read(systems.ledger(), service.name), systems.gateway().state()
    split = gateway.versions.get(service.name)
    shares = {version: share for version, share in split.shares.items() if share} if split else {}
    problems: list[str] = []
    pointers: dict[str, str | None] = {}
    for site in service.sites:
        try:
            found = read_release(systems.store(site), service.model)
            pointers[site] = found.version if found else None
        except NinelivesError as error:
            problems.append(f"{site}: {error}")
    champion: str | None = None
    try:
        champion = systems.registry().champion(service.model)
    except NinelivesError as error:
        problems.append(f"registry: {error}")
    found_run = None
    if journals:
        journal = newest(journals)
        state = "rolling back" if journal.rolling_back else str(journal.outcome or "under way")
        found_run = {"run": journal.plan.run, "state": state, "done": list(journal.done), "by": journal.plan.by}
        if shares and shares not in [dict(one) for one in journal.shares]:
            problems.append(f"the gateway sends {shares}, the ledger says {dict(journal.shares[0])}")
        if not journal.open:
            serves = journal.serves
            elsewhere = {site: version for site, version in pointers.items() if version != serves}
            if elsewhere:
                problems.append(f"the ledger says version {serves}, these sites serve another: {elsewhere}")
            if champion not in (None, serves):
                problems.append(f"the ledger says version {serves}, the registry's champion is {champion}")
        for one in journals:
            done = one.find(Entry.STEP, "take_over")
            if one.outcome is not Outcome.PROMOTED or one.rolling_back or one.retired or done is None:
                continue
            until = datetime.fromisoformat(done.facts["found"]["keep_until"])
            if one is journal:
                found_run["keep_until"] = until.isoformat()
            if now > until:
                problems.append(
                    f"version {one.plan.old} was to be kept until {until:%Y-%m-%d %H:%M} UTC and still is: "
                    f"ninelives release retire {service.name}"
                )
    elif split and not split.assignment:
        problems.append("the gateway divides requests between versions, and the ledger knows of no promotion")
    experiment = split.assignment.experiment if split and split.assignment else None
    if experiment and not any(one.open and one.plan.experiment == experiment for one in _runs(systems, service_name)):
        problems.append(
            f"the gateway divides users for the experiment {experiment}, which the ledger says is over: ninelives "
            f"experiment stop {experiment}"
        )
    try:
        problems += stays.problems(systems, service, now.date())
    except NinelivesError as error:
        problems.append(f"versions that stay: {error}")
    return {
        "service": service.name,
        "model": service.model,
        "shares": shares,
        "pointers": pointers,
        "champion": champion,
        "run": found_run,
        "experiment": experiment,
        "stays": {
            one.name: one.stays_on.model_dump(mode="json")
            for one in systems.estate.consumers
            if one.service == service.name and one.stays_on
        },
        "problems": problems,
    }


def release_history(systems: Systems, service_name: str, instant: datetime | None = None) -> list[dict[str, Any]]:
    """How each stretch of time was answered, oldest first; with ``instant`` only the one that it lies in."""
    service = systems.estate.service_by_name[service_name]
    journals = read(systems.ledger(), service.name)
    first, *later = history(journals, _before(systems, service.sites[0], service.model, journals))
    stretches = [first, *sorted([*later, *_experiments(systems, service_name)], key=lambda one: one.evidence or 0)]
    return [
        {
            "since": one.since.isoformat() if one.since else None,
            "shares": dict(one.shares),
            "decided_by": one.decided_by,
            "approved_by": one.approved_by,
            "why": one.why,
            "evidence": one.evidence,
            "changing": one.changing,
        }
        for one in (stretches if instant is None else [at(stretches, instant)])
    ]


def _runs(systems: Systems, service: str) -> list[experiments.Journal]:
    return experiments.read(systems.ledger(), service)


def _experiments(systems: Systems, service: str) -> Iterator[Stretch]:
    """How the users who say who they are were answered while there was an experiment; all others had the control."""
    entries = experiments.Entry
    for journal in _runs(systems, service):
        intent = journal.find(entries.INTENT)
        percent = intent.facts["parts"] / 100 if intent else 0
        divided = {journal.plan.old: 100 - percent, journal.plan.new: percent}
        for record in journal.records if intent else ():
            what = record.facts["entry"]
            if what in (entries.INTENT, entries.DIVIDED, entries.ENDING, entries.ENDED):
                shares = divided if what in (entries.INTENT, entries.DIVIDED) else {journal.plan.old: 100}
                changing = what in (entries.INTENT, entries.ENDING)
                why = f"experiment {journal.plan.experiment}: {'; '.join(record.facts.get('reasons', ())) or 'running'}"
                decided = record.at, shares, record.facts["by"], record.seq, why
                yield Stretch(*decided, changing=changing, approved_by=approver(journal.find(entries.STEP, "approve")))


def _before(systems: Systems, site: str, model: str, journals: Any) -> Stretch:
    """What was served before the first promotion: published, as the store's own moves say."""
    if journals:
        return Stretch(None, {journals[0].plan.old: 100}, "unknown", None, "published before the first promotion")
    store = systems.store(site)
    release, data = read_release(store, model), store.get(BUCKET, pointer_key(model))
    if release is None or data is None:
        return Stretch(None, {}, "nobody", None, f"{site} serves no release")
    move = read_moves(store, model).get(sha256(data))
    who, when = (move.by or "unknown", move.at) if move else ("unknown", None)
    return Stretch(None, {release.version: 100}, who, None, f"published{f' {when:%Y-%m-%d %H:%M} UTC' if when else ''}")
