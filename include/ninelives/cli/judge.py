"""``ninelives release judge``, ``ninelives release sample`` and ``ninelives release label``."""

from __future__ import annotations

import getpass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ninelives.cli.common import AsJson, ExitCode, emit, errors
from ninelives.cli.recover import ServiceName, check_name, connected
from ninelives.errors import EstateError


class Mode(StrEnum):
    SEQUENTIAL = "sequential"
    KAYENTA = "kayenta"


def judge(
    source: Annotated[Path, typer.Option("--input", metavar="FILE", help="JSON: a list of metrics.")],
    mode: Annotated[Mode, typer.Option(help="An always-valid verdict of three values, or Kayenta's labels.")] = (
        Mode.SEQUENTIAL
    ),
    horizon: Annotated[
        int | None, typer.Option(min=1, help="Looks after which the canary ends: nothing is promoted before.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Judge a canary beside its baseline. Exit 0 promote or all Pass, 3 roll back, inconclusive, other labels."""
    from ninelives.releases.judge import Verdict, read_metrics
    from ninelives.releases.judge import judge as judged

    if horizon is not None and mode is Mode.KAYENTA:
        raise typer.BadParameter("Kayenta's mode has no horizon: it judges what it is given, at once")
    try:
        metrics = read_metrics(source)
    except EstateError as error:
        errors.print(str(error), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(ExitCode.USAGE) from error
    found = judged(metrics, mode.value, horizon=horizon)
    document = found.facts()
    if mode is Mode.KAYENTA:
        emit(document["metrics"], as_json=as_json, text=lambda: "\n".join(found.reasons))
    else:
        emit(document, as_json=as_json, text=lambda: "\n".join([found.verdict.value, *found.reasons]))
    if found.verdict is not Verdict.PROMOTE:
        raise typer.Exit(ExitCode.MISSED)


def sample(
    rate: Annotated[float, typer.Option(help="Events (errors) per attempt of the version in service.")],
    per_minute: Annotated[float, typer.Option(min=1e-9, max=1e12, help="Attempts of the canary in a minute.")],
    margin: Annotated[float, typer.Option(help="How much worse is too much, as a ratio.")] = 1.5,
    control_share: Annotated[float, typer.Option(help="Attempts of the baseline for each of the canary.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """How long a canary must run: attempts and minutes that promote an equally good version with 80 % power."""
    from ninelives.releases.judge import needed_attempts

    try:
        attempts = needed_attempts(rate, margin=margin, control_share=control_share)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    minutes = -(-attempts // per_minute)
    emit(
        {"attempts": attempts, "minutes": minutes},
        as_json=as_json,
        text=lambda: f"{attempts:,} attempts of the canary, {minutes:,.0f} minutes at {per_minute:g} a minute",
    )


def label(
    service: ServiceName,
    source: Annotated[
        Path, typer.Option("--input", metavar="FILE", help='JSON: [{"version": "7", "right": 950, "wrong": 50}, ...].')
    ],
    batch: Annotated[str, typer.Option(help="Its own name, like 2026-11-26T14: the same one is not counted twice.")],
    by: Annotated[str, typer.Option(help="Who says so; by default the user of this machine.")] = "",
    as_json: AsJson = False,
) -> None:
    """Tell which answers of SERVICE were right, now that the truth has come; a promotion judges by it.

    Per version, only requests since the promotion began that no batch before has counted; both versions in each.
    """
    from ninelives.releases.labels import read_batch, record_labels

    systems = connected()
    check_name("service", service, systems.estate.service_by_name)
    if not batch.strip():
        raise typer.BadParameter("a batch without a name would be counted once and never again")
    try:
        labels = read_batch(source)
    except EstateError as error:
        errors.print(str(error), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(ExitCode.USAGE) from error
    record = record_labels(systems.ledger(), systems.estate, service, labels, once=batch, by=by or getpass.getuser())
    counts = ", ".join(f"version {one.version}: {one.right} right, {one.wrong} wrong" for one in labels)
    emit(
        {"service": service, "batch": batch, "evidence": record.seq},
        as_json=as_json,
        text=lambda: f"{service}: {counts}; evidence {record.seq}",
    )
