"""Experiments that users bring as Chaos Toolkit's JSON, under a drill's abort, clean-up and evidence.

The library runs in a child of its own: it wants the main thread, and it waits out its pauses and activities, so that
only an end of the whole process group stops it at once. Its rollbacks are not left to it, because it leaves them out
when it is interrupted: they are the undoing of the fault, run by the drill or by the keeper, and may be run again.

``python -m ninelives.adapters.chaos method|rollbacks INJECTION``
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ninelives.drills.experiments import succeeded
from ninelives.errors import Refused, Unavailable
from ninelives.files import write_atomically
from ninelives.home import Home
from ninelives.injections import Experiment, experiment_journal, find_injection, journal_lock

ROLLBACKS_WITHIN = 120.0
"""Seconds that all rollbacks of an experiment may take together."""

BEGINS_WITHIN = 30.0
"""Seconds that the child may take to begin."""


def check_experiment(fault: Experiment) -> None:
    """Refuse what the library would not run as it is meant. Its Python providers are imported by that.

    :raises Refused: no valid experiment, one that does nothing, nothing to undo it with, or a ``dry`` that the library
        silently ignores
    """
    from chaoslib.exceptions import ChaosException
    from chaoslib.experiment import ensure_experiment_is_valid

    what = f"experiment {fault.name}"
    try:
        document = json.loads(fault.document)
    except (ValueError, RecursionError) as error:
        raise Refused(what, [f"it is not JSON: {error}"]) from error
    if not isinstance(document, dict):
        raise Refused(what, ["it is not a JSON object"])
    if places := list(_dry(document)):
        raise Refused(
            what,
            [
                f"{', '.join(places)}: Chaos Toolkit ignores a dry that is text, and would really do it; leave it out "
                "and use --dry-run"
            ],
        )
    if not document.get("rollbacks"):
        raise Refused(what, ["it has no rollbacks, so nobody could undo it; declare them, fit to be run twice"])
    for part in ("method", "rollbacks"):
        listed = document.get(part)
        if not (isinstance(listed, list) and listed and all(isinstance(one, dict) for one in listed)):
            raise Refused(what, [f"its {part} must be a list of activities that is not empty"])
    if references := [f"rollbacks[{n}].ref" for n, one in enumerate(document["rollbacks"]) if "ref" in one]:
        where = ", ".join(references)
        raise Refused(what, [f"{where}: rollbacks are run without the method; write the activity out instead"])
    try:
        ensure_experiment_is_valid(document)
    except ChaosException as error:
        raise Refused(what, [f"Chaos Toolkit refuses it: {error}"]) from error
    except Exception as error:  # its own check stumbles over what is of a wrong type
        why = f"{type(error).__name__}: {error}"
        raise Refused(what, [f"Chaos Toolkit cannot read it, something in it is of a wrong type ({why})"]) from error


def start_experiment(home: Home, fault: Experiment, environment: Mapping[str, str]) -> None:
    """Run the experiment's method in a child, and return once that has begun; one that has run is not run again.

    :raises Unavailable: it did not begin
    """
    if experiment_journal(home, fault.injection).exists() or _holder(home, fault.injection):
        return
    child = _spawn("method", home, fault, environment)
    deadline = time.monotonic() + BEGINS_WITHIN
    while not (_holder(home, fault.injection) or experiment_journal(home, fault.injection).exists()):
        if child.poll() is not None or time.monotonic() > deadline:
            raise Unavailable(f"experiment {fault.name} did not begin; see {_log(home)}")
        time.sleep(0.02)


def undo_experiment(home: Home, fault: Experiment, environment: Mapping[str, str]) -> None:
    """End the method at once, wherever it is, and run the rollbacks.

    :raises Unavailable: a rollback failed or took too long; to be tried again
    """
    while pid := _holder(home, fault.injection):
        _kill_group(pid)
        time.sleep(0.01)
    child = _spawn("rollbacks", home, fault, environment)
    try:
        code = child.wait(ROLLBACKS_WITHIN)
    except subprocess.TimeoutExpired:
        _kill_group(child.pid)
        raise Unavailable(
            f"the rollbacks of {fault.name} took longer than {ROLLBACKS_WITHIN:.0f} s; see {_log(home)}"
        ) from None
    if code:
        raise Unavailable(f"a rollback of {fault.name} failed; see {_log(home)}")


def _spawn(part: str, home: Home, fault: Experiment, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    home.logs.mkdir(parents=True, exist_ok=True)
    with _log(home).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "ninelives.adapters.chaos", part, fault.injection],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # one group, to be ended as a whole
        )


def _log(home: Home) -> Path:
    return home.logs / "experiments.log"


def _lock_file(home: Home, injection: str) -> Path:
    return home.injections / f"{injection}.experiment"


def _holder(home: Home, injection: str) -> int | None:
    """The child that runs the method; the kernel frees the lock of a killed one."""
    try:
        with _lock_file(home, injection).open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        text = _lock_file(home, injection).read_text("utf-8")
        return int(text) if text else None
    return None


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _dry(part: Any, place: str = "experiment") -> Iterator[str]:
    """Where an experiment says ``dry``; what is handed to an activity as an argument is the activity's own."""
    if not isinstance(part, dict):
        return
    if "dry" in part:
        yield f"{place}.dry"
    activities = [("rollbacks", part.get("rollbacks")), ("method", part.get("method"))]
    hypothesis = part.get("steady-state-hypothesis")
    activities.append(("steady-state-hypothesis", hypothesis.get("probes") if isinstance(hypothesis, dict) else None))
    for name, listed in activities:
        for number, activity in enumerate(listed if isinstance(listed, list) else ()):
            if isinstance(activity, dict) and "dry" in activity:
                yield f"{name}[{number}].dry"


# --- in the child ----------------------------------------------------------------------------------------------------


def _method(home: Home, fault: Experiment) -> int:
    from chaoslib.experiment import run_experiment
    from chaoslib.types import Strategy

    lock = _lock_file(home, fault.injection)
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0  # another one is at it
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        with journal_lock(home):
            injection = find_injection(home, fault.injection)
            if injection is None or injection.over:
                return 0
        journal = run_experiment(
            json.loads(fault.document),
            settings={"runtime": {"rollbacks": {"strategy": "never"}}},
            strategy=Strategy.DEFAULT,
        )
        path = experiment_journal(home, fault.injection)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(journal, default=str).encode())
    return 0


def _rollbacks(fault: Experiment) -> int:
    """All of them, and each must have succeeded: the library goes on after one that failed."""
    from chaoslib.experiment import run_experiment
    from chaoslib.types import Strategy

    document = json.loads(fault.document)
    journal = run_experiment(
        {**document, "method": []},
        settings={"runtime": {"rollbacks": {"strategy": "always"}}},
        strategy=Strategy.SKIP,
    )
    done = journal["rollbacks"]
    return 0 if len(done) == len(document["rollbacks"]) and all(succeeded(run) for run in done) else 1


def main(part: str, injection_id: str) -> int:
    """Run one part of the experiment that the injection names."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    home = Home.from_environment()
    injection = find_injection(home, injection_id)
    (fault,) = [one for one in injection.faults if isinstance(one, Experiment)] if injection else []
    return _method(home, fault) if part == "method" else _rollbacks(fault)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
