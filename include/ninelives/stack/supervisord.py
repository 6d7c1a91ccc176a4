"""supervisord's configuration for a local estate, and starting it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from ninelives.adapters.supervisor import Supervisor
from ninelives.errors import Unavailable
from ninelives.files import write_atomically
from ninelives.stack.local import SUPERVISOR_LOGIN, LocalEstate
from ninelives.stack.processes import MARKER
from ninelives.stack.programs import Program
from ninelives.stack.secrets import private_folder

# What programs inherit. A user's AIRFLOW__*, AWS_*, MLFLOW_* or RCLONE_* must not bend the estate.
_INHERITED = {
    "NINELIVES_PROBE_RATE",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "SHELL",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
}


def environment(local: LocalEstate) -> dict[str, str]:
    """Of supervisord and so of every program; no secrets."""
    kept = {name: value for name, value in os.environ.items() if name in _INHERITED or name.startswith("LC_")}
    path = os.environ.get("PATH", os.defpath)
    return kept | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{path}",
        "NINELIVES_HOME": str(local.home.root),
        MARKER: str(local.home.root),
        "PYTHONUNBUFFERED": "1",
        "NO_PROXY": "127.0.0.1,localhost",
    }


def render(local: LocalEstate, programs: Iterable[Program]) -> str:
    """The whole configuration. It holds a password and must be private."""
    home, password = local.home, local.secrets.token("supervisor")
    lines = [
        "[supervisord]",
        f"pidfile={_text(home.root / 'run' / 'supervisord.pid')}",
        f"logfile={_text(home.logs / 'supervisord.log')}",
        "logfile_maxbytes=5MB",
        "logfile_backups=1",
        f"directory={_text(home.root)}",
        f"childlogdir={_text(home.logs)}",
        "minfds=1024",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
        "[unix_http_server]",
        f"file={_text(local.supervisor_socket)}",
        "chmod=0600",
        f"username={SUPERVISOR_LOGIN}",
        f"password={password}",
    ]
    groups: dict[str, list[str]] = {}
    for program in programs:
        lines += _program(local, program)
        if program.site:
            groups.setdefault(program.group, []).append(program.name)
    for group, members in groups.items():
        lines += [f"[group:{group}]", f"programs={','.join(members)}"]
    return "\n".join([*lines, ""])


def _program(local: LocalEstate, program: Program) -> list[str]:
    command = shlex.join([sys.executable, "-m", "ninelives.stack.launch", program.name])
    whole_group = "true" if program.stop_signal == "KILL" else "false"
    return [
        f"[program:{program.name}]",
        f"command={_text(command)}",
        "autostart=false",  # `stack up` starts them in order, and a lost site must stay lost
        "autorestart=true",
        f"startsecs={program.start_seconds}",
        "startretries=3",
        f"stopsignal={program.stop_signal}",
        f"stopwaitsecs={program.stop_wait}",
        f"stopasgroup={whole_group}",
        "killasgroup=true",
        *_logs(local, program),
    ]


def _logs(local: LocalEstate, program: Program) -> list[str]:
    """One file per program; the gateway's requests, its standard output, have one of their own."""
    log = _text(_text(local.log_of(program.name)))  # supervisord expands these twice
    if program.kind != "gateway":
        return ["redirect_stderr=true", *_rotated("stdout", log, "10MB")]
    requests = _text(_text(local.home.logs / "access.jsonl"))
    return [*_rotated("stdout", requests, "100MB"), *_rotated("stderr", log, "10MB")]


def _rotated(stream: str, log: str, size: str) -> list[str]:
    return [f"{stream}_logfile={log}", f"{stream}_logfile_maxbytes={size}", f"{stream}_logfile_backups=1"]


def _text(value: object) -> str:
    """supervisord expands ``%(name)s`` in values."""
    return str(value).replace("%", "%%")


def config_file(local: LocalEstate) -> Path:
    return local.home.root / "run" / "supervisord.conf"


def client(local: LocalEstate) -> Supervisor:
    return Supervisor(f"unix://{local.supervisor_socket}", SUPERVISOR_LOGIN, local.secrets.token("supervisor"))


def write_config(local: LocalEstate) -> bool:
    """Write the configuration; says whether it differs from what was there."""
    path, wanted = config_file(local), render(local, local.programs).encode()
    private_folder(path.parent)
    private_folder(local.supervisor_socket.parent)
    if path.exists() and path.read_bytes() == wanted:
        return False
    write_atomically(path, wanted, mode=0o600)
    return True


def start(local: LocalEstate) -> None:
    """Start supervisord as a daemon; it starts no program by itself. Raises ``Unavailable`` with its own words."""
    ran = subprocess.run(
        [sys.executable, "-m", "supervisor.supervisord", "-c", str(config_file(local))],
        env=environment(local),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=local.home.root,
        check=False,
    )
    if ran.returncode:
        raise Unavailable(f"supervisord did not start: {(ran.stderr or ran.stdout).strip()}")
