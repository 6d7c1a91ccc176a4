"""What a model that goes on learning costs: its durable log against plain appends, and its handing over by size.

    python tests/benchmarks/bench_state.py [--updates 1000 10000 100000] [--rounds 5]

Prints one JSON document. Rates: medians of the rounds, in updates a second, each way in turn in every round; a plain
append is the write and the fsync of the very lines that the log has. Sizes: one process each, from cold, on real
flights; seconds, and the peak of resident memory in MB, river's own included (``imported_mb``).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date, timedelta
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2] / "include")]

from ninelives.adapters.ledger import SqlLedger, migrate  # noqa: E402
from ninelives.adapters.river_model import RiverLinear  # noqa: E402
from ninelives.flights.data import Flights  # noqa: E402
from ninelives.flights.online import updates_of  # noqa: E402
from ninelives.state.learner import Spec  # noqa: E402
from ninelives.state.log import Update, UpdateLog  # noqa: E402
from ninelives.state.model import StatefulModel  # noqa: E402

FIRST = Spec(numbers=("hour", "distance"), texts=("carrier", "origin", "dest"))
WIDER = Spec(numbers=("hour", "distance", "minute"), texts=("carrier", "origin", "dest"), adds=("minute",))
HELD = 300
CALLS = 200
"""In a round, of each way and size of batch."""


def flights(count: int) -> list[Update]:
    year, days = Flights.load(), (date(2013, 1, 1) + timedelta(days=n) for n in range(365))
    return list(islice(chain.from_iterable(updates_of(year, day) for day in days), count))


def rate(work: Callable[[list[Update]], object], batches: Sequence[list[Update]]) -> float:
    started = time.perf_counter()
    for batch in batches:
        work(batch)
    return sum(map(len, batches)) / (time.perf_counter() - started)


def plain(descriptor: int, lines: Iterator[bytes], batch: list[Update]) -> None:
    os.write(descriptor, b"".join(islice(lines, len(batch))))
    os.fsync(descriptor)


def peak_mb() -> float:
    """Of this program alone: ``ru_maxrss`` begins with that of whoever started it."""
    (line,) = (one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM:"))
    return round(int(line.split()[1]) / 1024)


def rates(folder: Path, batch: int, there: int, rounds: int) -> dict[str, float]:
    """Updates a second where ``there`` of them are in the log already."""
    every = flights(there + rounds * CALLS * batch)
    delay = StatefulModel(folder / "delay", RiverLinear)
    delay.add("1", FIRST)
    logs = UpdateLog(folder / "alone.jsonl")
    for begin in range(0, there, 1000):
        delay.learn(every[begin : begin + 1000])
        logs.append(every[begin : begin + 1000])
    samples: dict[str, list[float]] = {"plain": [], "log": [], "learn": []}
    for number in range(rounds):
        begin = there + number * CALLS * batch
        batches = [every[begin + n * batch : begin + (n + 1) * batch] for n in range(CALLS)]
        samples["log"].append(rate(logs.append, batches))
        samples["learn"].append(rate(delay.learn, batches))
        lines = logs.path.read_bytes().splitlines(keepends=True)[-CALLS * batch :]
        descriptor = os.open(folder / "plain.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        samples["plain"].append(rate(partial(plain, descriptor, iter(lines)), batches))
        os.close(descriptor)
    medians = {name: round(statistics.median(values)) for name, values in samples.items()}
    return {**medians, "learn_costs_plain": round(medians["plain"] / medians["learn"], 2)}


def timed(seconds: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
    started = time.perf_counter()
    found = work()
    seconds[name] = round(time.perf_counter() - started, 2)
    return found


def size(folder: Path, step: str, count: int) -> dict[str, float]:
    """One step in this fresh process: ``learn`` fills the folder, the others find it filled."""
    delay, seconds = StatefulModel(folder / "delay", RiverLinear), dict[str, float]()
    RiverLinear(FIRST)
    imported = peak_mb()
    if step == "learn":
        delay.add("1", FIRST)
        delay.add("2", WIDER)
        every = flights(count)
        timed(seconds, step, lambda: [delay.learn(every[n : n + 1000]) for n in range(0, count, 1000)])
        return seconds  # its memory is that of a year of flights
    if step == "export":
        seconds["state_kb"] = round(len(timed(seconds, step, lambda: delay.current().state)) / 1024, 1)
        seconds["log_mb"] = round(delay.log.path.stat().st_size / 2**20, 1)
    elif step == "replay":
        timed(seconds, step, delay.rebuilt)
    else:
        url = f"sqlite:///{folder / 'ledger.db'}"
        migrate(url)
        held = [entry.update.features for entry in UpdateLog(delay.log.path).read()[-HELD:]]
        timed(seconds, step, lambda: delay.switch("2", held, tolerance=0, ledger=SqlLedger(url), by="bench"))
    return {**seconds, f"{step}_mb": peak_mb(), "imported_mb": imported}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(size(Path(options.one[0]), options.one[1], int(options.one[2]))))
        return
    results: dict[str, Any] = {"updates_per_s": {}, "by_size": {}}
    for batch, there in ((1, 0), (1, 10_000), (100, 0)):
        with tempfile.TemporaryDirectory() as folder:
            found = rates(Path(folder), batch, there, options.rounds)
        results["updates_per_s"][f"{batch} a call, {there} there"] = found
    for count in options.updates:
        found = {}
        with tempfile.TemporaryDirectory() as folder:
            for step in ("learn", "export", "replay", "switch"):
                command = [sys.executable, __file__, "--one", folder, step, str(count)]
                found |= json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        results["by_size"][count] = found
    machine = {"cpus": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version()}
    print(json.dumps({**results, "rounds": options.rounds, "machine": machine}, indent=2))


if __name__ == "__main__":
    main()
