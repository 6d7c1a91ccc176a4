"""README, docs and CHANGELOG name only commands, options, files and headings that exist, and leave out no command."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from ninelives.cli import app

ROOT = Path(__file__).parents[3]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text("utf-8")
    for path in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")))
}
OF_OTHERS = {"stack keep", "backup keep", "feeder run", "estate schema", "demo"}
"""Run by the supervisor or by make, not typed by people."""


def tree(
    command: typer.core.TyperCommand | typer.core.TyperGroup, *names: str
) -> Iterator[tuple[str, set[str] | None]]:
    """Every command by its words, with its options; a group has none."""
    inside = getattr(command, "commands", None)
    options = {name for one in command.params for name in (*one.opts, *one.secondary_opts) if name.startswith("-")}
    yield " ".join(names), None if inside else {*options, "--help"}
    for name, one in (inside or {}).items():
        yield from tree(one, *names, name)


COMMANDS = dict(tree(typer.main.get_command(app)))


SHORT = {name for name in COMMANDS if " " in name}


def code(page: str) -> Iterator[str]:
    """Code spans and lines of code blocks, without comments; the spans of a table's first cell are one."""
    fenced, prose = False, []
    for line in page.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield line.split(" #")[0].strip()
        elif line.startswith("| `ninelives "):
            cells = line.split("|")
            yield " · ".join(re.findall(r"`([^`]+)`", cells[1]))
            prose.append(cells[2])
        else:
            prose.append(line)
    yield from (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", "\n".join(prose)))


def named(line: str) -> tuple[set[str], list[str]]:
    """The commands that ``ninelives drill run SCENARIO [--dry-run] · list`` names, and what of it does not exist."""
    found: set[str] = set()
    wrong: list[str] = []
    last = ""
    for part in re.split(r"[·|,]", line.removeprefix("ninelives ")):
        words = re.sub(r"[\[\]]", " ", part).split()
        group = last.rpartition(" ")[0]
        for before in (last, group, group.rpartition(" ")[0], ""):
            name, rest = before, list(words)
            while rest and f"{name} {rest[0]}".strip() in COMMANDS:
                name = f"{name} {rest.pop(0)}".strip()
            if len(rest) < len(words):
                last = name
                found.add(name)
                break
        else:
            rest = words
        options = COMMANDS.get(last)
        if options is None and rest:  # a group, or nothing at all
            wrong.append(f"{last} {rest[0]}".strip())
        elif rest == words and rest and rest[0].islower() and not rest[0].startswith("-"):
            wrong.append(f"{group} {rest[0]}".strip())  # in the place of a command, and none
        else:
            names = [word.partition("=")[0] for word in rest if word.startswith("--")]
            wrong += [f"{last} {name}" for name in names if name not in (options or set())]
    return found, wrong


def commands(page: str) -> list[str]:
    """What begins with ``ninelives``, or like ``drill run``, as prose says it for short."""
    return [line for line in code(page) if line.startswith("ninelives ") or " ".join(line.split()[:2]) in SHORT]


def slugs(page: str) -> set[str]:
    """The anchors that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_option_that_is_named_exists(page: str) -> None:
    wrong = {line: names for line in commands(PAGES[page]) if (names := named(line)[1])}
    assert wrong == {}


def test_no_command_is_left_out() -> None:
    told = {name for page in PAGES.values() for line in commands(page) for name in named(line)[0]}
    leaves = {name for name, options in COMMANDS.items() if options is not None}
    assert leaves - told - OF_OTHERS == set()
    assert len(told & leaves) > 80, "commands were looked for in the wrong places"


def test_commands_of_the_readme_have_json_as_it_says() -> None:
    told = {name for line in commands(PAGES["README.md"]) for name in named(line)[0]}
    without = {name for name in told if "--json" not in (COMMANDS[name] or {"--json"})}
    assert without == {"prober run", "accelerators look"}, "of which the second prints nothing but JSON"


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading_of_it(page: str) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        if not file.exists() or (anchor and anchor not in slugs(file.read_text("utf-8"))):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES)
def test_every_file_of_ours_that_is_named_exists(page: str) -> None:
    paths = {
        word for span in code(PAGES[page]) for word in span.split()
        if re.fullmatch(r"(dags|deploy|docs|expectations|include|plugins|scripts|tests)/[\w./*-]+", word)
        and not word.startswith("deploy/secrets/")  # made by deploy/make_secrets.py
    }  # fmt: skip
    assert [path for path in sorted(paths) if not list(ROOT.glob(path.rstrip("/")))] == []


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("ninelives drill run SCENARIO [--dry-run] · coverage · list · show N", []),
        ("ninelives release status | history | retire arrival-delay", []),
        ("ninelives readiness · why · playbook show · check", []),
        ("ninelives backup key list · add · remove", []),
        ("ninelives backup restore BACKUP --to FOLDER, --into PART · rebuild", []),
        ("ninelives drill runs SCENARIO", ["drill runs"]),
        ("ninelives drill run SCENARIO --dry", ["drill run --dry"]),
        ("ninelives drill list · shows N", ["drill shows"]),
        ("ninelives drills", ["drills"]),
    ],
)
def test_what_is_told_apart(line: str, wrong: list[str]) -> None:
    assert named(line)[1] == wrong
