"""Read an estate file."""

from __future__ import annotations

from pathlib import Path

from ruamel.yaml import YAML

from ninelives.estate.model import Estate


def load_estate(path: Path) -> Estate:
    """Read and check the estate at ``path``; raises ``EstateError``."""
    return Estate.model_validate(YAML(typ="safe").load(path.read_text("utf-8")))
