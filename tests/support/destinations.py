"""What the tests of all destinations share: events with everything in them, and trouble while events are logged."""

from __future__ import annotations

import logging
import logging.config
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

import mvx_logger
from mvx_logger import LogEvent, LogEventMeta, LogLevel, configure_log_context, configure_structlog
from mvx_logger.bridge.records import record_to_event
from servers import WAIT, wait_until

PATIENT: dict[str, Any] = {
    "retry_delay": 0.01,
    "retry_max_delay": 0.1,
    "delivery_timeout": 5.0,
    "batch_max_size": 200,
    "queue_max_size": 100_000,
    "shutdown_timeout": 30.0,
}
"""Options of a sink that is to come through trouble within the time of a test."""


def make_event(number: int, **payload: Any) -> LogEvent:
    """A small event with its number in its name and its payload."""
    return LogEvent(
        level=LogLevel.INFO,
        meta=LogEventMeta(event_namespace="shop.orders", event_name=f"order.{number}", entity_id=f"order-{number}"),
        event_outcome="success",
        timestamp=1_780_000_000 + number / 1000,
        payload={"number": number, **payload},
    )


def make_events(count: int, start: int = 0) -> list[LogEvent]:
    return [make_event(number) for number in range(start, start + count)]


def make_rich_events() -> list[LogEvent]:
    """Events in which each field is there, missing, empty, long, or full of characters that have a meaning somewhere."""
    try:
        raise ValueError("no such shop: <&'\"]>\n]")
    except ValueError:
        record = logging.LogRecord(
            "shop.legacy", logging.ERROR, __file__, 7, "order %s of %d", ("A-1", 2), sys.exc_info(), "place"
        )
    failed = record_to_event(record)
    nasty = (
        "line one\nline two\r\n\ttab \"quoted\" 'single' \\back [br]ackets] = {curly} <a&b> ; | $1 %s "
        "\u2028 \U0001f600 äöü"
    )
    return [
        LogEvent(LogLevel.DEBUG, LogEventMeta(None, "bare"), None, 0.0, {}),
        LogEvent(
            LogLevel.WARNING,
            LogEventMeta("shop.pay", "card.declined", "order-42", "/srv/shop/pay.py", 17, "charge"),
            "failed",
            1_780_000_000.123456,
            {
                "amount": 12.5,
                "count": 3,
                "big": 2**60,
                "ok": True,
                "no": False,
                "nothing": None,
                "text": nasty,
                "empty": "",
                "list": [1, "two", None, {"three": 3}],
                "nested": {"a": {"b": {"c": "deep"}}},
                nasty: "a strange key",
            },
            message=nasty,
        ),
        LogEvent(LogLevel.CRITICAL, LogEventMeta("shop", nasty, nasty), nasty, 1_780_000_001.5, {"n": -1}),
        LogEvent(25, LogEventMeta("shop", "custom.level"), None, 1_780_000_002.0, {"long": "x" * 5_000}),
        failed,
    ]


class Load:
    """Threads that log numbered events, as fast as a sink may be given them in a test, until all are accepted.

    Args:
        sink: Anything with ``log(event)``.
        count: How many events.
        threads: By how many threads; each logs in order.
        pause: Seconds between two events of a thread.
    """

    def __init__(self, sink: Any, count: int = 1_000, *, threads: int = 2, pause: float = 0.001) -> None:
        self.sink = sink
        self.count = count
        self.errors: list[BaseException] = []
        self._pause = pause
        self._logged = [0] * threads
        self._threads = [
            threading.Thread(target=self._log, args=(index, range(index, count, threads))) for index in range(threads)
        ]

    @property
    def logged(self) -> int:
        return sum(self._logged)

    def wait_for(self, part: float) -> None:
        """Wait until a part of the events (0 to 1) was logged."""
        wait_until(lambda: self.errors or self.logged >= part * self.count, f"{part:.0%} of the events are logged")

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.join(WAIT)
        assert not self.errors
        assert self.logged == self.count

    def _log(self, index: int, numbers: Sequence[int]) -> None:
        try:
            for number in numbers:
                self.sink.log(make_event(number))
                self._logged[index] += 1
                time.sleep(self._pause)
        except BaseException as err:
            self.errors.append(err)


def survive(
    sink: Any,
    read: Callable[[], Sequence[tuple[str, str]]],
    disturb: Callable[[], None],
    *,
    count: int = 1_000,
    times: int = 1,
    exactly_once: bool,
    in_order: bool = True,
    is_noticed: bool = True,
) -> None:
    """Log under load while something happens to the destination, and check what arrived and what the statistics say.

    Args:
        sink: Made with the options of `PATIENT`, running, without events so far.
        read: Reads back, with the server's own client, the delivery id and the name of all events, in the order in which
            the destination has them.
        disturb: What happens while events are logged. It has to leave the destination at work.
        count: How many events.
        times: How often it happens.
        exactly_once: The destination deduplicates: no event is there twice. Else a delivery id may come twice.
        in_order: The destination keeps the order in which events came: those of each thread are in order, leaving out
            what comes again.
        is_noticed: It makes a delivery fail, always. What happens between two batches may not be noticed.
    """
    with Load(sink, count) as load:
        for number in range(times):
            load.wait_for((number + 1) / (times + 1))
            disturb()
    assert sink.flush(timeout=WAIT), f"not all was confirmed: {sink.stats()}"
    check_arrived(read, count, exactly_once=exactly_once, in_order=in_order)
    stats = sink.stats()
    assert stats.accepted == count
    assert stats.delivered == count
    assert stats.pending == 0
    assert not stats.dropped
    if is_noticed:
        assert stats.retries > 0, "nothing has happened to the sink: the test shows nothing"
        assert stats.last_error


def check_arrived(
    read: Callable[[], Sequence[tuple[str, str]]], count: int, *, exactly_once: bool, in_order: bool = True
) -> None:
    """Check that the events 0 to ``count`` are at the destination: see `survive`."""
    wanted = {f"order.{number}" for number in range(count)}

    def read_all() -> list[tuple[str, str]] | None:
        arrived = list(read())
        return arrived if {name for _, name in arrived} >= wanted else None

    found = wait_until(read_all, f"all {count} events are at the destination", timeout=20)
    assert {name for _, name in found} == wanted
    if exactly_once:
        twice = [name for name, times in Counter(name for _, name in found).items() if times > 1]
        assert not twice, f"{len(twice)} events are there more than once"
    ids: dict[str, str] = {}
    for delivery_id, name in found:
        assert ids.setdefault(delivery_id, name) == name, f"{delivery_id} is the id of two events"
    assert len(ids) == count, "an event came under two ids"
    if in_order:
        numbers = [int(name.partition(".")[2]) for name in ids.values()]
        for parity in (0, 1):  # by thread
            own = [number for number in numbers if number % 2 == parity]
            assert own == sorted(own), "the order has changed"


def wait_for_error(sink: Any, pattern: str) -> str:
    """Return the last error of a sink, once it is one that fits."""
    return wait_until(
        lambda: (error := sink.stats().last_error) and re.search(pattern, error) and error, f"an error like {pattern}"
    )


RECIPES = Path(__file__).resolve().parents[2] / "docs" / "destinations"


def load_recipe(page: str, replacements: Mapping[str, str]) -> dict[str, Any]:
    """The configuration that a page in docs/destinations tells its reader to paste: its Python block with ``LOGGING =``.

    Args:
        page: The page's name, e.g. ``redis``.
        replacements: What stands for the reader's server in the text, by what is on the page; each must be there.
    """
    text = (RECIPES / f"{page}.md").read_text()
    (block,) = (block for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S) if "LOGGING =" in block)
    for old, new in replacements.items():
        assert old in block, f"{page}.md: {old!r} is not in the recipe"
        block = block.replace(old, new)
    block = block.replace("logging.config.dictConfig(LOGGING)", "")  # whoever asked configures, and takes it back
    names: dict[str, Any] = {}
    exec(block, names)
    return names["LOGGING"]


def log_three_ways(recipe: Mapping[str, Any]) -> None:
    """Configure `logging` with a recipe, whose root handler is one of ours, and log by logging, structlog and natively.

    Events ``one`` (logger ``shop.legacy``, ``order A-1``), ``two`` (structlog, ``shop.web``) and ``three`` (natively,
    ``shop.orders``) have ``number`` 1, 2 and 3 in their payload. All are confirmed when it returns, and all is undone.
    """
    root = logging.getLogger()
    before = root.handlers[:], root.level
    configured = structlog.is_configured(), structlog.get_config()
    try:
        # Another recipe may have made these loggers before.
        logging.config.dictConfig({"disable_existing_loggers": False, **recipe})
        (handler,) = (handler for handler in root.handlers if isinstance(handler, mvx_logger.SinkHandler))
        logging.getLogger("shop.legacy").warning("one", extra={"number": 1})
        context = configure_log_context("shop", log_sink=handler.sink)
        configure_structlog()
        structlog.get_logger("shop.web").info("two", number=2)
        context.log_info_event("three", {"number": 3}, event_namespace="shop.orders")
        assert handler.sink.flush(timeout=WAIT), handler.sink.stats()
        assert handler.sink.stats().delivered == 3, handler.sink.stats()
    finally:
        mvx_logger.reset_log_contexts()
        for handler in root.handlers[:]:
            if handler not in before[0]:
                root.removeHandler(handler)
                handler.close()
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        structlog.reset_defaults()
        if configured[0]:
            structlog.configure(**configured[1])
