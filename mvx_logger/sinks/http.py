"""`HttpLogSink`: batches of events to any HTTP endpoint. `BaseHttpLogSink`: what it shares with the sinks for products that
are spoken to by HTTP.

A subclass is an encoder and a reader of answers: `BaseHttpLogSink._encode_batch` makes the body of a batch,
`BaseHttpLogSink._read_response` says what an answer means for its events. Addresses, authentication, compression, TLS,
proxies and the meaning of status codes are here.
"""

from __future__ import annotations

import gzip
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from http import HTTPStatus
from io import BytesIO
from math import isfinite
from typing import Any, ClassVar, Literal, NamedTuple, NoReturn
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from ..delivery.sink import AsyncioLogSink, LogEventBatch
from ..errors import (
    LogConfigurationError,
    LogDeliveryError,
    LogDeliveryRefusedError,
    LogDeliveryTransientError,
)
from ..formats.json import encode_lines, encode_value
from ..formats.template import EventTemplate
from ..masking import mask_secrets
from ..options import check_options, get_options, options_from_url, require_extra
from ..protocols import LogSinkDescriptor
from ..tls import make_tls_context

__all__ = ["BaseHttpLogSink", "HttpAnswer", "HttpLogSink", "encode_documents", "get_retry_after"]

REFUSED_STATUSES = frozenset({400, 413, 422})
"""The content is refused: the batch is split until the event that is meant is alone."""
UNKNOWN_STATUSES = frozenset({406, 409, 412, 417, 431})
"""May be for the content or may pass by itself: found out by experiment. All others are transient."""

_PIECE_LIMIT = 512 * 1024
_LARGE_BODY = 64 * 1024
"""What is larger may not be sent as a whole when a server that finds it too large answers and hangs up."""
_GZIP_LEVEL = 3
_LONGEST_RETRY_AFTER = 3600.0
_MAX_ERROR_TEXT = 300
_TOKEN_LENGTH = 20
"""A part of a path that is so long may be the secret of a webhook."""
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_METHOD = re.compile(r"[A-Z]+")
_OWN_HEADERS = ("content-length", "content-encoding", "transfer-encoding", "connection")
_CONTENT_TYPES = {
    "json": "application/json",
    "ndjson": "application/x-ndjson",
    "template": "text/plain; charset=utf-8",
}


class HttpAnswer(NamedTuple):
    """What a server said.

    Attributes:
        status: The status code.
        headers: The headers; names in any case.
        body: The body, decompressed, as far as `BaseHttpLogSink.response_limit` goes.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class BaseHttpLogSink(AsyncioLogSink):
    """Posts batches to an HTTP endpoint. Abstract: a subclass implements `_encode_batch`, and may override the other hooks.

    A subclass' URLs have its own schemes: with ``url_schemes = ("shop", "shops")``, ``shop://host/path`` means
    ``http://host/path`` and ``shops://`` means ``https://``. ``url_parts`` says which options the user, the password and
    the last segment of the path are.

    Args:
        url: Where the server is: ``http://host:port`` or ``https://...``, with a path where it is behind one. A user in
            it means basic authentication.
        headers: Headers to add, as a mapping or as a list of ``Name: value``; they replace those of the sink.
        username: For basic authentication.
        password: For basic authentication.
        bearer_token: For ``Authorization: Bearer``, instead.
        compression: Of what is sent: ``none``, ``gzip`` or ``zstd``.
        proxy: The URL of an HTTP proxy, ``http://user:password@host:port``; ``env`` takes those in the environment
            (``HTTPS_PROXY``, ``NO_PROXY``, ...). None uses none.
        tls_ca: A file of certificates (PEM) of the authorities to trust, instead of those of the system.
        tls_cert: A file with this client's certificate (PEM).
        tls_key: A file with its key; None where the certificate's file has it too.
        tls_key_password: What the key is encrypted with.
        connect_timeout: How long it may take to connect, in seconds.
        **async_options: The options of `AsyncioLogSink`.

    Raises:
        LogConfigurationError: An option is wrong.
        TypeError: An argument has the wrong type.
        ValueError: A number is out of range.
    """

    resource_options: ClassVar[tuple[str, ...]] = ("url",)
    secret_options: ClassVar[tuple[str, ...]] = (
        "headers", "password", "bearer_token", "proxy", "tls_key_password",
    )  # fmt: skip
    url_parts: ClassVar[Mapping[str, str]] = {"username": "username", "password": "password"}
    extra: ClassVar[str] = "http"
    """The extra of this package that installs the client."""
    content_type: ClassVar[str] = "application/json"
    response_limit: ClassVar[int] = 1 << 20
    """How many bytes of an answer are read."""

    def __init__(
        self,
        *,
        url: str,
        headers: Mapping[str, str] | Sequence[str] | None = None,
        username: str | None = None,
        password: str | None = None,
        bearer_token: str | None = None,
        compression: Literal["none", "gzip", "zstd"] = "none",
        proxy: str | None = None,
        tls_ca: str | None = None,
        tls_cert: str | None = None,
        tls_key: str | None = None,
        tls_key_password: str | None = None,
        connect_timeout: float = 10.0,
        **async_options: Any,
    ) -> None:
        self._url, user = split_url(url, "url")
        if user is not None and username is None and password is None:
            username, password = user
        for name, value in (("username", username), ("password", password), ("bearer_token", bearer_token)):
            if value is not None and not isinstance(value, str):
                raise TypeError(f"{name}: expected a str, got {type(value).__name__}")
        self._headers = parse_headers(headers)
        given = [name for name, value in (("username", username), ("bearer_token", bearer_token)) if value is not None]
        given += ["a header" for name in self._headers if name.lower() == "authorization"]
        if len(given) > 1:
            raise _wrong(given[0], f"the sink authenticates by this or by {given[1]}, not both")
        if password is not None and username is None:
            username = ""
        if username is not None:
            if ":" in username:
                raise _wrong("username", "basic authentication does not allow a colon in it")
            name_and_password = f"{username}:{password or ''}".encode()
            self._headers["Authorization"] = f"Basic {b64encode(name_and_password).decode()}"
        elif bearer_token is not None:
            if not bearer_token or not bearer_token.isascii() or not bearer_token.isprintable() or " " in bearer_token:
                raise _wrong("bearer_token", "expected ASCII characters without spaces")
            self._headers["Authorization"] = f"Bearer {bearer_token}"
        if compression not in ("none", "gzip", "zstd"):
            raise _wrong("compression", f"{compression!r} is not one of none, gzip, zstd")
        self._compression = compression
        if proxy is not None and proxy != "env":
            split_url(proxy, "proxy", schemes=("http",))
        self._proxy = proxy
        self._tls_options = {
            "tls_ca": tls_ca,
            "tls_cert": tls_cert,
            "tls_key": tls_key,
            "tls_key_password": tls_key_password,
        }
        self._has_tls = urlsplit(self._url).scheme == "https"
        for name, value in self._tls_options.items():
            if value is not None and not self._has_tls:
                raise _wrong(name, "there is no TLS in http://; the URL has to begin with https://")
        if isinstance(connect_timeout, bool) or not isinstance(connect_timeout, (int, float)):
            raise TypeError(f"connect_timeout: expected a number, got {type(connect_timeout).__name__}")
        if not connect_timeout > 0:
            raise ValueError(f"connect_timeout: expected more than 0, got {connect_timeout}")
        self._connect_timeout = connect_timeout
        self._method = "POST"
        self._session: Any = None
        super().__init__(**async_options)

    # ------------------------------------------------------------------ what a subclass says

    def _make_url(self) -> str:
        """Where batches go. A subclass adds its path to the URL of the server: see `add_path`."""
        return self._url

    def _make_headers(self) -> dict[str, str]:
        """The headers of every request, those for authentication among them."""
        return {"Content-Type": self.content_type}

    def _make_batch_headers(self, events: LogEventBatch) -> dict[str, str]:
        """The headers of one batch."""
        return {}

    def _encode_batch(self, events: LogEventBatch) -> bytes:
        """The body for a batch, not compressed."""
        raise NotImplementedError

    def _read_response(self, status: int, headers: Mapping[str, str], body: bytes, events: LogEventBatch) -> None:
        """Read an answer of the class 2xx. When this returns, the batch is delivered.

        Raises:
            LogDeliveryError: The answer says something else: `LogDeliveryPartialError`, say.
        """

    def _read_failure(self, status: int, headers: Mapping[str, str], body: bytes, events: LogEventBatch) -> NoReturn:
        """Read an answer of any other class.

        Raises:
            LogDeliveryRefusedError: For `REFUSED_STATUSES`: the content is at fault. The batch comes again in halves.
            LogDeliveryTransientError: For most others, so that nothing is lost while a token is renewed (401, 403), a
                route is missing (404, 405), the server is busy (408, 429, 503) or broken (500). ``Retry-After`` is
                honoured. Where a server answers 500 to one event for ever, ``retry_timeout`` gets the others past it.
            LogDeliveryError: For `UNKNOWN_STATUSES`: the content may be at fault or the server.
        """
        text = describe_answer(status, headers, body)
        if status in REFUSED_STATUSES:
            raise LogDeliveryRefusedError(text)
        retry_after = get_retry_after(headers)
        if status in UNKNOWN_STATUSES and retry_after is None:
            raise LogDeliveryError(text)
        raise LogDeliveryTransientError(text, retry_after=retry_after)

    # ------------------------------------------------------------------ options

    @classmethod
    def build_descriptor(cls, **kwargs: Any) -> LogSinkDescriptor:
        """Check the options and say what they describe. Of the URL, the user, the query and what is long enough for a
        token are not shown."""
        options = check_options(cls, kwargs)
        known = get_options(cls)
        url = options.get("url", known["url"].default)
        if isinstance(url, str):
            shown = show_url(url)
            if shown != url:
                options["_url"] = url
        else:
            shown = url
        resource = []
        for name in cls.resource_options:
            value = options.pop(name, known[name].default)
            resource.append(shown if name == "url" else value)
        secrets = ("_url", *cls.secret_options)
        return cls._describe(cls.sink_type, tuple(resource), options, secrets=secrets)

    @classmethod
    def options_from_url(cls, url: SplitResult) -> dict[str, Any]:
        """The options that stand in a URL before its query: ``url`` with the scheme ``http`` or ``https``, and those of
        ``url_parts``.

        Raises:
            LogConfigurationError: There is no host, the port is no number, or a part is no option.
        """
        parts = {part: option for part, option in cls.url_parts.items() if part != "path"}
        path, last = url.path.rstrip("/"), ""
        if "path" in cls.url_parts:
            path, _, last = path.rpartition("/")
        found = options_from_url(cls, url._replace(path=""), {"hostname": "host", "port": "port", **parts})
        if "host" not in found:
            raise LogConfigurationError(f"the URL has no host; it looks like {url.scheme}://host:port")
        del found["host"]
        found.pop("port", None)
        if last:
            found[cls.url_parts["path"]] = unquote(last)
        netloc = url.netloc.rpartition("@")[2]
        query = cls._get_own_query(url)
        path = url.path if "path" not in cls.url_parts else path
        found["url"] = urlunsplit((cls.base_scheme(url), netloc, path, query, ""))
        return found

    @classmethod
    def base_scheme(cls, url: SplitResult) -> str:
        """``https`` for the schemes of the class that are another one with an ``s``, else ``http``."""
        if url.scheme in ("http", "https"):
            return url.scheme
        return "https" if url.scheme.endswith("s") and url.scheme[:-1] in cls.url_schemes else "http"

    @classmethod
    def _get_own_query(cls, url: SplitResult) -> str:
        """What of the query belongs to the destination."""
        return ""

    # ------------------------------------------------------------------ delivery

    async def _on_starting(self) -> None:
        require_extra(self.extra, "aiohttp")
        if self._compression == "zstd":
            require_extra(self.extra, "zstandard")
        if self._has_tls:
            make_tls_context(**self._tls_options)

    async def _on_connecting(self) -> None:
        aiohttp = require_extra(self.extra, "aiohttp")
        headers = {"Accept-Encoding": "identity", "User-Agent": "mvx-logger"}
        replace_headers(headers, self._make_headers())
        replace_headers(headers, self._headers)
        self._endpoint = self._make_url()
        self._proxy_url = self._find_proxy()
        self._compress = make_compressor(self._compression)
        # A context of its own for each connection: renewed certificates are picked up.
        context = make_tls_context(**self._tls_options) if self._has_tls else True
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=2, ssl=context),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=self._connect_timeout),
            headers=headers,
        )

    async def _on_disconnecting(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _dispatch_batch(self, events: LogEventBatch) -> None:
        body = self._encode_batch(events)
        headers = self._make_batch_headers(events)
        if self._compress is not None:
            body = await self._run_blocking(self._compress, body)
            headers["Content-Encoding"] = self._compression
        answer = await self._request(self._method, self._endpoint, body, headers)
        if 200 <= answer.status < 300:
            self._read_response(*answer, events)
        else:
            self._read_failure(*answer, events)

    async def _request(
        self, method: str, url: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> HttpAnswer:
        """Ask the server something, on the connection that is there. Redirections are not followed.

        Raises:
            LogDeliveryTransientError: There is no connection, or it was lost before there was an answer.
            LogDeliveryError: It was lost, and the body is large, which may be the reason: the batch is split after a while.
        """
        import aiohttp

        try:
            async with self._session.request(
                method,
                url,
                # aiohttp warns of many bytes in one piece.
                data=BytesIO(body) if len(body) > _PIECE_LIMIT else body,
                headers=headers,
                allow_redirects=False,
                proxy=self._proxy_url,
            ) as response:
                found = await self._read_body(response)
                return HttpAnswer(response.status, response.headers, found)
        except (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError, aiohttp.ClientHttpProxyError) as err:
            raise LogDeliveryTransientError(describe_client_error(err), cause=err) from err
        except aiohttp.ClientError as err:
            kind = LogDeliveryError if len(body) > _LARGE_BODY else LogDeliveryTransientError
            raise kind(describe_client_error(err), cause=err) from err

    async def _read_body(self, response: Any) -> bytes:
        chunks: list[bytes] = []
        left = self.response_limit
        while left > 0 and (chunk := await response.content.read(left)):
            chunks.append(chunk)
            left -= len(chunk)
        if left <= 0:
            response.close()  # what else there is would be read before the next request
        return b"".join(chunks)

    def _find_proxy(self) -> str | None:
        if self._proxy != "env":
            return self._proxy
        from urllib.request import getproxies, proxy_bypass

        parts = urlsplit(self._endpoint)
        proxies = getproxies()
        found = proxies.get(parts.scheme, proxies.get("all"))
        if not found or proxy_bypass(parts.netloc.rpartition("@")[2]):
            return None
        split_url(found, f"proxy: {parts.scheme}_proxy in the environment", schemes=("http",))
        return found


class HttpLogSink(BaseHttpLogSink):
    """Posts batches of events to any HTTP endpoint.

    As a URL it is the endpoint's own: ``https://user:password@host/path?x=y``. Parameters of the query that have the name
    of an option of the sink are taken out; the others stay in the URL. Where the endpoint has a parameter of such
    a name, the sink is configured by keywords.

    An answer of the class 2xx means that the batch is delivered. `BaseHttpLogSink._read_failure` says what others mean.

    Args:
        url: The endpoint, ``http://...`` or ``https://...``.
        method: The method of the requests.
        format: ``ndjson``: a JSON document for each event, one on each line. ``json``: one array of them. ``template``: see
            there. The documents are those of `mvx_logger.formats.json.encode_event` with one more field, ``delivery_id``:
            it stays the same whenever an event is sent again.
        template: With ``format="template"``, what is sent for each event, joined by newlines: an `EventTemplate`, in which
            the text of fields is escaped as in JSON strings. ``{delivery_id}`` is a field too.
        **http_options: The options of `BaseHttpLogSink` and `AsyncioLogSink`.
    """

    sink_type: ClassVar[str] = "http"
    url_schemes: ClassVar[tuple[str, ...]] = ("http", "https")
    keeps_query: ClassVar[bool] = True

    def __init__(
        self,
        *,
        url: str,
        method: str = "POST",
        format: Literal["json", "ndjson", "template"] = "ndjson",  # noqa: A002 - the option's name
        template: str | None = None,
        **http_options: Any,
    ) -> None:
        if not isinstance(method, str) or not _METHOD.fullmatch(method) or method in ("GET", "HEAD", "CONNECT"):
            raise _wrong("method", "expected the name of a method that has a body, e.g. POST or PUT")
        if format not in _CONTENT_TYPES:
            raise _wrong("format", f"{format!r} is not one of json, ndjson, template")
        if (template is not None) is not (format == "template"):
            raise _wrong("template", 'goes with format="template", and that needs it')
        self._template = None if template is None else _compile_template(template)
        self._format = format
        super().__init__(url=url, **http_options)
        self._method = method

    @classmethod
    def _get_own_query(cls, url: SplitResult) -> str:
        known = get_options(cls)
        pairs = parse_qsl(url.query, keep_blank_values=True)
        own = [pair for pair in pairs if pair[0] not in known]
        return url.query if len(own) == len(pairs) else urlencode(own)

    def _make_headers(self) -> dict[str, str]:
        return {"Content-Type": _CONTENT_TYPES[self._format]}

    def _make_batch_headers(self, events: LogEventBatch) -> dict[str, str]:
        # Of all ids, not the first: a batch that comes again may be larger or smaller than it was.
        name = blake2b("".join(events.delivery_ids).encode(), digest_size=16).hexdigest()
        return {"Idempotency-Key": f'"{name}"'}

    def _encode_batch(self, events: LogEventBatch) -> bytes:
        if self._template is not None:
            lines = []
            for delivery_id, event in zip(events.delivery_ids, events, strict=True):
                lines.append(delivery_id.join([part.format(event) for part in self._template]))
            return "\n".join(lines).encode("utf-8", "replace")
        documents = encode_documents(events)
        return b"[%s]" % b",".join(documents) if self._format == "json" else b"\n".join([*documents, b""])


def encode_documents(events: LogEventBatch) -> list[bytes]:
    """The JSON document of each event, with its ``delivery_id`` as the first field."""
    lines = encode_lines(events).split(b"\n")
    return [
        b'{"delivery_id":"%s",%s' % (delivery_id.encode(), line[1:])
        for delivery_id, line in zip(events.delivery_ids, lines, strict=False)
    ]


def add_path(url: str, path: str, **query: str) -> str:
    """A URL with a path behind its own path, and parameters behind its own query."""
    parts = urlsplit(url)
    joined = "&".join(part for part in (parts.query, urlencode(query)) if part)
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") + path, joined, ""))


def get_retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds of a ``Retry-After`` header, in either of its forms; no more than an hour: nobody means that, and a
    sink should not believe a broken server for a day."""
    text = (headers.get("Retry-After") or "").strip()
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        from datetime import UTC, datetime
        from email.utils import parsedate_to_datetime

        try:
            moment = parsedate_to_datetime(text)
        except ValueError:
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = (moment - datetime.now(UTC)).total_seconds()
    if not isfinite(seconds):
        return None
    return min(max(0.0, seconds), _LONGEST_RETRY_AFTER)


def describe_answer(status: int, headers: Mapping[str, str], body: bytes) -> str:
    """An answer as the text of an error, without secrets."""
    try:
        text = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        text = f"{status}"
    if 300 <= status < 400:
        where = headers.get("Location")
        text += ": a redirection" + (f" to {show_url(where)}" if where else "") + ", which is not followed"
    said = " ".join(mask_secrets(body[: 8 * _MAX_ERROR_TEXT].decode("utf-8", "replace")).split())
    if len(said) > _MAX_ERROR_TEXT:
        said = f"{said[:_MAX_ERROR_TEXT]}..."
    return f"{text}: {said}" if said else text


def describe_client_error(err: BaseException) -> str:
    """An error of the client as text, without the URL, which may hold secrets in its query."""
    name = type(err).__name__
    status = getattr(err, "status", None)
    if isinstance(status, int):
        # of a proxy, or what could not be read as an answer
        return f"{name}: {status} {mask_secrets(str(getattr(err, 'message', '')))}"
    if isinstance(err, OSError):
        text = mask_secrets(str(err))
        return f"{name}: {text.partition(' for http')[0]}"
    message = getattr(err, "message", None)
    return f"{name}: {mask_secrets(message)}" if isinstance(message, str) else name


def show_url(url: str) -> str:
    """A URL without what may be secret: the user, the query, and what in the path is long enough for a token."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "***"
    path = "/".join("***" if len(part) >= _TOKEN_LENGTH else part for part in parts.path.split("/"))
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path, "***" if parts.query else "", ""))


def split_url(
    url: object, option: str, *, schemes: Sequence[str] = ("http", "https")
) -> tuple[str, tuple[str, str] | None]:
    """A URL without its user, and the user's name and password, where it has one.

    Raises:
        TypeError: It is no text.
        LogConfigurationError: It is no URL of these schemes; the text quotes nothing of it.
    """
    if not isinstance(url, str):
        raise TypeError(f"{option}: expected a str, got {type(url).__name__}")
    parts = urlsplit("")
    try:
        parts = urlsplit(url)
        is_right = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0 and not parts.fragment
    except ValueError:
        is_right = False
    if not is_right or not url.isprintable() or " " in url:
        raise _wrong(option, f"expected a URL like {' or '.join(f'{scheme}://host:port/path' for scheme in schemes)}")
    user = None
    if parts.username or parts.password:
        user = unquote(parts.username or ""), unquote(parts.password or "")
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])), user


def parse_headers(headers: Mapping[str, str] | Sequence[str] | None) -> dict[str, str]:
    """Headers as they are given in options.

    Raises:
        TypeError: They are neither a mapping nor a list of text.
        LogConfigurationError: One is malformed, or is the client's own; no value is quoted.
    """
    pairs: list[tuple[object, object]] = []
    if isinstance(headers, Mapping):
        pairs.extend(headers.items())
    elif isinstance(headers, Sequence) and not isinstance(headers, str):
        for line in headers:
            if not isinstance(line, str) or ":" not in line:
                raise _wrong("headers", "expected a mapping, or a list of 'Name: value'")
            start, _, end = line.partition(":")
            pairs.append((start, end.strip()))
    elif headers is not None:
        raise TypeError(f"headers: expected a mapping, got {type(headers).__name__}")
    found: dict[str, str] = {}
    for name, value in pairs:
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise _wrong("headers", "a name is malformed")
        if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
            raise _wrong("headers", f"the value of {name} is malformed")
        if name.lower() in _OWN_HEADERS:
            raise _wrong("headers", f"{name} is for the client to say")
        found[name] = value
    return found


def replace_headers(headers: dict[str, str], others: Mapping[str, str]) -> None:
    """Put other headers into these, in place of those of the same name in any case."""
    names = {name.lower() for name in others}
    for name in [name for name in headers if name.lower() in names]:
        del headers[name]
    headers.update(others)


def make_compressor(compression: str) -> Any:
    """A function that compresses bytes; None for none."""
    if compression == "gzip":
        return lambda body: gzip.compress(body, _GZIP_LEVEL, mtime=0)
    if compression == "zstd":
        return require_extra("http", "zstandard").ZstdCompressor().compress
    return None


def _compile_template(text: str) -> list[EventTemplate]:
    if not isinstance(text, str):
        raise TypeError(f"template: expected a str, got {type(text).__name__}")
    parts = text.split("{delivery_id}")
    return [EventTemplate(part, clean=_escape, option="template") for part in parts]


def _escape(text: str) -> str:
    return encode_value(text)[1:-1].decode()


def _wrong(option: str, text: str) -> LogConfigurationError:
    return LogConfigurationError(f"{option}: {text}", details={"path": option})
