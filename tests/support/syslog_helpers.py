"""What the tests of syslog share: rsyslogd in a process of its own, and receivers that refuse what the RFCs do."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mvx_logger import LogEvent, LogEventMeta
from mvx_logger.formats.json import encode_event, format_timestamp
from mvx_logger.formats.text import level_name
from needs import find_program, needs, needs_program
from servers import WAIT, Server, find_free_port, is_open, wait_until

needs_rsyslogd = needs_program("rsyslogd", debian="rsyslog")
needs_rsyslogd_with_tls = needs(
    [*Path("/usr").glob("lib*/rsyslog/lmnsd_ossl.so"), *Path("/usr/lib").glob("*/rsyslog/lmnsd_ossl.so")],
    "TLS for rsyslogd",
    debian="rsyslog-openssl",
)


class Rsyslogd(Server):
    """rsyslogd that writes what it has parsed as JSON lines.

    Args:
        directory: Where its files are.
        tls: The paths of the authority, of the certificate and of its key; None listens without TLS only.
        auth: Whom it takes over TLS: ``anon`` anybody, ``x509/certvalid`` those with a certificate of the authority.
        is_plain: It writes the messages as they came, which costs it less.

    Attributes:
        port: UDP and TCP.
        tls_port: TLS.
        local: Its local socket in the form of the C library.
        local_5424: Another one that takes RFC 5424.
    """

    def __init__(
        self, directory: Path, *, tls: tuple[str, str, str] | None = None, auth: str = "anon", is_plain: bool = False
    ) -> None:
        super().__init__(directory)
        self.tls = tls
        self.auth = auth
        self.is_plain = is_plain
        self.tls_port = find_free_port()
        self.local = str(directory / "log")
        self.local_5424 = str(directory / "log5424")
        self.output = directory / "messages.jsonl"

    def prepare(self) -> None:
        for stale in (self.directory / "pid", Path(self.local), Path(self.local_5424)):
            stale.unlink(missing_ok=True)
        if self.output.exists():  # killed in the middle of a line: what it writes next shall not go on there
            written = self.output.read_bytes()
            self.output.write_bytes(written[: written.rfind(b"\n") + 1])
        properties = {
            "pri": "pri",
            "timestamp": "timereported",
            "hostname": "hostname",
            "app_name": "app-name",
            "procid": "procid",
            "tag": "syslogtag",
            "msgid": "msgid",
            "version": "protocol-version",
            "structured_data": "structured-data",
            "msg": "msg",
        }
        dates = {"timestamp": ' dateFormat="rfc3339"'}
        lines = [
            f'property(outname="{name}" name="{source}" format="jsonf"{dates.get(name, "")}) constant(value=",")'
            for name, source in properties.items()
        ]
        template = "\n  ".join(lines)
        tls = tls_input = ""
        if self.tls is not None:
            ca, cert, key = self.tls
            tls = (
                f'global(defaultNetstreamDriver="ossl" defaultNetstreamDriverCAFile="{ca}" '
                f'defaultNetstreamDriverCertFile="{cert}" defaultNetstreamDriverKeyFile="{key}")'
            )
            tls_input = (
                f'input(type="imtcp" address="127.0.0.1" port="{self.tls_port}" streamDriver.name="ossl" '
                f'streamDriver.mode="1" streamDriver.authMode="{self.auth}")'
            )
        template_name = "RSYSLOG_SyslogProtocol23Format" if self.is_plain else "everything"
        write = "" if self.is_plain else 'action(type="mmpstrucdata" sd_name.lowercase="off")\n  '
        write += f'action(type="omfile" file="{self.output}" template="{template_name}")'
        local = 'ruleset="write" useSysTimeStamp="off" ignoreTimestamp="off"'
        (self.directory / "rsyslog.conf").write_text(f"""
global(workDirectory="{self.directory}" maxMessageSize="64k" parser.escapeControlCharactersOnReceive="on")
{tls}
module(load="imudp")
module(load="imtcp" maxSessions="1000")
module(load="imuxsock" sysSock.use="off")
module(load="mmpstrucdata")
template(name="everything" type="list") {{
  constant(value="{{")
  {template}
  constant(value="\\"sd\\":") property(name="$!all-json") constant(value="}}\\n")
}}
ruleset(name="write") {{
  {write}
}}
input(type="imudp" address="127.0.0.1" port="{self.port}" ruleset="write" rcvbufSize="8m")
input(type="imtcp" address="127.0.0.1" port="{self.port}" ruleset="write" streamDriver.name="ptcp" streamDriver.mode="0")
{tls_input.replace(")", ' ruleset="write")')}
input(type="imuxsock" socket="{self.local}" {local})
input(type="imuxsock" socket="{self.local_5424}" {local} useSpecialParser="off")
""")

    def command(self) -> list[str]:
        return [
            find_program("rsyslogd") or "rsyslogd",
            "-n",
            "-f",
            str(self.directory / "rsyslog.conf"),
            "-i",
            str(self.directory / "pid"),
        ]

    def is_ready(self) -> bool:
        ports = [self.port] if self.tls is None else [self.port, self.tls_port]
        return all(map(is_open, ports)) and os.path.exists(self.local) and os.path.exists(self.local_5424)

    def read(self) -> list[dict[str, Any]]:
        """What it has written so far."""
        if not self.output.exists():
            return []
        return [json.loads(line) for line in self.output.read_bytes().decode().split("\n")[:-1]]

    def read_names(self) -> list[tuple[str, str]]:
        """The delivery id and the name of each event so far."""
        found = [message["sd"]["rfc5424-sd"] for message in self.read()]
        return [(sd[own]["id"], sd[own]["event"]) for sd in found for own in sd if own.startswith("mvx@")]

    def wait_for(self, count: int) -> list[dict[str, Any]]:
        """All messages, once there are so many."""

        def read() -> list[dict[str, Any]] | None:
            found = self.read()
            return found if len(found) >= count else None

        found: list[dict[str, Any]] = wait_until(read, f"{count} messages are there")
        assert len(found) == count
        return found


# ---------------------------------------------------------------------------------------------------- what the RFCs allow


class Message(NamedTuple):
    """A message, taken apart; None for what is not there (NILVALUE)."""

    facility: int
    severity: int
    timestamp: str | None
    hostname: str | None
    app_name: str | None
    procid: str | None
    msgid: str | None
    data: dict[str, dict[str, str]]
    text: str


# RFC 5424, 6: written out as it is there.
_PRI = rb"<(0|[1-9][0-9]{0,2})>"
_TIMESTAMP = (
    rb"-|\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?"
    rb"(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
)
_HEADER_5424 = re.compile(
    _PRI + rb"1 (" + _TIMESTAMP + rb") ([!-~]{1,255}) ([!-~]{1,48}) ([!-~]{1,128}) ([!-~]{1,32}) "
)
_SD_NAME = re.compile(rb"[!#-<>-\\^-~]{1,32}")
_SD_ID = re.compile(rb"[!#-<>-?A-\\^-~]+@[0-9]+(?:\.[0-9]+)*")
_VALUE = re.compile(rb'(?:[^"\\\]]|\\["\\\]])*')
# RFC 3164, 4.1
_HEADER_3164 = re.compile(
    _PRI + rb"((?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) (?: [1-9]|[12]\d|3[01]) "
    rb"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d) "
)
_TAG = re.compile(r"([!-9;-Z\\^-~]{1,32})(?:\[([!-9;-Z\\^-~]{1,128})\])?: ")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class MalformedError(AssertionError):
    """A message that no receiver has to take."""


def _demand(condition: object, what: str, data: bytes) -> None:
    if not condition:
        raise MalformedError(f"{what}: {data!r}")


def parse_5424(data: bytes) -> Message:
    """Take a message apart by the grammar of RFC 5424, and refuse what we never write (escapes for nothing, controls)."""
    head = _HEADER_5424.match(data)
    _demand(head, "no header", data)
    assert head is not None
    facility, severity = divmod(int(head[1]), 8)
    _demand(facility <= 23, "no such facility", data)
    rest = head.end()
    elements: dict[str, dict[str, str]] = {}
    if data[rest : rest + 1] == b"-":
        rest += 1
    else:
        _demand(data[rest : rest + 1] == b"[", "no structured data", data)
        while data[rest : rest + 1] == b"[":
            name = _SD_NAME.match(data, rest + 1)
            _demand(name and _SD_ID.fullmatch(name[0]), "no SD-ID", data)
            assert name is not None
            _demand(name[0].decode() not in elements, "an SD-ID that is there twice", data)
            element = elements[name[0].decode()] = {}
            rest = name.end()
            while data[rest : rest + 1] == b" ":
                key = _SD_NAME.match(data, rest + 1)
                _demand(key and data[key.end() : key.end() + 2] == b'="', "no PARAM-NAME", data)
                assert key is not None
                value = _VALUE.match(data, key.end() + 2)
                assert value is not None
                _demand(data[value.end() : value.end() + 1] == b'"', "no end of a PARAM-VALUE", data)
                _demand(key[0].decode() not in element, "a name that is there twice", data)
                element[key[0].decode()] = re.sub(r"\\(.)", r"\1", _decode(value[0], data))
                rest = value.end() + 1
            _demand(data[rest : rest + 1] == b"]", "no end of an SD-ELEMENT", data)
            rest += 1
    _demand(data[rest : rest + 1] in (b"", b" "), "something behind the structured data", data)
    text = _decode(data[rest + 1 :], data)
    fields = [None if field == b"-" else field.decode() for field in head.groups()[1:]]
    return Message(facility, severity, *fields, elements, text)


def parse_3164(data: bytes, *, local: bool = False) -> Message:
    """Take a message apart as RFC 3164 says; in the local form there is no HOSTNAME."""
    head = _HEADER_3164.match(data)
    _demand(head, "no header", data)
    assert head is not None
    facility, severity = divmod(int(head[1]), 8)
    _demand(facility <= 23, "no such facility", data)
    rest = _decode(data[head.end() :], data)
    host = None
    if not local:
        host, _, rest = rest.partition(" ")
        _demand(host and host.isascii(), "no HOSTNAME", data)
    tag = _TAG.match(rest)
    _demand(tag, "no TAG", data)
    assert tag is not None
    return Message(facility, severity, head[2].decode(), host, tag[1], tag[2], None, {}, rest[tag.end() :])


def _decode(data: bytes, message: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError as err:
        raise MalformedError(f"not UTF-8: {message!r}") from err
    _demand(not _CONTROL.search(text), "a control character", message)
    return text


# ---------------------------------------------------------------------------------------------------- a strict receiver


class Receiver:
    """Takes messages over one transport and framing, and notes what is wrong with them.

    Args:
        transport: ``udp``, ``tcp``, ``tls``, ``unix`` (datagrams) or ``unix-stream``.
        framing: Of a stream.
        parse: Takes a message apart, or raises.
        path: The local socket.
        context: For TLS.
        max_size: The largest message that it takes, in bytes.
        buffer: The size of the buffer for what it has not read, in bytes (the system doubles it); None for the usual.

    Attributes:
        messages: What it has taken.
        errors: What was wrong; `close` raises it.
        connections: How many connections there were.
        is_reading: Cleared, it reads nothing any more.
    """

    def __init__(
        self,
        transport: str,
        *,
        framing: str = "octet",
        parse: Callable[[bytes], Message] = parse_5424,
        path: str | None = None,
        context: ssl.SSLContext | None = None,
        max_size: int = 8_192,
        buffer: int | None = None,
        port: int = 0,
    ) -> None:
        self.messages: list[Message] = []
        self.errors: list[BaseException] = []
        self.connections = 0
        self.is_reading = threading.Event()
        self.is_reading.set()
        self._framing = framing
        self._parse = parse
        self._max_size = max_size
        self._context = context
        self._is_open = True
        self._open: list[socket.socket] = []
        kind = socket.SOCK_DGRAM if transport in ("udp", "unix") else socket.SOCK_STREAM
        family = socket.AF_UNIX if path is not None else socket.AF_INET
        self._sock = socket.socket(family, kind)
        if buffer is not None:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._sock.bind(path if path is not None else ("127.0.0.1", port))
        self.port: int = self._sock.getsockname()[1] if path is None else 0
        if kind is socket.SOCK_STREAM:
            self._sock.listen()
        self._sock.settimeout(0.05)
        serve = self._serve_datagrams if kind is socket.SOCK_DGRAM else self._accept
        self._threads = [threading.Thread(target=self._run, args=(serve,))]
        self._threads[0].start()

    def wait_for(self, count: int) -> list[Message]:
        """The messages, once there are so many."""
        wait_until(lambda: self.errors or len(self.messages) >= count, f"{count} messages have come")
        self._raise()
        assert len(self.messages) == count
        return self.messages

    def peek(self) -> bytes:
        """What the system has taken on the newest connection and nobody has read."""
        return self._open[-1].recv(1 << 24, socket.MSG_PEEK | socket.MSG_DONTWAIT)

    def hang_up(self) -> None:
        """End the newest connection."""
        self._open[-1].shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """Throw the newest connection away, with what nobody has read."""
        sock = self._open[-1]
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

    def close(self) -> None:
        self._is_open = False
        self.is_reading.set()
        for thread in self._threads:
            thread.join(WAIT)
        self._sock.close()
        self._raise()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            with contextlib.suppress(BaseException):
                self.close()

    def _raise(self) -> None:
        if self.errors:
            raise self.errors[0]

    def _run(self, target: Callable[..., None], *args: Any) -> None:
        try:
            target(*args)
        except BaseException as err:
            self.errors.append(err)

    def _add(self, data: bytes) -> None:
        _demand(len(data) <= self._max_size, f"{len(data)} bytes", data)
        self.messages.append(self._parse(data))

    def _serve_datagrams(self) -> None:
        while self._is_open:
            if not self.is_reading.wait(0.05):
                continue
            with contextlib.suppress(TimeoutError):
                self._add(self._sock.recv(1 << 17))

    def _accept(self) -> None:
        while self._is_open:
            try:
                sock, _ = self._sock.accept()
            except TimeoutError:
                continue
            self.connections += 1
            self._open.append(sock)
            thread = threading.Thread(target=self._run, args=(self._serve, sock))
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(0.05)
        if self._context is not None:
            sock.settimeout(WAIT)
            try:
                sock = self._context.wrap_socket(sock, server_side=True)
            except OSError:  # the client does not like our certificate, or we do not like its
                sock.close()
                return
            sock.settimeout(0.05)
        data = b""
        with sock:
            while self._is_open:
                if not self.is_reading.wait(0.05):
                    continue
                try:
                    more = sock.recv(1 << 16)
                except TimeoutError:
                    continue
                except OSError:  # reset, by us
                    return
                if not more:
                    _demand(not data, "the connection ends in the middle of a message", data)
                    return
                data = self._take(data + more)

    def _take(self, data: bytes) -> bytes:
        while data:
            if self._framing == "newline":
                message, end, rest = data.partition(b"\n")
                if not end:
                    return data
            else:
                length = re.match(rb"([1-9][0-9]{0,9}) ", data)
                if length is None:
                    _demand(re.fullmatch(rb"[1-9][0-9]{0,9}", data), "no MSG-LEN", data[:100])
                    return data
                stop = length.end() + int(length[1])
                if len(data) < stop:
                    return data
                message, rest = data[length.end() : stop], data[stop:]
            self._add(message)
            data = rest
        return data


def make_server_context(certificates: Mapping[str, Any] | Any, pair: tuple[str, str], *, client: bool = False) -> Any:
    """A context for a server with this certificate; with ``client`` it wants one of the authority from its clients."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    if client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates.ca)
    return context


ID = "01960000-0000-8000-8000-000000000001"


def written(text: str) -> str:
    """A value as it stands between the quotes, once it is unescaped: controls, and what is no character, as in JSON."""
    return re.sub(
        "[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]",
        lambda match: {"\n": r"\n", "\r": r"\r", "\t": r"\t"}.get(match[0]) or f"\\u{ord(match[0]):04x}",
        text,
    )


def flat(prefix: str, value: Any) -> dict[str, str]:
    if isinstance(value, dict) and value:
        return {key: text for name, item in value.items() for key, text in flat(f"{prefix}.{name}", item).items()}
    plain = value if isinstance(value, str) else json.dumps(value)
    return {prefix: plain}


def check_same(message: Message, event: LogEvent, *, enterprise: str = "32473") -> None:
    """All fields of a message are those of the event."""
    meta, data = event.meta, message.data
    own = data[f"mvx@{enterprise}"]
    level = level_name(event.level, event.origin)
    source = meta.source_path
    if source is not None and meta.source_line is not None:
        source = f"{source}:{meta.source_line}"
    wanted: dict[str, str | None] = {
        "id": ID,
        "namespace": meta.event_namespace,
        "event": meta.event_name,
        "entity_id": meta.entity_id,
        "outcome": event.event_outcome,
        "level": level,
        "source": source,
        "func": meta.source_func,
        "stack": None if event.stack is None else event.stack.text,
        "thread": None if event.origin is None else event.origin.thread_name,
    }
    for name, value in wanted.items():
        assert own.get(name) == (None if value is None else written(value)), name
    assert int(own.get("level_no", event.level)) == event.level
    if "level_no" not in own:
        assert level in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", f"Level {event.level}")
    try:
        assert message.timestamp == format_timestamp(event.timestamp)
        assert "time" not in own
    except (ValueError, OverflowError):
        assert message.timestamp is None
        assert own["time"] == repr(event.timestamp)
    check_payload(event.payload, data.get(f"payload@{enterprise}", {}), json.loads(own.get("payload", "{}")))
    exception = data.get(f"exception@{enterprise}")
    if event.exception is None:
        assert exception is None
    else:
        named = event.exception
        assert exception == {
            "type": written(named.type),
            "message": written(named.message),
            "text": written(named.text),
        }
    process = os.getpid() if event.origin is None or event.origin.process_id is None else event.origin.process_id
    assert message.procid == str(process)
    wanted_msgid = re.sub("[^!-~]", "_", meta.event_name)[:32]
    assert (message.msgid or "-") == (wanted_msgid or "-")


def check_payload(payload: Any, parameters: dict[str, str], rest: dict[str, Any]) -> None:
    """The parameters and the JSON object together are the payload; a key is in one of them as a whole."""
    plain = json.loads(encode_event(LogEvent(20, LogEventMeta(None, "x"), None, 0.0, payload))).get("payload", {})
    left = dict(parameters)
    for key, value in plain.items():
        if key in rest:
            assert rest.pop(key) == value
            continue
        for name, text in flat(key, value).items():
            found = left.pop(name)
            if isinstance(value, (dict, str)):
                try:
                    assert found == written(text)
                except AssertionError:
                    assert json.loads(found) == json.loads(text)
            else:
                assert json.loads(found) == value
    assert not left
    assert not rest
