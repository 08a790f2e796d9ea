"""Where a Kafka cluster is, and how librdkafka is told to speak to it: what `KafkaLogSink` and its reader have in common."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import LogConfigurationError
from ..formats.template import EventTemplate
from ..options import require_extra
from ..tls import make_tls_context

__all__ = ["KafkaPlace", "clean_topic", "make_topic_template", "wrong_option"]

_NOT_IN_TOPIC = re.compile(r"[^a-zA-Z0-9._-]")
_MAX_TOPIC = 249


class KafkaPlace:
    """The brokers, and how they know us.

    Args:
        servers: Their addresses.
        options: The sink's options that are about connections, by name.
    """

    def __init__(self, servers: list[tuple[str, int]], options: Mapping[str, Any]) -> None:
        self._options = options
        self.timeout: float = options["connect_timeout"]
        login = options["username"] is not None
        tls = options["tls"]
        config: dict[str, Any] = {
            "bootstrap.servers": ",".join(
                f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in servers
            ),
            "client.id": options["client_id"],
            "security.protocol": ("sasl_" if login else "") + ("ssl" if tls else "plaintext"),
            "socket.connection.setup.timeout.ms": max(1_000, round(options["connect_timeout"] * 1_000)),
            "socket.keepalive.enable": True,
            "reconnect.backoff.max.ms": 1_000,
            "log_level": 0,  # it would write to stderr
        }
        if login:
            config["sasl.mechanism"] = options["mechanism"]
            config["sasl.username"] = options["username"]
            config["sasl.password"] = options["password"]
        if tls:
            config["ssl.ca.location"] = options["tls_ca"] or "probe"
            config["enable.ssl.certificate.verification"] = True
            config["ssl.endpoint.identification.algorithm"] = "https"
            if options["tls_cert"] is not None:
                config["ssl.certificate.location"] = options["tls_cert"]
                config["ssl.key.location"] = options["tls_key"] or options["tls_cert"]
            if options["tls_key_password"] is not None:
                config["ssl.key.password"] = options["tls_key_password"]
        self.config = config

    def check(self) -> None:
        """See that what is needed to connect is there.

        Raises:
            LogConfigurationError: A package or a file is missing.
        """
        require_extra("kafka", "confluent_kafka")
        if self._options["tls"]:
            names = "tls_ca", "tls_cert", "tls_key", "tls_key_password"
            make_tls_context(**{name: self._options[name] for name in names})


def make_topic_template(text: str) -> EventTemplate:
    """The template of topics.

    Raises:
        LogConfigurationError: It is none, or has characters that no topic has.
    """
    template = EventTemplate(text, clean=lambda field: _NOT_IN_TOPIC.sub("_", field), option="topic")
    sample = template.replace_fields("x")
    if _NOT_IN_TOPIC.search(sample) or sample in ("", ".", "..") or len(sample) > _MAX_TOPIC:
        raise wrong_option("topic", "expected up to 249 letters, digits, dots, underscores, hyphens")
    return template


def clean_topic(text: str) -> str:
    """A topic that a broker takes."""
    for character in set(_NOT_IN_TOPIC.findall(text)):  # from a default
        text = text.replace(character, "_")
    return text[:_MAX_TOPIC] if text not in ("", ".", "..") else "_"


def wrong_option(name: str, text: str) -> LogConfigurationError:
    """An error about an option."""
    return LogConfigurationError(f"{name}: {text}", details={"path": name})
