"""How many records a second the ledger appends and verifies, against a bare INSERT of the same rows in the same run.

    python tests/benchmarks/bench_ledger.py [--records 10000] [--appends 500] [--rounds 3]

Prints one JSON document with the median of the rounds. PostgreSQL is the wheel's and waits for the disk at each commit.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "include")]

from support.postgres import postgres, run_sql  # noqa: E402

from ninelives.adapters.ledger import SqlLedger, migrate  # noqa: E402
from ninelives.evidence import verify_chain  # noqa: E402
from ninelives.evidence.chain import canonical_json  # noqa: E402

FACTS = {
    "verdict": "met", "outage_seconds": 4.25, "requests": {"good": 4981, "slow": 3, "wrong": 0, "failed": 16},
    "from": "paris", "to": "dublin", "run": "scheduled__2026-01-01T03:00:00+00:00",
}  # fmt: skip


def rate(count: int, work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return count / (time.perf_counter() - started)


def bare_inserts(engine: sa.Engine, count: int) -> None:
    """The least that a durable row costs: one INSERT and one commit, no chain, no lock."""
    text, digest = canonical_json(FACTS), "0" * 64
    insert = sa.text("INSERT INTO bare (kind, subject, facts, hash) VALUES ('drill', 'site-loss', :facts, :hash)")
    for _ in range(count):
        with engine.begin() as connection:
            connection.execute(insert, {"facts": text, "hash": digest})


def measure(url: URL, create: Callable[[], object], *, records: int, appends: int, rounds: int) -> dict[str, Any]:
    create()
    ledger, engine = SqlLedger(url, timeout=30.0), sa.create_engine(url)
    if url.get_backend_name() == "sqlite":
        sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = FULL"))
    ledger.append("drill", "warm", {})
    bare_inserts(engine, 1)
    samples: dict[str, list[float]] = {"appends_per_s": [], "bare_inserts_per_s": [], "verified_per_s": []}
    for _ in range(rounds):
        samples["bare_inserts_per_s"].append(rate(appends, lambda: bare_inserts(engine, appends)))
        samples["appends_per_s"].append(
            rate(appends, lambda: [ledger.append("drill", "site-loss", FACTS) for _ in range(appends)])
        )
    while (seq := ledger.head().seq) < records:
        ledger.append("drill", "site-loss", {**FACTS, "n": seq})
    for _ in range(rounds):
        samples["verified_per_s"].append(rate(seq, lambda: verify_chain(ledger.scan())))
    if verify_chain(ledger.scan()):
        raise SystemExit("the chain is not whole")
    ledger.close()
    engine.dispose()
    medians = {name: round(statistics.median(values), 1) for name, values in samples.items()}
    return {
        **medians,
        "append_costs_bare_inserts": round(medians["bare_inserts_per_s"] / medians["appends_per_s"], 2),
        "records_verified": seq,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--appends", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    options = vars(parser.parse_args())
    bare = "CREATE TABLE bare (kind text, subject text, facts text, hash text)"
    results = {}
    with postgres(durable=True) as superuser:
        run_sql(superuser, "CREATE ROLE writer LOGIN PASSWORD 'w'", "CREATE DATABASE ledger")
        owner = superuser.set(database="ledger")

        def create() -> None:
            migrate(owner, "writer")
            run_sql(owner, bare, "GRANT INSERT ON bare TO writer")

        results["postgresql"] = measure(owner.set(username="writer", password="w"), create, **options)
    with tempfile.TemporaryDirectory() as folder:
        url = make_url(f"sqlite:///{folder}/ledger.db")
        results["sqlite"] = measure(url, lambda: (migrate(url), run_sql(url, bare)), **options)
    machine = {"cpus": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version()}
    print(json.dumps({"medians": results, "rounds": options["rounds"], "machine": machine}, indent=2))


if __name__ == "__main__":
    main()
