"""What parsing the whole DAG folder costs beyond Airflow's own import: ``python bench_parse.py``.

Prints JSON: medians of CPU seconds for importing Airflow and for parsing afterwards, each in a fresh interpreter, and
their ratio. The limit is 1 s: every task process parses its DAG file anew.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

ROUNDS = 5
ROOT = Path(__file__).parents[2]
PARSE = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import airflow.sdk, pendulum
from airflow.dag_processing.dagbag import DagBag
imported = time.process_time()
bag = DagBag(sys.argv[1])
assert not bag.import_errors, bag.import_errors
print(json.dumps([imported, time.process_time() - imported, len(bag.dags)]))
"""


def once() -> tuple[float, float, int]:
    done = subprocess.run([sys.executable, "-c", PARSE, str(ROOT / "dags")], capture_output=True, text=True, check=True)
    imported, parsed, dags = json.loads(done.stdout.strip().splitlines()[-1])
    return imported, parsed, dags


def main() -> None:
    rounds = [once() for _ in range(ROUNDS)]
    imported, parsed = (statistics.median(column) for column in list(zip(*rounds, strict=True))[:2])
    found = {"import_cpu": imported, "parse_cpu": parsed, "ratio": parsed / imported, "dags": rounds[0][2]}
    print(json.dumps({name: round(value, 3) for name, value in found.items()}))


if __name__ == "__main__":
    main()
