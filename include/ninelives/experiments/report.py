"""The page about an experiment that has ended, kept in a site's store and named by its evidence."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from html import escape
from typing import Any

from ninelives.errors import Corrupted, NinelivesError, Refused
from ninelives.estate import Service
from ninelives.evidence.chain import is_intact
from ninelives.experiments.journal import KIND, ExperimentPlan
from ninelives.experiments.judge import Judged
from ninelives.experiments.looks import ARMS, Row
from ninelives.experiments.picture import draw, draw_errors
from ninelives.ports import Record, Systems

BUCKET = "experiments"

_STYLE = (
    "body{font:15px system-ui;margin:2rem;color:#222;max-width:60rem}table{border-collapse:collapse}"
    "td,th{border:1px solid #ccc;padding:.3rem .6rem;text-align:left}svg{max-width:100%;height:auto}"
)


def page(judged: Judged, plan: ExperimentPlan, rows: Sequence[Row], arithmetic: Sequence[str]) -> str:
    """Whole in itself: no script, and nothing that is fetched.

    :param rows: what was seen, look by look
    """
    effect, target = judged.effects[-1], judged.target
    between = f"{effect.low:+.4g} to {effect.high:+.4g}" if effect.known else "not known"
    rails = "".join(
        f"<tr><td>{escape(one.name)}</td><td>{one.verdict.value}</td><td>{escape(one.reason)}</td></tr>"
        for one in judged.guard_rails.findings
    )
    return "\n".join(
        [
            '<!doctype html><html lang="en"><meta charset="utf-8">',
            f"<title>Experiment {escape(judged.name)}</title><style>{_STYLE}</style>",
            f"<h1>Experiment {escape(judged.name)}: {judged.verdict.value}</h1>",
            f"<p>{escape(plan.service)}: version {escape(plan.new)} beside version {escape(plan.old)}, begun "
            f"{escape(plan.begun_at[:16])} UTC by {escape(plan.by)}.</p>",
            f"<ul>{''.join(f'<li>{escape(one)}</li>' for one in judged.reasons)}</ul>",
            f"<h2>{escape(target.name)}</h2>",
            f"<p>{target.wanted} wanted. Outcomes came of {effect.experiment} units with version {escape(plan.new)} "
            f"and of {effect.control} of the control. Difference {effect.difference:+.4g} ({between}, sure to "
            f"{target.confidence:.4g} at all looks together).</p>",
            draw(target, judged.effects, judged.look),
            "<h2>Guard-rails</h2>",
            "<table><tr><th>arm</th><th>tries</th><th>failed</th><th>slow</th></tr>",
            *(
                f"<tr><td>{arm}</td>"
                f"<td>{sum(row.attempts[side] for row in rows)}</td>"
                f"<td>{sum(row.errors[side] for row in rows)}</td>"
                f"<td>{sum(row.slow[side] for row in rows)}</td></tr>"
                for side, arm in enumerate(ARMS)
            ),
            "</table>",
            draw_errors([(row.attempts, row.errors) for row in rows]),
            f"<table><tr><th>guard-rail</th><th>says</th><th>why</th></tr>{rails}</table>",
            "<h2>Room for the loss of a site</h2>",
            f"<ul>{''.join(f'<li>{escape(one)}</li>' for one in arithmetic)}</ul></html>",
        ]
    )


def keep(systems: Systems, service: Service, run: str, text: str) -> dict[str, Any]:
    """Put the page into the first store of the service that takes it; what the evidence says of it."""
    body, problems = text.encode(), []
    for site in service.sites:
        try:
            store = systems.store(site)
            store.ensure_bucket(BUCKET)
            store.put(BUCKET, f"{run}.html", body)
            return {"site": site, "key": f"{run}.html", "sha256": hashlib.sha256(body).hexdigest()}
        except NinelivesError as error:
            problems.append(f"{site}: {error}")
    return {"problem": "; ".join(problems)}


def read_report(systems: Systems, record: Record) -> str:
    """The page of the record of an experiment's end.

    :raises Refused: it has none
    :raises Corrupted: it, or the record, is not what was kept
    :raises Unavailable: the store does not answer
    """
    what = f"report of evidence {record.seq}"
    kept = record.facts.get("report") if record.kind == KIND else None
    if not is_intact(record):
        raise Corrupted(f"{what}: the record is not what was written; see `ninelives evidence verify`")
    if not kept:
        raise Refused(what, ["nobody was in the experiment yet, or it is not the record of an experiment's end"])
    if "key" not in kept:
        raise Refused(what, [f"it could not be kept: {kept['problem']}"])
    body = systems.store(kept["site"]).get(BUCKET, kept["key"])
    if body is None or hashlib.sha256(body).hexdigest() != kept["sha256"]:
        raise Corrupted(f"{what}: {BUCKET}/{kept['key']} at {kept['site']} is not what was kept")
    return body.decode()
