"""Rows 1 to 5: what one call costs the thread that logs.

``wall`` is what passes on the clock while it calls, ``cpu`` the time for which it has a processor: where a worker runs
beside it, the two share the interpreter, and the one counts the waiting that the other does not. The goals are judged by
``wall``.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Iterable
from functools import partial

import peers
from harness import Contest, Options, Row, measure_each
from peers import PAYLOAD, Opener, calling

from mvx_logger import (
    PatternLogEventPolicy,
    PatternLogEventPolicyAction,
    PatternLogEventPolicyConfig,
    PatternLogEventPolicyRuleConfig,
)

NUMBERS = (1, 2, 3, 4, 5)

KEYWORDS = ", ".join(f"{key}={value!r}" for key, value in PAYLOAD.items())
CLOCKS = {"wall": "", "cpu": " (CPU time)"}


def measure(options: Options) -> Iterable[Row]:
    """Measure the rows that are wanted."""
    measures = {
        1: measure_rejected,
        2: measure_null,
        3: measure_async,
        4: measure_handler,
        5: measure_structlog,
    }
    return measure_each(measures, options)


def measure_rejected(options: Options) -> Iterable[Row]:
    """Row 1: an event that is not wanted."""
    number = options.scaled(100_000)
    rule = PatternLogEventPolicyRuleConfig(PatternLogEventPolicyAction.DENY, event_names=("order.*",))
    denial = PatternLogEventPolicy(PatternLogEventPolicyConfig(rules=(rule,)))
    by_level = partial(peers.native_null, min_level=logging.INFO)
    by_policy = partial(peers.native_null, event_policy=denial)
    variants = {
        "payload": ("logger.log_debug_event('order.created', PAYLOAD)", "logger.debug('order created', extra=PAYLOAD)"),
        "name only": ("logger.log_debug_event('order.created')", "logger.debug('order created')"),
    }
    others: dict[str, tuple[Opener, str]] = {
        "structlog": (peers.structlog_null, f"logger.debug('order.created', {KEYWORDS})"),
        "loguru": (peers.loguru, f"logger.debug('order created', {KEYWORDS})"),
        "picologging": (peers.picologging, variants["payload"][1]),
        "Logbook": (peers.logbook, variants["payload"][1]),
    }
    with Contest() as contest:
        for variant, (ours, theirs) in variants.items():
            contest.open(f"min_level, {variant}", calling(by_level, ours, number))
            contest.open(f"policy, {variant}", calling(by_policy, ours, number))
            contest.open(f"logging, {variant}", calling(peers.null_handler, theirs, number))
        for name, (opener, statement) in others.items():
            contest.open(name, calling(opener, statement, number))
        results = contest.run(options.rounds(25))
    for reason in ("min_level", "policy"):
        for variant in variants:
            yield results.row(
                1,
                f"rejected by {reason}, {variant}",
                f"{reason}, {variant}",
                f"logging, {variant}",
                goal=1.0,
                judged=True,
            )
    for name in others:
        yield results.row(1, "rejected by min_level, payload", "min_level, payload", name)


def measure_null(options: Options) -> Iterable[Row]:
    """Row 2: to a sink that does nothing."""
    number = options.scaled(5_000)
    extra = "logger.info('order created', extra=PAYLOAD)"
    others: dict[str, tuple[Opener, str, str]] = {
        "structlog, nothing rendered": (peers.structlog_null, f"logger.info('order.created', {KEYWORDS})", ""),
        "loguru": (peers.loguru, f"logger.info('order created', {KEYWORDS})", ""),
        # With each call picologging 0.9.3 gives up a reference to ``extra`` that it does not own: in the end it is freed
        # while in use.
        "picologging NullHandler": (
            peers.picologging,
            "logger.info('order created %s %s %s', 'order-42', 3, True)",
            "the values as arguments: with extra= it corrupts the memory",
        ),
        "Logbook NullHandler": (peers.logbook, extra, "it skips the completion of records"),
        "Logbook, empty handler": (partial(peers.logbook, completes_records=True), extra, ""),
    }
    with Contest() as contest:
        contest.open("ours", calling(peers.native_null, "logger.log_info_event('order.created', PAYLOAD)", number))
        contest.open("NullHandler", calling(peers.null_handler, extra, number))
        for name, (opener, statement, _) in others.items():
            contest.open(name, calling(opener, statement, number))
        results = contest.run(options.rounds(25))
    yield results.row(2, "native event to a null sink", "ours", "NullHandler", goal=0.30, judged=True)
    for name, (_, _, note) in others.items():
        yield results.row(2, "native event to a null sink", "ours", name, note=note)


def measure_async(options: Options) -> Iterable[Row]:
    """Row 3: into a queue whose worker runs.

    So many events that one measurement takes longer than the interpreter lets a thread run before it has to share (5 ms).
    """
    number, less = options.scaled(20_000), options.scaled(5_000)
    extra = "logger.info('order created', extra=PAYLOAD)"
    keywords = f"logger.info('order.created', {KEYWORDS})"
    judged = "QueueHandler, queue.Queue(-1)"
    others: dict[str, tuple[Opener, str, int, str]] = {
        judged: (peers.queue_handler, extra, number, "the queue of its documentation, and of dictConfig"),
        "QueueHandler, SimpleQueue": (partial(peers.queue_handler, queue.SimpleQueue), extra, number, ""),
        "loguru enqueue": (partial(peers.loguru, enqueue=True), keywords, less, ""),
        "OpenTelemetry, batch processor": (peers.opentelemetry, extra, less, ""),
        "structlog orjson to the null device": (peers.structlog_orjson, keywords, number, "no queue"),
        "python-logstash-async": (peers.logstash_async, extra, less, "memory cache; looks at its queue every 0.1 s"),
    }
    with Contest() as contest:
        contest.open("ours", calling(peers.native_async, "logger.log_info_event('order.created', PAYLOAD)", number))
        for name, (opener, statement, calls, _) in others.items():
            contest.open(name, calling(opener, statement, calls))
        results = contest.run(options.rounds(15))
    for clock, suffix in CLOCKS.items():
        for name, (*_, note) in others.items():
            is_judged = name == judged and clock == "wall"
            yield results.row(
                3,
                f"native event into an AsyncioLogSink{suffix}",
                "ours",
                name,
                goal=0.20 if name == judged else None,
                figure=clock,
                judged=is_judged,
                note=note,
            )


def measure_handler(options: Options) -> Iterable[Row]:
    """Row 4: what a handler adds to a call of the standard library."""
    error = _make_error()
    variants = {
        "one argument": ("logger.info('order %s created', 42)", options.scaled(10_000)),
        "plain message": ("logger.info('order created')", options.scaled(10_000)),
        "extra": ("logger.info('order created', extra=PAYLOAD)", options.scaled(10_000)),
        "exception": ("logger.exception('order failed', exc_info=ERROR)", options.scaled(1_000)),
    }
    others: dict[str, Opener] = {
        "QueueHandler": peers.queue_handler,
        "OpenTelemetry": peers.opentelemetry,
        "python-json-logger": peers.json_stream_handler,
    }
    notes = {"OpenTelemetry": "batch processor", "python-json-logger": "StreamHandler to the null device"}
    for variant, (statement, number) in variants.items():
        with Contest() as contest:
            for name, opener in {"ours": peers.sink_handler, "NullHandler": peers.null_handler, **others}.items():
                contest.open(name, calling(opener, statement, number, ERROR=error))
            results = contest.run(options.rounds(15))
        for clock, suffix in CLOCKS.items():
            for name in others:
                is_goal = name == "QueueHandler" and variant == "one argument"
                yield results.row(
                    4,
                    f"what SinkHandler adds, {variant}{suffix}",
                    "ours",
                    name,
                    goal=0.5 if is_goal else None,
                    figure=clock,
                    base="NullHandler",
                    judged=is_goal and clock == "wall",
                    note=notes.get(name, ""),
                )


def measure_structlog(options: Options) -> Iterable[Row]:
    """Row 5: a structlog event through the bridge."""
    number = options.scaled(20_000)
    statement = f"logger.info('order.created', {KEYWORDS})"
    with Contest() as contest:
        contest.open("ours", calling(peers.structlog_bridge, statement, number))
        contest.open(
            "ours, same chain",
            calling(partial(peers.structlog_bridge, *peers.production_chain()), statement, number),
        )
        contest.open("structlog orjson", calling(peers.structlog_orjson, statement, number))
        results = contest.run(options.rounds(15))
    for clock, suffix in CLOCKS.items():
        yield results.row(
            5,
            f"structlog into an AsyncioLogSink, each side's documented chain{suffix}",
            "ours",
            "structlog orjson",
            goal=0.8,
            figure=clock,
            judged=clock == "wall",
        )
        yield results.row(
            5,
            f"structlog into an AsyncioLogSink, the same chain but for the renderer{suffix}",
            "ours, same chain",
            "structlog orjson",
            figure=clock,
        )


def _make_error() -> Exception:
    def place_order() -> None:
        raise ValueError("out of stock")

    try:
        place_order()
    except ValueError as error:
        return error
    raise AssertionError
