"""Read a YAML file as plain data, in bounded time and memory, and remember on which line everything is.

An estate uses a small part of YAML 1.2: mappings with text keys, lists, text, numbers, true, false and null. What lets
a small file grow or mean something else (aliases, anchors, tags, directives, more documents, repeated keys) is refused.
``NO``, ``on`` and ``12:30`` are text, unlike in YAML 1.1: in a golden request they are carriers and times.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from yaml._yaml import CParser
from yaml.error import MarkedYAMLError
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from yaml.reader import ReaderError

from ninelives.errors import EstateError, EstateProblem
from ninelives.estate.units import shown

Loc = tuple[str | int, ...]
"""Where in the document: ``("services", 0, "objective", "rto")``."""

MAX_BYTES = 4 * 1024 * 1024
"""An estate of 1,000 services on 10 sites takes about 1 MB."""
MAX_NODES = 300_000
MAX_DEPTH = 16
MAX_ENTRIES = 10_000
"""In one list or mapping."""
MAX_TEXT = 4096
MAX_PROBLEMS = 1000

UNREADABLE = object()
"""Stands for a value that was refused here, so that nothing else is said about it."""

_NODES = (ScalarEvent, AliasEvent, MappingStartEvent, SequenceStartEvent)
_STARTS = (MappingStartEvent, SequenceStartEvent)
_ENDS = (MappingEndEvent, SequenceEndEvent)
# libyaml keeps every %TAG directive in a list that it searches for each new one: hours for a 4 MB file of them.
_DIRECTIVE = re.compile("(?<![^\n\r\x85\u2028\u2029\ufeff])%")
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,59}")
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_WORDS: dict[str, bool | float | None] = (
    dict.fromkeys(("", "~", "null", "Null", "NULL"))
    | dict.fromkeys(("true", "True", "TRUE"), True)
    | dict.fromkeys(("false", "False", "FALSE"), False)
    | {f"{sign}.{word}": float(f"{sign}inf") for sign in ("", "+", "-") for word in ("inf", "Inf", "INF")}
    | {f".{word}": float("nan") for word in ("nan", "NaN", "NAN")}
)


def format_path(loc: Sequence[str | int]) -> str:
    """``("services", 0, "name")`` is ``services[0].name``; a key that is no plain word is quoted."""
    path = ""
    for part in loc:
        if isinstance(part, str) and _PLAIN_KEY.fullmatch(part):
            path += f".{part}" if path else part
        else:
            path += f"[{part if isinstance(part, int) else ascii(part[:60])}]"
    return path


@dataclass
class Document:
    """Plain data, what was refused while reading it, and the line of every key and item."""

    file: str
    data: Any = None
    problems: list[EstateProblem] = field(default_factory=list)
    lines: dict[int, dict[Any, int]] = field(default_factory=dict)
    """``id`` of a mapping or list in ``data`` to the 1-based line of each of its keys or items."""

    def add(self, line: int, loc: Sequence[str | int], message: str) -> None:
        self.problems.append(EstateProblem(self.file, line, format_path(loc), message))

    def line(self, loc: Loc) -> int:
        """1-based line of the deepest part of ``loc`` that is in the document."""
        node, line = self.data, 1
        for part in loc:
            lines = self.lines.get(id(node), {}) if isinstance(node, dict | list) else {}
            if part not in lines or not (isinstance(node, list) or part in node):
                break
            node, line = node[part], lines[part]  # type: ignore[index]
        return line

    def refuse(self, line: int, message: str) -> NoReturn:
        """Stop reading; says also what was found before."""
        self.add(line, (), message)
        raise EstateError(self.problems)


def read_document(path: Path) -> Document:
    """Read ``path``; raises ``EstateError`` where nothing can be made of the file."""
    document = Document(str(path).encode("utf-8", "backslashreplace").decode())
    _Reader(document, _read_text(document, path)).read()
    return document


def _read_text(document: Document, path: Path) -> str:
    try:
        # O_NONBLOCK: opening a FIFO would wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        document.refuse(
            0,
            "there is no such file; start an estate here (`make demo`, or `ninelives stack up`), or name a file: "
            "NINELIVES_ESTATE=include/estates/demo/estate.yaml",
        )
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        document.refuse(0, f"cannot be opened ({reason}); name a file that this user can read")
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not an ordinary file"
            document.refuse(0, f"is {kind}; name an estate file")
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            # One byte beyond the limit, because a file may grow, or report no size at all.
            content = b"" if status.st_size > MAX_BYTES else stream.read(MAX_BYTES + 1)
    except OSError as error:
        document.refuse(0, f"cannot be read ({error.strerror}); check the disk, or name another file")
    finally:
        os.close(descriptor)
    if (size := max(status.st_size, len(content))) > MAX_BYTES:
        limit = MAX_BYTES // 1024 // 1024
        document.refuse(0, f"has {size / 1024 / 1024:.1f} MB; an estate may have {limit} MB: split it")
    if b"\0" in content:
        document.refuse(0, "has a NUL byte, so it is a binary file or UTF-16; save the estate as text in UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        document.refuse(line, f"is not UTF-8 (byte {content[error.start]:#04x}); save the file as UTF-8")


@dataclass
class _Open:
    """A mapping or list that is being read."""

    content: dict[str, Any] | list[Any]
    lines: dict[Any, int]
    part: str | int | None
    """Its key or index in the mapping or list around it; ``None`` for the document itself."""
    key: str | None = None
    """The key whose value comes next; ``None`` where the next node is a key."""
    unwanted: bool = False
    """The next value is read and thrown away, because its key was refused."""


class _Reader:
    """Builds data from libyaml's events with a stack of its own: depth and number of nodes are checked as they come."""

    def __init__(self, document: Document, text: str) -> None:
        self.document = document
        self.text = text
        self.stack: list[_Open] = []
        self.nodes = 0

    def read(self) -> None:
        document = self.document
        if match := _DIRECTIVE.search(self.text):
            line = self.text.count("\n", 0, match.end()) + 1
            document.refuse(line, "a line that starts with % is a YAML directive; estates use none: remove it")
        documents = 0
        try:
            parser = CParser(self.text)
            while (event := parser.get_event()) is not None:
                line = event.start_mark.line + 1 if event.start_mark else 0
                if isinstance(event, _NODES):
                    self._node(event, line)
                elif isinstance(event, _ENDS):
                    self.stack.pop()
                elif isinstance(event, DocumentStartEvent):
                    documents += 1
                    if documents > 1:
                        document.refuse(line, "a second YAML document starts here; keep one estate per file")
        except ReaderError as error:
            line = self.text.encode().count(b"\n", 0, error.position) + 1
            document.refuse(line, f"has a character that YAML does not allow ({error.reason}); remove it")
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line, column = (mark.line + 1, f" at column {mark.column + 1}") if mark else (0, "")
            context = f"{error.context}: " if error.context else ""
            document.refuse(line, f"is not YAML: {context}{error.problem}{column}; check indentation and quotes there")
        if not documents:
            document.refuse(0, "is empty; start from include/estates/demo/estate.yaml")

    def _node(self, event: Any, line: int) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            self.document.refuse(line, f"has more than {MAX_NODES:,} keys and values; split the estate")
        if len(self.stack) >= MAX_DEPTH and isinstance(event, _STARTS):
            self.document.refuse(line, f"is nested deeper than {MAX_DEPTH} levels; an estate never needs that")
        if len(self.document.problems) >= MAX_PROBLEMS:
            self.document.refuse(line, f"reading stopped here after {MAX_PROBLEMS:,} problems; solve these first")
        if self.stack and len(self.stack[-1].lines) > MAX_ENTRIES:
            self.document.refuse(line, f"has a list or mapping of more than {MAX_ENTRIES:,} entries; split the estate")
        if not self.stack:
            value = self.document.data = self._value(event, line, None)
            part: str | int | None = None
        else:
            parent = self.stack[-1]
            if isinstance(parent.content, list):
                part = len(parent.content)
                value = self._value(event, line, part)
                parent.lines[part] = line
                parent.content.append(value)
            elif parent.key is None and not parent.unwanted:
                part = "?"
                value = self._key(parent, event, line)
            else:
                part = "?" if parent.key is None else parent.key
                value = self._value(event, line, part)
                if parent.key is not None:
                    parent.content[parent.key] = value
                parent.key, parent.unwanted = None, False
        if isinstance(event, _STARTS):
            lines: dict[Any, int] = {}
            self.document.lines[id(value)] = lines
            self.stack.append(_Open(value, lines, part))

    def _key(self, parent: _Open, event: Any, line: int) -> Any:
        """Take a node as the next key of ``parent``; what cannot be a key is read and thrown away with its value."""
        noted = len(self.document.problems)
        key = self._value(event, line, None)
        if not isinstance(key, str):
            if len(self.document.problems) == noted:
                what = shown(key if isinstance(key, dict | list) else event.value or None)
                self._note(line, None, f"a key must be text, not {what}; put it in quotes or remove it")
            parent.unwanted = True
        elif key in parent.lines:
            first = parent.lines[key]
            self._note(line, key, f"the key is repeated, first on line {first}; keep one of the two")
            parent.unwanted = True
        else:
            parent.lines[key] = line
            parent.key = key
        return key

    def _value(self, event: Any, line: int, part: str | int | None) -> Any:
        """The plain value of a node; what is wrong with it is noted, not raised."""
        if isinstance(event, AliasEvent):
            self._note(line, part, f"estates use no aliases (*{str(event.anchor)[:60]}); write the value out")
            return UNREADABLE
        if event.anchor is not None:
            self._note(line, part, f"estates use no anchors (&{event.anchor[:60]}); remove it")
        if event.tag is not None:
            self._note(line, part, f"estates use no tags ({event.tag[:60]!r}); remove it, and put text in quotes")
        if isinstance(event, MappingStartEvent):
            return {}
        if isinstance(event, SequenceStartEvent):
            return []
        if event.tag is not None:
            return UNREADABLE
        text: str = event.value
        if len(text) > MAX_TEXT:
            self._note(line, part, f"the text has {len(text):,} characters, at most {MAX_TEXT:,} may be: shorten it")
            return UNREADABLE
        return _plain(text) if event.implicit[0] else text

    def _note(self, line: int, part: str | int | None, message: str) -> None:
        around = [level.part for level in self.stack]
        self.document.add(line, [step for step in (*around, part) if step is not None], message)


def _plain(text: str) -> Any:
    """An unquoted scalar by YAML 1.2's core schema, without its octal and hexadecimal numbers."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] in "+-.0123456789":
        if _INT.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
    return text
