"""An HTTP server that takes what a sink sends, looks at it strictly, and answers as it is told.

In the test's own process, with its state at hand::

    with Receiver(Documents()) as receiver:
        receiver.script(503, Answer(429, headers={"Retry-After": "0.1"}), LOSE)    # the next three requests
        ...
        receiver.protocol.records

In a process of its own, to be killed and frozen (it stores what it takes in a file before it answers)::

    with ReceiverServer(tmp_path, "http_receiver:Documents") as server:
        ...
        server.read()

What is refused and what is stored is for a `Protocol` to say: one class for each kind of destination.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import http.server
import importlib
import json
import os
import signal
import socket
import ssl
import struct
import sys
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent))

from servers import WAIT, Server


@dataclass
class Request:
    """What came.

    Attributes:
        method, path: As in the request line; the path without its query, escapes resolved.
        query: The parameters; of several with one name, the last.
        headers: By name in small letters.
        body: Decompressed.
        raw: As it came.
        secure: True where it came by TLS; ``peer`` is the subject of the client's certificate then, where it has one.
    """

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    raw: bytes
    secure: bool = False
    peer: Any = None


@dataclass
class Answer:
    """What is said: a body that is a list or a mapping becomes JSON."""

    status: int = 200
    body: bytes | str | list[Any] | dict[str, Any] = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class Refused(Exception):
    """Raised by a protocol: nothing of the request is taken."""

    def __init__(self, status: int, body: Any = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{status} {body}")
        self.answer = Answer(status, body, headers or {})


class Misbehaviour:
    """What a script may hold beside answers."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


DROP = Misbehaviour("DROP")
"""Hang up without taking the request."""
LOSE = Misbehaviour("LOSE")
"""Take the request, and hang up without an answer."""
HANG = Misbehaviour("HANG")
"""Take nothing and say nothing, until `Receiver.release` or the end."""
GARBAGE = Misbehaviour("GARBAGE")
"""Answer with something that is no HTTP."""


class Protocol:
    """What is taken and what is refused. A subclass implements `handle`, which is not called by two threads at once.

    Attributes:
        records: What was taken: anything that JSON can hold. ``{"id": delivery_id, "name": event_name, ...}`` fits `read`.
        authorization: The value that the header has to have, where it matters: another one gets a 401.
    """

    authorization: str | None = None

    def __init__(self, store: Path | None = None) -> None:
        self.records: list[Any] = []
        self._file: Any = None
        if store is not None:
            self.records = read_records(store)
            store.write_text("".join(f"{json.dumps(record)}\n" for record in self.records))  # without half a line
            self._file = open(store, "ab", buffering=0)  # noqa: SIM115 - closed with the protocol
        self.recover()

    def recover(self) -> None:
        """Make of `records` what else there is to know, after a restart."""

    def handle(self, request: Request) -> Answer:
        """Look at a request, `take` what is in it, and answer.

        Raises:
            Refused: It is wrong.
        """
        raise NotImplementedError

    def take(self, records: Iterable[Any]) -> None:
        """Keep records. They are in the file, where there is one, when this returns."""
        taken = list(records)
        if self._file is not None:
            self._file.write("".join(f"{json.dumps(record)}\n" for record in taken).encode())
        self.records.extend(taken)

    def check_authorization(self, request: Request) -> None:
        if self.authorization is not None and request.headers.get("authorization") != self.authorization:
            raise Refused(401, "who are you?", {"WWW-Authenticate": "Basic"})

    def read(self) -> list[tuple[str, str]]:
        """The delivery ids and names of what was taken, in order: for `survive`."""
        return [(record["id"], record["name"]) for record in list(self.records)]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def read_records(store: Path) -> list[Any]:
    """What a protocol has stored; half a line at the end was never confirmed."""
    if not store.exists():
        return []
    lines = store.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines[:-1]]


class Documents(Protocol):
    """What `HttpLogSink` sends by default: JSON documents, one on each line or all in an array."""

    path = "/"

    def handle(self, request: Request) -> Answer:
        self.check_authorization(request)
        if request.path != self.path:
            raise Refused(404, f"there is no {request.path}")
        if request.method not in ("POST", "PUT"):
            raise Refused(405, "use POST")
        kind = request.headers.get("content-type")
        if kind == "application/x-ndjson":
            if not request.body.endswith(b"\n"):
                raise Refused(400, "the last line does not end")
            documents = [json.loads(line) for line in request.body.split(b"\n")[:-1]]
        elif kind == "application/json":
            documents = json.loads(request.body)
            if not isinstance(documents, list):
                raise Refused(400, "not an array")
        else:
            raise Refused(415, f"what is {kind}?")
        if not documents:
            raise Refused(400, "nothing in it")
        self.take({"id": found["delivery_id"], "name": found["event"], "document": found} for found in documents)
        return Answer(200, {"taken": len(documents)})


class Receiver:
    """A server on threads of its own, until it is closed.

    Args:
        protocol: What to do with requests.
        port: Where to listen; 0 for any.
        certificate: The files of its certificate and key, for TLS; see also `use_certificate`.
        client_ca: Ask clients for a certificate that this authority has signed.
        max_body: Answer 413 to larger bodies (as they come), and hang up.

    Attributes:
        requests: All requests that were read to their end, whatever came of them.
        statuses: What was answered, in order; None where the receiver hung up.
        connections: How many connections were made.
        url: Where it is.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        protocol: Protocol,
        *,
        port: int = 0,
        certificate: tuple[str, str] | None = None,
        client_ca: str | None = None,
        max_body: int = 1 << 30,
    ) -> None:
        self.protocol = protocol
        self.requests: list[Request] = []
        self.statuses: list[int | None] = []
        self.connections = 0
        self.max_body = max_body
        self._script: deque[Any] = deque()
        self._always: Any = None
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._client_ca = client_ca
        self._context: ssl.SSLContext | None = None
        if certificate is not None:
            self.use_certificate(certificate)
        self._server = _Server((self.host, port), _make_handler(self), bind_and_activate=False)
        self._server.receiver = self
        self._server.server_bind()
        self._server.server_activate()
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"{'http' if self._context is None else 'https'}://{self.host}:{self.port}"

    def use_certificate(self, certificate: tuple[str, str]) -> None:
        """Serve with this certificate from now on."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        if self._client_ca is not None:
            context.load_verify_locations(self._client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        self._context = context

    def script(self, *steps: int | Answer | Misbehaviour | Callable[[Request], Answer]) -> None:
        """What to do with the next requests, one step for each: answer (a number is a status; one below 300 stands for the
        usual treatment), or misbehave. Nothing of a request that gets an answer of a script is taken."""
        self._script.extend(steps)

    def always(self, step: int | Answer | Misbehaviour | None) -> None:
        """What to do with all requests from now on; None for the usual."""
        self._always = step

    @property
    def is_script_over(self) -> bool:
        return not self._script

    def release(self) -> None:
        """Let those go that hang."""
        self._released.set()
        self._released = threading.Event()

    def drop(self) -> int:
        """Reset all connections; how many there were."""
        with self._lock:
            dropped = list(self._sockets)
        for connection in dropped:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.shutdown(socket.SHUT_RDWR)
        return len(dropped)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(WAIT)
        self._released.set()
        self.drop()
        self._server.server_close()
        self.protocol.close()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self, request: Request) -> Answer | Misbehaviour:
        with self._lock:
            self.requests.append(request)
            step = self._script.popleft() if self._script else self._always
            answer = self._decide(request, step)
            self.statuses.append(answer.status if isinstance(answer, Answer) else None)
        if step is HANG:
            self._released.wait(WAIT)
        return answer

    def _decide(self, request: Request, step: Any) -> Answer | Misbehaviour:
        if isinstance(step, int) and step >= 300:
            return Answer(step, "as the script says")
        if step is HANG or step is DROP or step is GARBAGE:
            return step
        if isinstance(step, Answer):
            return step
        try:
            answer = step(request) if callable(step) else self.protocol.handle(request)
        except Refused as refused:
            return refused.answer
        except Exception as err:  # a body that is not what it should be
            return Answer(400, f"{type(err).__name__}: {err}")
        return step if step is LOSE else answer


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 50
    receiver: Receiver

    def finish_request(self, request: Any, client_address: Any) -> None:
        receiver = self.receiver
        receiver.connections += 1
        with receiver._lock:
            receiver._sockets.add(request)
        wrapped = request
        try:
            context = receiver._context
            if context is not None:
                request.settimeout(WAIT)
                wrapped = context.wrap_socket(request, server_side=True)
                with receiver._lock:
                    receiver._sockets.discard(request)
                    receiver._sockets.add(wrapped)
            super().finish_request(wrapped, client_address)
        except (OSError, ValueError):  # hung up, or does not like the certificate
            pass
        finally:
            with receiver._lock:
                receiver._sockets.discard(request)
                receiver._sockets.discard(wrapped)
            with contextlib.suppress(OSError):
                wrapped.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


def _make_handler(receiver: Receiver) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = WAIT
        disable_nagle_algorithm = True

        def do(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            if not headers.get("content-length", "").isdigit() or "transfer-encoding" in headers:
                self._say(Answer(411, "the length is missing"))
                self.close_connection = True
                return
            length = int(headers["content-length"])
            if length > receiver.max_body:
                self.close_connection = True
                receiver.statuses.append(413)
                self._say(Answer(413, "too large"))
                return
            raw = self.rfile.read(length)
            if len(raw) < length:
                self.close_connection = True
                return
            parts = urlsplit(self.path)
            is_secure = isinstance(self.connection, ssl.SSLSocket)
            try:
                body = _decompress(raw, headers.get("content-encoding"))
            except Exception as err:
                self._say(Answer(400, f"cannot be decompressed: {err}"))
                return
            request = Request(
                self.command,
                unquote(parts.path),
                dict(parse_qsl(parts.query, keep_blank_values=True)),
                headers,
                body,
                raw,
                is_secure,
                self.connection.getpeercert() if is_secure else None,
            )
            answer = receiver._answer(request)
            if isinstance(answer, Misbehaviour):
                self.close_connection = True
                if answer is GARBAGE:
                    self.wfile.write(b"220 ready for mail\r\n")
                elif answer is not HANG:
                    linger = struct.pack("ii", 1, 0)
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                return
            self._say(answer)

        def _say(self, answer: Answer) -> None:
            body = answer.body
            headers = dict(answer.headers)
            if isinstance(body, (dict, list)):
                body = json.dumps(body)
                headers.setdefault("Content-Type", "application/json")
            if isinstance(body, str):
                body = body.encode()
            self.send_response(answer.status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.do)
    return Handler


def _decompress(raw: bytes, encoding: str | None) -> bytes:
    if encoding is None or encoding == "identity":
        return raw
    if encoding == "gzip":
        return gzip.decompress(raw)
    if encoding == "deflate":
        return zlib.decompress(raw)
    if encoding == "zstd":
        import zstandard

        return zstandard.ZstdDecompressor().decompress(raw)
    if encoding == "snappy":
        import snappy

        return snappy.uncompress(raw)
    raise ValueError(f"unknown encoding {encoding}")


class ReceiverServer(Server):
    """A `Receiver` in a process of its own.

    Args:
        directory: Where its file is.
        protocol: ``module:Class`` of a `Protocol` in this directory.
        attributes: What to set on it: anything that JSON can hold.
    """

    def __init__(self, directory: Path, protocol: str, **attributes: Any) -> None:
        super().__init__(directory)
        self._protocol = protocol
        self._attributes = attributes
        self.store = directory / "store.jsonl"

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def command(self) -> Sequence[str]:
        return [
            sys.executable, str(Path(__file__).resolve()), self._protocol, str(self.port), str(self.store),
            json.dumps(self._attributes),
        ]  # fmt: skip

    def read_records(self) -> list[Any]:
        """What it has taken."""
        return read_records(self.store)

    def read(self) -> list[tuple[str, str]]:
        """The delivery ids and names of what it has taken, in order: for `survive`."""
        return [(record["id"], record["name"]) for record in self.read_records()]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("protocol")
    parser.add_argument("port", type=int)
    parser.add_argument("store", type=Path)
    parser.add_argument("attributes")
    options = parser.parse_args()
    module, _, name = options.protocol.partition(":")
    # As the module that it is, not as __main__: classes are compared.
    here = importlib.import_module("http_receiver")
    protocol = getattr(importlib.import_module(module), name)(options.store)
    for key, value in json.loads(options.attributes).items():
        setattr(protocol, key, value)
    receiver = here.Receiver(protocol, port=options.port)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop.wait()
    receiver.close()
    os._exit(0)


if __name__ == "__main__":
    main()
