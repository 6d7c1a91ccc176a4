"""``ninelives kubernetes``: the estate as manifests, the routes at each site, and what a cluster has of both."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ninelives.cli.common import AsJson, ExitCode, emit
from ninelives.cli.estate import DEMO, default_estate

app = typer.Typer(no_args_is_help=True)


@app.callback()
def kubernetes() -> None:
    """The estate on Kubernetes: manifests, the routes at each site, and what the clusters have."""


@app.command("compile")
def compile_(
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="One folder a site is written here.")],
    estate: Annotated[
        Path | None, typer.Option(help=f"Estate file; by default $NINELIVES_ESTATE, {DEMO} or .ninelives/estate.yaml.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 3 where FOLDER says something else.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write the manifests of every site: replicas.yaml and gateway.yaml to apply, routes.yaml to create once."""
    from ninelives.compilers.kubernetes import compile_site, declaration, format_manifests
    from ninelives.estate import load_estate
    from ninelives.files import write_atomically

    declared = load_estate(estate or default_estate())
    files = {
        Path(one.site) / name: format_manifests(name, documents)
        for one in declaration(declared).sites
        for name, documents in compile_site(declared, one.site).items()
    }
    stale = [str(name) for name, text in files.items() if _read(to / name) != text]
    if not check:
        for name in stale:
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(to / name, files[Path(name)].encode())
    say = "differs" if check else "written"
    document = {"folder": str(to), "files": sorted(map(str, files)), say: sorted(stale)}
    emit(
        document, as_json=as_json, text=lambda: "\n".join(f"{say}: {to / name}" for name in sorted(stale)) or "as it is"
    )
    if check and stale:
        raise typer.Exit(ExitCode.MISSED)


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        return None


@app.command()
def route(
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit 3 where a route is not as it was decided.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Create the routes that a site lacks and bring the others into line with the estate; traffic stays where it is."""
    from ninelives.adapters.kubernetes import KubernetesGateway
    from ninelives.cli.recover import connected

    systems = connected()
    gateway = KubernetesGateway.from_connections(systems.connections, systems.estate)
    if not check:
        gateway.initialise()
    drift = gateway.drift()
    lines = [f"{site}: {one}" for site, found in drift.items() for one in found]
    emit({"drift": drift}, as_json=as_json, text=lambda: "\n".join(lines) or "every route is as it was decided")
    if drift:
        raise typer.Exit(ExitCode.MISSED)


@app.command()
def audit(as_json: AsJson = False) -> None:
    """Compare where replicas run, disruption budgets and autoscalers with what is compiled; leave that as evidence.

    Exit 3 where anything is not as the estate has it, or would not bear the loss of a site; 1 where nothing is, but a
    site's cluster could not be read.
    """
    from ninelives.adapters.kubernetes_cluster import read_clusters
    from ninelives.cli.recover import connected
    from ninelives.placement.audit import audit as compare
    from ninelives.placement.audit import record_audit

    systems = connected()
    findings = compare(systems.estate, read_clusters(systems.connections, systems.estate))
    record = record_audit(systems.ledger(), systems.estate, findings)
    verdict = record.facts["verdict"]
    said = f"{verdict}; evidence {record.seq}"
    document = {"evidence": record.seq, **record.facts}
    emit(document, as_json=as_json, text=lambda: "\n".join([said, *map(str, findings)]))
    if verdict != "met":
        raise typer.Exit(ExitCode.MISSED if verdict == "missed" else ExitCode.ERROR)
