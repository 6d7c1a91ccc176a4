"""The two sites that replication is tested between; a file with another idea of a site has its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.sites import Site


@pytest.fixture
def paris(tmp_path: Path) -> Iterator[Site]:
    site = Site("paris", tmp_path / "paris")
    yield site
    site.kill()


@pytest.fixture
def dublin(tmp_path: Path) -> Iterator[Site]:
    site = Site("dublin", tmp_path / "dublin")
    site.start()
    yield site
    site.kill()
