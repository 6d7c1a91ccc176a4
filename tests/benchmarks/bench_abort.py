"""How long a drill takes to notice that it must stop: p99 against one probe period and 250 ms.

    python tests/benchmarks/bench_abort.py [--runs 100] [--mid-pause]

Real probe files, written ten times a second as the prober does while something is broken, watched as the trigger
watches. The time runs from the answer that decides, at any phase of the writing, to the decision; with ``--mid-pause``
to the end of a user's experiment, on Chaos Toolkit's real library, that is in a pause of ten minutes.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "include"), str(ROOT / "tests")]


def main() -> None:
    from support.abort import INTERVAL, abort_latency, mid_pause_latency

    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--mid-pause", action="store_true")
    options, found, spent = parser.parse_args(), [], time.process_time()
    runs, measure = options.runs, mid_pause_latency if options.mid_pause else abort_latency
    generator = random.Random(9)
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            found.append(measure(Path(folder), generator.uniform(0.1, 0.4)))
    found.sort()
    p99 = found[min(len(found) - 1, round(0.99 * len(found)))]
    limit = INTERVAL + 0.25
    print(
        f"{runs} runs: median {statistics.median(found) * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms, "
        f"max {found[-1] * 1000:.0f} ms; the limit is {limit * 1000:.0f} ms: {'met' if p99 <= limit else 'missed'}; "
        f"{(time.process_time() - spent) / runs:.2f} s of CPU a run, the writing included"
    )


if __name__ == "__main__":
    main()
