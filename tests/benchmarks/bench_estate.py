"""How long ``ninelives estate check`` takes on an estate of 1,000 services on 10 sites: ``python bench_estate.py``.

Prints JSON: medians in seconds, and the ratio of reading and checking to a bare parse of the same text in the same run.
``command`` is the whole command with interpreter start; ``worst_refusal`` is the slowest refusal among hostile files of
the greatest size that is read.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from ninelives.errors import EstateError
from ninelives.estate import load_estate
from ninelives.estate.document import MAX_BYTES

ROUNDS = 5


def big_estate(services: int = 1000, sites: int = 10) -> str:
    """A sound estate in YAML; every service has a model, three golden requests and a fallback of its own."""
    names = [f"site-{number}" for number in range(sites)]
    lines = ["name: big", "people:"]
    lines += ["  - {name: ada, roles: [operator]}", "  - {name: grace, roles: [approver]}", "sites:"]
    lines += [f"  - {{name: {name}}}" for name in names]
    lines += ["datasets:"]
    for number in range(sites):
        copies = ", ".join(name for name in names if name != names[number])
        lines.append(
            f"  - {{name: data-{number}, primary: {names[number]}, copies: [{copies}], rpo: 15min, suite: flights}}"
        )
    lines.append("models:")
    lines += [f"  - {{name: model-{n}, trained_on: data-{n % sites}, warm_up: 10s}}" for n in range(services)]
    lines.append("services:")
    for number in range(services):
        pair = f"{names[number % sites]}, {names[(number + 1) % sites]}"
        lines += [
            f"  - name: service-{number}",
            "    owner: ada",
            f"    model: model-{number}",
            f"    mode: {'active-passive' if number % 2 else 'active-active'}",
            f"    sites: [{pair}]",
            "    objective:",
            "      {availability: 99.9%, latency: 250ms, quality: 99%, rto: 60s, rpo: 15min, window: 28d}",
            "    golden:",
        ]
        lines += [
            f"      - inputs: {{month: {month}, hour: 5, carrier: UA, origin: EWR, dest: IAH, distance: 1400.5}}"
            for month in (1, 7, 12)
        ]
        lines += ["    fallback:", "      answer: {arrival_delay: 6.9}"]
    lines += ["drills: {schedule: '0 3 * * *', approval: four-eyes, max_duration: 5min, min_good: 90%}", ""]
    return "\n".join(lines)


def hostile_files() -> dict[str, str]:
    """Files of the greatest size that is read, each made to be slow or to grow."""

    def full(text: str, head: str = "") -> str:
        return head + text * ((MAX_BYTES - len(head)) // len(text))

    return {
        "open lists": full("["),
        "open keys": full("? "),
        "aliases": full("- *a\n", "- &a x\n"),
        "aliases in a mapping": full(",*a : 1", "{a: 1"),
        "repeated keys": full("a: b\n"),
        "one item full of mistakes": "services: [{golden: ["
        + ("{" + ",".join(f"k{n}: 1" for n in range(13)) + "},") * 9_999
        + "]}]",
        "many keys": "".join(f"k{number:07}: 1\n" for number in range(MAX_BYTES // 13)),
        "many wrong items": full("1, ", "sites: [") + "1]",
        "many empty sites": full("{},", "sites: [") + "]",
        "many wrong names": full("- {name: A, x: 1}\n", "sites:\n"),
        "tag directives": "".join(f"%TAG !{number:07}! b\n" for number in range(MAX_BYTES // 18)),
        "documents": full("---\n"),
        "one long text": full("x", "name: "),
        "quoted line breaks": full("\n", '"'),
        "comments": full("#\n"),
        "deep": "\n".join(" " * depth + "a:" for depth in range(2800)),
    }


def seconds(call: Callable[[], object], rounds: int = ROUNDS) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def refuse(path: Path) -> None:
    try:
        load_estate(path)
    except EstateError:
        return
    raise AssertionError(f"{path} was accepted")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "estate.yaml"
        text = big_estate()
        path.write_text(text, "utf-8")
        ninelives = [sys.executable, "-c", "from ninelives.cli import main; main()"]
        command = [*ninelives, "estate", "check", str(path)]
        whole = seconds(lambda: subprocess.run(command, check=True, capture_output=True))
        empty = seconds(lambda: subprocess.run([*ninelives, "estate", "--help"], check=True, capture_output=True))
        load = seconds(lambda: load_estate(path))
        events = seconds(lambda: sum(1 for _ in yaml.parse(text, Loader=yaml.CSafeLoader)))
        parse = seconds(lambda: yaml.load(text, Loader=yaml.CSafeLoader))
        refusals = {}
        for name, hostile in hostile_files().items():
            path.write_text(hostile, "utf-8")
            refusals[name] = seconds(lambda: refuse(path), rounds=1)
    slowest = max(refusals, key=lambda name: refusals[name])
    report = {
        "services": 1000,
        "sites": 10,
        "bytes": len(text),
        "command_s": round(whole, 3),
        "command_start_s": round(empty, 3),
        "load_s": round(load, 3),
        "bare_events_s": round(events, 3),
        "bare_parse_s": round(parse, 3),
        "load_to_bare_parse": round(load / parse, 2),
        "worst_refusal_s": round(refusals[slowest], 3),
        "worst_refusal": slowest,
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
