"""The contract of a sink, as tests that its author runs.

A test module subclasses `SinkConformance` and says how the destination is started, read and broken::

    class Shelf(SinkDestination):
        def __init__(self, directory):
            self.server = start_my_server(directory)

        def options(self):
            return {"host": "127.0.0.1", "port": self.server.port}

        def read(self):
            return [(row.delivery_id, row.event_name) for row in self.server.rows()]

    class TestMySink(SinkConformance):
        sink_class = MySink

        @pytest.fixture
        def destination(self, tmp_path):
            yield Shelf(tmp_path)

``pytest`` collects some twenty tests then. What a destination cannot do (``break_down``, ``stall``, ``refuse``,
``change_secret``) is skipped, with the reason; the others are not negotiable.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, TypeVar

import pytest

from .. import selflog
from ..bridge.config import sink_from_url
from ..bridge.handlers import SinkHandler
from ..delivery.sink import AsyncioLogSink
from ..errors import LogConfigurationError
from ..model import LogEvent, LogEventMeta
from ..options import check_options
from ..registry import configure_log_context, configure_log_sink, create_sink, reset_logger

__all__ = ["SinkConformance", "SinkDestination"]

T = TypeVar("T")

_IMPATIENT: Mapping[str, Any] = {"retry_delay": 0.02, "retry_max_delay": 0.2, "shutdown_timeout": 10.0}


class SinkDestination:
    """Where a sink delivers to in a test. Subclass it: ``options`` and ``read`` are needed, the others where they can be
    done. One is used for one test."""

    def options(self) -> dict[str, Any]:
        """The options of a sink that delivers here."""
        raise NotImplementedError

    def read(self) -> Sequence[tuple[str | None, str]]:
        """What has arrived, in the order of the destination: the delivery id (None where the destination has none) and
        the name of each event."""
        raise NotImplementedError

    def url(self) -> str | None:
        """The URL of a sink that delivers here; None where the class has no URLs."""
        return None

    def break_down(self) -> None:
        """Refuse connections from now on, and drop those that there are; keep what has arrived."""
        raise NotImplementedError

    def repair(self) -> None:
        """Be there again, after `break_down`."""
        raise NotImplementedError

    def stall(self) -> None:
        """Take what comes and never answer, from now on."""
        raise NotImplementedError

    def go_on(self) -> None:
        """Answer again, after `stall`."""
        raise NotImplementedError

    def refuse(self, name: str) -> None:
        """Refuse events of this name for good, from now on; alone or within a batch."""
        raise NotImplementedError

    def change_secret(self) -> None:
        """Accept only another password, token or key from now on, and drop the connections that there are."""
        raise NotImplementedError

    def restore_secret(self) -> None:
        """Accept the secret in `options` again, after `change_secret`."""
        raise NotImplementedError


class SinkConformance:
    """Subclass it in a test module, under a name that pytest collects, and give it a fixture ``destination``.

    Attributes:
        sink_class: The class to test.
        deduplicates: The destination keeps one of several events with the same delivery id.
        keeps_order: The destination has events in the order in which they came.
        secrets: Values in the options that nobody may ever see.
        secret_error: A regular expression: what ``last_error`` says when the destination refuses the secret.
        patience: How long anything may take, in seconds.
        fixed_options: Options for every sink, e.g. a larger queue.
    """

    sink_class: ClassVar[type[Any]]
    deduplicates: ClassVar[bool] = False
    keeps_order: ClassVar[bool] = True
    secrets: ClassVar[Sequence[str]] = ()
    secret_error: ClassVar[str] = ""
    patience: ClassVar[float] = 30.0
    fixed_options: ClassVar[Mapping[str, Any]] = {}

    # ------------------------------------------------------------------ what the tests stand on

    @pytest.fixture
    def destination(self) -> Any:
        """Override it: a `SinkDestination` with nothing in it."""
        raise NotImplementedError(f"{type(self).__name__} needs a fixture named destination")

    @pytest.fixture(autouse=True)
    def _reports(self) -> Iterator[None]:
        self.reports: list[str] = []
        selflog.redirect(lambda report: self.reports.append(repr(report)))
        selflog.set_interval(0)
        self._closers: list[Callable[[], object]] = []
        yield
        try:
            for close in reversed(self._closers):
                closer = threading.Thread(target=close, daemon=True)
                closer.start()
                closer.join(self.patience)
        finally:
            reset_logger()
            selflog.redirect(None)
            selflog.set_interval(10)

    def make_sink(self, destination: SinkDestination, **options: Any) -> Any:
        """A running sink that is closed at the end of the test."""
        defaults = _IMPATIENT if issubclass(self.sink_class, AsyncioLogSink) else {}
        sink, close = create_sink(
            self.sink_class, {**defaults, **self.fixed_options, **destination.options(), **options}
        )
        self._closers.append(close)
        return sink

    def log(self, sink: Any, count: int, start: int = 0) -> None:
        """Log events ``event-START`` and so on."""
        for number in range(start, start + count):
            sink.log(_make_event(number))

    def flush(self, sink: Any) -> None:
        """Wait until everything that was accepted is confirmed."""
        if hasattr(sink, "flush"):
            assert sink.flush(timeout=self.patience), f"flush: not all was confirmed: {_stats(sink)}"

    def check_arrived(
        self, destination: SinkDestination, count: int, *, once: bool = False
    ) -> list[tuple[str | None, str]]:
        """Check that ``event-0`` to ``event-COUNT`` are at the destination, and no others.

        Args:
            destination: Where.
            count: How many.
            once: Nothing has failed: no event may be there twice. Else one may, under the same id.
        """
        wanted = {_name(number) for number in range(count)}
        found = self._wait_for(lambda: _all_of(destination.read(), wanted))
        missing = wanted - {name for _, name in found}
        assert not missing, f"{len(missing)} of {count} events are lost, e.g. {min(missing)}"
        strange = {name for _, name in found} - wanted
        assert not strange, f"events arrived that were never logged: {sorted(strange)[:3]}"
        times = Counter(name for _, name in found)
        if once or self.deduplicates:
            twice = sorted(name for name, arrivals in times.items() if arrivals > 1)
            assert not twice, f"{len(twice)} events are there more than once, e.g. {twice[0]}"
        ids: dict[str, str] = {}
        names: dict[str, str] = {}
        for delivery_id, name in found:
            if delivery_id is not None:
                assert ids.setdefault(delivery_id, name) == name, (
                    f"{ids[delivery_id]} and {name} have the same delivery id"
                )
                assert names.setdefault(name, delivery_id) == delivery_id, f"{name} came under two delivery ids"
        return list(found)

    def check_order(self, found: Sequence[tuple[str | None, str]]) -> None:
        """Check that events are in the order in which they were logged, leaving out what came again."""
        if self.keeps_order:
            numbers = list(dict.fromkeys(int(name.rpartition("-")[2]) for _, name in found))
            assert numbers == sorted(numbers), f"the order has changed: {_first_disorder(numbers)}"

    def check_accounts(self, sink: Any, accepted: int) -> Any:
        """Check that every event that was accepted is accounted for."""
        stats = _stats(sink)
        if stats is not None:
            assert stats.accepted == accepted
            assert stats.accepted == stats.delivered + sum(stats.dropped.values()) + stats.dead_lettered + stats.pending
        return stats

    def _wait_for(self, condition: Callable[[], tuple[bool, T]], timeout: float | None = None) -> T:
        deadline = time.monotonic() + (self.patience if timeout is None else timeout)
        while True:
            is_over = time.monotonic() > deadline
            done, value = condition()
            if done or is_over:
                return value
            time.sleep(0.02)

    def _wait_for_failure(self, sink: Any, before: int = 0) -> None:
        self._wait_for(lambda: (_failures(sink) > before, None))

    def _check_close(self, sink: Any, before: set[threading.Thread], trouble: str) -> None:
        """Check that `close` ends, and the worker with it: close() also returns when it leaves a worker behind that
        does not mind its deadline."""
        closer = threading.Thread(target=sink.close, daemon=True)
        closer.start()
        closer.join(self.patience)
        assert not closer.is_alive(), f"close() does not end although the destination is {trouble}"
        left = self._wait_for(lambda: _workers_ended(before))
        assert not left, f"close() has left the worker behind while the destination is {trouble}: {left}"

    def _asynchronous(self) -> None:
        if not issubclass(self.sink_class, AsyncioLogSink):
            pytest.skip("the sink is synchronous")

    # ------------------------------------------------------------------ delivery

    def test_all_events_arrive_in_order(self, destination: SinkDestination) -> None:
        """What is logged arrives once, in order, and is confirmed and counted."""
        sink = self.make_sink(destination)
        self.log(sink, 500)
        self.flush(sink)
        found = self.check_arrived(destination, 500, once=True)
        self.check_order(found)
        stats = self.check_accounts(sink, 500)
        assert stats is None or stats.delivered == 500

    @pytest.mark.parametrize("size", [1, 7])
    def test_batches_of_any_size(self, destination: SinkDestination, size: int) -> None:
        """Nothing depends on how events are divided into batches."""
        self._asynchronous()
        sink = self.make_sink(destination, batch_max_size=size)
        self.log(sink, 50)
        self.flush(sink)
        self.check_order(self.check_arrived(destination, 50, once=True))

    def test_a_single_event_does_not_wait_for_others(self, destination: SinkDestination) -> None:
        """The first event after a pause is delivered without a flush."""
        sink = self.make_sink(destination)
        self.log(sink, 1)
        self.check_arrived(destination, 1, once=True)

    def test_many_threads(self, destination: SinkDestination) -> None:
        """Threads may log at once: nothing is lost, and each one's events are in order."""
        sink = self.make_sink(destination)
        errors: list[BaseException] = []

        def log(offset: int) -> None:
            try:
                for number in range(offset, 400, 4):
                    sink.log(_make_event(number))
            except BaseException as err:
                errors.append(err)

        threads = [threading.Thread(target=log, args=(offset,)) for offset in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        self.flush(sink)
        found = self.check_arrived(destination, 400, once=True)
        for offset in range(4):
            self.check_order([entry for entry in found if int(entry[1].rpartition("-")[2]) % 4 == offset])

    def test_events_of_every_kind(self, destination: SinkDestination) -> None:
        """No content stops an event, or those around it."""
        sink = self.make_sink(destination)
        events = [*_make_rich_events(), _make_event(99)]
        for event in events:
            sink.log(event)
        self.flush(sink)
        names = [event.meta.event_name for event in events]
        found = self._wait_for(lambda: _all_of(destination.read(), set(names)))
        missing = set(names) - {name for _, name in found}
        assert not missing, f"these contents were lost: {sorted(missing)}; the sink says {_stats(sink)}"

    def test_events_are_not_changed(self, destination: SinkDestination) -> None:
        """Other sinks have the same event objects: none is altered."""
        sink = self.make_sink(destination)
        events = [_make_event(0), *_make_rich_events()]
        before = [repr(event) for event in events]
        for event in events:
            sink.log(event)
        self.flush(sink)
        assert [repr(event) for event in events] == before

    def test_flush_means_that_the_destination_has_it(self, destination: SinkDestination) -> None:
        """When `flush` says True, the events are there."""
        sink = self.make_sink(destination)
        if not hasattr(sink, "flush"):
            pytest.skip("the sink has no flush")
        for number in range(0, 60, 20):
            self.log(sink, 20, number)
            assert sink.flush(timeout=self.patience)
            names = {name for _, name in destination.read()}
            missing = {_name(seen) for seen in range(number + 20)} - names
            assert not missing, f"flush said True, and {len(missing)} events are not there"

    def test_closing_delivers(self, destination: SinkDestination) -> None:
        """What was accepted before `close` is delivered by it; closing twice does nothing."""
        sink = self.make_sink(destination)
        self.log(sink, 100)
        close = getattr(sink, "close", None)
        if close is None:
            pytest.skip("the sink has no close")
        close()
        self.check_arrived(destination, 100, once=True)
        close()

    def test_it_can_be_stopped_and_started_again(self, destination: SinkDestination) -> None:
        """A run of the worker ends and another begins; what comes in between is not lost."""
        self._asynchronous()
        sink = self.make_sink(destination)
        for number in range(0, 60, 20):
            self.log(sink, 20, number)
            assert sink.stop().wait().success
        self.log(sink, 20, 60)  # starts it
        self.flush(sink)
        self.check_order(self.check_arrived(destination, 80, once=True))

    # ------------------------------------------------------------------ trouble

    def test_the_destination_is_down_at_the_start(self, destination: SinkDestination) -> None:
        """The sink starts all the same, and delivers when the destination is there."""
        self._asynchronous()
        _try(destination.break_down)
        sink = self.make_sink(destination)
        self.log(sink, 50)
        self._wait_for_failure(sink)
        _try(destination.repair)
        self.flush(sink)
        self.check_order(self.check_arrived(destination, 50))
        self.check_accounts(sink, 50)

    def test_the_destination_goes_down_and_comes_back(self, destination: SinkDestination) -> None:
        """Nothing is lost, the order stays, and what comes again has the same delivery id."""
        self._asynchronous()
        sink = self.make_sink(destination, batch_max_size=10)
        for number in range(0, 300, 100):
            self.log(sink, 50, number)
            self.flush(sink)
            before = _failures(sink)
            _try(destination.break_down)
            self.log(sink, 50, number + 50)
            self._wait_for_failure(sink, before)
            _try(destination.repair)
        self.flush(sink)
        self.check_order(self.check_arrived(destination, 300))
        stats = self.check_accounts(sink, 300)
        assert stats.delivered == 300

    def test_the_caller_never_waits_for_a_stalled_destination(self, destination: SinkDestination) -> None:
        """`log` returns although the destination does not answer; an attempt ends, and the events arrive later."""
        self._asynchronous()
        sink = self.make_sink(destination, delivery_timeout=0.3)
        self.log(sink, 10)
        self.flush(sink)
        _try(destination.stall)
        try:
            caller = threading.Thread(target=self.log, args=(sink, 190, 10), daemon=True)
            caller.start()
            caller.join(self.patience)
            assert not caller.is_alive(), "log() waits for the destination"
            self._wait_for_failure(sink)
            assert _failures(sink) > 0, "an attempt that is not answered does not end"
        finally:
            _try(destination.go_on)
        self.flush(sink)
        self.check_arrived(destination, 200)

    def test_closing_while_the_destination_is_down(self, destination: SinkDestination) -> None:
        """`close` ends within the deadline and counts what is lost; the worker gives up by itself, and its thread ends."""
        self._asynchronous()
        before = set(threading.enumerate())
        sink = self.make_sink(destination, shutdown_timeout=0.5)
        _try(destination.break_down)
        self.log(sink, 50)
        self._check_close(sink, before, "down")
        stats = self.check_accounts(sink, 50)
        assert stats.pending == 0
        names = {name for _, name in destination.read()}
        assert stats.delivered <= len(names), "events count as delivered that the destination does not have"

    def test_closing_while_the_destination_is_stalled(self, destination: SinkDestination) -> None:
        """`close` ends within the deadline there, too, and so does the worker."""
        self._asynchronous()
        before = set(threading.enumerate())
        sink = self.make_sink(destination, shutdown_timeout=0.5)
        self.log(sink, 1)
        self.flush(sink)
        _try(destination.stall)
        try:
            self.log(sink, 50, 1)
            self._check_close(sink, before, "stalled")
        finally:
            _try(destination.go_on)
        self.check_accounts(sink, 51)

    def test_the_secret_is_changed_and_changed_back(self, destination: SinkDestination) -> None:
        """The sink reports it, keeps trying and keeps every event, and delivers when its secret is right again."""
        self._asynchronous()
        sink = self.make_sink(destination, batch_max_size=10)
        self.log(sink, 50)
        self.flush(sink)
        before = _failures(sink)
        _try(destination.change_secret)
        try:
            self.log(sink, 50, 50)
            self._wait_for_failure(sink, before + 1)
            assert _failures(sink) > before + 1, (
                f"a secret that is refused is not reported and tried again: {_stats(sink)}"
            )
            stats = self.check_accounts(sink, 100)
            assert not stats.dropped, f"events are given up because the secret is refused: {stats}"
            assert not stats.dead_lettered, f"events are given up because the secret is refused: {stats}"
            assert re.search(self.secret_error, stats.last_error), (
                f"the error does not name the cause: {stats.last_error}"
            )
        finally:
            _try(destination.restore_secret)
        self.log(sink, 50, 100)
        self.flush(sink)
        self.check_order(self.check_arrived(destination, 150))
        stats = self.check_accounts(sink, 150)
        assert stats.delivered == 150
        texts = f"{stats} {self.reports}"
        assert not [secret for secret in self.secrets if secret in texts], "a secret that was refused is reported"

    def test_an_event_that_is_refused(self, destination: SinkDestination) -> None:
        """It alone is given up, with the reason; those around it arrive."""
        self._asynchronous()
        letters: list[LogEvent] = []
        sink = self.make_sink(destination, dead_letter=_Letters(letters), batch_max_size=40)
        _try(partial(destination.refuse, _name(17)))
        self.log(sink, 40)
        self._wait_for(lambda: (_stats(sink).pending == 0, None))
        assert not _stats(sink).pending, f"not all was settled: {_stats(sink)}"
        wanted = {_name(number) for number in range(40)} - {_name(17)}
        found = self._wait_for(lambda: _all_of(destination.read(), wanted))
        assert {name for _, name in found} == wanted
        assert [event.meta.event_name for event in letters] == [_name(17)]
        stats = self.check_accounts(sink, 40)
        assert stats.dead_lettered == 1

    def test_the_disk_keeps_what_a_process_leaves(self, destination: SinkDestination, tmp_path: Any) -> None:
        """With ``durable``, what could not be delivered is delivered by the next sink, under the same ids."""
        self._asynchronous()
        directory = str(tmp_path / "spool")
        first = self.make_sink(destination, durable=directory, shutdown_timeout=0.3)
        self.log(first, 20)
        self.flush(first)
        _try(destination.break_down)
        self.log(first, 30, 20)
        first.close()
        _try(destination.repair)
        second = self.make_sink(destination, durable=directory)
        self.log(second, 10, 50)
        self.flush(second)
        self.check_arrived(destination, 60)

    def test_a_forked_child_has_a_connection_of_its_own(self, destination: SinkDestination) -> None:
        """Parent and child log through the same object: all of it arrives, nothing twice."""
        if not hasattr(os, "fork"):
            pytest.skip("there is no fork here")
        sink = self.make_sink(destination)
        self.log(sink, 20)
        self.flush(sink)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # other threads do run, and that is the point
            child = os.fork()
        if child == 0:
            status = 1
            try:
                self.log(sink, 20, 20)
                status = 0 if not hasattr(sink, "flush") or sink.flush(timeout=self.patience) else 2
            finally:
                os._exit(status)
        self.log(sink, 20, 40)
        ended = self._wait_for(lambda: _has_ended(child), self.patience + 5)
        if ended is None:
            os.kill(child, 9)
            os.waitpid(child, 0)
            raise AssertionError("the forked child hangs")
        assert ended == 0, "the forked child could not deliver"
        self.flush(sink)
        self.check_arrived(destination, 60, once=True)

    # ------------------------------------------------------------------ configuration

    def test_the_same_options_in_every_way(self, destination: SinkDestination) -> None:
        """Keyword arguments, a mapping, a URL and a registered name make the same sink."""
        options = {**self.fixed_options, **destination.options()}
        handler = SinkHandler({"class": self.sink_class, **options})
        self._closers.append(handler.close)
        record = logging.LogRecord("shop", logging.INFO, __file__, 1, _name(0), (), None)
        handler.handle(record)
        self.flush(handler.sink)
        sink = configure_log_sink(name="conformance", sink_cls=self.sink_class, **options)
        assert configure_log_sink(name="conformance", sink_cls=self.sink_class, **options) is sink
        configure_log_context("shop", log_sink=sink).log_info_event(_name(1))
        self.flush(sink)
        count = 2
        url = destination.url()
        if url is not None:
            made = sink_from_url(url)
            self._closers.append(made.close)
            self.log(made, 1, count)
            self.flush(made)
            count += 1
        self.check_arrived(destination, count, once=True)

    def test_its_descriptor(self, destination: SinkDestination) -> None:
        """Equal options have equal descriptors, which can be compared and hashed."""
        options = {**self.fixed_options, **destination.options()}
        first, second = (self.sink_class.build_descriptor(**options) for _ in range(2))
        assert first == second
        assert hash(first) == hash(second)

    def test_an_option_that_does_not_exist(self, destination: SinkDestination) -> None:
        """It is an error that names it."""
        with pytest.raises((LogConfigurationError, TypeError, ValueError), match="no_such_option"):
            self.sink_class.build_descriptor(**destination.options(), no_such_option=1)

    def test_secrets_stay_secret(self, destination: SinkDestination) -> None:
        """No secret is in a descriptor, ``repr``, the statistics, an error, or what the logger tells of itself."""
        if not self.secrets:
            pytest.skip("the sink has no secrets")
        options = {**self.fixed_options, **destination.options()}
        descriptor = self.sink_class.build_descriptor(**options)
        sink = self.make_sink(destination, **({"shutdown_timeout": 0.3} if self._is_asynchronous() else {}))
        texts = {
            "the descriptor": f"{descriptor!r} {descriptor.to_log_payload()}",
            "repr": f"{sink!r} {sink!s}",
        }
        try:
            destination.break_down()
        except NotImplementedError:
            pass
        else:
            self.log(sink, 5)
            self._wait_for_failure(sink)
        texts["the statistics"] = repr(_stats(sink))
        if hasattr(sink, "close"):
            sink.close()
        with pytest.raises((LogConfigurationError, TypeError, ValueError)) as caught:
            check_options(self.sink_class, {**options, "no_such_option": 1})
        texts["an error"] = str(caught.value)
        texts["what the logger tells of itself"] = "\n".join(self.reports)
        for secret in self.secrets:
            seen = [where for where, text in texts.items() if secret in text]
            assert not seen, f"a secret is in {' and in '.join(seen)}"

    def _is_asynchronous(self) -> bool:
        return issubclass(self.sink_class, AsyncioLogSink)


class _Letters:
    def __init__(self, events: list[LogEvent]) -> None:
        self._events = events

    def log(self, event: LogEvent) -> None:
        self._events.append(event)


def _name(number: int) -> str:
    return f"event-{number}"


def _make_event(number: int) -> LogEvent:
    return LogEvent(
        20,
        LogEventMeta("conformance", _name(number), f"entity-{number}"),
        "success",
        1_780_000_000 + number / 1000,
        {"number": number, "text": "x" * (number % 50)},
    )


def _make_rich_events() -> list[LogEvent]:
    nasty = "line one\nline two\r\n\t\"quoted\" 'single' \\back ]]> {curly} <a&b> ; | $1 %s \u2028 \U0001f600 äöü"
    payloads: dict[str, dict[str, Any]] = {
        "empty": {},
        "plain": {"int": 1, "float": 2.5, "bool": True, "none": None, "text": "a"},
        "nested": {"a": {"b": [1, {"c": "d"}]}, "list": [], "mapping": {}},
        "nasty-values": {"text": nasty, "nul": "a\x00b", "control": "\x1b[31m\x07"},
        "nasty-keys": {nasty: 1, "": 2, "a.b": 3, "a b": 4, "@timestamp": 5, "_id": 6},
        "numbers": {"big": 2**63, "huge": 2**100, "small": -(2**63), "nan": float("nan"), "inf": float("-inf")},
        "surrogate": {"text": "\ud800"},
        "long": {"text": "x" * 50_000},
        "many-keys": {f"key_{number}": number for number in range(300)},
        "foreign": {"bytes": b"\xff\x00", "object": object(), "set": {1}},
    }
    events = [
        LogEvent(20, LogEventMeta("conformance", name), None, 1_780_000_000.0, payload)
        for name, payload in payloads.items()
    ]
    return [
        *events,
        LogEvent(20, LogEventMeta(None, "no-namespace"), None, 0.0, {}),
        LogEvent(37, LogEventMeta("conformance", "level"), nasty, 1_780_000_000.123456, {}, message=nasty),
        LogEvent(20, LogEventMeta("conformance", "entity", nasty, nasty, 2**40, nasty), nasty, 4e9, {}),
    ]


def _all_of(found: Sequence[tuple[str | None, str]], wanted: set[str]) -> tuple[bool, Sequence[tuple[str | None, str]]]:
    found = list(found)
    return {name for _, name in found} >= wanted, found


def _first_disorder(numbers: Sequence[int]) -> str:
    late = next(index for index in range(1, len(numbers)) if numbers[index] < numbers[index - 1])
    return f"{_name(numbers[late])} came after {_name(numbers[late - 1])}"


def _stats(sink: Any) -> Any:
    return sink.stats() if hasattr(sink, "stats") else None


def _failures(sink: Any) -> int:
    """How often anything has failed, as far as the statistics tell: retries count from the second attempt on."""
    stats = _stats(sink)
    return 0 if stats is None else stats.retries + (stats.last_error is not None)


def _workers_ended(before: set[threading.Thread]) -> tuple[bool, list[str]]:
    """Whether all threads of sinks have ended that are not among those ``before``; the destination may have its own."""
    names = [thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith("mvx-logger")]
    return not names, names


def _has_ended(child: int) -> tuple[bool, int | None]:
    pid, status = os.waitpid(child, os.WNOHANG)
    return (True, os.waitstatus_to_exitcode(status)) if pid else (False, None)


def _try(action: Callable[[], None]) -> None:
    try:
        action()
    except NotImplementedError:
        name = getattr(getattr(action, "func", action), "__name__", "do that").replace("_", " ")
        pytest.skip(f"the destination of this test cannot {name}")
