"""``ninelives state``: models that go on learning."""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ninelives.cli.common import AsJson, ExitCode, emit
from ninelives.cli.recover import connected
from ninelives.errors import Refused
from ninelives.home import Home

if TYPE_CHECKING:
    from ninelives.ports import Features
    from ninelives.state.model import StatefulModel

app = typer.Typer(no_args_is_help=True)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Small letters, digits and hyphens.")]
Lines = Annotated[
    Path, typer.Option("--input", exists=True, dir_okay=False, allow_dash=True, help="JSON, one object a line.")
]
Held = Annotated[
    Path,
    typer.Option("--held", exists=True, dir_okay=False, help="Requests kept aside: JSON, one row of features a line."),
]
Tolerance = Annotated[
    float, typer.Option(min=0, help="An answer may differ by this times one plus its size; 0: not by a bit.")
]
To = Annotated[str, typer.Option("--to", metavar="VERSION", help="The version that shall answer.")]


@app.command()
def add(
    model: Model,
    version: Annotated[str, typer.Option("--version", help="A number.")],
    spec: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="JSON: which features, and how it learns.")],
    as_json: AsJson = False,
) -> None:
    """Make a version of MODEL known. The first one answers from now on; each other one waits for `switch`."""
    from ninelives.state.learner import read_spec

    new = _model(model).add(version, read_spec(spec))
    emit({"model": model, "version": version, "new": new}, as_json=as_json,
         text=lambda: f"{model} version {version} is {'added' if new else 'there already'}")  # fmt: skip


@app.command()
def learn(model: Model, source: Lines, as_json: AsJson = False) -> None:
    """Take updates in: {"key": ..., "features": {...}, "target": ...}. The same key again is the same update."""
    from pydantic import ValidationError

    from ninelives.state.log import Update

    updates = []
    for number, line in enumerate(_lines(source), start=1):
        if not line.strip():
            continue
        try:
            updates.append(Update.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise Refused("learn", [f"{source}:{number}: {where}: {first['msg']}; nothing was learnt"]) from error
    done = _model(model).learn(updates)
    emit({"model": model, "new": done.new, "repeated": done.repeated}, as_json=as_json,
         text=lambda: f"{model}: {done.new} updates learnt, {done.repeated} were there")  # fmt: skip


@app.command()
def ask(model: Model, source: Lines, as_json: AsJson = False) -> None:
    """What MODEL answers now to rows of features."""
    rows = _rows(source)
    current = _model(model).current()
    answers = [current.learner.answer(row) for row in rows]
    document = {"model": model, "version": current.version, "after_update": current.position.seq, "answers": answers}
    emit(document, as_json=as_json, text=lambda: "\n".join(map(str, answers)))


@app.command()
def export(
    model: Model,
    to: Annotated[Path, typer.Option("--to", file_okay=False, metavar="FOLDER", help="Made where it is missing.")],
    as_json: AsJson = False,
) -> None:
    """Write all that MODEL has learnt as one file of arrays (safetensors), named by version and update."""
    from ninelives.files import write_atomically
    from ninelives.state.arrays import digest_of

    current = _model(model).current()
    data = current.state
    file = to / f"{model}-{current.version}-{current.position.seq}.safetensors"
    try:
        to.mkdir(parents=True, exist_ok=True)
        write_atomically(file, data)
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be written: {error.strerror}") from error
    document = {
        "model": model, "version": current.version, "after_update": current.position.seq,
        "log_hash": current.position.hash, "state": digest_of(data), "file": str(file),
    }  # fmt: skip
    emit(document, as_json=as_json, text=lambda: f"{file}: sha256 {document['state']}")


@app.command()
def replay(
    model: Model,
    to: Annotated[str, typer.Option("--to", metavar="VERSION", help="Into this version, and change nothing.")] = "",
    held: Annotated[Path | None, typer.Option("--held", exists=True, dir_okay=False, help="As for `switch`.")] = None,
    tolerance: Tolerance = 0.0,
    mend: Annotated[
        bool, typer.Option("--mend", help="First make the kept state anew where it is missing or damaged.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Learn every update again, from the first one on and through every switch: is it the state that answers?

    With --to: what `switch` would prove. Exit 3 where the state is another one, or an answer differs. --mend takes
    nothing but the very bytes that the damaged state had.
    """
    from ninelives.state.arrays import digest_of

    if bool(to) != (held is not None):
        raise typer.BadParameter("--to and --held go together")
    stateful = _model(model)
    document: dict[str, Any] = {"model": model, "mended": mend and stateful.mend(), "reasons": []}
    if held is not None:
        stateful.spec(to)  # a version that is not there is no proof that failed
        try:
            new, proof = stateful.rehearse(to, _rows(held), tolerance)
            document |= {"version": to, "after_update": new.position.seq, "proof": proof.model_dump()}
        except Refused as refused:
            document["reasons"] = list(refused.reasons)
    else:
        current, again = stateful.current(), stateful.rebuilt()
        digests = digest_of(current.state), digest_of(again.state)
        document |= {"version": current.version, "after_update": current.position.seq,
                     "state": digests[0], "replayed": digests[1]}  # fmt: skip
        if digests[0] != digests[1]:
            document["reasons"] = ["the log makes another state than the one that answers"]
    same = not document["reasons"]
    text = f"{model}: the same after {document['after_update']} updates" if same else "\n".join(document["reasons"])
    emit(document, as_json=as_json, text=lambda: text)
    raise typer.Exit(ExitCode.MET if same else ExitCode.MISSED)


@app.command()
def switch(
    model: Model,
    to: To = "",
    held: Annotated[
        Path | None, typer.Option("--held", exists=True, dir_okay=False, help="Requests kept aside.")
    ] = None,
    tolerance: Tolerance = 0.0,
    back: Annotated[bool, typer.Option("--back", help="To the version before, with all that came since.")] = False,
    by: Annotated[str, typer.Option(help="Who decides it; by default the user of this machine.")] = "",
    as_json: AsJson = False,
) -> None:
    """Hand what MODEL has learnt over to another version, prove its answers equal, and let it answer.

    Repeat it when it was cut off: no update is lost, whenever that was.
    """
    if back == bool(to) or bool(to) != (held is not None):
        raise typer.BadParameter("either --to VERSION --held FILE, or --back")
    stateful, ledger, who = _model(model), connected().ledger(), by or getpass.getuser()
    if held is None:
        record = stateful.back(ledger=ledger, by=who)
    else:
        record = stateful.switch(to, _rows(held), tolerance=tolerance, ledger=ledger, by=who)
    emit({**record.facts, "evidence": record.seq}, as_json=as_json,
         text=lambda: f"{model} is answered by version {record.facts['to']} "
         f"from update {record.facts['after_update']} on, evidence {record.seq}")  # fmt: skip


@app.command()
def status(model: Model, as_json: AsJson = False) -> None:
    """Which version answers, how much it has learnt, and whether log, state and ledger agree. Exit 3 if not."""
    from ninelives.state.model import evidence_key

    stateful = _model(model)
    pointer, current = stateful.pointer(), stateful.current()
    problems = []
    if pointer.generation > 1 and connected().ledger().written(evidence_key(pointer)) is None:
        problems.append("the ledger has no evidence of this switch: repeat the command that made it")
    document: dict[str, Any] = {
        "model": model, "version": current.version, "versions": stateful.versions(),
        "updates": current.position.seq, "log_hash": current.position.hash,
        "kept_after_update": pointer.seq, "state": pointer.state,
        "history": [one.model_dump() for one in pointer.history], "problems": problems,
    }  # fmt: skip
    lines = [
        f"{model}: version {current.version} answers, after {current.position.seq} updates; "
        f"there are {', '.join(document['versions'])}"
    ]
    emit(document, as_json=as_json, text=lambda: "\n".join([*lines, *problems]))
    if problems:
        raise typer.Exit(ExitCode.MISSED)


def _model(name: str) -> StatefulModel:
    from ninelives.adapters.river_model import RiverLinear
    from ninelives.state.model import StatefulModel

    try:
        if Path(name).name != name or not name:
            raise Refused("model name", [f"{name!r} is no name: small letters, digits and hyphens only"])
        return StatefulModel(Home.from_environment().state / name, RiverLinear)
    except Refused as refused:
        raise typer.BadParameter("; ".join(refused.reasons)) from refused


def _lines(source: Path) -> list[str]:
    """Blank ones included, so that a line has the number that an editor gives it."""
    try:
        data = typer.get_binary_stream("stdin").read() if str(source) == "-" else source.read_bytes()
        # Not splitlines: a text may hold one of the other characters that it ends a line at.
        return data.decode().split("\n")
    except (OSError, UnicodeError) as error:
        raise Refused(
            f"read {source}", [f"{error}; it must be readable, and JSON in UTF-8, one object a line"]
        ) from error


def _rows(source: Path) -> list[Features]:
    rows = []
    for number, line in enumerate(_lines(source), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("not an object")
            rows.append(row.get("features", row) if isinstance(row.get("features", row), dict) else row)
        except ValueError as error:
            raise Refused(f"read {source}", [f"line {number}: {error}"]) from error
    return rows
