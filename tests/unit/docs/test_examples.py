"""What the docs tell people to declare or to run is accepted, and does what the page says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from ninelives.cli import app
from ninelives.estate import Estate
from ninelives.estate.check import check_references
from ninelives.estate.document import read_document

ROOT = Path(__file__).parents[3]
NEEDED = {  # what an example leaves to its reader, as the estate's check names it
    "access.md": ["vault.region"],
    "breaker.md": ["services[0].fallback.service"],
    "experiments.md": ["experiments[0].service"],
    "kubernetes.md": ["services[1].release.shadow"],
}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text("utf-8"), re.DOTALL)


def indented(page: str) -> list[str]:
    """Blocks that are an estate's part: indented, and beginning with a key."""
    found = re.findall(r"\n\n((?:    .*\n)+)", (ROOT / "docs" / page).read_text("utf-8"))
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in found if re.match(r"    [a-z]+:\n", block)]


EXAMPLES = [
    pytest.param(path.name, text, id=f"{path.name}-{number}")
    for path in sorted((ROOT / "docs").glob("*.md"))
    for number, text in enumerate([*blocks(path.name, "yaml"), *indented(path.name)])
    if not re.match(r"(parameters|kind):", text)  # files of `accelerators check`
]


def merged(known: Any, more: Any) -> Any:
    """``more`` laid over ``known``: entries of a list by their name, all else replaced."""
    if isinstance(known, dict) and isinstance(more, dict):
        return {**known, **{key: merged(known[key], one) if key in known else one for key, one in more.items()}}
    if (
        isinstance(known, list)
        and isinstance(more, list)
        and all(isinstance(one, dict) and "name" in one for one in more)
    ):
        names = {one["name"]: one for one in more}
        kept = [merged(one, names.pop(one["name"])) if one["name"] in names else one for one in known]
        return [*kept, *names.values()]
    return more


@pytest.mark.parametrize(("page", "text"), EXAMPLES)
def test_an_estate_with_the_example_in_it_is_sound(page: str, text: str) -> None:
    written = text.replace(", ...", "").replace("chat", "arrival-delay").replace("sha256:…", "sha256:" + "a" * 64)
    shown = json.loads(json.dumps(yaml.safe_load(written), default=str))
    if "release" in shown:
        shown = {"services": [{"name": "arrival-delay", **shown}]}
    demo = json.loads(json.dumps(read_document(ROOT / "include/estates/demo/estate.yaml").data))
    estate = Estate.model_validate(merged(demo, shown))
    assert [path for path, _ in check_references(estate)] == NEEDED.get(page, [])


def test_every_page_with_an_estate_is_among_them() -> None:
    assert len(EXAMPLES) > 18


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NINELIVES_ESTATE", raising=False)
    need, policy = (text for text in blocks("accelerators.md", "yaml") if re.match(r"(parameters|kind):", text))
    (tmp_path / "need.yaml").write_text(need, "utf-8")
    (tmp_path / "policy.yaml").write_text(policy, "utf-8")
    (tmp_path / "metrics.json").write_text(*blocks("judge.md", "json"), "utf-8")
    (tmp_path / "experiment.json").write_text(*blocks("experiments.md", "json"), "utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("accelerators check --need need.yaml --policy policy.yaml", 3, '"allowed": false'),
        ("release judge --input metrics.json --horizon 30", 3, '"verdict": "inconclusive"'),
        ("release judge --mode kayenta --input metrics.json", 0, '"label": "Pass"'),
        ("experiment judge --input experiment.json", 3, '"verdict": "undecided"'),
    ],
)
def test_the_example_of_a_file_is_read_by_its_command(command: str, code: int, said: str, files: Path) -> None:
    done = CliRunner().invoke(app, [*command.split(), "--json"])
    assert done.exit_code == code, done.output
    assert said in done.output


def test_the_judge_in_python_says_what_the_page_says() -> None:
    (text,) = blocks("judge.md", "python")
    names: dict[str, Any] = {}
    exec(text, names)
    assert names["found"].verdict == "roll back"
