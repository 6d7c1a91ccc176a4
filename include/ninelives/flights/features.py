"""What is known before departure, and what is to be predicted."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ninelives.flights.data import day_numbers

TEXT = ("carrier", "origin", "dest")
NUMBERS = ("day_of_week", "hour", "minute", "distance")
FEATURES = (*TEXT, *NUMBERS)
"""Not the month: a model trained on past months has never seen the one it predicts. Measured on August 2013 after
training on January to July, the month made the error larger than the baseline's."""

LATE_AFTER = 15
"""Minutes of arrival delay from which a flight counts as late, as the US Department of Transportation counts."""

_MONDAY = 3
"""1970-01-01 was a Thursday: day number + 3, modulo 7, is 0 on Mondays."""


def with_labels(flights: pa.Table) -> tuple[pa.Table, int]:
    """Features and labels ``arr_delay`` (minutes) and ``late`` (bool); and how many flights had no arrival delay.

    Cancelled and diverted flights never arrived: there is nothing to predict for them.
    """
    arrived = flights.filter(pc.is_valid(flights["arr_delay"]))
    weekday = (day_numbers(arrived) + _MONDAY) % 7
    columns = {name: arrived[name] for name in FEATURES if name != "day_of_week"}
    columns |= {"day_of_week": pa.array(weekday.astype(np.int64)), "arr_delay": arrived["arr_delay"]}
    columns["late"] = pc.greater_equal(arrived["arr_delay"], LATE_AFTER)
    return pa.table(columns), flights.num_rows - arrived.num_rows
