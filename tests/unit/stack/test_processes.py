"""Processes that supervisord does not know are found by facts and ended; strangers are left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from ninelives.home import Home
from ninelives.stack import processes

SLEEP = "import sys, time; print(flush=True); time.sleep(600)"
# A program that overwrites its environment to show a title leaves no marker behind; here the marker is never set.
CHILD_IN_SESSION = (
    "import subprocess, sys, time; "
    f"child = subprocess.Popen([sys.executable, '-c', {SLEEP!r}], stdout=subprocess.PIPE, env={{}}); "
    "child.stdout.readline(); print(child.pid, flush=True); time.sleep(600)"
)


@contextmanager
def _running(code: str, environment: dict[str, str] | None = None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **(environment or {})},
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _home(tmp_path: Path) -> Home:
    (tmp_path / "run").mkdir()
    return Home(tmp_path)


def test_a_marked_process_is_ours_and_one_that_only_names_the_home_is_not(tmp_path: Path) -> None:
    home = _home(tmp_path)
    with (
        _running(SLEEP, {processes.MARKER: str(home.root)}) as (ours, _),
        _running(SLEEP, {"NINELIVES_HOME": str(home.root)}) as (shell, _),
        _running(SLEEP, {processes.MARKER: str(home.root) + "2"}) as (other, _),
    ):
        assert [process.pid for process in processes.remaining(home)] == [ours.pid]
        assert processes.end(processes.remaining(home)) == []
        assert processes.remaining(home) == []
        assert shell.poll() is None
        assert other.poll() is None


def test_an_orphan_without_marker_is_found_by_its_session_after_the_leader_was_killed(tmp_path: Path) -> None:
    home = _home(tmp_path)
    with _running(CHILD_IN_SESSION) as (leader, line):
        processes.remember_session(home, leader.pid)
        leader.kill()
        leader.wait()
        assert [process.pid for process in processes.remaining(home)] == [int(line)]
        assert processes.end(processes.remaining(home)) == []
        assert not psutil.pid_exists(int(line)) or psutil.Process(int(line)).status() == psutil.STATUS_ZOMBIE


def test_a_session_number_that_somebody_else_has_now_is_not_ours(tmp_path: Path) -> None:
    home = _home(tmp_path)
    with _running(SLEEP) as (stranger, _):
        processes.remember_session(home, stranger.pid)
        path = home.root / "run" / "session.json"
        record = json.loads(path.read_text())
        path.write_text(json.dumps(record | {"created": record["created"] - 60}))
        assert processes.remaining(home) == []


def test_a_program_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    home = _home(tmp_path)
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP
    with _running(stubborn, {processes.MARKER: str(home.root)}) as (process, _):
        assert processes.end(processes.remaining(home), patience=0.2) == []
        assert process.wait(5) == -9


def test_a_new_incarnation_ends_what_its_predecessor_forked(tmp_path: Path) -> None:
    home = _home(tmp_path)
    code = (
        "import os, subprocess, sys, time, json, pathlib; "
        "from ninelives.home import Home; from ninelives.stack import processes; "
        "home = Home(pathlib.Path(sys.argv[1])); "
        # A predecessor: leader of its process group in our session, with a child, killed before we start.
        "old = subprocess.Popen([sys.executable, '-c', sys.argv[2]], stdout=subprocess.PIPE, process_group=0); "
        "orphan = int(old.stdout.readline()); "
        "(home.root / 'run' / 'p.json').write_text(json.dumps({'pid': old.pid})); "
        "old.kill(); old.wait(); "
        "processes.replace_predecessor(home, 'p'); "
        "print(orphan, json.loads((home.root / 'run' / 'p.json').read_text())['pid'] == os.getpid())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(home.root), CHILD_IN_SESSION],
        capture_output=True,
        text=True,
        start_new_session=True,
        check=True,
    )
    orphan, recorded = ran.stdout.split()
    left = processes.wait([psutil.Process(int(orphan))] if psutil.pid_exists(int(orphan)) else [], 5.0)
    assert left == []
    assert recorded == "True"
