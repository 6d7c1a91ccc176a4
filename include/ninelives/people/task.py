"""From what stopped a run to a task for a person: steps to paste, a deadline, and in the ledger who did what.

A person's word is never the proof: what they answer only has the step that stopped tried again. Nobody's silence is an
answer: a task that nobody answers in time fails, and so does its run.

A run that comes again by itself does not wait, because it would hold up what it does for others: people are told, and
the first run that gets through says that it is mended.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from ninelives.errors import EstateError, NinelivesError, Refused
from ninelives.estate import Role, Service
from ninelives.ports import Ledger, Record, Systems
from ninelives.recovery.playbook import Step, mend, mending, shown
from ninelives.recovery.standby import ServiceReadiness, check_readiness, kept_readiness

KIND = "human-task"
GO_ON = "Done, go on"
GIVE_UP = "Give up"
MOST_STEPS = 12
"""Somebody who was just called reads no more; the rest follows once these are done."""
REMEMBERED = timedelta(days=14)
"""Longer than any deadline: how far back open tasks are looked for."""


@dataclass(frozen=True)
class Stopped:
    """Where automation stopped, and at what."""

    dag: str
    run: str
    task: str
    why: str
    services: tuple[str, ...]
    """Which wait for this; the first names the task in the ledger."""
    site: str | None = None
    """Where the step looked, ``None`` where it looked at every standby."""
    map_index: int = -1
    """Where no run waits, the number of the shard: an index of Airflow's changes with what a run finds to do."""
    waits: bool = True
    """``False``: the run has failed, and the next one tries again by itself."""

    @property
    def id(self) -> str:
        """The same for every try of the step; where no run waits, for every run of it."""
        return _id({**asdict(self), "services": self.services})

    @property
    def step(self) -> str:
        return self.task.rsplit(".", 1)[-1]

    @property
    def headline(self) -> str:
        return f"{self.dag} stopped at {self.step.replace('_', ' ')} of {', '.join(self.services)}: what now?"


@dataclass(frozen=True)
class HumanTask:
    """What a person is asked to do. ``until`` holds from the first time that the step stopped in this run."""

    stopped: Stopped
    who: tuple[str, ...]
    """The operators of the estate: by name, so that each answer is somebody's."""
    steps: tuple[Step, ...]
    until: datetime
    evidence: int = 0

    def facts(self) -> dict[str, Any]:
        stopped = {**asdict(self.stopped), "services": list(self.stopped.services)}
        steps = [{**asdict(one), "run": list(one.run), "check": list(one.check)} for one in self.steps]
        return {"state": "open", **stopped, "who": list(self.who), "until": self.until.isoformat(), "steps": steps}

    @classmethod
    def from_record(cls, record: Record) -> HumanTask:
        facts = record.facts
        names = ("dag", "run", "task", "why", "site", "map_index")
        waits = facts.get("waits", True)  # older records are all of runs that wait
        stopped = Stopped(**{name: facts[name] for name in names}, services=tuple(facts["services"]), waits=waits)
        steps = tuple(Step(**{**one, "run": tuple(one["run"]), "check": tuple(one["check"])}) for one in facts["steps"])
        return cls(stopped, tuple(facts["who"]), steps, datetime.fromisoformat(facts["until"]), record.seq)


# --- opened and closed -------------------------------------------------------------------------------------------


def why_stopped(error: NinelivesError) -> str:
    """What a person may mend, in the error's own words."""
    return f"{type(error).__name__}: {error}"


def is_for_people(error: NinelivesError) -> bool:
    """A person has decided on an approval already, and an estate that cannot be read says nothing of whom to ask."""
    return not (isinstance(error, EstateError) or (isinstance(error, Refused) and error.what == "approval"))


def open_task(systems: Systems, stopped: Stopped, now: datetime) -> HumanTask | None:
    """Ask for a person, with evidence; ``None`` where nobody is asked: by policy, or because the time is over.

    A try that was killed has left its record, and is not asked twice for the same reason.
    """
    within, who = systems.estate.recovery.answer_within, systems.estate.people_with(Role.OPERATOR)
    if within is None or not who:
        return None
    ledger = systems.ledger()
    before = _records(ledger, stopped)
    asked = [record for record in before if record.facts["state"] == "open"]
    until = datetime.fromisoformat(asked[-1].facts["until"]) if asked else now + within
    if now >= until:
        return None
    if before and before[0].facts["state"] == "open" and before[0].facts["why"] == stopped.why:
        return HumanTask.from_record(before[0])
    task = HumanTask(stopped, who, steps_for(systems, stopped), until)
    once = f"{KIND}/{stopped.id}/{len(before)}"
    return HumanTask.from_record(ledger.append(KIND, stopped.services[0], task.facts(), once=once))


def tell(systems: Systems, stopped: Stopped, now: datetime) -> HumanTask | None:
    """Tell people what stopped a run that does not wait, once until it is mended; ``None`` where nobody operates."""
    ledger, who = systems.ledger(), systems.estate.people_with(Role.OPERATOR)
    if not who:
        return None
    for known in open_tasks(ledger, now):
        if known.stopped.id == stopped.id or _same_for_people(known.stopped, stopped):
            return known
    before = _records(ledger, stopped)
    task = HumanTask(stopped, who, steps_for(systems, stopped), now + REMEMBERED)
    once = f"{KIND}/{stopped.id}/{len(before)}"
    return HumanTask.from_record(ledger.append(KIND, stopped.services[0], task.facts(), once=once))


def _same_for_people(one: Stopped, other: Stopped) -> bool:
    """Each shard meets the same source that shrank; it is told once."""
    return replace(one, run=other.run, map_index=other.map_index) == other


def say_mended(ledger: Ledger, stopped: Stopped, now: datetime) -> Record | None:
    """The step got through: what people were told of it is over; ``None`` where they were told nothing."""
    before = _records(ledger, stopped)
    if not before or before[0].facts["state"] != "open":
        return None
    return _close(ledger, stopped, "done", choice=None, by=None, at=now)


def close_task(
    ledger: Ledger, stopped: Stopped, operators: Sequence[str], *, choice: str | None, by: str | None, at: datetime
) -> Record:
    """Leave who answered what and when; the same answer is written once.

    :param choice: ``None`` where nobody has answered
    :return: its ``state`` says what follows: ``done``: the step is tried again; ``given up`` and ``late``: it fails;
        ``not accepted``: somebody answered who may not, and the step is tried again as it would have been anyhow
    """
    state = "late" if choice is None else "done" if choice == GO_ON else "given up"
    if by not in operators and choice is not None:
        state = "not accepted"
    return _close(ledger, stopped, state, choice=choice, by=by, at=at)


def _close(ledger: Ledger, stopped: Stopped, state: str, *, choice: str | None, by: str | None, at: datetime) -> Record:
    opened = [record for record in _records(ledger, stopped) if record.facts["state"] == "open"]
    facts: dict[str, Any] = {
        **{name: value for name, value in asdict(stopped).items() if name not in ("why", "services")},
        "services": list(stopped.services), "state": state, "by": by, "choice": choice, "at": at.isoformat(),
        "until": opened[-1].facts["until"] if opened else None, "opened": opened[0].seq if opened else None,
    }  # fmt: skip
    key = f"{KIND}/{stopped.id}/answer/{at.isoformat()}"
    return ledger.written(key) or ledger.append(KIND, stopped.services[0], facts, once=key)


def open_tasks(ledger: Ledger, now: datetime) -> list[HumanTask]:
    """Those that wait for somebody now, the most urgent first."""
    newest: dict[str, Record] = {}
    for record in ledger.records(kind=KIND, since=now - REMEMBERED):
        newest.setdefault(_id(record.facts), record)
    tasks = [HumanTask.from_record(record) for record in newest.values() if record.facts["state"] == "open"]
    return sorted((task for task in tasks if task.until > now), key=lambda task: task.until)


def was_asked(ledger: Ledger, service: str, run: str) -> bool:
    """Whether ``run`` has waited for a person for the sake of ``service``."""
    return any(record.facts["run"] == run for record in ledger.records(kind=KIND, subject=service))


def _records(ledger: Ledger, stopped: Stopped) -> list[Record]:
    """Of this task, newest first."""
    records = ledger.records(kind=KIND, subject=stopped.services[0])
    return [record for record in records if _id(record.facts) == stopped.id]


def _id(facts: Mapping[str, Any]) -> str:
    if not facts.get("waits", True):
        return f"{facts['dag']}/{facts['task']}/{facts['services'][0]}/{facts['site']}/{facts['map_index']}"
    return f"{facts['dag']}/{facts['run']}/{facts['task']}/{facts['map_index']}"


# --- what to do --------------------------------------------------------------------------------------------------


def steps_for(systems: Systems, stopped: Stopped) -> tuple[Step, ...]:
    """What mends it, as far as that can be known, and always where to look."""
    found: list[Step] = []
    for name in stopped.services:
        service = systems.estate.service_by_name[name]
        found += [_look(service), *_mending(systems, stopped, service)]
    return tuple(dict.fromkeys(found))[:MOST_STEPS]


def _look(service: Service) -> Step:
    run = (f"ninelives why {service.name}", f"ninelives readiness {service.name}")
    said = "where it is served from, and of each standby what does not pass and why"
    return Step(f"See what {service.name} lacks", run, said, (), "nothing was changed.")


def _mending(systems: Systems, stopped: Stopped, service: Service) -> Iterator[Step]:
    site, dataset = stopped.site, systems.estate.dataset_of(service).name
    if site is None:
        yield from mending(systems, service, _readiness(systems, service))
        return
    match stopped.step:
        case "verify_data":
            copy = f"ninelives replicate run {dataset} --to {site}"
            said = "exit code 0: every object was read and compared, and what was bad is repaired"
            yield Step(f"{site}: bring the data again", (copy,), said, (), "not needed: a copy is added.")
            yield mend(systems, service, site, "gate")
        case "warm_up_standby" | "warm_up_target":
            yield mend(systems, service, site, "replicas")
            yield mend(systems, service, site, "model")
        case "reconcile_data":
            yield from _together(dataset)
        case "replicate_dataset":
            yield from _replication(dataset, site)
        case "merge_sites":
            yield from _together(dataset)
            verify = f"ninelives replicate verify {dataset} --no-repair"
            said = "each object that is not as recorded, and at which site: without a good copy bring it from a backup"
            yield Step("See what no site has right", (verify,), said, (), "nothing was changed.")
        case _:
            look = ("ninelives stack status", "ninelives status")
            said = "gateway and model servers run. Outside the local estate: look at them by your own means"
            yield Step(
                "Have the gateway answer", look, said, (f"ninelives why {service.name}",), "nothing was changed."
            )
            yield mend(systems, service, site, "replicas")


def _together(dataset: str) -> Iterator[Step]:
    plan = f"ninelives reconcile plan {dataset}"
    said = "what is merged, what is damaged at a site, and what a person must decide"
    yield Step("See what keeps the sites apart", (plan,), said, (), "nothing was changed.")


def _replication(dataset: str, site: str) -> Iterator[Step]:
    look, run = f"ninelives replicate status {dataset} --to {site}", f"ninelives replicate run {dataset} --to {site}"
    yield Step(f"See how far {site} is behind", (look,), "the lag, beside the RPO", (), "nothing was changed.")
    said = "exit code 0: everything is there, and was read again"
    yield Step(f"Is the disk at {site} full: make room, go on", (run,), said, (look,), "not needed: a copy is added.")
    yield from _together(dataset)
    apply = f"ninelives reconcile apply {dataset}"
    said = "what one site alone has is at both: what the source lacks comes back from the copy"
    yield Step("Did the source lose objects by mistake: bring them back", (apply,), said, (look,), "not needed.")
    said = "what is gone is brought back, or moves to a dated trash where the dataset says follow"
    yield Step("Is it right that they are gone", (f"{run} --max-shrink 1",), said, (look,), "take them from the trash.")


def _readiness(systems: Systems, service: Service) -> ServiceReadiness:
    (found,) = check_readiness(systems, only=service.name, kept=kept_readiness(systems))
    return found


def render_task(systems: Systems, task: HumanTask) -> str:
    """The whole text in Markdown, for Airflow's Required Actions and the command line."""
    stopped = task.stopped
    if not stopped.waits:
        told = (
            f"Run `{stopped.run}` of `{stopped.dag}` has failed (evidence {task.evidence}). Nothing waits, there is "
            "nothing to answer: the next run tries again, and this is over once one gets through."
        )
        return _shown([f"**{stopped.why}**", "", told, ""], systems, task)
    lines = [
        f"**{stopped.why}**",
        "",
        f"Run `{stopped.run}` of `{stopped.dag}` waits for {' or '.join(task.who)} until {task.until:%Y-%m-%d %H:%M:%S}"
        f" UTC (evidence {task.evidence}); then it fails.",
        "",
        f"- **{GO_ON}**: `{stopped.step}` is tried again and the run goes on from there. Where it still cannot, it asks"
        " again; this text stays the first one, and `ninelives tasks` has the newest.",
        f"- **{GIVE_UP}**: the run fails, with your name as the reason.",
        "",
    ]
    return _shown(lines, systems, task)


def _shown(head: list[str], systems: Systems, task: HumanTask) -> str:
    lines = [
        *head,
        "Paste this first, in a shell on a machine of this estate:",
        "",
        f"    export NINELIVES_HOME={shlex.quote(str(systems.home.root))}",
        f"    export NINELIVES_ESTATE={shlex.quote(str(systems.home.estate_file))}",
        "",
    ]
    for number, step in enumerate(task.steps, start=1):
        lines += shown(number, step)
    return "\n".join(lines).rstrip() + "\n"
