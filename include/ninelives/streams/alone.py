"""One stream by itself: for what must land as a real stream does, and never where it does."""

from __future__ import annotations

from typing import Any

from ninelives.estate.model import Estate
from ninelives.estate.streams import Stream
from ninelives.ports import Systems


class WithStream:
    """``Systems`` whose estate declares one stream alone; all else is the real one."""

    def __init__(self, systems: Systems, stream: Stream) -> None:
        self._systems = systems
        parts = {name: getattr(systems.estate, name) for name in Estate.model_fields}
        self.estate = Estate.model_construct(**{**parts, "streams": (stream,)})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._systems, name)
