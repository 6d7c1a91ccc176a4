"""An experiment on users from its declaration to its report: checked, divided, watched, judged, and given back.

What comes before any user is what a promotion asks for: interface, artefact, data, approval, replicas that are warm. In
the journal everything is said before it is done; a run that was killed is started again by the same name and goes on,
or finishes the way back if that had begun. Guard-rails, a lost site, a watch that sees nothing and a person end it; so
do the target, once it is decided, and the last day.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ninelives.errors import Corrupted, NinelivesError, Refused, Unavailable
from ninelives.estate import Service
from ninelives.estate.experiment import BLIND_LOOKS, Experiment
from ninelives.estate.units import format_duration
from ninelives.evidence.anchor import anchor
from ninelives.experiments import report
from ninelives.experiments.assign import Experiment as Assigned
from ninelives.experiments.journal import Entry, ExperimentPlan, Journal, newest, of_run, read, write
from ninelives.experiments.judge import Input, Judged, Look, Target, Verdict, judge
from ninelives.experiments.looks import ARMS, STRETCH, Counted, Row, alone, append, folded, guard_rails, read_rows
from ninelives.experiments.outcomes import Outcomes
from ninelives.experiments.risk import Borne, Load, arithmetic, check_risk
from ninelives.ports import Assignment, GatewayState, Record, Replica, Systems, VersionSplit
from ninelives.releases import journal as releases
from ninelives.releases import promotion
from ninelives.releases.publish import read_candidate, read_release

LEASE_TTL = timedelta(minutes=10)
"""Renewed at every look; a promotion that begins meanwhile is refused by it."""


# --- begin ---------------------------------------------------------------------------------------------------------


def declared(systems: Systems, name: str) -> Experiment:
    """As the estate declares it; raises ``Refused``."""
    if name not in systems.estate.experiment_by_name:
        known = ", ".join(systems.estate.experiment_by_name) or "none"
        raise Refused("experiment", [f"the estate declares no experiment {name!r}; there are {known}"])
    return systems.estate.experiment_by_name[name]


def journal_of(systems: Systems, name: str) -> Journal | None:
    """The newest run of an experiment, declared any more or not; ``None`` where it was never begun."""
    found = (newest(read(systems.ledger(), service), name) for service in systems.estate.service_by_name)
    return next((one for one in found if one), None)


def begin(systems: Systems, name: str, *, by: str, now: datetime | None = None) -> ExperimentPlan:
    """The plan of an experiment; the same name gives the same run while that is open.

    :raises Refused: it is over, or its last day is; another change of the service's versions is under way; the version
        that serves is not the control
    """
    experiment, ledger, now = declared(systems, name), systems.ledger(), now or datetime.now(UTC)
    journals = read(ledger, experiment.service)
    mine = newest(journals, name)
    if mine and mine.open:
        return mine.plan
    if against := _against_beginning(systems, experiment, journals, now):
        raise Refused(f"experiment {name}", against)
    service = systems.estate.service_by_name[experiment.service]
    current = read_release(systems.store(service.sites[0]), service.model)
    if current is None:
        raise Refused(f"experiment {name}", [f"{service.sites[0]} serves no release of {service.model} as the control"])
    number = sum(one.plan.experiment == name for one in journals) + 1
    plan = ExperimentPlan(
        run=f"experiment-{name}" + (f"-{number}" if number > 1 else ""),
        service=service.name,
        model=service.model,
        old=current.version,
        new=experiment.version,
        by=by,
        begun_at=now.isoformat(),
        experiment=name,
    )
    frozen = experiment.model_dump(mode="json")
    record = write(ledger, plan, Entry.BEGUN, experiment=plan.to_dict(), declared=frozen, by=by)
    return ExperimentPlan.from_dict(record.facts["experiment"])


def _against_beginning(systems: Systems, experiment: Experiment, journals: list[Journal], now: datetime) -> list[str]:
    service = systems.estate.service_by_name[experiment.service]
    against = []
    mine = newest(journals, experiment.name)
    if mine and mine.find(Entry.INTENT):
        against.append("users were in it already; declare it under another name, so that they fall anew")
    if now.date() > experiment.until:
        against.append(f"its last day, {experiment.until}, is over")
    against += [f"{one.plan.experiment} is under way on {service.name}" for one in journals if one.open]
    against += _other_changes(systems, service)
    current = read_release(systems.store(service.sites[0]), service.model)
    serving = current.version if current else None
    if experiment.control not in (None, serving):
        against.append(f"version {experiment.control} should be the control, and version {serving} serves")
    if experiment.version == serving:
        against.append(f"version {serving} serves already")
    if read_candidate(systems.store(service.sites[0]), service.model, experiment.version) is None:
        against.append(
            f"version {experiment.version} is not staged at {service.sites[0]}: ninelives release stage {service.name}"
        )
    shared = [one.name for one in systems.estate.services if one.model == service.model and one.name != service.name]
    if shared:
        against.append(f"{', '.join(shared)} is answered by the same model; give it a model of its own")
    return against


def _other_changes(systems: Systems, service: Service) -> list[str]:
    """One change of a service's versions at a time."""
    runs = releases.read(systems.ledger(), service.name)
    against = [f"the promotion to version {one.plan.new} is not over" for one in runs if one.open]
    split = systems.gateway().state().versions.get(service.name)
    if split and not against:
        beside = ", ".join(split.beside) or "another version"
        against.append(
            f"version {beside} is still kept beside {split.stable}; ninelives release retire {service.name} first"
        )
    return against


@dataclass(frozen=True)
class Outlook:
    """What would be risked, before anybody sees anything."""

    experiment: Experiment
    load: Load
    arithmetic: tuple[Borne, ...]
    replicas: Mapping[str, int]
    """Ready ones per site, in the gateway's own view."""
    against: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        return {
            "experiment": self.experiment.model_dump(mode="json"),
            "may_begin": not self.against,
            "reasons": list(self.against),
            "replicas": dict(self.replicas),
            "arithmetic": [str(one) for one in self.arithmetic],
        }


def outlook(systems: Systems, name: str, now: datetime | None = None) -> Outlook:
    """Whether the experiment could begin now, with everything that is against it; changes nothing."""
    experiment, now = declared(systems, name), now or datetime.now(UTC)
    service = systems.estate.service_by_name[experiment.service]
    against = _against_beginning(systems, experiment, read(systems.ledger(), service.name), now)
    load, replicas, borne = _borne(systems, experiment)
    try:
        check_risk(service, replicas, load)
    except Refused as refused:
        against += refused.reasons
    return Outlook(experiment, load, borne, replicas, tuple(against))


def _borne(systems: Systems, experiment: Experiment) -> tuple[Load, Mapping[str, int], tuple[Borne, ...]]:
    service = systems.estate.service_by_name[experiment.service]
    load = Load(experiment.peak, experiment.exposure, experiment.cost, stop_within=experiment.stop_within)
    replicas = systems.gateway().healthy_sites(service.name)
    return load, replicas, tuple(arithmetic(service, replicas, load))


def run_id(systems: Systems, name: str) -> str:
    """Of the run that is open, else of the one that would be begun."""
    found = journal_of(systems, name)
    if found is None:
        return f"experiment-{name}"
    if found.open:
        return found.plan.run
    number = sum(one.plan.experiment == name for one in read(systems.ledger(), found.plan.service))
    return f"experiment-{name}-{number + 1}"


def standing(systems: Systems, journal: Journal, now: datetime | None = None) -> dict[str, Any]:
    """How a run stands, for people: ``state``, ``problems``, and what it shows by now."""
    plan, now = journal.plan, now or datetime.now(UTC)
    found: dict[str, Any] = {
        "run": plan.run, "service": plan.service, "control": plan.old, "version": plan.new, "state": journal.state,
        "by": plan.by, "problems": [],
    }  # fmt: skip
    if ended := journal.find(Entry.ENDED):
        return {**found, "reasons": ended.facts["reasons"], "evidence": ended.seq}
    ending = journal.find(Entry.ENDING)
    if ending and now - ending.at > journal.declared.stop_within:
        found["problems"] = [f"its way back is not finished: ninelives experiment stop {plan.experiment}"]
    if not journal.find(Entry.DIVIDED):
        return found
    watch = Watch(systems, plan)
    watch.outcomes.read([systems.store(site) for site in watch.service.sites])
    judged = watch.judged()
    held = systems.ledger().current_lease(f"release:{plan.service}")
    # Every look renews the lease; a file of looks may lie on another machine, and is not written while nobody asks.
    watched = held is not None and held.holder == plan.run and held.expires_at > now
    looked = held.expires_at - LEASE_TTL if held and watched else None
    if not ending and (looked is None or now - looked > watch.experiment.stop_within):
        found["problems"] = [
            f"nobody has looked at it for {_span(now - looked) if looked else 'a while'}: is Airflow's triggerer up? "
            f"Or ninelives experiment stop {plan.experiment}"
        ]
    return {
        **found,
        "looked_at": looked.isoformat() if looked else None,
        "attempts": sum(sum(row.attempts) for row in watch.rows),
        "reasons": list(judged.reasons),
        "judged": judged.facts(),
        "not_counted": watch.outcomes.problems,
    }


# --- the steps before any user ---------------------------------------------------------------------------------------


def check_room(systems: Systems, plan: ExperimentPlan) -> dict[str, Any]:
    """That it takes nothing which the loss of a site would need; raises ``Refused`` with what is missing."""
    load, replicas, borne = _borne(systems, of_run(systems.ledger(), plan).declared)
    check_risk(systems.estate.service_by_name[plan.service], replicas, load)
    return {"replicas": dict(replicas), "arithmetic": [str(one) for one in borne]}


def steps(
    systems: Systems, plan: ExperimentPlan, *, approve: promotion.Approve
) -> dict[str, Callable[[], Mapping[str, Any]]]:
    """Every step before users are divided by its name, in order."""
    return {
        "check_room": lambda: check_room(systems, plan),
        "check_interface": lambda: promotion.check_interface(systems, plan),
        "check_hardware": lambda: promotion.check_hardware(systems, plan),
        "scan_artefact": lambda: promotion.scan_artefact(systems, plan),
        "verify_data": lambda: promotion.verify_data(systems, plan),
        "approve": lambda: {"approved_by": approve()},
        "warm_up": lambda: promotion.warm_up(systems, plan),
    }


def run_step(systems: Systems, plan: ExperimentPlan, name: str, do: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Do one step unless the journal says that it is done; raises ``Refused`` where the run is over, or its reasons."""
    journal = of_run(systems.ledger(), plan)
    if done := journal.find(Entry.STEP, name):
        return dict(done.facts["found"])
    _check_goes_on(journal)
    record = write(systems.ledger(), plan, Entry.STEP, name, found=dict(do()))
    return dict(record.facts["found"])


def _check_goes_on(journal: Journal) -> None:
    if ending := journal.find(Entry.ENDING):
        raise Refused(journal.plan.run, [f"it was ended ({ending.facts['verdict']}) by {ending.facts['by']}"])


# --- users -----------------------------------------------------------------------------------------------------------


def split_of(experiment: Experiment, plan: ExperimentPlan) -> VersionSplit:
    """Everybody else is answered by the control as ever."""
    parts = Assigned(experiment.name, experiment.exposure).parts
    return VersionSplit(
        plan.old, {plan.old: 100}, assignment=Assignment(experiment.name, plan.new, parts, experiment.header)
    )


def divide(systems: Systems, plan: ExperimentPlan) -> Record:
    """Have the gateway divide users; done, it is done again, because whoever was killed may not have told Envoy.

    :raises Refused: a step before is missing, the room has gone, or another change of versions is under way
    """
    ledger = systems.ledger()
    journal = of_run(ledger, plan)
    experiment = journal.declared
    _check_goes_on(journal)
    missing = [name for name in steps(systems, plan, approve=lambda: None) if not journal.find(Entry.STEP, name)]
    if missing:
        raise Refused(plan.run, [f"{', '.join(missing)} was not done"])
    service = systems.estate.service_by_name[plan.service]
    lease = ledger.take_lease(f"release:{plan.service}", plan.run, LEASE_TTL)
    if not journal.find(Entry.INTENT):
        check_room(systems, plan)
        if against := _other_changes(systems, service):
            raise Refused(plan.run, against)
    if not read_rows(_file(systems, plan)):
        # From here on tries count; those of an earlier experiment with the same versions do not.
        counted, answered = _look_at_replicas(systems, plan, {})
        if not answered:
            raise Unavailable(f"no replica of {plan.service} says what it has answered")
        append(_file(systems, plan), Row(datetime.now(UTC).isoformat(), counted.cursors))
    split = split_of(experiment, plan)
    write(ledger, plan, Entry.INTENT, parts=split.assignment.parts if split.assignment else 0, by=plan.by)
    systems.gateway().split(plan.service, split, token=lease.token)
    if (journal := of_run(ledger, plan)).find(Entry.ENDING):
        _give_back(systems, plan)
        _let_go(systems, plan)
        _check_goes_on(journal)
    return write(ledger, plan, Entry.DIVIDED, by=plan.by)


def _file(systems: Systems, plan: ExperimentPlan) -> Path:
    return systems.home.looks / f"{plan.run}.jsonl"


def _replicas(systems: Systems, plan: ExperimentPlan) -> list[Replica]:
    service = systems.estate.service_by_name[plan.service]
    return [replica for site in service.sites for replica in systems.replicas(site)]


def _look_at_replicas(
    systems: Systems, plan: ExperimentPlan, cursors: Mapping[str, tuple[str, float]]
) -> tuple[Counted, int]:
    """What is new, and how many replicas answered. One that was started anew is given the version again: until then
    its users have the control's answers, which count for neither arm."""
    counted, answered = Counted(dict(cursors)), 0
    for replica in _replicas(systems, plan):
        try:
            found = replica.attempts(plan.model)
            answered += 1
            counted.add(replica.url, found, control=plan.old, experiment=plan.new)
            if plan.new not in found.loaded:
                replica.load_version(plan.model, plan.new)
        except NinelivesError:
            continue  # its site or process is lost; what it answered meanwhile nobody else knows either
    return counted, answered


@dataclass(frozen=True)
class Ending:
    """What ended an experiment, or would."""

    verdict: Verdict
    reasons: tuple[str, ...]


class Watch:
    """Looks at a running experiment; made anew at any time, it goes on from what was kept."""

    def __init__(self, systems: Systems, plan: ExperimentPlan) -> None:
        self.systems, self.plan = systems, plan
        journal = of_run(systems.ledger(), plan)
        self.experiment = journal.declared
        self.service = systems.estate.service_by_name[plan.service]
        began = journal.find(Entry.INTENT)
        if began is None:
            raise Refused(plan.run, ["its users were not divided yet"])
        self._size = -1
        self.rows: list[Row] = []
        self._refresh()
        self.outcomes = Outcomes(
            Assigned(self.experiment.name, self.experiment.exposure), self.experiment.target.outcomes, began.at
        )
        self._seen = datetime.now(UTC)

    @property
    def pause(self) -> float:
        """Seconds between two looks."""
        return self.experiment.look_every.total_seconds()

    def look(self, now: datetime | None = None) -> Ending | None:
        """One look, which is kept; what ends the experiment, ``None`` while it goes on.

        A watch that could not look for ``stop_within`` ends it: what nobody watches must not go on.
        """
        now = now or datetime.now(UTC)
        try:
            self._still_ours()
            self._count(now)
            self.outcomes.read([self.systems.store(site) for site in self.service.sites])
        except Unavailable as error:
            if now - self._seen > self.experiment.stop_within:
                return Ending(Verdict.STOP, (f"nobody could watch it for {_span(now - self._seen)}: {error}",))
            return None
        except Refused as refused:
            return Ending(Verdict.STOP, refused.reasons)
        except Corrupted as error:
            return Ending(Verdict.STOP, (str(error),))
        self._seen = now
        return self._ending(now)

    def _refresh(self) -> None:
        """Read the looks, if somebody else has added some; raises ``Corrupted`` where they are gone or spoilt."""
        path = _file(self.systems, self.plan)
        size = path.stat().st_size if path.exists() else 0
        if size != self._size:
            self.rows, self._size = read_rows(path), size
        if not self.rows:
            raise Corrupted(f"{path}, which has the looks of {self.plan.run}, is gone")

    def _still_ours(self) -> None:
        ledger = self.systems.ledger()
        _check_goes_on(of_run(ledger, self.plan))
        ledger.take_lease(f"release:{self.plan.service}", self.plan.run, LEASE_TTL)
        if self.systems.gateway().state().versions.get(self.plan.service) != split_of(self.experiment, self.plan):
            raise Refused(
                self.plan.run, ["the gateway divides requests otherwise by now: somebody else has told it to"]
            )

    def _count(self, now: datetime) -> None:
        """Keep the look once each arm was seen in it, and at the latest after a third of ``stop_within``.

        Of a time in which nobody of the experiment was there nothing is kept: nobody was at risk.
        """
        path = _file(self.systems, self.plan)
        with alone(path):
            self._refresh()
            counted, answered = _look_at_replicas(self.systems, self.plan, self.rows[-1].cursors)
            if not answered:
                raise Unavailable(f"no replica of {self.plan.service} says what it has answered")
            troubles = self._troubles()
            seen = [arm for arm in (counted.control, counted.experiment) if arm]
            waited = now - datetime.fromisoformat(self.rows[-1].at)
            if troubles or len(seen) == 2 or (seen and waited >= self.experiment.stop_within / BLIND_LOOKS):
                row = counted.row(now, self.service.objective.latency.total_seconds(), troubles)
                append(path, row)
                self.rows.append(row)
            self._size = path.stat().st_size

    def _troubles(self) -> list[str]:
        replicas = self.systems.gateway().healthy_sites(self.plan.service)
        lost = [f"{site} is lost to it" for site in self.service.sites if not replicas.get(site)]
        if lost:
            return lost
        load, _, _ = _borne(self.systems, self.experiment)
        return [one.shortage for one in arithmetic(self.service, replicas, load) if one.lost is None and one.short]

    def judged(self) -> Judged:
        """What it shows by now.

        The current stretch stops it; that all guard-rails are good, which *better* needs, may be shown by all looks.
        """
        found = self._judged(self.rows[1:])
        if found.verdict is Verdict.UNDECIDED and len(self.rows) > STRETCH:
            whole = self._judged(folded(self.rows[1:]))
            return whole if whole.verdict is Verdict.BETTER else found
        return found

    def _judged(self, rows: Sequence[Row]) -> Judged:
        target, nobody = self.experiment.target, (Look(units=0),)
        return judge(
            Input(
                name=self.experiment.name,
                target=Target(
                    **target.model_dump(include={"name", "wanted", "matters", "confidence"}),
                    control=tuple(self.outcomes.control) or nobody,
                    experiment=tuple(self.outcomes.treated) or nobody,
                ),
                guard_rails=guard_rails(rows, self.service.objective.availability),
            )
        )

    def _ending(self, now: datetime) -> Ending | None:
        last = self.rows[-BLIND_LOOKS:]
        if len(last) == BLIND_LOOKS and all(row.troubles for row in last):
            return Ending(Verdict.STOP, (*last[-1].troubles, "an experiment takes no room beside a loss"))
        judged = self.judged()
        if judged.verdict is not Verdict.UNDECIDED:
            return Ending(judged.verdict, judged.reasons)
        if now.date() > self.experiment.until:
            return Ending(Verdict.UNDECIDED, (f"its last day, {self.experiment.until}, is over", *judged.reasons))
        return None


def _span(value: timedelta) -> str:
    return format_duration(timedelta(seconds=round(value.total_seconds())))


# --- the way back ----------------------------------------------------------------------------------------------------


def end(systems: Systems, plan: ExperimentPlan, ending: Ending, *, by: str) -> Record:
    """Everybody back to the control at once, then the report. Repeated, it goes on; done, it is none.

    :raises Unavailable: something could not be put back yet; run it again
    """
    ledger = systems.ledger()
    journal = of_run(ledger, plan)
    if ended := journal.find(Entry.ENDED):
        if _ours(systems.gateway().state(), plan):  # somebody divided them at the very moment of the end
            _give_back(systems, plan)
            _let_go(systems, plan)
        return ended
    said = [reason[:1000] for reason in ending.reasons]
    first = write(ledger, plan, Entry.ENDING, verdict=str(ending.verdict), reasons=said, by=by)
    verdict, reasons = Verdict(first.facts["verdict"]), tuple(first.facts["reasons"])
    problems: list[str] = []
    facts: dict[str, Any] = {}
    if journal.find(Entry.INTENT):
        _give_back(systems, plan)
        try:
            facts = _shown(systems, journal, verdict, reasons)
        except Corrupted as error:  # what it showed is lost; that it is over is not
            problems.append(str(error))
    problems += _unload(systems, plan) if journal.find(Entry.STEP, "approve") else []
    _let_go(systems, plan)
    record = write(
        ledger, plan, Entry.ENDED,
        verdict=str(verdict), reasons=list(reasons), by=first.facts["by"],
        problems=problems, **facts,
    )  # fmt: skip
    anchor(ledger, systems.stores())
    return record


def _shown(systems: Systems, journal: Journal, verdict: Verdict, reasons: tuple[str, ...]) -> dict[str, Any]:
    """What the evidence says of an experiment that users were in, and the report."""
    watch = Watch(systems, journal.plan)
    watch.outcomes.read([systems.store(site) for site in watch.service.sites])
    judged = replace(watch.judged(), verdict=verdict, reasons=reasons)
    room = journal.find(Entry.STEP, "check_room")
    page = report.page(judged, journal.plan, watch.rows, room.facts["found"]["arithmetic"] if room else [])
    return {
        "judged": judged.facts(),
        "looks": len(watch.rows) - 1,
        "attempts": {arm: sum(row.attempts[number] for row in watch.rows) for number, arm in enumerate(ARMS)},
        "not_counted": watch.outcomes.problems[:20],
        "report": report.keep(systems, watch.service, journal.plan.run, page),
    }


def _give_back(systems: Systems, plan: ExperimentPlan) -> None:
    """Also where the gateway's state says so already: whoever wrote that may have been killed before Envoy was told."""
    state = systems.gateway().state()
    if plan.service in state.versions and not _ours(state, plan):
        return
    lease = systems.ledger().take_lease(f"release:{plan.service}", plan.run, LEASE_TTL)
    systems.gateway().split(plan.service, None, token=lease.token)


def _let_go(systems: Systems, plan: ExperimentPlan) -> None:
    ledger = systems.ledger()
    held = ledger.current_lease(f"release:{plan.service}")
    if held and held.holder == plan.run:
        ledger.release_lease(held)


def _ours(state: GatewayState, plan: ExperimentPlan) -> bool:
    split = state.versions.get(plan.service)
    return bool(split and split.assignment and split.assignment.experiment == plan.experiment)


def _unload(systems: Systems, plan: ExperimentPlan) -> list[str]:
    problems = []
    for replica in _replicas(systems, plan):
        try:
            replica.unload_version(plan.model, plan.new)
        except NinelivesError as error:  # nobody asks for it any more
            problems.append(str(error)[:300])
    return problems


# --- all of it -------------------------------------------------------------------------------------------------------


def run(
    systems: Systems,
    plan: ExperimentPlan,
    *,
    approve: promotion.Approve,
    pause: Callable[[float], None] = time.sleep,
) -> Record:
    """The whole experiment in this process, from wherever its journal says that it is.

    :return: the record of its end
    :raises Unavailable: something did not answer before users were divided, or on the way back; run it again
    """
    journal = of_run(systems.ledger(), plan)
    if not journal.open or journal.find(Entry.ENDING):
        return end(systems, plan, Ending(Verdict.STOP, ("goes on after it was cut off",)), by=plan.by)
    try:
        for name, do in steps(systems, plan, approve=approve).items():
            run_step(systems, plan, name, do)
        divide(systems, plan)
    except Refused as refused:
        return end(systems, plan, Ending(Verdict.STOP, refused.reasons), by=plan.by)
    watch = Watch(systems, plan)
    while (ending := watch.look()) is None:
        pause(watch.pause)
    return end(systems, plan, ending, by=plan.by)
