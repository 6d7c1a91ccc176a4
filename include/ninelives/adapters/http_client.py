"""One way to make an HTTP client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx


def http_client(url: str, **settings: Any) -> httpx.Client:
    """A client for ``url``, with certificates checked wherever there is TLS.

    Without TLS the world's certificates are not read, which takes 40 ms of CPU and is what most of a short task's
    requests would cost. No proxy of the environment may stand between a look and what it looks at.
    """
    import httpx

    return httpx.Client(base_url=url, verify=not url.startswith("http:"), trust_env=False, **settings)
