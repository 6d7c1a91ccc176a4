"""Bring a new version of a model into service, step by step, or take it back without a lost request.

Interface, hardware, artefact, data and approval say yes before any replica loads it; then copies of requests, then a
growing share of real ones, each judged beside the old version; then all. The old version stays loaded for a while. On
any no, all requests go to the old version in one change of the gateway, and the rest is put back after that.

Everything is in the journal before it is done. A run that was killed is started again with the same arguments: it finds
what was done and goes on from there, on the way back if that had begun.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ninelives.accelerators.evidence import standing
from ninelives.errors import Corrupted, NinelivesError, Refused, Unavailable
from ninelives.estate import Approval, Estate, Service
from ninelives.estate.model import Hardware
from ninelives.evidence.anchor import anchor
from ninelives.gates.evidence import usable_verdict
from ninelives.interfaces import compare, interface_breaks, signature_of
from ninelives.ports import Answer, Ledger, ObjectStore, Record, Replica, Systems, VersionSplit
from ninelives.releases.canary import Decision, Judge, Series, judged, look
from ninelives.releases.golden import answers_match
from ninelives.releases.journal import Entry, Journal, Outcome, Plan, of_run, read, write
from ninelives.releases.labels import labels_since
from ninelives.releases.publish import (
    BUCKET,
    VERSION,
    Release,
    publish,
    read_candidate,
    read_release,
    record_golden,
    signature_key,
    stage,
)
from ninelives.releases.scan import scan
from ninelives.releases.stays import declared_stays, staying_on
from ninelives.serving.warm_up import KNOWN, UNKNOWN, WarmUp, settle

LEASE_TTL = timedelta(minutes=10)
"""Longer than any step goes without renewing it."""

LOOK_EVERY = 0.5
"""Seconds between two looks at what the replicas remember."""

ANSWERS = 3
"""Golden answers in a row through the gateway before all requests count as moved."""

ANSWER_DEADLINE = 15.0
"""Seconds"""

Approve = Callable[[], str | None]
"""Who approved, ``None`` where nobody has to; raises ``Refused``."""


# --- begin and read ----------------------------------------------------------------------------------------------


def service_of(systems: Systems, name: str) -> Service:
    if name not in systems.estate.service_by_name:
        known = ", ".join(systems.estate.service_by_name)
        raise Refused("release", [f"there is no service {name!r}; there are {known}"])
    return systems.estate.service_by_name[name]


def approval_of(estate: Estate, service: str) -> Approval:
    """Who must agree to a promotion of the service's model."""
    return estate.service_by_name[service].release.approval or estate.drills.approval


def begin(systems: Systems, service_name: str, version: str, *, by: str, again: bool = False) -> Plan:
    """The plan of a promotion; the same service and version give the same run, wherever it has come to.

    :param again: begin anew where an earlier run was rolled back
    :raises Refused: another promotion of the service is open, or it was rolled back, or is not newer
    """
    service, ledger = service_of(systems, service_name), systems.ledger()
    journals = read(ledger, service.name)
    same = [one for one in journals if one.plan.new == version]
    what = f"promote {service.name} to version {version}"
    if not re.fullmatch(VERSION, version):
        raise Refused(what, ["a version is a number of the registry, from 1"])
    if open_runs := [one for one in journals if one.open and one.plan.new != version]:
        raise Refused(what, [f"the promotion to version {open_runs[0].plan.new} is not over; roll it back first"])
    if same and (same[-1].outcome is not Outcome.ROLLED_BACK or same[-1].open or not again):
        return same[-1].plan
    split = systems.gateway().state().versions.get(service.name)
    if split and split.assignment:
        name = split.assignment.experiment
        raise Refused(what, [f"the experiment {name} is under way; it ends by itself, or ninelives experiment stop"])
    shared = [one.name for one in systems.estate.services if one.model == service.model and one.name != service.name]
    if shared:
        raise Refused(what, [f"{', '.join(shared)} is answered by the same model; give it a model of its own"])
    current = read_release(systems.store(service.sites[0]), service.model)
    if current is None:
        raise Refused(what, [f"{service.sites[0]} serves no release of {service.model} that could be the way back"])
    if int(version) <= int(current.version):
        raise Refused(what, [f"version {current.version} serves, and only a newer one can be promoted"])
    run = f"promote-{service.name}-{version}" + (f"-{len(same) + 1}" if same else "")
    plan = Plan(run, service.name, service.model, current.version, version, by, datetime.now(UTC).isoformat())
    # What was written first stands: two that ask at once have one run.
    record = write(ledger, plan, Entry.BEGUN, promotion=plan.to_dict(), by=by, why="asked for")
    return Plan.from_dict(record.facts["promotion"])


def candidate(systems: Systems, plan: Plan) -> tuple[Release, bytes]:
    """The new version as it was staged at the service's first site; raises ``Refused`` where it was not."""
    store = systems.store(plan_site(systems, plan))
    release = read_candidate(store, plan.model, plan.new)
    if release is None:
        raise Refused("promote", [f"{store.site} has no candidate {plan.new} of {plan.model}: ninelives release stage"])
    return release, _object(store, release)


def plan_site(systems: Systems, plan: Plan) -> str:
    return systems.estate.service_by_name[plan.service].sites[0]


def _object(store: ObjectStore, release: Release) -> bytes:
    data = store.get(BUCKET, release.object)
    if data is None:
        raise Corrupted(f"{store.site} lacks {BUCKET}/{release.object}, which version {release.version} names")
    return data


def _old_release(systems: Systems, plan: Plan) -> Release:
    """The old version, from whichever site has it as its release or kept it as the way back."""
    for site in systems.estate.service_by_name[plan.service].sites:
        store = systems.store(site)
        for found in (read_release(store, plan.model), read_candidate(store, plan.model, plan.old)):
            if found and found.version == plan.old:
                return found
    raise Corrupted(f"no site knows version {plan.old} of {plan.model} any more; restore it from a backup")


# --- the steps before any user -----------------------------------------------------------------------------------


def check_interface(systems: Systems, plan: Plan) -> dict[str, Any]:
    """What callers send and read must stay; raises ``Refused`` naming each field, and who relies on it.

    Where the estate declares nobody who calls the service, somebody may rely on everything that the old version has.
    """
    release, new = candidate(systems, plan)
    if reasons := scan(new):
        raise Refused("interface", reasons)
    consumers = [one for one in systems.estate.consumers if one.service == plan.service]
    staying = staying_on(systems.estate, plan.service, plan.old, datetime.now(UTC).date())
    old = _object(systems.store(plan_site(systems, plan)), _old_release(systems, plan))
    if consumers:
        asked = [one for one in consumers if one not in staying]
        breaks = [str(one) for one in compare(signature_of(new), asked, signature_of(old))]
    else:
        breaks = interface_breaks(old, new)
    if breaks:
        raise Refused("interface", breaks)
    return {
        "digest": release.digest,
        "consumers": [one.name for one in consumers],
        "stays": {one.name: str(one.stays_on.until) for one in staying if one.stays_on},
    }


def check_hardware(systems: Systems, plan: Plan) -> dict[str, Any]:
    """Every machine with accelerators of every site was found able to serve the model lately, unless the estate says
    that it needs none; raises ``Refused``."""
    service = systems.estate.service_by_name[plan.service]
    if service.release.hardware is Hardware.CPU:
        return {"hardware": "cpu", "looked_at": False}
    found = [standing(systems.estate, systems.ledger(), site, service.model) for site in service.sites]
    reasons = [reason for one in found for reason in one.reasons]
    reasons += [f"{where} is looked at through a stand-in, which proves nothing of a device" for one in found
                for where in one.played]  # fmt: skip
    if candidate(systems, plan)[0].hardware is not Hardware.ACCELERATOR:
        reasons.append(f"version {plan.new} was staged for the processor; stage it under a new number")
    if reasons:
        raise Refused("hardware", [*reasons, "or say release.hardware: cpu where the model needs no accelerator"])
    return {"hardware": "accelerator", "looked_at": True, "evidence": {one.site: dict(one.evidence) for one in found}}


def scan_artefact(systems: Systems, plan: Plan) -> dict[str, Any]:
    """Only what can be loaded without running foreign code and is what the registry says, signed where the estate has
    a key for that."""
    release, data = candidate(systems, plan)
    if reasons := scan(data):
        raise Refused("artefact", reasons)
    known = [one for one in systems.registry().versions() if (one.model, one.version) == (plan.model, plan.new)]
    if not known:
        raise Refused("artefact", [f"the registry has no version {plan.new} of {plan.model}: register it first"])
    if known[0].digest not in (None, release.digest):
        raise Refused(
            "artefact", [f"the registry says that version {plan.new} is {known[0].digest}, staged is another"]
        )
    signer = systems.signer() if systems.estate.vault else None
    if signer is None:
        return {"digest": release.digest, "signed": False, "why": "the estate has no key that signs"}
    signature = systems.store(plan_site(systems, plan)).get(BUCKET, signature_key(plan.model, plan.new))
    if signature is None:
        raise Refused("artefact", [f"version {plan.new} is not signed; stage it where the estate's signing key is"])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / signed_name(release)
        file.write_bytes(data)
        signer.verify(file, signature)
    return {"digest": release.digest, "signed": True}


def signed_name(release: Release) -> str:
    """The signature covers the file's name too."""
    return release.digest.removeprefix("sha256:") + ".onnx"


def verify_data(systems: Systems, plan: Plan) -> dict[str, Any]:
    """The gate's yes on the data at every site that may serve; raises ``Refused``."""
    service = systems.estate.service_by_name[plan.service]
    dataset = systems.estate.dataset_of(service)
    sites = [site for site in service.sites if site in (dataset.primary, *dataset.copies)]
    return {"evidence": {site: usable_verdict(systems, dataset.name, site).seq for site in sites}}


def warm_up(systems: Systems, plan: Plan) -> dict[str, Any]:
    """Stage the new version at every site and load it at every live replica, until it has settled and answers right.

    :return: ``boots``: URL to boot of each replica that is warm; ``p50_ms`` of each, and which of them are
        ``provisional``, because nobody knew from before how fast that version is there
    :raises Refused: a site has no live replica, or one of them could not be made ready
    """
    service = systems.estate.service_by_name[plan.service]
    check_hardware(systems, plan)  # again: an approval may have taken longer than a look may be relied on
    release, data = candidate(systems, plan)
    # The way back must be at hand at every site before anything moves.
    old = _old_release(systems, plan)
    old_data = _object(systems.store(plan_site(systems, plan)), old)
    record_golden(systems.home, release, candidate=True)
    signature = systems.store(plan_site(systems, plan)).get(BUCKET, signature_key(plan.model, plan.new))
    known = _steady(systems, plan, release)
    boots, warm = dict[str, str](), dict[str, WarmUp]()
    reasons: list[str] = []
    for site in service.sites:
        store = systems.store(site)
        stage(store, old, old_data)
        stage(store, release, data)
        if signature is not None:  # it outlives the site where the version was staged
            store.put(BUCKET, signature_key(plan.model, plan.new), signature)
        live = _live(systems, site)
        if not live:
            reasons.append(f"no replica is live at {site}")
        for replica in live:
            ready = _make_ready(replica, release, known.get(replica.url))
            if isinstance(ready, str):
                reasons.append(ready)
            else:
                boots[replica.url], warm[replica.url] = replica.attempts(plan.model).boot, ready
    if reasons:
        raise Refused("warm up", reasons)
    return {
        "boots": boots,
        "digest": release.digest,
        "p50_ms": {url: one.p50_ms for url, one in warm.items()},
        "provisional": [url for url, one in warm.items() if one.provisional],
    }


def _steady(systems: Systems, plan: Plan, release: Release) -> dict[str, float]:
    """URL of a replica to the median latency, in ms, with which the very same model was warm there the last time."""
    steps = [one.find(Entry.STEP, "warm_up") for one in read(systems.ledger(), plan.service)]
    found = [step.facts["found"] for step in steps if step]
    return {url: p50 for one in found if one.get("digest") == release.digest for url, p50 in one["p50_ms"].items()}


def _live(systems: Systems, site: str) -> list[Replica]:
    def live(replica: Replica) -> bool:
        try:
            return replica.live()
        except Unavailable:
            return False

    return [replica for replica in systems.replicas(site) if live(replica)]


def _make_ready(replica: Replica, release: Release, steady_ms: float | None) -> WarmUp | str:
    """How it got warm, or why it did not."""
    try:
        replica.load_version(release.model, release.version)
        rows = [release.golden[0].inputs]
        warm = settle(
            lambda: replica.infer_version(release.model, release.version, rows),
            rule=UNKNOWN if steady_ms is None else KNOWN,
            reference_ms=steady_ms,
        )
        if not warm.settled:
            known = f", and was {steady_ms:.3g} ms when it was warm there the last time" if steady_ms else ""
            return (
                f"{replica.url}: latency of version {release.version} did not settle in {warm.requests} requests and "
                f"{warm.seconds:.0f} s: its median is {warm.p50_ms:.3g} ms{known}; see what else runs there"
            )
        for golden in release.golden:
            answer = replica.infer_version(release.model, release.version, [golden.inputs])
            if not answers_match(golden.outputs, answer.outputs, release.tolerance):
                return f"{replica.url}: wrong golden answer {dict(answer.outputs)}"
    except NinelivesError as error:
        return f"{replica.url}: {error}"
    return warm


# --- traffic -----------------------------------------------------------------------------------------------------


def _set_traffic(systems: Systems, plan: Plan, name: str, split: VersionSplit | None, *, by: str, why: str) -> Record:
    """Have the gateway divide requests so: the intent first, then the change, then its record.

    :raises Refused: somebody else may change them now, and nothing was; or the run was rolled back meanwhile
    """
    ledger = systems.ledger()
    journal = of_run(ledger, plan)
    if journal.find(Entry.ROLL_BACK) and name not in ("back", "served"):
        raise Refused("promote", [f"{plan.run} was rolled back by somebody else meanwhile"])
    if (done := journal.find(Entry.TRAFFIC, name)) and done != journal.traffic[-1]:
        return done  # a repeated step must not undo what came after it
    shares = _percent(split) if split else {plan.new if name == "retire" else plan.old: 100}
    shadow = {"shadow": split.shadow_percent} if split and split.shadow else {}
    facts: dict[str, Any] = {"shares": shares, "by": by, "why": why, **shadow}
    lease = ledger.take_lease(f"release:{plan.service}", plan.run, LEASE_TTL)
    write(ledger, plan, Entry.INTENT, name, before=journal.shares, **facts)
    # Also where its state says so already: whoever wrote that may have been killed before Envoy was told.
    systems.gateway().split(plan.service, split, token=lease.token)
    return write(ledger, plan, Entry.TRAFFIC, name, **facts)


def _kept_before(systems: Systems, plan: Plan) -> tuple[str, ...]:
    """The way back of the promotion before this one, while it is kept: one that fails later must not take it away."""
    return tuple(
        one.plan.old
        for one in read(systems.ledger(), plan.service)
        if one.outcome is Outcome.PROMOTED and not (one.rolling_back or one.retired) and one.plan.new == plan.old
    )


def _later(ledger: Ledger, plan: Plan) -> list[Journal]:
    """Promotions after this one whose versions are in, or on their way."""
    journals = read(ledger, plan.service)
    number = next(at for at, one in enumerate(journals) if one.plan.run == plan.run)
    return [one for one in journals[number + 1 :] if one.open or one.outcome is Outcome.PROMOTED]


def _percent(split: VersionSplit) -> dict[str, int]:
    return {version: share for version, share in split.shares.items() if share}


def copy_requests(systems: Systems, plan: Plan, judge: Judge = judged) -> dict[str, Any]:
    """Copy requests to the new version and throw its answers away; raises ``Refused`` where it is worse."""
    policy = systems.estate.service_by_name[plan.service].release
    if policy.shadow == 0:
        return {"skipped": "the estate copies no requests"}
    shares, kept = {plan.old: 100}, _kept_before(systems, plan)
    split = VersionSplit(plan.old, shares, shadow=plan.new, shadow_percent=policy.shadow, beside=kept)
    return _watch(systems, plan, "shadow", split, policy.shadow_for, judge, last=False)


def canary_steps(systems: Systems, plan: Plan) -> list[str]:
    return [f"canary-{step.share}" for step in systems.estate.service_by_name[plan.service].release.canary]


def try_on_users(systems: Systems, plan: Plan, name: str, judge: Judge = judged) -> dict[str, Any]:
    """Send the step's share of requests to the new version; raises ``Refused`` where it is worse.

    A step that stays undecided goes on to the larger share of the next, which decides sooner; the last one must be won.
    """
    steps = systems.estate.service_by_name[plan.service].release.canary
    number = canary_steps(systems, plan).index(name)
    share = steps[number].share
    split = VersionSplit(plan.old, {plan.old: 100 - share, plan.new: share}, beside=_kept_before(systems, plan))
    return _watch(systems, plan, name, split, steps[number].hold, judge, last=number == len(steps) - 1)


def _watch(
    systems: Systems, plan: Plan, name: str, split: VersionSplit, hold: timedelta, judge: Judge, *, last: bool
) -> dict[str, Any]:
    service = systems.estate.service_by_name[plan.service]
    since = _set_traffic(systems, plan, name, split, by=plan.by, why=name).at
    journal = of_run(systems.ledger(), plan)
    warm = journal.find(Entry.STEP, "warm_up")
    tried = journal.find(Entry.TRAFFIC, canary_steps(systems, plan)[0])  # what a smaller share has shown counts too
    if warm is None:
        raise Refused(name, ["no replica was warmed up by this run"])
    boots = warm.facts["found"]["boots"]
    replicas = [replica for site in service.sites for replica in systems.replicas(site)]
    arm, known = ("shadow", since) if split.shadow else ("canary", tried.at if tried else since)
    holds = [hold] if split.shadow else [step.hold for step in service.release.canary]
    labels = service.release.labels and not split.shadow  # users never got the answers to copies
    declared = sum(holds, timedelta()).total_seconds()
    series = Series(known.timestamp(), declared, service.objective.quality, labels=labels)
    if not split.shadow:  # from where the step before has come: replicas forget
        for step in canary_steps(systems, plan):
            if counted := journal.find(Entry.COUNTED, step):
                series.go_on(counted.facts["every"], counted.facts["looks"])
    release, _ = candidate(systems, plan)
    decision: Decision | None = None
    while True:
        now = time.time()
        looked = look(replicas, plan.model, boots, arm=arm, old=plan.old, new=plan.new, since=known.timestamp())
        come = labels_since(systems.ledger(), plan.service, series.begins) if labels else []
        if series.add(looked, now, come) or decision is None:
            decision, reasons = judge(series.metrics(), series.horizon)
            _check_golden(replicas, boots, release, name)
        facts = {"decision": str(decision), "reasons": reasons, **looked.facts()}
        if decision is Decision.ROLL_BACK:
            _keep(systems, plan, name, series)
            raise Refused(name, [f"version {plan.new} is worse than {plan.old}", *reasons, str(looked.facts())])
        _still_ours(systems, plan, split)
        passed = datetime.now(UTC) - since
        if passed >= hold and (decision is Decision.PROMOTE or not last):
            _keep(systems, plan, name, series)
            return facts
        if passed >= max(hold, service.release.patience):
            _keep(systems, plan, name, series)
            raise Refused(name, [f"undecided after {passed.total_seconds():.0f} s, which is no yes", *reasons])
        time.sleep(min(LOOK_EVERY, max(hold.total_seconds() / 4, 0.02)))


def _keep(systems: Systems, plan: Plan, name: str, series: Series) -> None:
    """What the judge was shown, for the next step and as evidence."""
    write(systems.ledger(), plan, Entry.COUNTED, name, every=series.every, looks=series.document())


def _check_golden(replicas: Sequence[Replica], boots: Mapping[str, str], release: Release, name: str) -> None:
    """Raises ``Refused`` where a replica does not give the new version's known answers any more."""
    for replica in replicas:
        for golden in release.golden if replica.url in boots else ():
            answer = replica.infer_version(release.model, release.version, [golden.inputs])
            if not answers_match(golden.outputs, answer.outputs, release.tolerance):
                raise Refused(name, [f"{replica.url}: wrong golden answer {dict(answer.outputs)}"])


def _still_ours(systems: Systems, plan: Plan, split: VersionSplit) -> None:
    """Raises ``Refused`` where somebody has rolled this run back meanwhile, or has divided the requests otherwise."""
    journal = of_run(systems.ledger(), plan)
    if journal.find(Entry.ROLL_BACK) or systems.gateway().state().versions.get(plan.service) != split:
        raise Refused("promote", [f"{plan.run} was rolled back by somebody else meanwhile"])


def take_over(systems: Systems, plan: Plan) -> dict[str, Any]:
    """All requests to the new version, then pointers, replicas and registry after them. Repeated, it goes on."""
    service = systems.estate.service_by_name[plan.service]
    release, data = candidate(systems, plan)
    full = VersionSplit(plan.old, {plan.new: 100, plan.old: 0}, beside=_kept_before(systems, plan))
    _set_traffic(systems, plan, "full", full, by=plan.by, why="full")
    _await_answers(systems, plan, release)
    record_golden(systems.home, release)
    for site in service.sites:
        if of_run(systems.ledger(), plan).find(Entry.ROLL_BACK):
            raise Refused("promote", [f"{plan.run} was rolled back by somebody else meanwhile"])
        publish(systems.store(site), release, data, by=plan.by)
        for replica in _live(systems, site):
            replica.load(plan.model)
    registry = systems.registry()
    if registry.champion(plan.model) != plan.new:
        registry.set_champion(plan.model, plan.new)
    kept = VersionSplit(plan.new, {plan.new: 100}, beside=(plan.old,))
    _set_traffic(systems, plan, "kept", kept, by=plan.by, why="full; the old version is kept for a way back")
    return {"keep_until": (datetime.now(UTC) + service.release.keep_for).isoformat()}


def _await_answers(systems: Systems, plan: Plan, release: Release) -> None:
    ask = systems.client(systems.estate.service_by_name[plan.service])
    deadline, right, last = time.monotonic() + ANSWER_DEADLINE, 0, "no answer"
    while right < max(ANSWERS, len(release.golden)):
        if time.monotonic() > deadline:
            raise Unavailable(f"{plan.service} does not answer with version {plan.new} through the gateway: {last}")
        golden = release.golden[right % len(release.golden)]
        try:
            answer: Answer = ask([golden.inputs])
        except Unavailable as error:
            right, last = 0, str(error)
            time.sleep(0.05)
            continue
        if answer.model_version == plan.new and answers_match(golden.outputs, answer.outputs, release.tolerance):
            right += 1
        else:
            right, last = 0, f"version {answer.model_version} answered {dict(answer.outputs)}"
            time.sleep(0.05)


# --- the way back ------------------------------------------------------------------------------------------------


def roll_back(systems: Systems, plan: Plan, *, by: str, reasons: Sequence[str]) -> Record:
    """All requests to the old version at once, then everything else as it was. Repeated, it goes on; done, it is none.

    :raises Refused: the old version is not kept any more, or a later promotion was not taken back
    :raises Unavailable: something could not be put back yet; requests go to the old version already. Run it again
    """
    ledger = systems.ledger()
    journal = of_run(ledger, plan)
    if journal.outcome is Outcome.ROLLED_BACK and (ended := journal.find(Entry.ENDED, "back")):
        return ended
    if journal.retired:
        raise Refused("roll back", [f"version {plan.old} is not kept any more; register it as a new version"])
    if later := _later(ledger, plan):
        raise Refused("roll back", [f"version {later[-1].plan.new} came after version {plan.new}; take it back first"])
    back = write(ledger, plan, Entry.ROLL_BACK, by=by, reasons=[str(one)[:500] for one in reasons])
    by, why = back.facts["by"], "; ".join(back.facts["reasons"])
    moved = any(one.facts["entry"] == Entry.INTENT for one in journal.records)
    if moved:
        kept = _kept_before(systems, plan)
        old_only = VersionSplit(plan.old, {plan.old: 100}, beside=kept)
        _set_traffic(systems, plan, "back", old_only, by=by, why=why)
    problems: list[str] = []
    if journal.find(Entry.INTENT, "full"):
        _put_back(systems, plan, by, back.at)
    if moved:
        _set_traffic(systems, plan, "served", old_only if kept else None, by=by, why=why)
    release = read_candidate(systems.store(plan_site(systems, plan)), plan.model, plan.new)
    if release and journal.find(Entry.STEP, "warm_up"):
        record_golden(systems.home, release, candidate=True)
    for site in systems.estate.service_by_name[plan.service].sites:
        for replica in _live(systems, site):
            try:
                replica.unload_version(plan.model, plan.new)
            except NinelivesError as error:  # nobody asks for it any more
                problems.append(str(error))
    ended = write(
        ledger, plan, Entry.ENDED, "back", outcome=str(Outcome.ROLLED_BACK), by=by, why=why, problems=problems
    )
    _finish(systems, plan)
    return ended


def _put_back(systems: Systems, plan: Plan, by: str, at: datetime) -> None:
    """Pointers, replicas and alias of the old version; its pointer is a new one, which comes after the newer's."""
    old = _old_release(systems, plan).model_copy(update={"created_at": at})
    registry = systems.registry()
    if registry.champion(plan.model) == plan.new:
        registry.set_champion(plan.model, plan.old)
    for site in systems.estate.service_by_name[plan.service].sites:
        store = systems.store(site)
        publish(store, old, _object(store, old), by=by, instead_of=plan.new)
        for replica in _live(systems, site):
            replica.load(plan.model)


def retire(systems: Systems, plan: Plan, *, now: datetime | None = None) -> bool:
    """Let the old version go once it was kept for as long as declared; whether it is gone.

    After a later promotion the gateway and the replicas are that one's: only the record is left to be made.
    """
    journal = of_run(systems.ledger(), plan)
    if journal.retired:
        return True
    done = journal.find(Entry.STEP, "take_over")
    if journal.outcome is not Outcome.PROMOTED or journal.rolling_back or done is None:
        return False
    if (now or datetime.now(UTC)) < datetime.fromisoformat(done.facts["found"]["keep_until"]):
        return False
    if not _later(systems.ledger(), plan):
        _set_traffic(systems, plan, "retire", None, by=plan.by, why=f"version {plan.old} was kept as long as declared")
        stays = plan.old in declared_stays(systems.estate, plan.service)
        for site in systems.estate.service_by_name[plan.service].sites if not stays else ():
            for replica in _live(systems, site):
                replica.unload_version(plan.model, plan.old)
        _let_go(systems, plan)
    write(systems.ledger(), plan, Entry.RETIRED, by=plan.by)
    return True


def _finish(systems: Systems, plan: Plan) -> None:
    _let_go(systems, plan)
    anchor(systems.ledger(), systems.stores())


def _let_go(systems: Systems, plan: Plan) -> None:
    """Give the lease back: the next change of the service's versions need not wait until it has run out."""
    ledger = systems.ledger()
    held = ledger.current_lease(f"release:{plan.service}")
    if held and held.holder == plan.run:
        ledger.release_lease(held)


# --- all of it ---------------------------------------------------------------------------------------------------


def steps(
    systems: Systems, plan: Plan, *, approve: Approve, judge: Judge = judged
) -> dict[str, Callable[[], Mapping[str, Any]]]:
    """Every step by its name, in order."""
    found: dict[str, Callable[[], Mapping[str, Any]]] = {
        "check_interface": lambda: check_interface(systems, plan),
        "check_hardware": lambda: check_hardware(systems, plan),
        "scan_artefact": lambda: scan_artefact(systems, plan),
        "verify_data": lambda: verify_data(systems, plan),
        "approve": lambda: {"approved_by": approve()},
        "warm_up": lambda: warm_up(systems, plan),
        "shadow": lambda: copy_requests(systems, plan, judge),
    }
    for name in canary_steps(systems, plan):
        found[name] = lambda name=name: try_on_users(systems, plan, name, judge)  # type: ignore[misc]
    return {**found, "take_over": lambda: take_over(systems, plan)}


def run_step(systems: Systems, plan: Plan, name: str, do: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Do one step unless the journal says that it is done.

    :raises Refused: the run is over or on its way back; or the step's own reasons
    """
    journal = of_run(systems.ledger(), plan)
    if done := journal.find(Entry.STEP, name):
        if name == "check_hardware" and not journal.find(Entry.INTENT, "full") and not journal.find(Entry.ROLL_BACK):
            do()  # what was found grows old while a run lies cut off
        return dict(done.facts["found"])
    if journal.find(Entry.ROLL_BACK) or journal.outcome:
        raise Refused(name, [f"{plan.run} is {journal.outcome or 'on its way back'}"])
    record = write(systems.ledger(), plan, Entry.STEP, name, found=dict(do()))
    return dict(record.facts["found"])


def conclude(systems: Systems, plan: Plan) -> Record:
    """Say that the new version is in; raises ``Refused`` unless it took over."""
    journal = of_run(systems.ledger(), plan)
    if journal.find(Entry.ROLL_BACK) or not journal.find(Entry.STEP, "take_over"):
        raise Refused("promote", [f"{plan.run} has not taken over"])
    record = write(systems.ledger(), plan, Entry.ENDED, outcome=str(Outcome.PROMOTED), by=plan.by, why="every step")
    _finish(systems, plan)
    return record


def promote(systems: Systems, plan: Plan, *, approve: Approve, judge: Judge = judged) -> Record:
    """The whole promotion in this process, from wherever its journal says that it is.

    :return: the record of its end, ``promoted`` or ``rolled back`` with the reasons
    """
    journal = of_run(systems.ledger(), plan)
    if journal.rolling_back:
        return roll_back(systems, plan, by=plan.by, reasons=["goes on after it was cut off"])
    if journal.outcome:
        return next(one for one in reversed(journal.records) if one.facts["entry"] == Entry.ENDED)
    try:
        for name, do in steps(systems, plan, approve=approve, judge=judge).items():
            run_step(systems, plan, name, do)
        return conclude(systems, plan)
    except NinelivesError as error:
        reasons = list(error.reasons) if isinstance(error, Refused) else [str(error)]
        return roll_back(systems, plan, by=plan.by, reasons=reasons)
