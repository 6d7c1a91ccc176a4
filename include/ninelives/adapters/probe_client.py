"""The prober's HTTP client: aiohttp, because it costs the probed machine less than half of what httpx does."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

import aiohttp

from ninelives.probing.classify import Reply

_IDLE = 2.0
"""Seconds. Less than any server keeps an idle connection, so that none is used at the instant when it is closed."""


class ProbeClient:
    """Sends one POST and never a second one by itself; redirects and proxies are not followed."""

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._session.close()

    async def send(self, url: str, headers: Mapping[str, str], body: bytes, timeout: float) -> Reply:
        """The whole answer, or what went wrong within ``timeout`` seconds; never raises for what the network does."""
        try:
            async with self._session.post(
                url, data=body, headers=headers, timeout=aiohttp.ClientTimeout(total=timeout), allow_redirects=False
            ) as response:
                answered = {name.lower(): value for name, value in response.headers.items()}
                return Reply(response.status, answered, await response.read())
        except TimeoutError:  # before OSError, of which it is one
            return Reply(error=f"no answer within {timeout:g} s", timed_out=True)
        except (aiohttp.ClientError, OSError) as error:
            return Reply(error=f"{type(error).__name__}: {error}")
