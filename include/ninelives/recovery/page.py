"""The page of readiness: what the last look found, and how old that is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from html import escape
from typing import Any

from ninelives.estate.units import format_duration

STALE_AFTER = timedelta(minutes=15)
"""Three looks of ``check_readiness`` that did not come."""

_STYLE = (
    "body{font:15px system-ui;margin:2rem;color:#222;max-width:70rem}table{border-collapse:collapse;margin:.5rem 0}"
    "td,th{border:1px solid #ccc;padding:.3rem .6rem;text-align:left;vertical-align:top}"
    ".pass{color:#176117}.fail{color:#a11;font-weight:600}.unknown{color:#8a5a00;font-weight:600}"
)


def readiness_page(kept: Mapping[str, Any], frozen: str | None, now: datetime) -> str:
    """Whole in itself: no script, and nothing that is fetched. Every state is a word, and not a colour alone.

    :param kept: what ``kept_readiness`` gave
    :param frozen: why automation does not act; ``None`` where it does
    """
    services: Mapping[str, Any] = kept.get("services", {})
    ready = sum(one["state"] == "pass" for one in services.values())
    head = f"{ready} of {len(services)} services could be moved" if services else "never checked"
    return "\n".join(
        [
            '<!doctype html><html lang="en"><meta charset="utf-8">',
            f"<title>Readiness: {head}</title><style>{_STYLE}</style><h1>Readiness: {head}</h1>",
            _age(kept, now),
            *([f'<p class="fail">{escape(frozen)}</p>'] if frozen else []),
            *_overview(list(services.values())),
            *(line for one in services.values() for line in _standbys(one)),
        ]
    )


def _age(kept: Mapping[str, Any], now: datetime) -> str:
    if "checked_at" not in kept:
        return "<p>check_readiness looks every five minutes; <code>ninelives readiness</code> looks now.</p>"
    checked = datetime.fromisoformat(kept["checked_at"])
    seconds = max(0, round((now - checked).total_seconds()))
    age = format_duration(timedelta(seconds=seconds if seconds < 120 else seconds // 60 * 60))
    said = f"Checked {age} ago, at {checked:%Y-%m-%d %H:%M:%S} UTC."
    if now - checked <= STALE_AFTER:
        return f"<p>{said}</p>"
    return f'<p class="unknown">Stale: {said} What follows may no longer hold; see the runs of check_readiness.</p>'


def _overview(services: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if services:
        yield "<table><tr><th>service<th>mode<th>served from<th>could be moved<th>first reason"
        for one in services:
            serving = ", ".join(one["serving"])
            cells = "".join(f"<td>{escape(text)}" for text in (one["service"], one["mode"], serving))
            yield f"<tr>{cells}{_state(one['state'])}<td>{escape(one['reason'])}"
        yield "</table>"


def _standbys(service: Mapping[str, Any]) -> Iterator[str]:
    for standby in service["standbys"]:
        yield f"<h2>{escape(service['service'])} at {escape(standby['site'])}: {escape(standby['state'])}</h2>"
        yield "<table><tr><th>needed<th>state<th>found<th>limit<th>reason"
        for item in standby["items"]:
            rest = "".join(f"<td>{escape(str(item[key]))}" for key in ("value", "limit", "reason"))
            yield f"<tr><td>{escape(item['name'])}{_state(item['state'])}{rest}"
        yield "</table>"


def _state(state: str) -> str:
    return f'<td class="{escape(state)}">{escape(state)}'
