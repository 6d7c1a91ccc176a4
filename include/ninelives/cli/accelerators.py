"""``ninelives accelerators``: whether this machine's accelerators may serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ninelives.cli.common import AsJson, ExitCode, emit, errors
from ninelives.errors import EstateError

app = typer.Typer(no_args_is_help=True)


@app.callback()
def accelerators() -> None:
    """Whether this machine's accelerators may serve."""


@app.command()
def check(
    need: Annotated[Path | None, typer.Option(metavar="FILE", help="YAML or JSON: what the model needs.")] = None,
    policy: Annotated[Path | None, typer.Option(metavar="FILE", help="YAML or JSON: which findings block.")] = None,
    as_json: AsJson = False,
) -> None:
    """Look at every accelerator of this machine. Exit 0 they may serve, 3 they may not, with each reason."""
    from ninelives.accelerators.check import check_accelerators
    from ninelives.accelerators.need import Need
    from ninelives.accelerators.policy import Policy, read_file
    from ninelives.adapters.nvml import probe_of

    try:
        wanted = read_file(Need, need) if need else None
        rules = read_file(Policy, policy) if policy else Policy()
    except EstateError as error:
        errors.print(str(error), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(ExitCode.USAGE) from error
    report = check_accelerators(probe_of(rules.kind), wanted, rules)
    verdict = "may serve" if report.allowed else "may not serve"
    emit(report.to_dict(), as_json=as_json, text=lambda: "\n".join([verdict, *map(str, report.findings)]))
    if not report.allowed:
        raise typer.Exit(ExitCode.MISSED)
