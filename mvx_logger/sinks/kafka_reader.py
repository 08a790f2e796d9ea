"""Reads back what `KafkaLogSink` has written."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from ..errors import LogDeliveryTransientError
from ..formats.json import LogEventDecodeError, decode_event
from ..formats.template import EventTemplate
from ..model import LogEvent
from .kafka_client import KafkaPlace

__all__ = ["read_topics"]

_AHEAD = 10_000
"""Messages that are kept of a partition that is ahead of the others."""
_PATIENCE = 0.5
"""Seconds without a message after which there are none for now."""
_LOOK_AROUND = 5.0
"""Seconds between two looks for new topics and partitions."""

Place = tuple[str, int]
"""A topic and the number of a partition."""
Found = tuple[int, Place, LogEvent]
"""The time of a message, where it is, what it says."""


def read_topics(
    place: KafkaPlace, template: EventTemplate, *, last: int | None, since: float | None, follow: bool
) -> Iterator[LogEvent | None]:
    """See `KafkaLogSink.read_events`.

    Args:
        place: The brokers.
        template: The template of topics.
        last: Only the newest so many.
        since: Skip what is older, in seconds since the epoch.
        follow: Never end.
    """
    from confluent_kafka import Consumer, KafkaException

    # A group is a must in its configuration; none is joined, no offset is committed.
    config = {
        **place.config,
        "group.id": "mvx-logger-show",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "allow.auto.create.topics": False,
        "enable.partition.eof": True,
        "fetch.wait.max.ms": 50,  # it is how long the end of a partition takes to be told
        "error_cb": lambda error: None,
    }
    reader = _Reader(Consumer(config), template, place.timeout)
    try:
        limits = reader.find_limits()
        if last is None:
            yield from reader.merge(reader.find_starts(limits, since))
        else:
            yield from reader.find_newest(limits, last, since)
        if follow:
            yield from reader.follow(limits)
    except KafkaException as err:
        raise LogDeliveryTransientError(f"{err.args[0].str()}", cause=err) from err
    finally:
        reader.consumer.close()


class _Reader:
    def __init__(self, consumer: Any, template: EventTemplate, timeout: float) -> None:
        self.consumer = consumer
        self._timeout = timeout
        self._next: dict[Place, int] = {}
        self._topic = template.replace_fields("") if template.is_constant else None
        self._pattern = re.compile(template.replace_fields(".*", clean=re.escape))

    def find_limits(self) -> dict[Place, tuple[int, int]]:
        """The first offset of each partition, and the one behind the last."""
        from confluent_kafka import TopicPartition

        topics = self.consumer.list_topics(self._topic, timeout=self._timeout).topics
        found: dict[Place, tuple[int, int]] = {}
        for name, topic in topics.items():
            if self._topic is not None and topic.error is not None:
                raise LogDeliveryTransientError(f"there is no topic {name}: {topic.error.str()}")
            if topic.error is None and self._pattern.fullmatch(name):
                for number in topic.partitions:
                    limits = self.consumer.get_watermark_offsets(TopicPartition(name, number), timeout=self._timeout)
                    found[name, number] = limits
        return found

    def find_starts(self, limits: dict[Place, tuple[int, int]], since: float | None) -> dict[Place, int]:
        """Where to begin in each partition."""
        from confluent_kafka import TopicPartition

        if since is None:
            return {where: low for where, (low, _) in limits.items()}
        asked = [TopicPartition(*where, max(0, int(since * 1_000))) for where in limits]
        found = self.consumer.offsets_for_times(asked, timeout=self._timeout) if asked else []
        # -1: there is nothing later.
        return {
            (one.topic, one.partition): one.offset if one.offset >= 0 else limits[one.topic, one.partition][1]
            for one in found
        }

    def find_newest(self, limits: dict[Place, tuple[int, int]], last: int, since: float | None) -> list[LogEvent]:
        """The newest events of all partitions together: go back until there are enough."""
        firsts = self.find_starts(limits, since)
        newest: list[Found] = []
        for where, (_, high) in limits.items():
            back = last
            while last > 0:
                start = max(firsts[where], high - back)
                found: deque[Found] = deque(self._read({where: start}), maxlen=last)
                if len(found) == last or start == firsts[where]:
                    newest.extend(found)
                    break
                back *= 4
        newest.sort(key=lambda one: one[0])  # keeps the order of those of one time
        return [event for _, _, event in newest[-last:]] if last > 0 else []

    def merge(self, starts: dict[Place, int]) -> Iterator[LogEvent]:
        """The events of several partitions by time; those of each stay in their order."""
        from confluent_kafka import TopicPartition

        waiting: dict[Place, deque[Found]] = {where: deque() for where in starts}
        ended: set[Place] = set()
        paused: set[Place] = set()
        for one in self._read(starts, ended):
            where = one[1]
            waiting[where].append(one)
            if len(waiting[where]) > _AHEAD and where not in paused:
                self.consumer.pause([TopicPartition(*where)])
                paused.add(where)
            yield from _take(waiting, ended)
            for where in [where for where in paused if len(waiting.get(where, ())) < _AHEAD]:
                self.consumer.resume([TopicPartition(*where)])
                paused.discard(where)
        yield from _take(waiting, set(starts))

    def _read(self, starts: dict[Place, int], ended: set[Place] | None = None) -> Iterator[Found]:
        """The events from an offset of each partition to its present end.

        Args:
            starts: Offsets.
            ended: Gets the partitions that are at their end.
        """
        from confluent_kafka import KafkaError, TopicPartition

        left = set(starts)
        self.consumer.assign([TopicPartition(*where, offset) for where, offset in starts.items()])
        deadline = time.monotonic() + self._timeout
        while left:
            message = self.consumer.poll(_PATIENCE)
            if message is None:
                if time.monotonic() > deadline:
                    raise LogDeliveryTransientError("the brokers do not answer")
                continue
            deadline = time.monotonic() + self._timeout
            where = message.topic(), message.partition()
            error = message.error()
            if error is None:
                self._next[where] = message.offset() + 1
                if where in left and (event := _decode(message)) is not None:
                    yield message.timestamp()[1], where, event
            elif error.code() == KafkaError._PARTITION_EOF:
                left.discard(where)
                if ended is not None:
                    ended.add(where)
            else:
                raise LogDeliveryTransientError(error.str())
        self.consumer.unassign()

    def follow(self, limits: dict[Place, tuple[int, int]]) -> Iterator[LogEvent | None]:
        """What comes from here on, also in new topics and partitions."""
        from confluent_kafka import TopicPartition

        starts = {where: self._next.get(where, high) for where, (_, high) in limits.items()}
        known: set[Place] = set()
        looked, heard = -_LOOK_AROUND, time.monotonic()
        while True:
            if time.monotonic() - looked > _LOOK_AROUND:
                if known:
                    starts.update({where: low for where, (low, _) in self.find_limits().items() if where not in known})
                if new := starts.keys() - known:
                    self.consumer.incremental_assign([TopicPartition(*where, starts[where]) for where in new])
                    known |= new
                looked = time.monotonic()
            message = self.consumer.poll(0.1)
            event = None if message is None or message.error() is not None else _decode(message)
            if event is not None:
                heard = time.monotonic()
                yield event
            elif time.monotonic() - heard > _PATIENCE:
                heard = time.monotonic()
                yield None


def _take(waiting: dict[Place, deque[Found]], ended: set[Place]) -> Iterator[LogEvent]:
    """The oldest ones, as long as it is known which that is."""
    while True:
        for where in [where for where, events in waiting.items() if not events and where in ended]:
            del waiting[where]
        if not waiting or not all(waiting.values()):
            return
        yield min(waiting.values(), key=lambda events: events[0][0]).popleft()[2]


def _decode(message: Any) -> LogEvent | None:
    try:
        return decode_event(message.value() or b"")
    except LogEventDecodeError:
        return None
