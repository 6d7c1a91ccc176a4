"""When what went away is back for long enough to go on. Pure but for ``observe``.

A source that comes and goes must not start the work at each of its returns: it counts as back only after it answered
without a break for a while, and each break while we wait doubles that while. A long time without a look is a break too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ninelives.errors import NinelivesError
from ninelives.ports import Systems

REGISTRY = "registry"
LEDGER = "ledger"

MOST_DOUBLINGS = 5
"""A source that breaks off often must answer 32 times as long."""

Needs = Sequence[Sequence[str]]
"""Sources of which one in each group must be back."""


def store_of(site: str) -> str:
    """The source that a site's store is."""
    return f"store:{site}"


@dataclass
class Steadiness:
    """Watches sources over time.

    :param steady: seconds for which a source must have answered without a break
    :param longest_gap: seconds between two looks above which nobody knows what happened in between
    """

    needs: Needs
    steady: float
    longest_gap: float
    _since: dict[str, float] = field(default_factory=dict)
    _breaks: dict[str, int] = field(default_factory=dict)
    _last: float | None = None

    @property
    def sources(self) -> list[str]:
        return list(dict.fromkeys(source for group in self.needs for source in group))

    def look(self, at: float, silent: Iterable[str]) -> bool:
        """Take in which sources do not answer at ``at`` (seconds, monotonic); whether the work may go on."""
        if self._last is not None and at - self._last > self.longest_gap:
            self._since.clear()
        self._last = at
        gone = set(silent)
        for source in self.sources:
            if source not in gone:
                self._since.setdefault(source, at)
            elif source in self._since:
                del self._since[source]
                self._breaks[source] = self._breaks.get(source, 0) + 1
        return all(any(self._is_back(source, at) for source in group) for group in self.needs)

    def wanted(self, source: str) -> float:
        """Seconds for which this source must answer, after its breaks so far."""
        return self.steady * 2.0 ** min(self._breaks.get(source, 0), MOST_DOUBLINGS)

    def _is_back(self, source: str, at: float) -> bool:
        return source in self._since and at - self._since[source] >= self.wanted(source)


def patience_after(steady: float, waits: int) -> float:
    """Seconds of steadiness before the next attempt, after so many attempts that failed although all seemed well."""
    return steady * 2.0 ** min(waits, MOST_DOUBLINGS)


def observe(systems: Systems, sources: Iterable[str]) -> Mapping[str, str]:
    """Ask each source once; those that do not answer, with why."""
    silent: dict[str, str] = {}
    for source in sources:
        try:
            if source == REGISTRY:
                systems.registry().ping()
            elif source == LEDGER:
                systems.ledger().head()
            else:
                systems.store(source.removeprefix("store:")).ping(2.0)
        except NinelivesError as error:  # one that answers nonsense is no better than one that does not
            silent[source] = str(error)
    return silent
