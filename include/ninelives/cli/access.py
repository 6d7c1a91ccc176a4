"""``ninelives access``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ninelives.cli.common import AsJson, ExitCode, emit

if TYPE_CHECKING:
    from rich.console import RenderableType

app = typer.Typer(no_args_is_help=True)


@app.callback()
def access() -> None:
    """Permissions: declared, and as they are."""


@app.command()
def check(
    site: Annotated[str | None, typer.Option(help="Only this site.")] = None,
    record: Annotated[bool, typer.Option("--record", help="Leave what was found in the ledger.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare who may read and write each dataset and model, and the registry's accounts, with what is declared.

    Exit code 3 where a permission is missing, too many, a wildcard or public. What cannot be checked is said, and is
    never taken for sound.
    """
    from ninelives.access.audit import check_access, record_access
    from ninelives.adapters.connected import ConnectedEstate
    from ninelives.home import Home

    systems = ConnectedEstate.of_home(Home.from_environment())
    if site is not None and site not in systems.estate.site_names:
        raise typer.BadParameter(f"the estate has no site {site}; it has {', '.join(systems.estate.site_names)}")
    found = check_access(systems, only=site)
    report = found.report()
    if record:
        report["evidence"] = record_access(systems, found).seq
    emit(report, as_json=as_json, text=lambda: _shown(report))
    if found.drift:
        raise typer.Exit(ExitCode.MISSED)
    if found.silent:
        raise typer.Exit(ExitCode.ERROR)


@app.command()
def registry(
    apply: Annotated[bool, typer.Option("--apply", help="Make accounts and roles as declared.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare the registry's accounts with what the estate declares of each model, or make them so.

    Exit code 3 where they differ; with --apply, where they still do.
    """
    from ninelives.access.registry import apply as bring
    from ninelives.access.registry import check as compare
    from ninelives.access.registry import registry_accounts
    from ninelives.cli.recover import connected

    systems = connected()
    before = [str(one) for one in bring(systems)] if apply else []
    left = [str(one) for one in compare(systems)]
    mended = [one for one in before if one not in left]
    declared = registry_accounts(systems.estate)

    def text() -> str:
        lines = [*(f"mended: {one}" for one in mended), *left]
        same = "the accounts are as declared" if declared else "the estate declares no account of the registry"
        todo = "take away in MLflow what was made by hand, or declare it" if apply else "mend them with --apply"
        return "\n".join([*lines, todo if left else same])

    emit({"declared": declared, "differences": left, "mended": mended}, as_json=as_json, text=text)
    if left:
        raise typer.Exit(ExitCode.MISSED)


def _shown(report: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table("site", "what", "finding", "who", "detail")
    for one in report["findings"]:
        table.add_row(*(Text(str(one[key])) for key in ("site", "subject", "kind", "who", "detail")))
    return Group(*([table] if report["findings"] else []), Text(_verdict(report)))


def _verdict(report: dict[str, Any]) -> str:
    checked = ", ".join(report["checked"]) or "nothing"
    return f"{report['verdict']}: {checked} checked; the registry's accounts: {report['registry']}"
