"""Pages inside Airflow's UI. Plugin routes are open to anybody unless they ask for a signed-in user: each one does."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache

from airflow.api_fastapi.auth.managers.models.resource_details import AccessView
from airflow.api_fastapi.core_api.security import requires_access_view
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import HTMLResponse

from ninelives.adapters.ledger import SqlLedger
from ninelives.errors import NinelivesError, Refused
from ninelives.experiments.report import read_report
from ninelives.gates.docs import read_docs
from ninelives.ports import Record, Systems
from ninelives.recovery.page import readiness_page
from ninelives.recovery.safety import current_freeze
from ninelives.recovery.standby import kept_readiness
from ninelives_airflow.hooks.estate import AirflowConnections, EstateHook

app = FastAPI(title="Ninelives", docs_url=None, redoc_url=None, openapi_url=None)

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Evidence {seq}</title>
<style>body{{font:15px system-ui;margin:2rem;color:#222}}pre{{background:#f4f4f4;padding:1rem;overflow:auto}}
dt{{color:#666}}dd{{margin:0 0 .6rem}}</style>
<h1>Evidence {seq}: {kind}</h1><dl><dt>Subject</dt><dd>{subject}</dd><dt>At</dt><dd>{at}</dd>
<dt>Hash</dt><dd><code>{hash}</code></dd></dl><pre>{facts}</pre></html>"""


_SIGNED_IN = Depends(requires_access_view(AccessView.CLUSTER_ACTIVITY))
_INERT = {
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}
"""Data Docs quote data, and data come from outside: no script may run in them, and nothing may be fetched."""


@cache
def _ledger() -> SqlLedger:
    return SqlLedger.from_connection(AirflowConnections().get("ninelives_ledger"))


@app.get(
    "/evidence/{seq}",
    response_class=HTMLResponse,
    dependencies=[_SIGNED_IN],
)
def show_evidence(seq: int) -> str:
    """One record of the ledger."""
    found = _record(seq)
    fields = {
        "seq": str(found.seq),
        "kind": found.kind,
        "subject": found.subject,
        "at": found.at.isoformat(),
        "hash": found.hash,
        "facts": json.dumps(found.facts, indent=2, sort_keys=True, default=str),
    }
    return _PAGE.format(**{name: html.escape(value) for name, value in fields.items()})


@app.get("/readiness", dependencies=[_SIGNED_IN])
def show_readiness() -> HTMLResponse:
    """What a failover of each service would need, as the last look found it."""
    try:
        systems = EstateHook()
        frozen = current_freeze(_ledger(), systems.estate)
        page = readiness_page(kept_readiness(systems), frozen and frozen.sentence, datetime.now(UTC))
    except NinelivesError as error:
        raise HTTPException(502, str(error)) from error
    return HTMLResponse(page, headers=_INERT)


@app.get("/gates/{seq}", dependencies=[_SIGNED_IN])
def show_docs(seq: int) -> HTMLResponse:
    """Great Expectations' Data Docs of one verdict."""
    return _page(read_docs, seq)


@app.get("/experiments/{seq}", dependencies=[_SIGNED_IN])
def show_report(seq: int) -> HTMLResponse:
    """The report of one experiment on users."""
    return _page(read_report, seq)


def _page(read: Callable[[Systems, Record], str], seq: int) -> HTMLResponse:
    record = _record(seq)
    try:
        return HTMLResponse(read(EstateHook(), record), headers=_INERT)
    except Refused as error:
        raise HTTPException(404, str(error)) from error
    except NinelivesError as error:
        raise HTTPException(502, str(error)) from error


def _record(seq: int) -> Record:
    found = _ledger().get(seq)
    if found is None:
        raise HTTPException(404, f"There is no evidence {seq}")
    return found
