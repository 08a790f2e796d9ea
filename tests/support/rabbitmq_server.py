"""A RabbitMQ node of its own for the tests and the benchmark, and a reader that takes everything out of its queues."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from needs import needs
from servers import WAIT, Certificates, Server, find_free_port, is_open, wait_until

BIN = Path("/usr/lib/rabbitmq/bin")
"""The programs themselves: those on the path go to the node of the system's service."""


needs_rabbitmq = needs((BIN / "rabbitmq-server").exists(), "rabbitmq-server", debian="rabbitmq-server")


class RabbitMq(Server):
    """A node with a name, ports and a port mapper of its own; ``guest`` is an administrator.

    Args:
        directory: Where its files are.
        certificates: It listens with TLS too, on ``tls_port``, with the certificate in ``server.pem``, and
            asks its clients for theirs.
    """

    def __init__(self, directory: Path, certificates: Certificates | None = None) -> None:
        super().__init__(directory)
        self.tls_port = find_free_port()
        self._certificates = certificates
        self._settings = {
            "HOME": str(directory),
            "ERL_EPMD_PORT": str(find_free_port()),
            "ERL_CRASH_DUMP_SECONDS": "0",
            "RABBITMQ_NODENAME": f"node{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(find_free_port()),
            "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(directory / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
            "RUNNING_UNDER_SYSTEMD": "1",  # the node takes the place of the shell that starts it
        }
        self._mapper: _PortMapper | None = None

    def prepare(self) -> None:
        lines = [f"listeners.tcp.local = 127.0.0.1:{self.port}", "loopback_users = none", "log.console = true"]
        if self._certificates is not None:
            lines += [
                f"listeners.ssl.local = 127.0.0.1:{self.tls_port}",
                f"ssl_options.cacertfile = {self._certificates.ca}",
                f"ssl_options.certfile = {self.directory / 'server.pem'}",
                f"ssl_options.keyfile = {self.directory / 'server.key'}",
                "ssl_options.verify = verify_peer",
                "ssl_options.fail_if_no_peer_cert = true",
            ]
            if not (self.directory / "server.pem").exists():
                self._copy(self._certificates.right)
        (self.directory / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (self.directory / "plugins").write_text("[].\n")
        if self._mapper is None:
            # Else the node starts one, which outlives it.
            self._mapper = _PortMapper(self.directory / "epmd", int(self._settings["ERL_EPMD_PORT"]))
            self._mapper.start()

    def command(self) -> Sequence[str]:
        return [str(BIN / "rabbitmq-server")]

    def environment(self) -> Mapping[str, str]:
        return self._settings

    def is_ready(self) -> bool:
        return is_open(self.port) and (self._certificates is None or is_open(self.tls_port))

    def close(self) -> None:
        """End it for good."""
        self.kill()
        if self._mapper is not None:
            self._mapper.kill()
            self._mapper = None

    def control(self, *arguments: str) -> str:
        """What ``rabbitmqctl`` prints."""
        done = subprocess.run(
            [str(BIN / "rabbitmqctl"), "--quiet", *arguments],
            env={**os.environ, **self._settings},
            capture_output=True,
            text=True,
            timeout=WAIT,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def use_certificate(self, certificate: tuple[str, str]) -> None:
        """Show another certificate from now on."""
        self._copy(certificate)
        self.control("eval", "ssl:clear_pem_cache().")

    def _copy(self, certificate: tuple[str, str]) -> None:
        for path, name in zip(certificate, ("server.pem", "server.key"), strict=True):
            (self.directory / name).write_bytes(Path(path).read_bytes())


class _PortMapper(Server):
    def __init__(self, directory: Path, port: int) -> None:
        super().__init__(directory)
        self.port = port

    def command(self) -> Sequence[str]:
        return ["epmd", "-address", "127.0.0.1", "-port", str(self.port)]


class Reader:
    """Takes messages out of a queue, and keeps them in the order in which they were there.

    Args:
        server: The node.
        queue: The queue.
    """

    def __init__(self, server: RabbitMq, queue: str) -> None:
        self.server = server
        self.queue = queue
        self.messages: list[Any] = []

    def read(self) -> list[Any]:
        """All that has come so far, with aio-pika."""
        asyncio.run(self._read())
        return self.messages

    def read_ids(self) -> list[tuple[str, str]]:
        """Delivery id and event name of each."""
        return [(message.message_id, message.type) for message in self.read()]

    def wait_for(self, count: int) -> list[Any]:
        """At least so many."""
        return wait_until(
            lambda: self.messages if len(self.read()) >= count else None, f"{count} messages are in {self.queue}"
        )

    async def _read(self) -> None:
        import aio_pika

        url = f"amqp://guest:guest@127.0.0.1:{self.server.port}/"
        async with await aio_pika.connect(url, timeout=WAIT) as connection:
            channel = await connection.channel()
            await channel.set_qos(1_000)
            queue = await channel.declare_queue(self.queue, passive=True)
            left = queue.declaration_result.message_count or 0
            if left:
                async with queue.iterator(timeout=10) as messages:
                    with contextlib.suppress(TimeoutError):
                        async for message in messages:
                            await message.ack()
                            self.messages.append(message)
                            left -= 1
                            if not left:
                                break
