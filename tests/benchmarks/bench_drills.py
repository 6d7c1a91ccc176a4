"""How many of many random drills leave the estate unlike it was, wherever they are cut off. It must be none.

    python tests/benchmarks/bench_drills.py [--drills 100] [--seed 1]

Real processes and bytes on a light estate. Each drill takes a random scenario, is cut off a random time of up to two
seconds after its injection, and is undone by itself or, with everything of it killed, by the keeper.
"""

from __future__ import annotations

import argparse
import collections
import random
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "include"), str(ROOT / "tests")]

SCENARIOS = (
    "site-loss",
    "replica-killed",
    "replica-wedged",
    "gateway-lost",
    "slow-store",
    "partition",
    "corrupt-object",
    "corrupt-artefact",
    "provider-nonsense",
)


def main() -> None:
    from support.processes import wait_until
    from support.scenarios import light_estate

    from ninelives.drills.run import inject_fault, is_back, undo_fault
    from ninelives.drills.state import state_facts
    from ninelives.injections import find_injection, open_injection

    parser = argparse.ArgumentParser()
    parser.add_argument("--drills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    generator, verdicts, undone_in = random.Random(options.seed), collections.Counter[str](), []
    with tempfile.TemporaryDirectory() as folder, light_estate(Path(folder)) as world:
        systems = world.systems
        for _ in range(options.drills):
            scenario = generator.choice(SCENARIOS)
            drill = world.drill(scenario, generator.choice(["alpha", "beta"]), looked_at=False)
            injection = inject_fault(systems, drill)
            time.sleep(generator.uniform(0, 2))
            began, keeper = time.monotonic(), generator.random() < 0.5
            if keeper:
                open_injection(world.home, injection.model_copy(update={"expires_at": datetime.now(UTC)}))
            else:
                undo_fault(systems, drill, by="drill")
            wait_until(lambda one=drill: find_injection(world.home, one.id).undone_at, "the undoing", timeout=60)
            undone_in.append(time.monotonic() - began)
            wait_until(lambda one=drill: is_back(systems, one), f"the return from {drill.subject}", timeout=60)
            done = find_injection(world.home, drill.id)
            assert done is not None
            verdict = state_facts(systems, done)["verdict"]
            verdicts[verdict] += 1
            if verdict != "met":
                print(drill.subject, state_facts(systems, done))
            lease = systems.ledger().current_lease("drill")
            assert lease is not None
            systems.ledger().release_lease(lease)
    print(
        f"{options.drills} drills from seed {options.seed}: as before {verdicts['met']}, left something behind "
        f"{verdicts['missed']}, unknown {verdicts['unknown']}; undone after a median of "
        f"{statistics.median(undone_in):.1f} s, {max(undone_in):.1f} s at most"
    )


if __name__ == "__main__":
    main()
