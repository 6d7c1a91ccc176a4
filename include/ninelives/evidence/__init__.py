"""Append-only evidence: its hash chain, its anchors, its verification."""

from ninelives.evidence.anchor import anchor, read_anchors
from ninelives.evidence.chain import GENESIS, Anchor, Finding, FindingKind, canonical_json, timestamp, verify_chain
from ninelives.evidence.verify import Verification, verify_ledger

__all__ = [
    "GENESIS",
    "Anchor",
    "Finding",
    "FindingKind",
    "Verification",
    "anchor",
    "canonical_json",
    "read_anchors",
    "timestamp",
    "verify_chain",
    "verify_ledger",
]
