"""Patterns as policies write them: ``*`` stands for any text, ``?`` for one character."""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=65536)
def overlaps(one: str, other: str) -> bool:
    """Whether some text matches both."""
    below = [False] * (len(other) + 1)
    for i in range(len(one), -1, -1):
        row = [False] * (len(other) + 1)
        for j in range(len(other), -1, -1):
            a, b = one[i : i + 1], other[j : j + 1]
            if not a and not b:
                row[j] = True
            elif a == "*":
                row[j] = below[j] or (bool(b) and row[j + 1])
            elif b == "*":
                row[j] = row[j + 1] or (bool(a) and below[j])
            elif a and b and (a == b or "?" in (a, b)):
                row[j] = below[j + 1]
        below = row
    return below[0]


@lru_cache(maxsize=65536)
def covers(wide: str, narrow: str) -> bool:
    """Whether every text that matches ``narrow`` matches ``wide``; may say no where only an odd ``wide`` would."""
    below = [False] * (len(narrow) + 1)
    for i in range(len(wide), -1, -1):
        row = [False] * (len(narrow) + 1)
        for j in range(len(narrow), -1, -1):
            a, b = wide[i : i + 1], narrow[j : j + 1]
            if not a and not b:
                row[j] = True
            elif a == "*":
                row[j] = below[j] or (bool(b) and row[j + 1])
            elif a and b and b != "*" and a in (b, "?"):
                row[j] = below[j + 1]
        below = row
    return below[0]
