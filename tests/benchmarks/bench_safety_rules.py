"""What the safety rules and the licence add to a failover's decision, on a PostgreSQL ledger with a year's evidence.

python tests/benchmarks/bench_safety_rules.py [RECORDS]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "include")]

from support.postgres import postgres  # noqa: E402
from unit.recovery.test_licences import LICENCE, estate  # noqa: E402

from ninelives.adapters.ledger import SqlLedger, migrate  # noqa: E402
from ninelives.recovery.licences import release_seats, seats_answer, take_seats  # noqa: E402
from ninelives.recovery.safety import current_freeze, too_many_failovers  # noqa: E402

TIMES = 50


def median_ms(act: Callable[[], object]) -> float:
    took = []
    for _ in range(TIMES):
        began = time.perf_counter()
        act()
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1000


def main(records: int) -> None:
    of = estate(LICENCE | {"seats": 5})
    (service,) = of.services
    with postgres() as url:
        migrate(url)
        ledger = SqlLedger(url)
        systems: Any = SimpleNamespace(estate=of, ledger=lambda: ledger)
        for number in range(records):
            kind, subject = ("failover", "s0") if number % 100 == 0 else ("gate", "rows@dublin")
            ledger.append(kind, subject, {"outcome": "refused", "verdict": "pass", "number": number})

        def take_and_release() -> None:
            take_seats(systems, "s0", "dublin", run="bench")
            release_seats(systems, "s0", serving="paris", run="bench")

        asked: dict[str, Callable[[], object]] = {
            "is automation frozen": lambda: current_freeze(ledger, of),
            "was it moved too often": lambda: too_many_failovers(ledger, of, "s0"),
            "is a seat free": lambda: seats_answer(of, ledger, service, "dublin"),
            "take a seat and give it back": take_and_release,
        }
        print(f"{records} records, median of {TIMES}:")
        for what, act in asked.items():
            print(f"  {what:30} {median_ms(act):6.2f} ms")
        ledger.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5000)
