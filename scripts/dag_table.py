"""The README's table of DAGs, from their docstrings: ``python scripts/dag_table.py [--write]``; fails when stale."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- dags: made by `make docs` -->", "<!-- /dags -->"


def table() -> str:
    """One row per DAG: its id and the first paragraph below its title."""
    rows = ["| DAG | what it does |", "|---|---|"]
    for path in sorted((ROOT / "dags").glob("*.py")):
        doc = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        paragraph = next(part for part in doc.split("\n\n") if not part.startswith("#"))
        rows.append(f"| `{path.stem}` | {' '.join(paragraph.split())} |")
    return "\n".join(rows)


def main() -> int:
    readme = ROOT / "README.md"
    text = readme.read_text("utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    wanted = f"{before}{BEGIN}\n{table()}\n{END}{after}"
    if wanted == text:
        return 0
    if "--write" in sys.argv:
        readme.write_text(wanted, "utf-8")
        return 0
    sys.stderr.write("The table of DAGs in README.md is stale: run make docs\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
