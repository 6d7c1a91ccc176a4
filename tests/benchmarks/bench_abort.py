"""How long a drill takes to notice that it must stop: p99 against one probe period and 250 ms.

    python tests/benchmarks/bench_abort.py [--runs 100]

Real probe files, written ten times a second as the prober does while something is broken, watched as the trigger
watches. The time runs from the answer that decides, at any phase of the writing, to the decision.
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
    from support.abort import INTERVAL, abort_latency

    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=100)
    runs, found, spent = parser.parse_args().runs, [], time.process_time()
    generator = random.Random(9)
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            found.append(abort_latency(Path(folder), generator.uniform(0.1, 0.4)))
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
