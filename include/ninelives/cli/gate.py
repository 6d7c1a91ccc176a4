"""``ninelives gate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ninelives.cli.common import AsJson, ExitCode, console, emit
from ninelives.gates.interval import Interval
from ninelives.home import Home

if TYPE_CHECKING:
    from ninelives.gates.verdict import GateResult
    from ninelives.ports import Record

app = typer.Typer(no_args_is_help=True)

OfInterval = Annotated[
    Interval | None,
    typer.Option(parser=Interval.parse, metavar="START/END", help="Only the rows of this time (ISO 8601, UTC)."),
]


@app.callback()
def _group() -> None:
    """Keep ``run`` a subcommand while it is the only one."""


@app.command()
def run(
    dataset: Annotated[str, typer.Argument(help="As declared in the estate.")],
    site: Annotated[str | None, typer.Option(help="Whose copy; by default every site that has one.")] = None,
    interval: OfInterval = None,
    reread: Annotated[bool, typer.Option("--reread", help="Read every object again, however much that is.")] = False,
    as_json: AsJson = False,
) -> None:
    """Judge a dataset and record the verdict. Exit 0 if it may serve (pass or warn), 3 if not (block or error)."""
    from ninelives.adapters.connected import ConnectedEstate
    from ninelives.errors import Refused
    from ninelives.gates.evidence import run_gate
    from ninelives.gates.local import REREAD_BYTES

    systems = ConnectedEstate.of_home(Home.from_environment())
    declared = systems.estate.dataset_by_name.get(dataset)
    if declared is None:
        raise Refused("gate", [f"the estate has no dataset {dataset!r}"])
    answers = []
    for where in [site] if site else [declared.primary, *declared.copies]:
        if not as_json:
            console.print(f"Judging {dataset} at {where} …", markup=False)
        budget = None if reread else REREAD_BYTES
        answers.append((where, *run_gate(systems, dataset, where, reread_bytes=budget, interval=interval)))
    documents = [
        {"dataset": dataset, "site": where, **result.facts(), "evidence": record.seq}
        for where, result, record in answers
    ]
    emit(documents, as_json=as_json, text=lambda: "\n".join(_report(dataset, *answer) for answer in answers))
    if not all(result.verdict.opens for _, result, _ in answers):
        raise typer.Exit(ExitCode.MISSED)


def _report(dataset: str, site: str, result: GateResult, record: Record) -> str:
    seen = "unknown" if result.rows is None else f"{result.rows:,}"
    lines = [
        f"{dataset} at {site}: {result.verdict.value}",
        f"  {seen} rows, {result.expectations} expectations, {result.seconds:.1f} s, evidence {record.seq}",
        *(f"  {reason}" for reason in result.reasons),
    ]
    return "\n".join(lines)
