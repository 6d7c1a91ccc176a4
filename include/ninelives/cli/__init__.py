"""The command line: ``ninelives GROUP COMMAND``, a thin user of the library.

Exit codes: 0 done or met, 1 error, 2 wrong usage, 3 objective missed.
"""

from __future__ import annotations

import sys
from importlib.metadata import metadata
from typing import NoReturn

import typer

from ninelives.cli import (
    accelerators,
    access,
    artefacts,
    automation,
    backfill,
    backup,
    breaker,
    data,
    drill,
    estate,
    evidence,
    experiment,
    feeder,
    gate,
    kubernetes,
    licence,
    playbook,
    prober,
    provider,
    readiness,
    reconcile,
    recover,
    release,
    replicate,
    stack,
    state,
    stream,
)
from ninelives.cli.common import ExitCode, errors
from ninelives.cli.demo import demo
from ninelives.cli.status import status
from ninelives.cli.tasks import tasks
from ninelives.errors import NinelivesError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(evidence.app, name="evidence", help="Evidence in the ledger, and whether it is what was written.")
app.add_typer(gate.app, name="gate", help="Whether a dataset may serve, with reasons.")
app.add_typer(data.app, name="data", help="The exact data behind each model: list, restore, prune.")
app.add_typer(stack.app, name="stack", help="The local estate: real processes on this machine.")
app.add_typer(replicate.app, name="replicate", help="Verified copies of data and models at other sites.")
app.add_typer(reconcile.app, name="reconcile", help="Sites that lived apart: merged, and what a person decides.")
app.add_typer(accelerators.app, name="accelerators", help="Whether this machine's accelerators may serve.")
app.add_typer(access.app, name="access", help="Who may read and write what: declared, and as it is.")
app.add_typer(estate.app, name="estate", help="The declared estate.")
app.add_typer(prober.app, name="prober", help="Golden requests on a fixed schedule: what users get.")
app.add_typer(feeder.app, name="feeder", help="A stream of acknowledged writes.")
app.add_typer(drill.app, name="drill", help="Deliberate losses, and what users felt.")
app.add_typer(backfill.app, name="backfill", help="Missed intervals after downtime: found and filled.")
app.add_typer(backup.app, name="backup", help="Backups in the vault: made, proven, restored.")
app.add_typer(breaker.app, name="breaker", help="The gateway's limits and fallbacks, and taking replicas out by hand.")
app.add_typer(stream.app, name="stream", help="Streams against their contracts: landed, in quarantine, replayed.")
app.add_typer(state.app, name="state", help="Models that go on learning: updates, state, switch of versions.")
app.add_typer(recover.app, name="recover", help="What a person starts by hand: fail over, return, fail back.")
app.add_typer(release.app, name="release", help="Versions on their way into service, and the judge of canaries.")
app.add_typer(artefacts.app, name="artefacts", help="Versions in the registry: held, deleted by rule, orphans.")
app.add_typer(automation.app, name="automation", help="What acts by itself, and the people who may stop it.")
app.add_typer(kubernetes.app, name="kubernetes", help="The estate on Kubernetes: manifests, and routes at each site.")
app.add_typer(licence.app, name="licence", help="What vendors license: seats, terms and grace.")
app.add_typer(provider.app, name="provider", help="Providers of data: when to drill them, feeds replayed.")
app.add_typer(experiment.app, name="experiment", help="Experiments on users: who is in, may it begin, what it shows.")
app.add_typer(playbook.app, name="playbook", help="What a person does for a service, generated and kept fresh.")
app.command()(readiness.readiness)
app.command()(readiness.why)
app.command()(status)
app.command()(tasks)
app.command()(demo)


def main() -> None:
    """Run the command; an error made by us is a message on standard error, never a traceback."""
    try:
        app()
    except NinelivesError as error:
        _fail(f"{type(error).__name__}: {error}")
    except ModuleNotFoundError as error:
        if (error.name or "ninelives").partition(".")[0] == "ninelives":
            raise  # a mistake of ours
        extras = ", ".join(metadata("ninelives").get_all("Provides-Extra") or ())
        _fail(f"{error.name} is not installed: this command needs an extra, pip install 'ninelives[...]': {extras}")


def _fail(message: str) -> NoReturn:
    errors.print(message, style="red", markup=False, soft_wrap=True)
    sys.exit(ExitCode.ERROR)
