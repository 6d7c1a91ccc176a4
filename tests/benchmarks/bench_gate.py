"""What the gate costs: the whole suite against one hand-written DuckDB query that asks the same of the same files.

    python tests/benchmarks/bench_gate.py [--rounds 3] [--years 30]

Data: the flights of 2013 as the site has them (one object per day), and the calendar of ``--years`` times 52 weeks that
the feed would write (10 million rows at 30), one object per 52 weeks. Each measurement is a process of its own, started
from cold; rounds alternate. Wall and CPU are seconds, of the process and its children; memory is the peak of resident
memory in MB of the process that does the work. Prints one JSON document with medians and ratios. Data goes to a
temporary folder, under 1 GB, and is removed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from fresh_process import ROOT, Cost, measure, median, one

sys.path[:0] = [str(ROOT / "include")]

SUITE = ROOT / "expectations" / "flights" / "suite.json"
MEMORY = "1GiB"

BY_HAND = """
WITH f AS (SELECT * FROM read_parquet('{files}')),
per_day AS (SELECT make_date(year, month, day) AS d, count(*) AS n FROM f GROUP BY d)
SELECT
  count(*), (SELECT count(*) FILTER (WHERE n > 1200) FROM per_day),
  (SELECT count(*) FILTER (WHERE n < 500 AND d < (SELECT max(d) FROM per_day)) FROM per_day),
  count(*) - count(DISTINCT (time_hour, carrier, flight, origin)),
  count(*) - count(year), count(*) - count(month), count(*) - count(day), count(*) - count(hour),
  count(*) - count(minute), count(*) - count(carrier), count(*) - count(origin), count(*) - count(dest),
  count(*) - count(distance), count(*) - count(arr_delay), count(*) - count(dep_delay), count(*) - count(air_time),
  count(*) - count(tailnum),
  count(*) FILTER (WHERE month NOT BETWEEN 1 AND 12), count(*) FILTER (WHERE day NOT BETWEEN 1 AND 31),
  count(*) FILTER (WHERE hour NOT BETWEEN 0 AND 23), count(*) FILTER (WHERE minute NOT BETWEEN 0 AND 59),
  count(*) FILTER (WHERE distance NOT BETWEEN 10 AND 6000),
  count(*) FILTER (WHERE carrier NOT IN ('9E', 'AA', 'AS', 'B6', 'DL', 'EV', 'F9', 'FL', 'HA', 'MQ', 'OO', 'UA', 'US',
                                         'VX', 'WN', 'YV')),
  count(*) FILTER (WHERE origin NOT IN ('EWR', 'JFK', 'LGA')),
  count(*) FILTER (WHERE NOT regexp_matches(dest, '^[A-Z]{{3}}$')),
  count(*) FILTER (WHERE arr_delay NOT BETWEEN -120 AND 1440), quantile_disc(arr_delay, [0.05, 0.5, 0.95]),
  avg(arr_delay), stddev(arr_delay), count(*) FILTER (WHERE dep_delay NOT BETWEEN -120 AND 1440),
  count(*) FILTER (WHERE sched_dep_time <> hour * 100 + minute),
  count(*) FILTER (WHERE distance * 60.0 NOT BETWEEN 50 * air_time AND 800 * air_time),
  count(*) FILTER (WHERE arr_time IS NOT NULL AND dep_time IS NULL)
FROM f
"""


def write_year(folder: Path) -> None:
    from ninelives.flights.data import Flights, history, to_parquet

    flights = Flights.load()
    for day in history(365):
        (folder / f"{day}.parquet").write_bytes(to_parquet(flights.day(day), day))


def write_many(folder: Path, years: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ninelives.flights.data import REPEAT, Flights

    flights = Flights.load()
    for number in range(years):
        first = date(2013, 1, 1) + number * REPEAT
        days = [flights.day(first + timedelta(days=n)) for n in range(REPEAT.days)]
        pq.write_table(pa.concat_tables(days), folder / f"{number:03}.parquet")


def gate(folder: Path) -> int:
    """What ``check_dataset`` does once the objects are here; the rows judged."""
    from ninelives.adapters.great_expectations import GreatExpectations
    from ninelives.gates.suite import load_suite
    from ninelives.gates.verdict import judge

    suite = load_suite(SUITE)
    files = {path.name: path for path in sorted(folder.glob("*.parquet"))}
    evaluation = GreatExpectations(memory=2000).evaluate(suite, files)
    result = judge(suite, evaluation, fingerprint=None, age=timedelta(0), seconds=0, at=datetime.now(UTC))
    if result.verdict != "pass":
        raise SystemExit(f"the gate did not pass: {result.reasons}")
    return result.rows or 0


def by_hand(folder: Path) -> int:
    program = (
        "import duckdb, sys\n"
        f"con = duckdb.connect(config={{'memory_limit': '{MEMORY}', 'temp_directory': sys.argv[2]}})\n"
        "con.execute('SET enable_progress_bar = false')\n"
        "print(con.execute(sys.argv[1]).fetchone()[0])"
    )
    with tempfile.TemporaryDirectory() as spill:
        query = BY_HAND.format(files=folder / "*.parquet")
        done = subprocess.run([sys.executable, "-c", program, query, spill], capture_output=True, text=True, check=True)
    return int(done.stdout)


def import_only(_: Path) -> int:
    """What of the gate's cost is the start of the engine."""
    subprocess.run([sys.executable, "-c", "import great_expectations, duckdb"], check=True)
    return 0


WAYS = {"gate": gate, "by_hand": by_hand, "import_only": import_only}


def compare(folder: Path, rounds: int) -> dict[str, object]:
    runs: dict[str, list[Cost]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            runs[way].append(measure(__file__, way, folder))
    medians = {way: median(found) for way, found in runs.items()}
    ratios = {key: round(medians["gate"][key] / medians["by_hand"][key], 2) for key in ("wall", "cpu", "peak_mb")}
    return {"objects": len(list(folder.iterdir())), **medians, "gate_to_by_hand": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--years", type=int, default=30)
    parser.add_argument("--one", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(WAYS[options.one[0]], Path(options.one[1]))))
        return
    with tempfile.TemporaryDirectory(prefix="ninelives-bench-") as temporary:
        year, many = Path(temporary, "flights"), Path(temporary, "many")
        year.mkdir()
        many.mkdir()
        write_year(year)
        write_many(many, options.years)
        result = {
            "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 1),
            "flights": compare(year, options.rounds),
            "many": compare(many, options.rounds),
        }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
