"""Every error Ninelives raises on purpose.

    NinelivesError
    ├── EstateError   the estate file is wrong: fix the file
    ├── Refused       a gate or a safety rule said no: read the reasons
    ├── Unavailable   something outside did not answer: try again
    │   └── NoBucket  a store answered that the bucket is not there
    └── Corrupted     bytes or records are not what they were: stop, call a human

A message says what happened, why, and what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class NinelivesError(Exception):
    """Root of the tree; never raised itself."""


@dataclass(frozen=True, order=True)
class EstateProblem:
    """One thing wrong in an estate file.

    :param file: the file as the user named it
    :param line: 1-based line, 0 where the file as a whole is meant
    :param path: where in the document, e.g. ``services[0].objective.rto``
    :param message: what is wrong and what to do
    """

    file: str
    line: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.path}: {self.message}" if self.path else f"{where}: {self.message}"


class EstateError(NinelivesError):
    """The estate file cannot be used; ``problems`` names everything that is wrong, not only the first thing."""

    def __init__(self, problems: Sequence[EstateProblem]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(str(problem) for problem in self.problems))


class Refused(NinelivesError):
    """A gate or a safety rule said no; ``reasons`` says why, one sentence each."""

    def __init__(self, what: str, reasons: Sequence[str]) -> None:
        self.what = what
        self.reasons = tuple(reasons)
        super().__init__(f"{what}: " + "; ".join(self.reasons))


class Unavailable(NinelivesError):
    """Something outside did not answer in time; trying again may help."""


class NoBucket(Unavailable):
    """Nobody has made the bucket yet, or this is another disk than it was."""


class Corrupted(NinelivesError):
    """Bytes or records are not what was written; trying again cannot help."""
