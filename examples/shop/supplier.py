"""The supplier's HTTP API, and the client that asks it. httpx and httpcore log every request by themselves."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

logger = logging.getLogger("shop.supplier")

AVAILABLE = {"lamp": 12, "desk": 1, "chair": 3}


class _Api(BaseHTTPRequestHandler):
    """Answers ``GET /stock/NAME``."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        body = json.dumps({"item": name, "available": AVAILABLE.get(name, 0)}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base class has it
        logger.debug(format, *args)


@contextlib.contextmanager
def serve() -> Iterator[str]:
    """The supplier's API on a free local port, in a thread of its own; gives its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Api) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="supplier-api")
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Supplier:
    """Asks the supplier what is there."""

    def __init__(self, address: str) -> None:
        self._client = httpx.Client(base_url=address, trust_env=False)

    def __enter__(self) -> Supplier:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._client.close()

    def availability(self, name: str) -> int:
        """How many of an item the supplier has."""
        answer = self._client.get(f"/stock/{name}").raise_for_status().json()
        logger.info("%s available: %d", answer["item"], answer["available"], extra={"answer": answer})
        return int(answer["available"])
