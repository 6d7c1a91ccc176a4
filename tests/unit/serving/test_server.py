from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.server import ServerState

from ninelives.serving.server import WholeAnswers


class Wire(asyncio.Transport):
    """Every packet by itself."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.sent: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        assert not self.closed
        self.sent.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def asked(request: bytes) -> Wire:
    async def answer(request: Request) -> Response:
        return Response(b"x" * 1000)

    async def ask() -> Wire:
        wire = Wire()
        config = uvicorn.Config(Starlette(routes=[Route("/", answer)]), http=WholeAnswers, lifespan="off")
        config.load()
        protocol = WholeAnswers(config, ServerState(), {})  # type: ignore[no-untyped-call]
        protocol.connection_made(wire)
        protocol.data_received(request)
        async with asyncio.timeout(10):
            while not b"".join(wire.sent).endswith(b"x" * 1000):
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        protocol.connection_lost(None)
        return wire

    return asyncio.run(ask())


def test_head_and_body_leave_in_one_piece_so_that_a_killed_replica_leaves_no_half_answer() -> None:
    (answer,) = asked(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").sent
    assert answer.startswith(b"HTTP/1.1 200")


def test_a_connection_that_is_closed_after_its_answer_has_sent_it_before() -> None:
    wire = asked(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    assert (len(wire.sent), wire.closed) == (1, True)
