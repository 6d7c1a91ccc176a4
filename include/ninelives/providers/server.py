"""A provider on loopback: it gives each delivery when it is due, not before."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ninelives.providers.disturb import Delivery


@contextmanager
def serving(deliveries: Sequence[Delivery], apart: float) -> Iterator[str]:
    """Its URL: ``GET /<n>`` waits for delivery ``n`` and is 404 after the last; header ``x-batch`` says which it is.

    :param apart: seconds between two batches
    """
    closed, start = threading.Event(), time.monotonic()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            number = self.path.removeprefix("/")
            if not (number.isascii() and number.isdigit() and int(number) < len(deliveries)):
                self.send_error(404)
                return
            delivery = deliveries[int(number)]
            if closed.wait(max(0.0, start + delivery.due * apart - time.monotonic())):
                self.send_error(503)
                return
            self.send_response(200)
            self.send_header("content-length", str(len(delivery.data)))
            self.send_header("x-batch", str(delivery.batch))
            self.end_headers()
            self.wfile.write(delivery.data)

        def log_message(self, format: str, *args: object) -> None:
            """Standard error is the command's."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        closed.set()
        server.shutdown()
        server.server_close()
        thread.join()
