"""What the prober costs and how late it is; how fast a day of its probes is measured.

Run: ``python tests/benchmarks/bench_probing.py [--seconds 20]``. Prints JSON; a quiet machine gives the number to keep.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ninelives.adapters.probe_client import ProbeClient
from ninelives.probing.golden import GoldenFile
from ninelives.probing.journal import ProbeJournal
from ninelives.probing.measure import measure_loss, steady_state
from ninelives.probing.prober import Prober, Target
from ninelives.probing.records import SCHEMA, Heartbeat, Probe, file_name, read_probes

FEATURES = {"carrier": "UA", "hour": 5, "distance": 1400}
SERVER = """
import asyncio, sys
BODY = b'{"model_version":"3","outputs":[{"name":"arrival_delay","shape":[1,1],"datatype":"FP64","data":[6.5]}]}'
HEAD = b"HTTP/1.1 200 OK\\r\\ncontent-type: application/json\\r\\ncontent-length: %d\\r\\n\\r\\n" % len(BODY)
class Trivial(asyncio.Protocol):
    def connection_made(self, transport): self.transport = transport; self.got = b""
    def data_received(self, data):
        self.got += data
        head, _, body = self.got.partition(b"\\r\\n\\r\\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\\r\\n")[0])
        if len(body) >= length:
            self.got = body[length:]
            self.transport.write(HEAD + BODY)
async def main():
    server = await asyncio.get_running_loop().create_server(Trivial, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


async def probe(url: str, golden: GoldenFile, folder: Path, rate: float, seconds: float) -> dict[str, object]:
    """The prober with its journal, as the service runs it, two services at ``rate`` each."""
    rows: list[Probe] = []
    targets = [Target(name, url, golden, 0.25) for name in ("one", "two")]
    with ProbeJournal(folder) as journal:
        async with ProbeClient() as client:
            prober = Prober(targets, interval=1 / rate, run="bench", send=client.send, record=rows.append)
            stop, began, cpu = asyncio.Event(), time.monotonic(), cpu_seconds()
            probing, flushed = asyncio.create_task(prober.probe_until(stop)), 0
            while time.monotonic() - began < seconds:
                await asyncio.sleep(1)
                beat = Heartbeat("bench", os.getpid(), datetime.now(UTC), 1 / rate, ("one",), prober.complete_until())
                batch, flushed = rows[flushed:], len(rows)
                await asyncio.to_thread(journal.flush, batch, beat)
            stop.set()
            await probing
            share = (cpu_seconds() - cpu) / (time.monotonic() - began)
    late = sorted((row.sent_at - row.scheduled_at).total_seconds() * 1e3 for row in rows if row.sent_at)
    latency = sorted((row.latency_s or 0) * 1e3 for row in rows if row.sent_at)
    return {
        "rate_per_service": rate,
        "probes": len(rows),
        "outcomes": {
            str(outcome): sum(row.outcome == outcome for row in rows) for outcome in {r.outcome for r in rows}
        },
        "cpu_share_of_one_core": round(share, 4),
        "lateness_ms": {name: round(late[int(len(late) * q)], 2) for name, q in (("p50", 0.5), ("p99", 0.99))},
        "latency_ms": {name: round(latency[int(len(latency) * q)], 2) for name, q in (("p50", 0.5), ("p99", 0.99))},
    }


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def day_of_probes(service: str) -> pa.Table:
    """20 per second for a day, an outage of 20 s at noon."""
    n = 20 * 86_400
    start = int(datetime(2013, 1, 1, tzinfo=UTC).timestamp() * 1e6)
    at = start + np.arange(n) * 50_000
    outcome = np.where((at - start >= 43_200_000_000) & (at - start < 43_220_000_000), "failed", "good")
    columns = {
        "run": pa.array(["day"]).take(pa.array(np.zeros(n, np.int64))), "seq": np.arange(n),
        "service": pa.array([service]).take(pa.array(np.zeros(n, np.int64))), "scheduled_at": at, "sent_at": at,
        "monotonic_ns": at * 1000, "latency_s": np.full(n, 0.004), "outcome": outcome,
        "status": np.full(n, 200), "site": pa.nulls(n), "model_version": pa.nulls(n), "error": pa.nulls(n),
    }  # fmt: skip
    arrays = [pa.array(columns[field.name]).cast(field.type) for field in SCHEMA]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def median_seconds(work: Callable[[], object], times: int = 5) -> float:
    took = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return round(statistics.median(took), 4)


def measure_day(folder: Path) -> dict[str, object]:
    day, start = day_of_probes("arrival-delay"), datetime(2013, 1, 1, tzinfo=UTC)
    noon, end = start + timedelta(hours=12), start + timedelta(days=1)
    for hour in range(24):
        path = folder / "2013-01-01" / file_name(start + timedelta(hours=hour), "1-1-m.parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(day.slice(hour * 72_000, 72_000), path, compression="zstd")
    impact = measure_loss(day, loss_at=noon, until=noon + timedelta(minutes=5))
    assert impact.rto_seconds is not None
    assert abs(impact.rto_seconds - 20) < 0.06
    return {
        "rows": day.num_rows,
        "disk_bytes_per_probe": round(sum(p.stat().st_size for p in folder.rglob("*.parquet")) / day.num_rows, 2),
        "read_a_day_s": median_seconds(lambda: read_probes(folder, start, end), 3),
        "read_five_minutes_s": median_seconds(lambda: read_probes(folder, noon, noon + timedelta(minutes=5))),
        "measure_loss_in_5_min_of_the_day_s": median_seconds(
            lambda: measure_loss(day, loss_at=noon, until=noon + timedelta(minutes=5))
        ),
        "measure_loss_until_midnight_s": median_seconds(lambda: measure_loss(day, loss_at=noon, until=end)),
        "steady_state_of_the_day_s": median_seconds(lambda: steady_state(day, since=start, until=end)),
        "one_pass_over_outcomes_s": median_seconds(lambda: pc.value_counts(day.column("outcome"))),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=20.0)
    seconds = arguments.parse_args().seconds
    with contextlib.suppress(PermissionError):  # as `ninelives prober run` does
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        known = {"inputs": FEATURES, "outputs": {"arrival_delay": [6.5]}}
        (root / "golden.json").write_text(json.dumps({"releases": {"3": {"tolerance": 0.001, "golden": [known]}}}))
        golden = GoldenFile(root / "golden.json")
        golden.refresh()
        server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{int(server.stdout.readline())}/"
            runs = [asyncio.run(probe(url, golden, root / f"probes-{rate}", rate, seconds)) for rate in (20.0, 200.0)]
        finally:
            server.kill()
            server.wait()
        print(json.dumps({"load": os.getloadavg(), "prober": runs, "measure": measure_day(root / "day")}, indent=2))


if __name__ == "__main__":
    main()
