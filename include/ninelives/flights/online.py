"""Flights as updates of a model that learns online: what was known before departure, and the delay that came of it.

``python -m ninelives.flights.online 2013-01-02 [2013-01-09]`` prints those of one day, or of the days up to a second
one, for ``ninelives state learn``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import date, timedelta

from ninelives.flights.data import Flights
from ninelives.flights.features import FEATURES, with_labels
from ninelives.state.log import Update


def updates_of(flights: Flights, day: date) -> Iterator[Update]:
    """The flights of ``day`` that arrived, in the order of the data; the target is minutes of arrival delay."""
    table = flights.day(day)
    arrived = table.filter(table["arr_delay"].is_valid())
    rows, _ = with_labels(table)
    names = zip(arrived["carrier"], arrived["flight"], arrived["origin"], arrived["hour"], strict=True)
    for row, name in zip(rows.to_pylist(), names, strict=True):
        key = "-".join([day.isoformat(), *(str(part.as_py()) for part in name)])
        yield Update(key=key, features={feature: row[feature] for feature in FEATURES}, target=row["arr_delay"])


def main(arguments: list[str]) -> int:
    try:
        first, *more = [date.fromisoformat(text) for text in arguments]
        until = more[0] if more else first + timedelta(days=1)
    except ValueError as error:
        print(f"{error}; usage: python -m ninelives.flights.online DAY [DAY]", file=sys.stderr)
        return 2
    flights = Flights.load()
    while first < until:
        for update in updates_of(flights, first):
            print(json.dumps(update.model_dump()))
        first += timedelta(days=1)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
