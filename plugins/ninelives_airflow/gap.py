"""For DAGs that fill a whole gap with one run."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any


def interval_of(context: Mapping[str, Any]) -> tuple[datetime, datetime]:
    """Start and end of the time that this run works on: the gap it fills, or else its data interval.

    :param context: of the task; :raises KeyError: a run without a logical date has neither
    """
    from ninelives.backfill.plan import GAP
    from ninelives.gates.interval import Interval

    conf = context["dag_run"].conf or {}
    if GAP in conf:
        gap = Interval.parse(conf[GAP])
        return gap.start, gap.end
    return context["data_interval_start"], context["data_interval_end"]
