"""``mvx-logger show URL``: what is at a server, read by the class of the sink that writes there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from destinations import make_event, make_events
from mvx_logger import AsyncioLogSink, LogEvent, sink_from_url
from mvx_logger.bridge import config
from mvx_logger.cli.commands import cli
from mvx_logger.formats.json import decode_event
from servers import wait_until

SECRET = "s3cr3t-of-the-reader"


def show(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["show", *arguments])
    assert result.exit_code == code, result.output
    return result


def read(*arguments: str) -> list[LogEvent]:
    return [decode_event(line) for line in show(*arguments).stdout.splitlines()]


class ShelfSink(AsyncioLogSink):
    """Whose destination is a list in this process."""

    sink_type = "shelf"
    secret_options = ("password",)
    url_parts = {"hostname": "host", "username": "user", "password": "password"}  # noqa: RUF012
    events: list[LogEvent] = []  # noqa: RUF012
    asked: list[dict[str, Any]] = []  # noqa: RUF012
    error: Exception | None = None
    closed = 0

    def __init__(self, *, host: str = "", user: str = "", password: str = "", size: int = 1, **options: Any) -> None:
        super().__init__(**options)

    async def _dispatch_core(self, event: LogEvent) -> None:
        raise AssertionError

    @classmethod
    def read_events(cls, *, last: int | None = None, follow: bool = False, **options: Any) -> Iterator[LogEvent | None]:
        cls.asked.append({"last": last, "follow": follow, **options})
        try:
            yield from cls.events if last is None else cls.events[len(cls.events) - last :]
            if cls.error is not None:
                raise cls.error
        finally:
            cls.closed += 1


class SilentSink(ShelfSink):
    read_events = None  # type: ignore[assignment]


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> type[ShelfSink]:
    find = config.find_sink_class
    own = {"shelf": ShelfSink, "silent": SilentSink}
    monkeypatch.setattr(config, "find_sink_class", lambda scheme, **more: own.get(scheme) or find(scheme, **more))
    monkeypatch.setattr(ShelfSink, "events", make_events(5))
    monkeypatch.setattr(ShelfSink, "asked", [])
    return ShelfSink


class TestAnySink:
    def test_all_events_and_the_options_of_the_url(self, shelf: type[ShelfSink]) -> None:
        assert read("shelf://me:word@there?size=3") == make_events(5)
        (asked,) = shelf.asked
        assert {name: asked[name] for name in ("host", "user", "password", "size")} == {
            "host": "there", "user": "me", "password": "word", "size": 3,
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("arguments", "numbers", "last"),
        [
            (("--last", "2"), [3, 4], 2),
            (("--limit", "2"), [0, 1], None),
            (("--event", "order.[13]"), [1, 3], None),
            (("--event", "order.[013]", "--last", "2"), [1, 3], None),
            (("--where", "number=4"), [4], None),
            (("--last", "0"), [], 0),
        ],
    )
    def test_filters(
        self, shelf: type[ShelfSink], arguments: tuple[str, ...], numbers: list[int], last: int | None
    ) -> None:
        """Only where all events fit, the destination counts the last ones."""
        assert [event.payload["number"] for event in read("shelf://x", *arguments)] == numbers
        assert shelf.asked[0]["last"] == last
        assert shelf.closed

    def test_stats(self, shelf: type[ShelfSink]) -> None:
        assert '"count":5' in show("shelf://x", "--stats").stdout

    def test_follow_ends_with_the_generator(self, shelf: type[ShelfSink]) -> None:
        assert [event.payload["number"] for event in read("shelf://x", "--follow", "--last", "1")] == [4]
        assert shelf.asked[0]["follow"]

    def test_what_goes_wrong_is_one_line_without_secrets(
        self, shelf: type[ShelfSink], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shelf, "error", OSError(f"cannot reach shelf://me:{SECRET}@there"))
        result = show(f"shelf://me:{SECRET}@there/", code=1)
        assert len(result.stdout.splitlines()) == 5
        (line,) = result.stderr.splitlines()
        assert line.startswith("shelf://there/: OSError: cannot reach")
        assert SECRET not in result.output

    @pytest.mark.parametrize(
        ("url", "text"),
        [
            ("silent://x", "silent://x: what is there cannot be read back"),
            ("nosuch://x", "no sink for URLs with the scheme 'nosuch'"),
            ("shelf://x?colour=red", "ShelfSink has no such option"),
            ("shelf://x/path", "no option for the path of a URL"),
            ("shelf://x?size=large", "size"),
        ],
    )
    def test_what_cannot_be_read(self, shelf: type[ShelfSink], url: str, text: str) -> None:
        assert text in show(url, code=1).stderr

    def test_a_file_with_a_colon_in_its_name_is_a_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        Path("redis:events.jsonl").write_text("")
        assert read("redis:events.jsonl") == []


def start_redis(directory: Path) -> tuple[Any, str]:
    from redis_server import RedisServer

    server = RedisServer(directory)
    server.start()
    return server.kill, f"redis://{server.host}:{server.port}/0"


def start_postgres(directory: Path) -> tuple[Any, str]:
    from postgres_server import PostgresServer

    server = PostgresServer()
    server.start()
    server.run(f"CREATE ROLE reader LOGIN PASSWORD '{SECRET}'")
    server.run("CREATE DATABASE logs OWNER reader")
    return server.remove, f"postgresql://reader:{SECRET}@{server.host}:{server.port}/logs"


def start_nats(directory: Path) -> tuple[Any, str]:
    from nats_server import NatsServer

    server = NatsServer(directory)
    server.start()
    return server.kill, f"nats://{server.host}:{server.port}"


def start_kafka(directory: Path) -> tuple[Any, str]:
    from kafka_server import KafkaServer

    server = KafkaServer(directory)
    server.start()
    server.make_topic("logs")
    return server.kill, f"kafka://{server.host}:{server.port}/logs"


@pytest.mark.slow
@pytest.mark.parametrize("start", [start_redis, start_postgres, start_nats, start_kafka])
def test_real_servers(start: Callable[[Path], tuple[Any, str]], tmp_path: Path) -> None:
    """What was sent is shown, and followed; a server that is gone is told, without the password."""
    stop, url = start(tmp_path / "server")
    try:
        sink = sink_from_url(url)
        for event in make_events(50):
            sink.log(event)
        assert sink.flush(timeout=60), sink.stats()
        assert read(url) == make_events(50)
        assert [event.payload["number"] for event in read(url, "--last", "3")] == [47, 48, 49]
        assert [event.payload["number"] for event in read(url, "--entity", "order-7")] == [7]
        command = [sys.executable, "-m", "mvx_logger.cli", "show", url, "--follow", "--last", "2", "--json"]
        with (tmp_path / "shown").open("wb") as output, subprocess.Popen(command, stdout=output) as running:
            try:
                shown = tmp_path / "shown"
                wait_until(lambda: len(shown.read_bytes().splitlines()) == 2, "the last two are shown")
                sink.log(make_event(50))
                wait_until(lambda: len(shown.read_bytes().splitlines()) == 3, "the new one is shown")
            finally:
                running.terminate()
        numbers = [decode_event(line).payload["number"] for line in shown.read_bytes().splitlines()]
        assert numbers == [48, 49, 50]
        sink.close()
    finally:
        stop()
    result = show(url, code=1)
    assert len(result.stderr.splitlines()) == 1
    assert SECRET not in result.output
