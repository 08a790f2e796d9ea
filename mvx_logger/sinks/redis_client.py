"""Where a server of Redis is, and a client of redis-py for it: what `RedisLogSink` and its reader have in common."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import LogConfigurationError
from ..formats.template import EventTemplate
from ..options import require_extra
from ..tls import make_tls_context

__all__ = [
    "RedisPlace",
    "encode_key",
    "make_client",
    "make_cluster",
    "make_key_template",
    "make_reading_client",
    "wrong_option",
]

_NODE = re.compile(r"(?:\[([^\[\]]+)\]|([^\[\]:@/\s]+))(?::(\d{1,5}))?")
_TLS = ("tls_ca", "tls_cert", "tls_key", "tls_key_password")


class RedisPlace:
    """Where the server is and how it is spoken to: what the sink and its reader have in common.

    Args:
        options: All options of `RedisLogSink` that it has beside those of its base.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        for user, password in (("username", "password"), ("sentinel_username", "sentinel_password")):
            if options[user] is not None and options[password] is None:
                raise wrong_option(user, f"needs {password}, too")
        self.master_name: str = options["master_name"]
        self.is_cluster = options["nodes"] is not None and self.master_name is None
        self.nodes = _parse_nodes(options["nodes"], 6379 if self.is_cluster else 26379)
        self.unix_socket: str | None = options["unix_socket"]
        if self.master_name is not None and not self.nodes:
            raise wrong_option("master_name", "needs nodes, the addresses of the sentinels")
        if self.is_cluster and options["db"]:
            raise wrong_option("db", "a cluster has database 0 only")
        if self.unix_socket is not None and (self.nodes or options["tls"]):
            raise wrong_option("unix_socket", "goes with neither nodes nor tls")
        self.address: dict[str, Any] = {"host": options["host"], "port": options["port"]}
        if self.unix_socket is not None:
            self.address = {"path": self.unix_socket}
        self.tls = {name: options[name] for name in _TLS} if options["tls"] else None
        self.timeout: float = options["connect_timeout"]
        self._options = options

    def get_client_options(self, prefix: str = "") -> dict[str, Any]:
        """What redis-py takes, without the address; with a prefix, the login of the sentinels."""
        options: dict[str, Any] = {
            "username": self._options[f"{prefix}username"],
            "password": self._options[f"{prefix}password"],
            "socket_connect_timeout": self.timeout,
            "protocol": 2,
        }
        if not prefix and self._options["db"]:
            options["db"] = self._options["db"]
        if self.tls is not None:
            options |= {
                "ssl_ca_certs": self.tls["tls_ca"],
                "ssl_cert_reqs": "required",
                "ssl_check_hostname": True,
            }
        return options

    def get_reading_options(self, prefix: str = "") -> dict[str, Any]:
        """The same for a blocking client."""
        options = self.get_client_options(prefix)
        if self.tls is not None:
            options |= {
                "ssl": True,
                "ssl_certfile": self.tls["tls_cert"],
                "ssl_keyfile": self.tls["tls_key"],
                # Without a password OpenSSL would ask for it on the terminal.
                "ssl_password": self.tls["tls_key_password"] or "",
            }
        return options


def _parse_nodes(nodes: Sequence[str] | None, default_port: int) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for index, node in enumerate(nodes or ()):
        match = _NODE.fullmatch(node)
        port = int(match[3] or default_port) if match else 0
        if match is None or not 0 < port < 65536:
            raise wrong_option(f"nodes[{index}]", "expected host or host:port")
        found.append((match[1] or match[2], port))
    if nodes is not None and not found:
        raise wrong_option("nodes", "expected one address at least")
    return found


def wrong_option(option: str, text: str) -> LogConfigurationError:
    """An error that names the option."""
    return LogConfigurationError(f"{option}: {text}", details={"path": option})


def make_key_template(key: str) -> EventTemplate:
    """The template of a key, in which an event's text chooses no slot of a cluster."""
    return EventTemplate(key, clean=lambda text: text.replace("{", "(").replace("}", ")"), option="key")


def make_client(place: RedisPlace, address: dict[str, Any], *, prefix: str = "") -> Any:
    """An asynchronous client for one server; with a prefix, it logs in as a sentinel wants it."""
    redis = require_extra("redis", "redis.asyncio")
    options = place.get_client_options(prefix) | address | _make_calm()
    return redis.Redis.from_pool(redis.ConnectionPool(connection_class=_make_connection_class(place), **options))


def make_cluster(place: RedisPlace) -> Any:
    """An asynchronous client for a cluster."""
    redis = require_extra("redis", "redis.asyncio")
    node_class = require_extra("redis", "redis.asyncio.cluster").ClusterNode
    options = place.get_client_options() | _make_calm() | ({} if place.tls is None else {"ssl": True})
    client = redis.RedisCluster(startup_nodes=[node_class(*node) for node in place.nodes], **options)
    # What the constructor has no parameter for.
    client.connection_kwargs["connection_class"] = _make_connection_class(place)
    for node in client.nodes_manager.startup_nodes.values():
        node.connection_class = client.connection_kwargs["connection_class"]
    return client


def _make_calm() -> dict[str, Any]:
    """Options of a client that tries nothing twice, and leaves it to the sink how long to wait."""
    retry = require_extra("redis", "redis.asyncio.retry").Retry
    return {"socket_timeout": None, "retry": retry(require_extra("redis", "redis.backoff").NoBackoff(), 0)}


def _make_connection_class(place: RedisPlace) -> Any:
    """Connections that end at once: there may be nobody to say goodbye to, and what was not sent is sent anew.

    With TLS, their context is ours; the client's own one, which verifies too, knows less of our options.
    """
    redis = require_extra("redis", "redis.asyncio")
    base: Any = redis.Connection if place.tls is None else redis.SSLConnection
    if place.unix_socket is not None:
        base = redis.UnixDomainSocketConnection
    context = None if place.tls is None else make_tls_context(**place.tls)

    class Connection(base):  # type: ignore[misc]
        def _connection_arguments(self) -> dict[str, Any]:
            arguments = dict(super()._connection_arguments())
            return arguments if context is None else {**arguments, "ssl": context}

        async def disconnect(self, nowait: bool = False, **details: Any) -> None:
            writer = getattr(self, "_writer", None)
            if writer is not None:
                writer.transport.abort()
            await super().disconnect(nowait=True, **details)

    return Connection


def encode_key(key: str) -> bytes:
    """A key as the server gets it; never raises."""
    return key.encode("utf-8", "backslashreplace")


def make_reading_client(place: RedisPlace) -> Any:
    """A blocking client, for a server, a master or a cluster."""
    redis = require_extra("redis", "redis")
    options = place.get_reading_options() | {"socket_timeout": place.timeout}
    if place.is_cluster:
        return redis.RedisCluster(startup_nodes=[redis.cluster.ClusterNode(*node) for node in place.nodes], **options)
    if place.unix_socket is not None:
        return redis.Redis(unix_socket_path=place.unix_socket, **options)
    address = place.address
    if place.nodes:
        sentinel = redis.Sentinel(place.nodes, sentinel_kwargs=place.get_reading_options("sentinel_"))
        host, port = sentinel.discover_master(place.master_name)
        address = {"host": host, "port": port}
        for client in sentinel.sentinels:
            client.close()
    return redis.Redis(**address, **options)
