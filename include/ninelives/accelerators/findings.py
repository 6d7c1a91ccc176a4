"""What a look at accelerators comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class State(StrEnum):
    PASS = "pass"  # noqa: S105
    WARN = "warn"
    BLOCK = "block"
    UNKNOWN = "unknown"
    """It could not be read, which says nothing good."""
    SKIP = "skip"
    """Nobody looked."""


@dataclass(frozen=True)
class Finding:
    """One check of one device."""

    check: str
    state: State
    value: str
    """What was read, or why it was not."""
    limit: str
    """What it must be."""
    source: str
    """Whose limit that is."""
    device: str = ""
    """UUID; empty for the machine."""

    def __str__(self) -> str:
        where = f" {self.device}" if self.device else ""
        return f"{self.state} {self.check}{where}: {self.value} (must be: {self.limit}; {self.source})"


@dataclass(frozen=True)
class Report:
    """Every finding, and whether they allow the model to be served here."""

    kind: str
    findings: tuple[Finding, ...]
    optional: frozenset[str] = frozenset()
    """Checks whose ``unknown`` does not block."""
    cpu: bool = False
    """The policy says that no accelerator is needed, so a skip does not block."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """What speaks against it, one sentence each; a report without findings is one, too."""
        if not self.findings:
            return ("nothing was looked at",)
        return tuple(str(one) for one in self.findings if self._blocks(one))

    @property
    def allowed(self) -> bool:
        return not self.reasons

    def _blocks(self, finding: Finding) -> bool:
        match finding.state:
            case State.BLOCK:
                return True
            case State.UNKNOWN:
                return finding.check not in self.optional
            case State.SKIP:
                return not self.cpu
            case _:
                return False

    def to_dict(self) -> Mapping[str, Any]:
        findings = [asdict(one) for one in self.findings]
        return {"kind": self.kind, "allowed": self.allowed, "reasons": list(self.reasons), "findings": findings}
