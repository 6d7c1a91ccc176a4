"""Is the ledger what was written? Chain and anchors together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from ninelives.evidence.anchor import read_anchors
from ninelives.evidence.chain import Finding, verify_chain
from ninelives.ports import Ledger, ObjectStore, Record


@dataclass(frozen=True)
class Verification:
    """``whole`` needs at least one anchor that could be read: without one, a cut end would not be seen."""

    verdict: Literal["whole", "broken", "unknown"]
    ledger_id: str
    records: int
    anchors: int
    anchored_seq: int
    """Records after this one are chained, and not yet anchored; 0 where no anchor was read."""
    findings: tuple[Finding, ...]
    unreachable: Mapping[str, str]
    """Site to why its anchors could not be read."""
    unreadable: tuple[str, ...]
    """Torn anchors: as good as absent."""
    other_ledgers: frozenset[str]

    def __str__(self) -> str:
        match self.verdict:
            case "whole":
                return f"Whole: {self.records} records, anchored up to record {self.anchored_seq}."
            case "broken":
                return f"Not whole: {len(self.findings)} findings in {self.records} records."
            case "unknown":
                return f"Unknown: {self.records} records form a chain, but no anchor says how far it reached."


def verify_ledger(ledger: Ledger, stores: Mapping[str, ObjectStore]) -> Verification:
    """Read the whole ledger and all anchors; raises ``Unavailable`` when the ledger itself does not answer."""
    ledger_id = ledger.ledger_id
    # Anchors first: a head anchored after the records were read would look like a cut.
    reading = read_anchors(stores, ledger_id)
    count = 0

    def counted() -> Iterator[Record]:
        nonlocal count
        for record in ledger.scan():
            count += 1
            yield record

    findings = tuple(verify_chain(counted(), reading.anchors))
    return Verification(
        verdict="broken" if findings else "whole" if reading.anchors else "unknown",
        ledger_id=ledger_id,
        records=count,
        anchors=len(reading.anchors),
        anchored_seq=max((found.seq for found in reading.anchors), default=0),
        findings=findings,
        unreachable=reading.problems,
        unreadable=reading.unreadable,
        other_ledgers=reading.other_ledgers,
    )
