"""A Mosquitto of its own for the tests and the benchmark, and a subscriber that keeps all that comes."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from needs import find_program, needs_program
from servers import WAIT, Certificates, Server, find_free_port, wait_until

needs_mosquitto = needs_program("mosquitto", debian="mosquitto")
USER, PASSWORD = "shop", "wide-open"
_numbers = itertools.count()  # the broker keeps what each subscriber has not read


class Mosquitto(Server):
    """A broker with a directory, port and configuration of its own.

    Args:
        directory: Where its files are.
        settings: Lines to add to its configuration.
        certificates: It listens with TLS too, on ``tls_port``, with the certificate in ``server.pem``.
        with_password: It asks for `USER` and `PASSWORD`.
        asks_certificate: With TLS, it takes clients with a certificate only.
    """

    def __init__(
        self,
        directory: Path,
        *settings: str,
        certificates: Certificates | None = None,
        with_password: bool = False,
        asks_certificate: bool = False,
    ) -> None:
        super().__init__(directory)
        self.tls_port = find_free_port()
        self.settings = list(settings)
        self.settings_of_listener: list[str] = []
        self._certificates = certificates
        self._with_password = with_password
        self._asks_certificate = asks_certificate
        if with_password:
            self.set_password(PASSWORD)

    def prepare(self) -> None:
        lines = [
            "user root",  # only where it is started by root, and then it may read and write its files
            "per_listener_settings false",
            "persistence true",
            f"persistence_location {self.directory}/",
            "autosave_interval 0",  # what `save` saves, no more
            "max_queued_messages 1000000",  # with 0 it hangs up on those whose messages it refuses
            "sys_interval 1",
            "log_type all",
            *([f"password_file {self.directory / 'passwords'}"] if self._with_password else ["allow_anonymous true"]),
            *self.settings,
            f"listener {self.port} 127.0.0.1",
            *self.settings_of_listener,
        ]
        if self._certificates is not None:
            lines += [
                f"listener {self.tls_port} 127.0.0.1",
                f"cafile {self._certificates.ca}",
                f"certfile {self.directory / 'server.pem'}",
                f"keyfile {self.directory / 'server.key'}",
                f"require_certificate {'true' if self._asks_certificate else 'false'}",
            ]
            if not (self.directory / "server.pem").exists():
                self._copy(self._certificates.right)
        (self.directory / "mosquitto.conf").write_text("\n".join(lines) + "\n")

    def command(self) -> Sequence[str]:
        return [find_program("mosquitto") or "mosquitto", "-c", str(self.directory / "mosquitto.conf")]

    def save(self) -> None:
        """Let it write sessions, and what it keeps for them, to the disk: it comes back with that when it is killed."""
        path = self.directory / "mosquitto.db"
        before = path.stat().st_mtime_ns if path.exists() else 0
        os.kill(self.pid, signal.SIGUSR1)
        wait_until(lambda: path.stat().st_mtime_ns > before, "it is on the disk")

    def reload(self) -> None:
        """Let it read passwords and rules again."""
        os.kill(self.pid, signal.SIGHUP)

    def set_password(self, password: str) -> None:
        """Change the password in its file; `reload` lets the broker see it."""
        path = self.directory / "passwords"
        path.unlink(missing_ok=True)
        subprocess.run(
            [find_program("mosquitto_passwd") or "mosquitto_passwd", "-c", "-b", str(path), USER, password],
            check=True,
            timeout=WAIT,
        )
        path.chmod(0o644)

    def use_certificate(self, certificate: tuple[str, str]) -> None:
        """Show another certificate from the next start."""
        self._copy(certificate)

    def _copy(self, certificate: tuple[str, str]) -> None:
        for path, name in zip(certificate, ("server.pem", "server.key"), strict=True):
            (self.directory / name).write_bytes(Path(path).read_bytes())
            (self.directory / name).chmod(0o644)


class Subscriber:
    """paho-mqtt in a thread of its own, with a session that outlives connections; it keeps all messages, in order.

    Args:
        port: The broker.
        topic: What it subscribes to.
        login: User and password.
        qos: The highest quality of service in which it wants messages.
    """

    def __init__(self, port: int, topic: str = "logs/#", login: tuple[str, str] | None = None, qos: int = 2) -> None:
        import paho.mqtt.client as mqtt
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        self.messages: list[Any] = []
        self._topic = topic
        self._qos = qos
        self._subscribed = threading.Event()
        self._marks = 0
        self._came: set[str] = set()
        self._client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=f"subscriber-{next(_numbers)}", protocol=mqtt.MQTTv5
        )
        if login is not None:
            self._client.username_pw_set(*login)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._client.reconnect_delay_set(0.05, 0.2)
        session = Properties(PacketTypes.CONNECT)
        session.SessionExpiryInterval = 3600
        self._client.connect_async("127.0.0.1", port, clean_start=False, properties=session)
        self._client.loop_start()
        assert self._subscribed.wait(WAIT)

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            return
        client.subscribe(self._topic, qos=self._qos)

    def _on_subscribe(self, *_: Any) -> None:
        self._subscribed.set()

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        if message.topic.rpartition("/")[2].startswith("mark-"):
            self._came.add(message.topic)
        else:
            self.messages.append(message)

    def catch_up(self) -> None:
        """Wait until everything that the broker has taken so far is here: what a client publishes now comes behind it."""
        self._marks += 1
        mark = f"{self._topic.removesuffix('#')}mark-{self._marks}"
        self._client.publish(mark, qos=1)
        wait_until(lambda: mark in self._came, "the subscriber has caught up")

    def read_ids(self) -> list[tuple[str, str]]:
        """Delivery id and event name of each."""
        from mvx_logger.formats.json import decode_event

        return [(get_id(message), decode_event(message.payload).meta.event_name) for message in list(self.messages)]

    def wait_for(self, count: int) -> list[Any]:
        """At least so many."""
        return wait_until(lambda: self.messages if len(self.messages) >= count else None, f"{count} messages have come")

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        self._client._reset_sockets()  # else the pair that wakes its thread is open until it is collected

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def get_id(message: Any) -> str:
    """The delivery id of a message."""
    return dict(message.properties.UserProperty)["delivery-id"]
