"""``ninelives gate``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ninelives.cli.common import AsJson, ExitCode, console, emit
from ninelives.gates.interval import Interval
from ninelives.home import Home

if TYPE_CHECKING:
    from ninelives.gates.explain import Explained
    from ninelives.gates.verdict import GateResult
    from ninelives.ports import Record, Systems

app = typer.Typer(no_args_is_help=True)

DatasetName = Annotated[str, typer.Argument(metavar="DATASET", help="A dataset or table, as declared in the estate.")]
OfInterval = Annotated[
    Interval | None,
    typer.Option(parser=Interval.parse, metavar="START/END", help="Only the rows of this time (ISO 8601, UTC)."),
]


@app.command()
def run(
    dataset: DatasetName,
    site: Annotated[str | None, typer.Option(help="Whose copy; by default every site that has one.")] = None,
    interval: OfInterval = None,
    reread: Annotated[bool, typer.Option("--reread", help="Read every object again, however much that is.")] = False,
    as_json: AsJson = False,
) -> None:
    """Judge a dataset and record the verdict. Exit 0 if it may serve (pass or warn), 3 if not (block or error)."""
    from ninelives.gates.evidence import run_gate
    from ninelives.gates.local import REREAD_BYTES

    systems = _systems()
    answers = []
    for where in [site] if site else _sites(systems, dataset):
        if not as_json:
            console.print(f"Judging {dataset} at {where} …", markup=False)
        budget = None if reread else REREAD_BYTES
        answers.append((where, *run_gate(systems, dataset, where, reread_bytes=budget, interval=interval)))
    documents = [
        {"dataset": dataset, "site": where, **result.facts(), "evidence": record.seq}
        for where, result, record in answers
    ]
    emit(documents, as_json=as_json, text=lambda: "\n".join(_report(dataset, *answer) for answer in answers))
    _exit_for(*(result for _, result, _ in answers))


@app.command()
def explain(
    dataset: DatasetName,
    site: Annotated[str | None, typer.Option(help="Whose copy; by default that of the primary site.")] = None,
    interval: OfInterval = None,
    rows: Annotated[int, typer.Option(min=0, max=200, help="Failing rows to show of each expectation.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Show every expectation with its reason, and rows that fail it; records nothing. Exit 0 or 3 as ``run``.

    Values of columns that the suite redacts are never shown.
    """
    from ninelives.gates.explain import explain as explained

    systems = _systems()
    where = site or _sites(systems, dataset)[0]
    result, expectations = explained(systems, dataset, where, interval=interval, rows=rows)
    document = {
        "dataset": dataset,
        "site": where,
        **result.facts(),
        "expectations": [expectation.document() for expectation in expectations],
    }
    emit(document, as_json=as_json, text=lambda: "\n".join(_story(dataset, where, result, expectations)))
    _exit_for(result)


@app.command()
def docs(
    evidence: Annotated[int, typer.Argument(help="Number of the gate's evidence.")],
    output: Annotated[Path | None, typer.Option(help="File to write; by default standard output.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write Great Expectations' Data Docs of a verdict, as HTML. Exit 1 where it has none."""
    from ninelives.adapters.ledger import SqlLedger
    from ninelives.errors import Refused
    from ninelives.gates.docs import read_docs

    systems = _systems()
    record = SqlLedger.from_connection(systems.connections.get("ninelives_ledger")).get(evidence)
    if record is None:
        raise Refused("show Data Docs", [f"there is no evidence {evidence}; see `ninelives evidence list`"])
    page = read_docs(systems, record)
    if output:
        with _writing(output):
            output.write_text(page, "utf-8")
    written = {"path": str(output)} if output else {"html": page}
    emit({"evidence": evidence, **written}, as_json=as_json, text=lambda: f"Wrote {output}." if output else page)


@app.command()
def suggest(
    dataset: DatasetName,
    site: Annotated[
        str | None, typer.Option(help="Whose copy to look at; by default that of the primary site.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Where to write it; by default where the gate looks for the dataset's suite.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look at a dataset and write a first suite for a person to edit. A file that is there is never overwritten."""
    from ninelives.errors import Refused
    from ninelives.gates.evidence import declared_copy
    from ninelives.gates.suggest import as_text, look_at_copy
    from ninelives.gates.suggest import suggest as suggested
    from ninelives.gates.suite import suite_path

    systems = _systems()
    where = site or _sites(systems, dataset)[0]
    path = output or suite_path(systems.home.expectations, declared_copy(systems, dataset, where).suite)
    refusal = Refused(f"write {path}", ["it exists and is never overwritten; choose another place with --output"])
    if path.exists():
        raise refusal
    document = suggested(dataset, look_at_copy(systems, dataset, where))
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(as_text(document))
        except FileExistsError as error:
            raise refusal from error
    asked = len(document["expectations"])
    emit(
        {
            "dataset": dataset,
            "site": where,
            "path": str(path),
            "expectations": asked,
            "redact": document.get("redact", []),
        },
        as_json=as_json,
        text=lambda: (
            f"Wrote {path}: {asked} expectations, redacted: {', '.join(document.get('redact', [])) or 'nothing'}.\n"
            f"It says what {dataset} is at {where} now, right or wrong. Edit each limit and its reason, then commit it."
        ),
    )


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    from ninelives.errors import Refused

    try:
        yield
    except OSError as error:
        raise Refused(f"write {path}", [f"{error.strerror}; choose another place with --output"]) from error


def _systems() -> Systems:
    from ninelives.adapters.connected import ConnectedEstate

    return ConnectedEstate.of_home(Home.from_environment())


def _sites(systems: Systems, dataset: str) -> tuple[str, ...]:
    from ninelives.errors import Refused
    from ninelives.gates.evidence import sites_of

    declared = systems.estate.dataset_by_name.get(dataset) or systems.estate.table_by_name.get(dataset)
    if declared is None:
        raise Refused("gate", [f"the estate has no dataset or table {dataset!r}"])
    return sites_of(declared)


def _exit_for(*results: GateResult) -> None:
    if not all(result.verdict.opens for result in results):
        raise typer.Exit(ExitCode.MISSED)


def _report(dataset: str, site: str, result: GateResult, record: Record | None) -> str:
    seen = "unknown" if result.rows is None else f"{result.rows:,}"
    of = f", of {result.interval} alone" if result.interval else ""
    evidence = f", evidence {record.seq}" if record else ""
    lines = [
        f"{dataset} at {site}{of}: {result.verdict.value}",
        f"  {seen} rows, {result.expectations} expectations, {result.seconds:.1f} s{evidence}",
        *(f"  {reason}" for reason in result.reasons),
    ]
    return "\n".join(lines)


def _story(dataset: str, site: str, result: GateResult, expectations: list[Explained]) -> Iterator[str]:
    yield _report(dataset, site, result, None)
    for explained in expectations:
        asked, outcome = explained.expectation, explained.outcome
        answer = {True: "met", False: "NOT MET", None: "not judged"}[explained.met]
        about = f" of {asked.column}" if asked.column else ""
        yield f"\n{answer}: {asked.type}{about} ({asked.severity.value})\n  why: {asked.reason}"
        if outcome is None or explained.met:
            continue
        if outcome.raised:
            yield f"  it could not be asked: {outcome.raised}"
        if outcome.observed:
            yield f"  seen: {json.dumps(outcome.observed, ensure_ascii=False)}"
        yield from (f"  row: {json.dumps(row, ensure_ascii=False)}" for row in outcome.rows)
