"""Reads back what `NatsLogSink` has written to a stream."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from ..errors import LogConfigurationError, LogDeliveryTransientError
from ..formats.json import LogEventDecodeError, decode_event
from ..model import LogEvent
from .nats_client import NatsConnection, NatsPlace

__all__ = ["read_stream"]

_PAGE = 500
_PATIENCE = 0.5
"""Seconds without a message after which there are none for now."""
_CLOCKS_DIFFER = 60.0
"""Seconds by which the clock of the server may be behind that of whoever logs."""


def read_stream(
    place: NatsPlace, stream: str | None, subject: str, *, last: int | None, since: float | None, follow: bool
) -> Iterator[LogEvent | None]:
    """See `NatsLogSink.read_events`.

    Args:
        place: The servers.
        stream: The stream; None for the one that takes the subject.
        subject: What to read of it, may have wildcards.
        last: Only the newest so many.
        since: Skip what was stored earlier, in seconds since the epoch.
        follow: Never end.
    """
    with asyncio.Runner() as runner:
        events = _read(place, stream, subject, last, since, follow)
        try:
            while True:
                try:
                    yield runner.run(anext(events))
                except StopAsyncIteration:
                    return
        finally:
            runner.run(events.aclose())


async def _read(
    place: NatsPlace, stream: str | None, subject: str, last: int | None, since: float | None, follow: bool
) -> AsyncGenerator[LogEvent | None, None]:
    from nats.errors import Error
    from nats.js.api import RetentionPolicy

    connection = await NatsConnection.open(place)
    try:
        jetstream = connection.client.jetstream(timeout=place.options["connect_timeout"])
        try:
            name = stream or str(await connection.until_lost(jetstream.find_stream_name_by_subject(subject)))
            info = await connection.until_lost(jetstream.stream_info(name))
        except Error as err:
            raise LogDeliveryTransientError(
                f"there is no stream {stream or 'for ' + subject}: {err}", cause=err
            ) from err
        if info.config.retention not in (None, RetentionPolicy.LIMITS):
            raise LogConfigurationError(f"stream: {name} is a queue: what is read is taken away")
        first, newest = max(1, info.state.first_seq), info.state.last_seq
        if last is not None:
            async with aclosing(
                _read_newest(connection, jetstream, name, subject, last, since, first, newest)
            ) as found:
                async for newer in found:
                    yield newer
            first, since = newest + 1, None
        if last is None or follow:
            end = None if follow else newest
            async with aclosing(_read_from(connection, jetstream, name, subject, first, since, end)) as found:
                async for event in found:
                    yield event
    finally:
        await connection.close()


async def _read_newest(
    connection: NatsConnection,
    jetstream: Any,
    name: str,
    subject: str,
    last: int,
    since: float | None,
    first: int,
    end: int,
) -> AsyncGenerator[LogEvent, None]:
    # The stream may hold other messages, and gaps: go back until there are enough.
    back = last
    while last > 0:
        start = max(first, end - back + 1)
        newest: deque[LogEvent] = deque(maxlen=last)
        async with aclosing(_read_from(connection, jetstream, name, subject, start, None, end)) as found:
            async for event in found:
                if event is not None and (since is None or event.timestamp >= since):
                    newest.append(event)
        if len(newest) == last or start == first:
            for event in newest:
                yield event
            return
        back *= 4


async def _read_from(
    connection: NatsConnection,
    jetstream: Any,
    name: str,
    subject: str,
    start: int,
    since: float | None,
    end: int | None,
) -> AsyncGenerator[LogEvent | None, None]:
    """The events from a sequence number, or from a time, to another; without end, None when there are none for now."""
    from nats.errors import TimeoutError as NatsTimeoutError
    from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

    if end is not None and start > end:
        return
    # It lives on the server for as long as it is asked, and acknowledges nothing: the stream stays as it is.
    config = ConsumerConfig(
        ack_policy=AckPolicy.NONE, filter_subject=subject, inactive_threshold=60, mem_storage=True, num_replicas=1
    )
    if since is None:
        config.deliver_policy, config.opt_start_seq = DeliverPolicy.BY_START_SEQUENCE, start
    else:
        moment = datetime.fromtimestamp(max(0.0, since - _CLOCKS_DIFFER), UTC)
        config.deliver_policy, config.opt_start_time = DeliverPolicy.BY_START_TIME, moment
    made = await connection.until_lost(jetstream.add_consumer(name, config=config))
    left = made.num_pending
    try:
        messages = await connection.until_lost(jetstream.pull_subscribe_bind(consumer=made.name, stream=name))
        while end is None or left:
            try:
                page = await connection.until_lost(messages.fetch(_PAGE, timeout=_PATIENCE))
            except NatsTimeoutError:
                if end is None:
                    yield None
                continue
            for message in page:
                where = message.metadata
                left = where.num_pending
                if end is not None and where.sequence.stream > end:
                    return
                try:
                    yield decode_event(message.data)
                except LogEventDecodeError:
                    continue
    finally:
        if not connection.is_lost:
            await jetstream.delete_consumer(name, made.name)
