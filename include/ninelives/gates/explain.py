"""Why the gate says what it says: every expectation with its reason, and rows that do not meet it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ninelives.gates.check import check_declared
from ninelives.gates.evidence import declared_copy, earlier_rows
from ninelives.gates.interval import Interval
from ninelives.gates.suite import Expectation, load_suite, suite_path
from ninelives.gates.verdict import GateResult, Outcome, asked_of
from ninelives.ports import Systems


@dataclass(frozen=True)
class Explained:
    """One expectation; ``outcome`` is ``None`` where the gate did not get that far."""

    expectation: Expectation
    outcome: Outcome | None

    @property
    def met(self) -> bool | None:
        """``None``: nobody can say."""
        if self.outcome is None or self.outcome.raised is not None or not self.outcome.judged:
            return None
        return self.outcome.success

    def document(self) -> dict[str, Any]:
        outcome = asdict(self.outcome) if self.outcome else {}
        return {
            **self.expectation.model_dump(mode="json"),
            "met": self.met,
            **{key: outcome.get(key) for key in ("judged", "raised", "observed", "rows")},
        }


def explain(
    systems: Systems, dataset: str, site: str, *, interval: Interval | None = None, rows: int = 5
) -> tuple[GateResult, list[Explained]]:
    """Ask as the gate does, and show it. Nothing is recorded: rows are data, and evidence is kept for good.

    :param rows: how many failing rows to show of each expectation; values of redacted columns are left out
    :raises EstateError: the suite cannot be used
    :raises Refused: the estate has no such dataset or site, or the suite says nothing of one interval
    :raises Unavailable: the store or the database does not answer
    """
    declared = declared_copy(systems, dataset, site)
    suite = load_suite(suite_path(systems.home.expectations, declared.suite))
    earlier = earlier_rows(systems.ledger(), suite, site)
    result, evaluation = check_declared(systems, declared, site, suite, interval=interval, rows=rows, earlier=earlier)
    outcomes = {outcome.index: outcome for outcome in evaluation.outcomes or ()}
    asked = asked_of(suite, interval).asked
    return result, [Explained(expectation, outcomes.get(index)) for index, expectation in enumerate(asked)]
