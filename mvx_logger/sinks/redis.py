"""`RedisLogSink`: events into a stream, a list or a channel of Redis, with one server, sentinels or a cluster.

An entry of a stream has two fields, ``id`` (the delivery id) and ``event`` (the JSON of `mvx_logger.formats.json`). An item
of a list, and a message of a channel, is one JSON object: that of the event with the delivery id as ``id`` before it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal
from urllib.parse import SplitResult, unquote

from .. import selflog
from ..delivery.sink import AsyncioLogSink, LogDeliveryErrorKind, LogEventBatch
from ..errors import (
    LogConfigurationError,
    LogDeliveryError,
    LogDeliveryPartialError,
    LogDeliveryRefusedError,
    LogDeliveryTransientError,
)
from ..formats.json import encode_event
from ..model import LogEvent
from ..options import check_options, check_own_options, options_from_url, require_extra
from ..tls import make_tls_context
from .redis_client import RedisPlace, encode_key, make_client, make_cluster, make_key_template, wrong_option
from .redis_reader import read_streams

__all__ = ["RedisLogSink"]

_LOGIN = {"username": "username", "password": "password"}
_URL_PARTS: dict[str, dict[str, str]] = {
    "": {"hostname": "host", "port": "port", "path": "db", **_LOGIN},
    "sentinel": {"netloc": "nodes", "path": "master_name", **_LOGIN},
    "cluster": {"netloc": "nodes", **_LOGIN},
    "unix": {"path": "unix_socket", **_LOGIN},
}
"""By what stands behind the ``+`` of the scheme."""
_MAX_BULK = 512 * 1024 * 1024
# The command of one event, unless its id is known. It comes before the id, so that no id is known without its event, and it
# is the first command that writes: only that one fails when the memory is full. An event that is there already is written
# about all the same, because WAIT waits for the last write of a connection.
_ONCE = (
    "if redis.call('EXISTS',KEYS[2])==1 then redis.call('PEXPIRE',KEYS[2],ARGV[1]) return 0 end "
    "redis.call(ARGV[2],KEYS[1],unpack(ARGV,3)) redis.call('SET',KEYS[2],'','PX',ARGV[1]) return 1"
)
_CODE = re.compile(r"[A-Z]+\b|Error running script.* -[A-Z]+ ")
_RANGES: dict[str, tuple[float, float]] = {
    "port": (1, 65535),
    "db": (0, 1 << 31),
    "max_len": (1, 1 << 62),
    "max_event_bytes": (1, 1 << 62),
    "deduplicate": (0.001, 1e10),
    "wait_replicas": (0, 1_000_000),
    "wait_timeout": (0.001, 1e6),
    "connect_timeout": (0.001, 1e6),
}


def _check(given: Mapping[str, Any]) -> dict[str, Any]:
    """The sink's own options, each checked by itself, with defaults for those that are missing."""
    return check_own_options(RedisLogSink, given, _RANGES)


class RedisLogSink(AsyncioLogSink):
    """Adds events to a stream (``XADD``), a list (``RPUSH``) or sends them to a channel (``PUBLISH``), a batch at a time.

    As a URL, with the other options in the query::

        redis://user:password@host:6379/0          rediss://... with TLS, here and below
        redis+sentinel://one:26379,two/mymaster    the master that the sentinels name
        redis+cluster://one:6379,two               a cluster, of which these nodes are asked first
        redis+unix:///run/redis.sock

    An event counts as delivered when the server has answered its command. A batch whose answer is lost comes again, so an
    event may be there twice, with the same delivery id: a reader that has seen the id skips it. With ``deduplicate`` the
    server does. To a channel events are sent, no more: who does not listen at that moment never gets them.

    A server that is down or loading, a wrong password, a permission that is missing, a replica (``READONLY``), memory that
    is full (``OOM``), a disk that is full (``MISCONF``), too few replicas: all that is transient, and the events wait. So is
    a fixed key that holds something else (``WRONGTYPE``), until somebody removes it. Refused is an event that is larger than
    ``max_event_bytes``, and one whose own text makes a key (``key`` has fields) that holds something else.

    Args:
        host: A name or an address.
        port: The port.
        db: The number of the database.
        username: The user (ACL); without one, ``password`` is the one of the default user.
        password: The password.
        tls: Speak TLS. The server's certificate and its name are always verified.
        tls_ca, tls_cert, tls_key, tls_key_password: See `mvx_logger.tls.make_tls_context`.
        unix_socket: The path of a socket, instead of host and port.
        nodes: Addresses, ``host`` or ``host:port``: of nodes of a cluster, or, with ``master_name``, of sentinels.
        master_name: What the sentinels call the master.
        sentinel_username, sentinel_password: For the sentinels, where they ask for them.
        kind: ``stream``, ``list`` or ``pubsub``.
        key: The key of the stream or the list, or the channel: a template (see `mvx_logger.formats.template`), e.g.
            ``logs:{namespace}``. In a cluster ``{{logs}}:{namespace}`` keeps all on one node. Braces in the text of an event
            become parentheses.
        max_len: Keep this many of the newest entries: about, in a stream; exactly, in a list.
        max_event_bytes: Refuse an event whose JSON is larger. Redis closes the connection at one that is larger than its
            ``proto-max-bulk-len``, which is this much by default; set it where the server's limit is lower.
        deduplicate: Let the server remember the delivery ids for so many seconds, each in a key of its own
            (``KEY:seen:ID``), and take no event twice within that time. Not for channels.
        wait_replicas: An event counts as delivered when so many replicas have it, too. Not in a cluster.
        wait_timeout: How long to wait for them, in seconds; then the batch comes again.
        connect_timeout: How long connecting may take, in seconds.
        **async_options: Those of `AsyncioLogSink`.

    Raises:
        LogConfigurationError: An argument has the wrong type, is out of range, or does not go with another.
    """

    sink_type: ClassVar[str] = "redis"
    url_schemes: ClassVar[tuple[str, ...]] = (
        "redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster", "redis+unix",
    )  # fmt: skip
    resource_options: ClassVar[tuple[str, ...]] = (
        "host", "port", "db", "unix_socket", "nodes", "master_name", "kind", "key",
    )  # fmt: skip
    secret_options: ClassVar[tuple[str, ...]] = ("password", "sentinel_password", "tls_key_password")

    def __init__(
        self,
        *,
        host: str = "localhost",
        port: int = 6379,
        db: int = 0,
        username: str | None = None,
        password: str | None = None,
        tls: bool = False,
        tls_ca: str | None = None,
        tls_cert: str | None = None,
        tls_key: str | None = None,
        tls_key_password: str | None = None,
        unix_socket: str | None = None,
        nodes: list[str] | None = None,
        master_name: str | None = None,
        sentinel_username: str | None = None,
        sentinel_password: str | None = None,
        kind: Literal["stream", "list", "pubsub"] = "stream",
        key: str = "logs",
        max_len: int | None = None,
        max_event_bytes: int = _MAX_BULK,
        deduplicate: float | None = None,
        wait_replicas: int = 0,
        wait_timeout: float = 1.0,
        connect_timeout: float = 10.0,
        **async_options: Any,
    ) -> None:
        options = _check(locals())
        self._place = RedisPlace(options)
        for name in ("max_len", "deduplicate"):
            if kind == "pubsub" and options[name] is not None:
                raise wrong_option(name, "a channel keeps nothing")
        if wait_replicas and self._place.is_cluster:
            raise wrong_option("wait_replicas", "not in a cluster; its nodes have min-replicas-to-write for that")
        self._kind = kind
        self._template = make_key_template(key)
        self._key = encode_key(self._template.replace_fields("")) if self._template.is_constant else None
        self._max_len = max_len
        self._trim: tuple[Any, ...] = ("MAXLEN", "~", max_len) if max_len is not None and kind == "stream" else ()
        self._max_event_bytes = max_event_bytes
        self._remember = None if deduplicate is None else round(deduplicate * 1000)
        self._wait = (wait_replicas, round(wait_timeout * 1000)) if wait_replicas else None
        self._client: Any = None
        self._turn = 0
        super().__init__(**async_options)

    @classmethod
    def options_from_url(cls, url: SplitResult) -> dict[str, Any]:
        """See the class for what the parts of each scheme are."""
        scheme, _, place = url.scheme.partition("+")
        found = options_from_url(cls, url, _URL_PARTS[place])
        if place == "unix":
            found["unix_socket"] = unquote(url.path)
        if place in ("sentinel", "cluster"):
            if "nodes" not in found or (place == "sentinel" and "master_name" not in found):
                wanted = "one:26379,two/mymaster" if place == "sentinel" else "one:6379,two"
                raise LogConfigurationError(f"the URL looks like {url.scheme}://{wanted}")
            found["nodes"] = found["nodes"].split(",")
        if scheme == "rediss":
            found["tls"] = True
        return found

    async def _on_starting(self) -> None:
        require_extra("redis", "redis.asyncio")
        if self._place.tls is not None:
            make_tls_context(**self._place.tls)

    # ------------------------------------------------------------------ the connection

    async def _on_connecting(self) -> None:
        place = self._place
        client = None
        try:
            async with asyncio.timeout(place.timeout):
                if place.is_cluster:
                    client = make_cluster(place)
                    await client.initialize()
                else:
                    address = await self._ask_sentinels() if place.nodes else place.address
                    client = make_client(place, address)
                    pool = client.connection_pool
                    await pool.release(await pool.get_connection())
        except BaseException:
            if client is not None:
                await client.aclose()
            raise
        self._client = client

    async def _ask_sentinels(self) -> dict[str, Any]:
        """The address of the master, from the first sentinel that answers; each time another one is the first."""
        redis_error = require_extra("redis", "redis.exceptions").RedisError
        place = self._place
        self._turn += 1
        start = self._turn % len(place.nodes)
        errors: list[str] = []
        for host, port in [*place.nodes[start:], *place.nodes[:start]]:
            sentinel = make_client(place, {"host": host, "port": port}, prefix="sentinel_")
            try:
                async with asyncio.timeout(place.timeout / len(place.nodes)):
                    found = await sentinel.sentinel_get_master_addr_by_name(place.master_name)
                if found is not None:
                    return {"host": found[0], "port": found[1]}
                errors.append(f"{host}:{port}: knows no master {place.master_name!r}")
            except (OSError, redis_error) as err:
                errors.append(f"{host}:{port}: {err or 'no answer'}")
            finally:
                await sentinel.aclose()
        raise LogDeliveryTransientError(f"no sentinel names the master: {'; '.join(errors)}")

    async def _on_disconnecting(self) -> None:
        client, self._client = self._client, None
        await client.aclose()

    # ------------------------------------------------------------------ delivering

    async def _dispatch_batch(self, events: LogEventBatch) -> None:
        commands, refused = self._make_commands(events)
        if not commands:
            raise LogDeliveryRefusedError(refused[0])
        pipeline = self._client.pipeline(transaction=False)
        for _, command in commands:
            pipeline.execute_command(*command)
        if self._wait is not None:
            pipeline.execute_command("WAIT", *self._wait)
        results = await pipeline.execute(raise_on_error=False)
        failed: dict[int, Exception] = {}
        for (indices, _), result in zip(commands, results, strict=False):
            if isinstance(result, Exception):
                failed.update(dict.fromkeys(indices, result))
                if not indices:
                    selflog.report("redis_trim", "a list cannot be trimmed", sink=self._label(), error=_tell(result))
        self._settle(failed, refused, len(events))
        if self._wait is not None:
            count = results[-1]
            if isinstance(count, Exception):
                raise LogDeliveryTransientError(_tell(count))
            if count < self._wait[0]:
                # On the same connection: WAIT tells of what was written on it.
                raise LogDeliveryTransientError(f"{count} of {self._wait[0]} replicas have it", retry_after=0.0)
        if refused:
            raise LogDeliveryPartialError(next(iter(refused.values())), refused=refused)

    def _settle(self, failed: Mapping[int, Exception], refused: dict[int, str], count: int) -> None:
        """Raise unless what has failed is refused, which is added to ``refused`` then."""
        retry: list[int] = []
        for index, error in failed.items():
            if "WRONGTYPE" in str(error) and self._key is None:
                refused[index] = _tell(error)
            else:
                retry.append(index)
        if not retry:
            return
        text = _tell(failed[retry[0]])
        if self._wait is not None or len(retry) == count:
            # Not a partial answer: the next attempt needs a new connection, or another master.
            if any(_passes(failed[index]) for index in retry):
                raise LogDeliveryTransientError(text)
            raise LogDeliveryError(text)
        raise LogDeliveryPartialError(text, refused=refused, retry=retry)

    def _make_commands(
        self, events: LogEventBatch
    ) -> tuple[list[tuple[Sequence[int], tuple[Any, ...]]], dict[int, str]]:
        """The commands, each with the indices of its events, and the events that are too large."""
        ids = events.delivery_ids
        bodies = [encode_event(event) for event in events]
        limit = self._max_event_bytes
        refused = {
            index: f"the event has {len(body)} bytes, more than max_event_bytes"
            for index, body in enumerate(bodies)
            if len(body) > limit
        }
        if self._key is not None:
            keys = [self._key] * len(events)
        else:
            keys = [encode_key(self._template.format(event)) for event in events]
        if self._kind != "stream":
            bodies = [b'{"id":"%b",%b' % (name.encode(), body[1:]) for name, body in zip(ids, bodies, strict=True)]
        chosen = [index for index in range(len(events)) if index not in refused]
        make = self._make_addition
        if self._kind != "list":
            return [((index,), make(keys[index], ids[index], bodies[index])) for index in chosen], refused
        by_key: dict[bytes, list[int]] = {}
        for index in chosen:
            by_key.setdefault(keys[index], []).append(index)
        commands: list[tuple[Sequence[int], tuple[Any, ...]]] = []
        for key, indices in by_key.items():
            if self._remember is None:
                commands.append((indices, ("RPUSH", key, *[bodies[index] for index in indices])))
            else:
                commands += [((index,), make(key, ids[index], bodies[index])) for index in indices]
            if self._max_len is not None:
                commands.append(((), ("LTRIM", key, -self._max_len, -1)))
        return commands, refused

    def _make_addition(self, key: bytes, delivery_id: str, body: bytes) -> tuple[Any, ...]:
        """The command for one event."""
        if self._kind == "pubsub":
            return "PUBLISH", key, body
        if self._kind == "list":
            name, rest = "RPUSH", (body,)
        else:
            name, rest = "XADD", (*self._trim, "*", "id", delivery_id, "event", body)
        if self._remember is None:
            return name, key, *rest
        # In a cluster, both keys have to be in one slot.
        form = b"{%b}:seen:%b" if self._place.is_cluster and b"{" not in key else b"%b:seen:%b"
        return "EVAL", _ONCE, 2, key, form % (key, delivery_id.encode()), self._remember, name, *rest

    def _classify_error(self, error: BaseException) -> LogDeliveryErrorKind:
        errors = require_extra("redis", "redis.exceptions")

        # Of the connection, all of them: what the server says of a command is looked at above. A file for TLS may come back.
        if isinstance(error, (errors.RedisError, errors.RedisClusterException, LogConfigurationError)):
            return LogDeliveryErrorKind.TRANSIENT
        return super()._classify_error(error)

    # ------------------------------------------------------------------ reading

    @classmethod
    def read_events(
        cls, *, last: int | None = None, since: float | None = None, follow: bool = False, **options: Any
    ) -> Iterator[LogEvent | None]:
        """Read what is in the stream, or in all streams whose keys fit the template, in the order of the server's ids.

        Args:
            last: Only the newest so many.
            since: Skip what the server had more than a minute before this time, in seconds since the epoch.
            follow: Never end, and yield None whenever nothing has come for half a second.
            **options: Those of the sink.

        Returns:
            A generator, which blocks. What is no event of ours is skipped. Closing it closes the connection.

        Raises:
            LogConfigurationError: An option is wrong, or the sink writes no stream.
        """
        own = _check(check_options(cls, options))
        if own["kind"] != "stream":
            raise wrong_option("kind", "only streams can be read; who takes items of a list or messages removes them")
        return read_streams(RedisPlace(own), make_key_template(own["key"]), last=last, since=since, follow=follow)


def _tell(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _passes(error: Exception) -> bool:
    """True for an error of a command that has to do with the server's state and not with the command."""
    plain = require_extra("redis", "redis.exceptions").ResponseError
    # The codes that the client knows have classes of their own. Of the others, only ERR is left out of the text. Before
    # Redis 7, the code of what a script met stands within the text of the script's own error.
    return type(error) is not plain or bool(_CODE.match(str(error))) or "WRONGTYPE" in str(error)
