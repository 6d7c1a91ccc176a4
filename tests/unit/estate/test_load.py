"""Reading an estate file: what is wrong is said at once, where it is; what is hostile is refused in bounded time."""

from __future__ import annotations

import copy
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ninelives.errors import EstateError, EstateProblem
from ninelives.estate import Estate, load_estate
from ninelives.estate.document import MAX_BYTES, read_document

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "include/estates/demo/estate.yaml"
GOLDEN = ROOT / "tests/golden/estate"
DATA = read_document(DEMO).data

bounded = settings(
    max_examples=50,
    deadline=20_000,  # milliseconds; an example takes ten, also where the machine is busy a few hundred
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def problems_of(path: Path) -> tuple[EstateProblem, ...]:
    with pytest.raises(EstateError) as refused:
        load_estate(path)
    return refused.value.problems


def problems_in(folder: Path, content: str | bytes) -> tuple[EstateProblem, ...]:
    path = folder / "estate.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return problems_of(path)


def outcome(folder: Path, content: bytes) -> Estate | EstateError:
    """What becomes of ``content``; whatever else is raised fails the test."""
    path = folder / "estate.yaml"
    path.write_bytes(content)
    try:
        return load_estate(path)
    except EstateError as error:
        return error


def test_the_demo_estate_loads() -> None:
    estate = load_estate(DEMO)
    assert [service.name for service in estate.services] == ["arrival-delay", "late-arrival"]
    assert estate.services[0].golden[2].inputs["carrier"] == "EV"


# --- every problem at once, with its line ------------------------------------------------------------------------


@pytest.mark.parametrize("name", [path.stem for path in sorted(GOLDEN.glob("*.yaml"))])
def test_a_broken_estate_is_explained_as_in_the_golden_report(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDEN)
    with pytest.raises(EstateError) as refused:
        load_estate(Path(f"{name}.yaml"))
    report = GOLDEN / f"{name}.txt"
    if "NINELIVES_WRITE_GOLDEN" in os.environ:
        report.write_text(f"{refused.value}\n", "utf-8")
    assert f"{refused.value}\n" == report.read_text("utf-8"), (
        "if the new report is right, run this test with NINELIVES_WRITE_GOLDEN=1"
    )


def test_a_typo_in_one_service_does_not_hide_a_contradiction_in_another(tmp_path: Path) -> None:
    text = DEMO.read_text("utf-8").replace("mode: active-passive", "mode: active-pasive")
    first, second = text.split("mode: active-active")
    text = f"{first}mode: active-active{second.replace('sites: [paris, dublin]', 'sites: [dublin]')}"
    assert [problem.path for problem in problems_in(tmp_path, text)] == ["services[0].mode", "services[1].sites"]


def test_what_only_seems_wrong_beside_an_unreadable_item_is_not_reported(tmp_path: Path) -> None:
    text = DEMO.read_text("utf-8").replace("{name: paris, description", "{name: paris, descripton")
    (problem,) = problems_in(tmp_path, text)
    assert problem.path == "sites[0].descripton"
    assert "did you mean description?" in problem.message


def test_the_report_is_cut_after_a_thousand_problems_and_says_so(tmp_path: Path) -> None:
    problems = problems_in(tmp_path, "sites: [" + "1, " * 5000 + "1]")
    assert len(problems) == 1001
    assert problems[0].message.startswith("has more than 1,000 problems")


@given(data=st.data())
@bounded
def test_a_wrong_value_anywhere_is_reported_on_its_own_line(tmp_path: Path, data: st.DataObject) -> None:
    changed = copy.deepcopy(DATA)
    path, node = "", changed
    while isinstance(node, dict | list) and node:
        parent = node
        part = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
        node = node[part]
        if data.draw(st.booleans()):
            break
    parent[part] = {"surely": ["no", "estate", "has", "this"]}
    text = yaml.safe_dump(changed, sort_keys=False)
    wrong = text[: text.index("surely")].count("\n") + 1
    found = [problem for problem in problems_in(tmp_path, text) if problem.path.startswith(path)]
    assert found
    assert wrong - 1 <= found[0].line <= wrong + 1


# --- YAML that is not plain data ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "path", "words"),
    [
        pytest.param("name: a\nname: b\n", 2, "name", "repeated, first on line 1", id="repeated key"),
        pytest.param("name: &a x\n", 1, "name", "no anchors (&a)", id="anchor"),
        pytest.param("sites:\n- *a\n", 2, "sites[0]", "no aliases (*a)", id="alias"),
        pytest.param("drills:\n  <<: *a\n", 2, "drills['<<']", "no aliases", id="merge key"),
        pytest.param("name: !!python/object/apply:os.system [id]\n", 1, "name", "no tags", id="python tag"),
        pytest.param("name: !secret x\n", 1, "name", "no tags", id="tag"),
        pytest.param("1: x\n", 1, "", "a key must be text, not '1'", id="number as key"),
        pytest.param("? [a, b]\n: x\n", 1, "", "a key must be text, not a list", id="list as key"),
        pytest.param("drills: {? {a: b} : x}\n", 1, "drills", "a key must be text, not a mapping", id="mapping as key"),
        pytest.param("sites:\n- ?\n  : x\n", 2, "sites[0]", "a key must be text, not nothing", id="no key"),
        pytest.param("*a : x\n", 1, "", "no aliases", id="alias as key"),
        pytest.param("name: x\n---\nname: y\n", 2, "", "a second YAML document", id="two documents"),
        pytest.param("%YAML 1.1\n---\nname: x\n", 1, "", "directive", id="directive"),
        pytest.param("name: x\n...\n%TAG ! a\n", 3, "", "directive", id="late directive"),
        pytest.param("name: 'x\n", 2, "", "is not YAML: while scanning a quoted scalar", id="open quote"),
        pytest.param("name: x\n\tsites: []\n", 2, "", "is not YAML", id="tab"),
        pytest.param("name: x\nsites: \x07\n", 2, "", "control characters are not allowed", id="control character"),
        pytest.param("\n".join(" " * depth + "a:" for depth in range(40)), 17, "", "nested deeper", id="deep"),
        pytest.param("a: " + "[" * 100_000, 1, "", "nesting", id="deep on one line"),
        pytest.param(f"name: {'x' * 5000}\n", 1, "name", "the text has 5,000 characters", id="long text"),
        pytest.param("", 0, "", "is empty", id="empty"),
        pytest.param("# nothing\n", 0, "", "is empty", id="only a comment"),
        pytest.param("- a\n", 1, "", "a list is not a mapping", id="list"),
        pytest.param("just text", 1, "", "'just text' is not a mapping", id="text"),
        pytest.param("null", 1, "", "nothing is not a mapping", id="null"),
        pytest.param(b"name: \xff\n", 1, "", "is not UTF-8 (byte 0xff)", id="not UTF-8"),
        pytest.param("name: x".encode("utf-16"), 0, "", "UTF-16", id="UTF-16 with mark"),
        pytest.param("name: x".encode("utf-16-le"), 0, "", "binary file", id="UTF-16"),
        pytest.param(b"\x7fELF\x02\x01\x01\x00", 0, "", "binary file", id="program"),
    ],
)
def test_it_is_refused_on_its_line(tmp_path: Path, text: str | bytes, line: int, path: str, words: str) -> None:
    found = [problem for problem in problems_in(tmp_path, text) if words in problem.message]
    assert [(problem.line, problem.path) for problem in found][:1] == [(line, path)]


def test_what_was_refused_while_reading_is_not_reported_again_as_wrong(tmp_path: Path) -> None:
    text = DEMO.read_text("utf-8").replace("rto: 60s", "rto: *x").replace("owner: ada", "owner: !y ada", 1)
    assert [problem.path for problem in problems_in(tmp_path, text)] == [
        "services[0].owner",
        "services[0].objective.rto",
    ]


def test_words_and_times_are_text_as_in_yaml_1_2(tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text("[NO, on, yes, y, 12:30, 2013-01-01, 9E, 0x1F, 1_000, '1', 010, .5, 1e3, true, ~, -7]", "utf-8")
    assert read_document(path).data == [
        *("NO", "on", "yes", "y", "12:30", "2013-01-01", "9E", "0x1F", "1_000", "1"),
        *(10, 0.5, 1000.0, True, None, -7),
    ]


PLAIN = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), max_size=20)
TREE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | PLAIN,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(PLAIN, inner, max_size=4),
    max_leaves=20,
)


@given(tree=st.dictionaries(PLAIN, TREE, max_size=4))
@bounded
def test_plain_data_is_read_as_it_was_written(tmp_path: Path, tree: dict[str, Any]) -> None:
    path = tmp_path / "tree.yaml"
    path.write_text(json.dumps(tree, ensure_ascii=False), "utf-8")
    assert read_document(path).data == tree


# --- anything at all ---------------------------------------------------------------------------------------------


def check_problems(result: Estate | EstateError) -> None:
    if isinstance(result, EstateError):
        assert result.problems
        for problem in result.problems:
            assert problem.line >= 0
            assert len(problem.message) < 1000
            assert "\n" not in str(problem)


@given(content=st.binary(max_size=300))
@bounded
def test_any_bytes_are_an_estate_or_refused(tmp_path: Path, content: bytes) -> None:
    check_problems(outcome(tmp_path, content))


@given(text=st.text("ab1&*!%|>-?:,[]{}#'\"\\ \n\t~<.é\x85\u2028\ufeff", max_size=80))
@bounded
def test_any_yaml_punctuation_is_refused(tmp_path: Path, text: str) -> None:
    check_problems(outcome(tmp_path, text.encode()))


@given(tree=TREE)
@bounded
def test_any_tree_is_refused(tmp_path: Path, tree: Any) -> None:
    result = outcome(tmp_path, json.dumps(tree).encode())
    assert isinstance(result, EstateError)
    check_problems(result)


@given(data=st.data())
@bounded
def test_a_demo_estate_with_any_part_replaced_is_an_estate_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    changed = copy.deepcopy(DATA)
    for _ in range(data.draw(st.integers(1, 3))):
        node: Any = changed
        while True:
            part = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
            if not isinstance(node[part], dict | list) or not node[part] or data.draw(st.integers(0, 3)) == 0:
                break
            node = node[part]
        node[part] = data.draw(TREE)
    check_problems(outcome(tmp_path, json.dumps(changed).encode()))


# --- files that are no files, or too much ------------------------------------------------------------------------


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def make_loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "there is no such file; start an estate here (`make demo`, or `ninelives stack up`)"),
        (Path.mkdir, "is a folder"),
        (make_fifo, "not an ordinary file"),
        (make_socket, "cannot be opened"),
        (make_loop, "cannot be opened"),
        (lambda path: path.symlink_to("/dev/zero"), "not an ordinary file"),
    ],
    ids=["missing", "folder", "FIFO", "socket", "symlink loop", "device"],
)
def test_what_is_no_file_is_refused_without_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("estate.yaml")
    make(path)
    (problem,) = problems_of(path)
    assert (problem.file, problem.line) == ("estate.yaml", 0)
    assert words in problem.message


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "\udcff"])
def test_a_name_that_no_file_can_have_is_refused(name: str) -> None:
    (problem,) = problems_of(Path(name))
    str(problem).encode()


def test_a_symlink_is_followed_because_kubernetes_mounts_files_so(tmp_path: Path) -> None:
    link = tmp_path / "estate.yaml"
    link.symlink_to(DEMO)
    assert load_estate(link).name == "demo"


@pytest.mark.parametrize("size", [MAX_BYTES + 1, 50 * 1024**2, 50 * 1024**3], ids=["a byte too many", "50 MB", "50 GB"])
def test_a_big_file_is_refused_without_being_read(tmp_path: Path, size: int) -> None:
    path = tmp_path / "estate.yaml"
    path.touch()
    os.truncate(path, size)
    (problem,) = problems_of(path)
    assert "MB; an estate may have 4 MB" in problem.message


HOSTILE = """
import sys, time
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from benchmarks.bench_estate import hostile_files, refuse
path = Path(sys.argv[1])
for name, text in hostile_files().items():
    path.write_text(text, "utf-8")
    start = time.process_time()
    refuse(path)
    # Not ru_maxrss: it remembers the size of the process that forked this one.
    peak = int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) // 1024
    print(f"{name}|{time.process_time() - start:.2f}|{peak}", flush=True)
"""


def test_hostile_files_are_refused_in_bounded_time_and_memory(tmp_path: Path) -> None:
    def lines() -> Iterator[tuple[str, float, int]]:
        arguments = [str(tmp_path / "estate.yaml"), str(ROOT / "tests"), str(ROOT / "include")]
        run = subprocess.run(
            [sys.executable, "-c", HOSTILE, *arguments], capture_output=True, text=True, timeout=120, check=False
        )
        assert run.returncode == 0, run.stdout + run.stderr
        for line in run.stdout.splitlines():
            name, seconds, peak = line.split("|")
            yield name, float(seconds), int(peak)

    measured = list(lines())
    assert len(measured) > 10
    assert [line for line in measured if line[1] > 10 or line[2] > 500] == []
