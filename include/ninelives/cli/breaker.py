"""``ninelives breaker``: what the gateway does to protect a service, and taking its replicas out by hand."""

from __future__ import annotations

import getpass
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from ninelives.cli.automation import By
from ninelives.cli.common import AsJson, emit
from ninelives.cli.recover import ServiceName, check_name, connected

if TYPE_CHECKING:
    from ninelives.adapters.connected import ConnectedEstate
    from ninelives.ports import Breaker, Record

app = typer.Typer(no_args_is_help=True)


@app.command()
def show(service: ServiceName, as_json: AsJson = False) -> None:
    """Replicas that are out, limits that are reached, retries, shed requests and who answered, since Envoy started."""
    systems = connected()
    check_name("service", service, systems.estate.service_by_name)
    _tell(systems, service, as_json)


@app.command("open")
def open_(
    service: ServiceName,
    reason: Annotated[str, typer.Option(help="Why, for whoever finds the service degraded.")],
    by: By = "",
    as_json: AsJson = False,
) -> None:
    """Ask no replica of SERVICE: its ladder answers, or 503. It stays so, also over restarts, until it is closed."""
    from ninelives.breaker.control import open_breaker

    systems = connected()
    check_name("service", service, systems.estate.service_by_name)
    open_breaker(systems, service, by=by or getpass.getuser(), reason=reason, holder=_holder())
    _tell(systems, service, as_json)


@app.command()
def close(
    service: ServiceName,
    reason: Annotated[str, typer.Option(help="What was done about it.")] = "",
    by: By = "",
    as_json: AsJson = False,
) -> None:
    """Ask the replicas of SERVICE again."""
    from ninelives.breaker.control import close_breaker

    systems = connected()
    check_name("service", service, systems.estate.service_by_name)
    close_breaker(systems, service, by=by or getpass.getuser(), reason=reason, holder=_holder())
    _tell(systems, service, as_json)


def _holder() -> str:
    return f"by-hand-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"


def _tell(systems: ConnectedEstate, service: str, as_json: bool) -> None:
    from ninelives.breaker.control import last_change

    breaker, record = systems.gateway().breaker(service), last_change(systems, service)
    changed = record and {**record.facts, "at": record.at.isoformat(), "evidence": record.seq}
    document = {"service": service, **asdict(breaker), "changed": changed}
    emit(document, as_json=as_json, text=lambda: _text(service, breaker, record))


def _text(service: str, breaker: Breaker, record: Record | None) -> str:
    state = "open: no replica is asked" if breaker.open else "closed"
    if record:
        facts = record.facts
        state += f" ({facts['state']} by {facts['by']}{': ' if facts['reason'] else ''}{facts['reason']}"
        state += f"; evidence {record.seq})"
    lines = [f"{service}: {state}"]
    lines += [f"  {one.site} {one.address}: {one.detail}" for one in breaker.replicas]
    for name, left in breaker.remaining.items():
        full = f", reached: {', '.join(breaker.full[name])}" if breaker.full[name] else ""
        lines.append(f"  {name}: {left} more may be under way{full}, {breaker.shed[name]} shed")
    if breaker.retries is None:
        return "\n".join([*lines, "  nobody counts here: read the metrics of the gateway's own proxies"])
    lines.append(
        f"  {breaker.retries} retries ({breaker.retries_refused} refused), {breaker.timeouts} tries timed out, "
        f"{breaker.ejections} ejections"
    )
    answers = ", ".join(f"{count} {rung}" for rung, count in sorted(breaker.answers.items())) or "none yet"
    lines.append(f"  answered by: {answers}")
    return "\n".join(lines)
