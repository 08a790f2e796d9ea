"""What a sink tells of itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct, structs

__all__ = ["LatencyHistogram", "LogLatency", "LogSinkStats", "combine_stats"]


class LogLatency(Struct, frozen=True, kw_only=True):
    """How long it took from the acceptance of an event to its confirmation by the destination.

    The quantiles are of all events since the sink was made, at most 1/32 (about 3 %) off. Quantiles of several sinks
    cannot be averaged; so the histogram that they were read from comes along, and `LatencyHistogram.merge` takes it.

    Attributes:
        count: Events that were measured; a sink may measure samples only.
        sum: Of their latencies, in seconds.
        max: The largest one, in seconds.
        p50: The median, in seconds; like all others 0 when nothing was measured.
        p90: Nine of ten events took no longer, in seconds.
        p99: 99 of 100 did not, in seconds.
        p999: 999 of 1,000 did not, in seconds.
        buckets: Events by bucket of the histogram, without empty ones; see `LatencyHistogram.get_bounds`.
    """

    count: int = 0
    sum: float = 0.0
    max: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    p999: float = 0.0
    buckets: Mapping[int, int] = {}

    def to_log_payload(self) -> dict[str, Any]:
        """The figures as a payload, without the buckets."""
        payload = structs.asdict(self)
        del payload["buckets"]
        return payload

    def __repr__(self) -> str:
        # There may be hundreds of buckets.
        return f"LogLatency({', '.join(f'{name}={value:g}' for name, value in self.to_log_payload().items())})"


class LogSinkStats(Struct, frozen=True, kw_only=True):
    """The accounts of a sink at one moment. At every moment::

        accepted == delivered + sum(dropped.values()) + dead_lettered + pending

    Attributes:
        accepted: Events that ``log()`` took, and those in ``recovered``, since the sink was made (in a forked child: since
            the fork).
        delivered: Events that the destination has.
        dropped: Accepted events that were lost, by reason.
        dead_lettered: Accepted events that were set aside for a person to look at.
        pending: Accepted events that wait or are on their way.
        rejected: Events that were refused, by reason; they were never accepted, and the caller was told.
        batches: Batches handed to the destination.
        retries: Attempts that repeated events.
        recovered: Of ``accepted``: events taken over from a spool that an earlier life or another process left.
        spooled: Of ``pending``: events that are on disk.
        spool_bytes: What the spool takes on disk.
        queue_bytes: What waits in memory, as an estimate.
        oldest_pending_age: For how many seconds the oldest pending event has waited; None when none is pending, or when
            that is not known.
        latency: From acceptance to confirmation; None for a sink that does not measure it.
        circuit: ``closed`` when the destination works, ``open`` when it is left alone, ``half_open`` when it is tried
            out; empty for a sink without one.
        state: The state of an asynchronous sink, by name; empty for others.
        last_error: What went wrong last, as ``TypeName: text``; None when nothing has.
        last_error_at: When, in seconds since the epoch.
    """

    accepted: int = 0
    delivered: int = 0
    dropped: Mapping[str, int] = {}
    dead_lettered: int = 0
    pending: int = 0
    rejected: Mapping[str, int] = {}
    batches: int = 0
    retries: int = 0
    recovered: int = 0
    spooled: int = 0
    spool_bytes: int = 0
    queue_bytes: int = 0
    oldest_pending_age: float | None = None
    latency: LogLatency | None = None
    circuit: str = ""
    state: str = ""
    last_error: str | None = None
    last_error_at: float | None = None

    def to_log_payload(self) -> dict[str, Any]:
        """The accounts as a payload."""
        payload = structs.asdict(self)
        if self.latency is not None:
            payload["latency"] = self.latency.to_log_payload()
        return payload


_CIRCUITS = ("", "closed", "half_open", "open")


def combine_stats(parts: Iterable[LogSinkStats]) -> LogSinkStats:
    """The accounts of several sinks as those of one. The law of `LogSinkStats` holds for them too.

    Counts, bytes and what is counted by reason are added. The age is that of the oldest event, the circuit is the worst of
    all, the last error is the latest. Latencies are merged as histograms: the quantiles are those of all events together.
    There is no state: it is a single sink's.

    Args:
        parts: Any number; none is a sink without accounts.
    """
    parts = tuple(parts)
    latest = max(parts, key=lambda part: part.last_error_at or 0.0, default=LogSinkStats())
    ages = [part.oldest_pending_age for part in parts if part.oldest_pending_age is not None]
    latencies = [part.latency for part in parts if part.latency is not None]
    latency: LogLatency | None = None
    if latencies:
        histogram = LatencyHistogram()
        for entry in latencies:
            histogram.merge(entry)
        latency = histogram.snapshot()
    return LogSinkStats(
        accepted=sum(part.accepted for part in parts),
        delivered=sum(part.delivered for part in parts),
        dropped=_add(part.dropped for part in parts),
        dead_lettered=sum(part.dead_lettered for part in parts),
        pending=sum(part.pending for part in parts),
        rejected=_add(part.rejected for part in parts),
        batches=sum(part.batches for part in parts),
        retries=sum(part.retries for part in parts),
        recovered=sum(part.recovered for part in parts),
        spooled=sum(part.spooled for part in parts),
        spool_bytes=sum(part.spool_bytes for part in parts),
        queue_bytes=sum(part.queue_bytes for part in parts),
        oldest_pending_age=max(ages, default=None),
        latency=latency,
        # A circuit that a sink of somebody else's has named is neither better nor worse than none.
        circuit=max((part.circuit for part in parts), key=lambda name: _rank(name), default=""),
        last_error=latest.last_error,
        last_error_at=latest.last_error_at,
    )


def _rank(circuit: str) -> int:
    return _CIRCUITS.index(circuit) if circuit in _CIRCUITS else 0


def _add(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for count in counts:
        for reason, number in count.items():
            total[reason] = total.get(reason, 0) + number
    return total


# From a microsecond to a day: 37 powers of two, each divided into 16 buckets of equal width.
_UNIT = 1e-6
_LONGEST = 86_400.0
_PARTS = 16
_OCTAVES = 37
_SIZE = _PARTS * _OCTAVES
_frexp = math.frexp


class LatencyHistogram:
    """Durations, counted in buckets whose width grows with the duration: fixed in size, cheap to fill, exact to merge.

    The idea is that of HdrHistogram (Gil Tene, http://hdrhistogram.org): each power of two is divided into equal parts,
    here 16, so that the relative error is bounded over the whole range: a quantile is at most 1/32 (about 3 %) off. The
    range is from a microsecond to a day. What is shorter goes to the first bucket, what is longer (and infinity) counts as a
    day, what is negative or not a number as 0: nothing raises.

    It takes no lock: whoever fills it in one thread and reads it in another sees to that. A reader without a lock gets
    figures that may lack what is recorded meanwhile, nothing worse.
    """

    __slots__ = ("_counts", "_max", "_sum")

    def __init__(self) -> None:
        self._counts = [0] * _SIZE
        self._sum = 0.0
        self._max = 0.0

    def record(self, seconds: float, weight: int = 1) -> None:
        """Count a duration.

        Args:
            seconds: The duration; any number.
            weight: How many events it stands for; less than 1 counts nothing.
        """
        if weight < 1:
            return
        if not seconds > 0.0:
            seconds = 0.0
        elif seconds > _LONGEST:
            seconds = _LONGEST
        self._sum += seconds * weight
        if seconds > self._max:
            self._max = seconds
        # x = mantissa * 2**exponent with a mantissa of at least 1/2: which power of two, and which part of it.
        mantissa, exponent = _frexp(seconds / _UNIT)
        if exponent < 1:
            self._counts[0] += weight
        else:
            self._counts[exponent * _PARTS + int(mantissa * (2 * _PARTS)) - 2 * _PARTS] += weight

    @property
    def count(self) -> int:
        """How many events were counted."""
        return sum(self._counts)

    def quantile(self, q: float) -> float:
        """The duration that the share ``q`` of all events did not exceed, in seconds; 0 when there are none.

        Args:
            q: From 0 to 1 (0.99 for the 99th percentile); what is beyond counts as 0 or 1.
        """
        return _find_quantiles(self._counts, (q,), self._max)[0]

    def merge(self, other: LatencyHistogram | LogLatency) -> None:
        """Add what another histogram has counted, or had when a snapshot was taken."""
        counts = self._counts
        buckets = other.buckets.items() if isinstance(other, LogLatency) else enumerate(other._counts)
        for index, number in buckets:
            counts[min(max(index, 0), _SIZE - 1)] += number
        largest, total = (other.max, other.sum) if isinstance(other, LogLatency) else (other._max, other._sum)
        self._max = max(self._max, largest)
        self._sum += total

    def snapshot(self) -> LogLatency:
        """The figures of this moment."""
        counts = self._counts.copy()
        p50, p90, p99, p999 = _find_quantiles(counts, (0.5, 0.9, 0.99, 0.999), self._max)
        return LogLatency(
            count=sum(counts),
            sum=self._sum,
            max=self._max,
            p50=p50,
            p90=p90,
            p99=p99,
            p999=p999,
            buckets={index: number for index, number in enumerate(counts) if number},
        )

    @staticmethod
    def get_bounds(bucket: int) -> tuple[float, float]:
        """Where a bucket begins and where the next one does, in seconds.

        Args:
            bucket: A key of `LogLatency.buckets`.
        """
        octave, part = divmod(bucket, _PARTS)
        width = 2.0**octave * _UNIT / _PARTS
        begin = 0.0 if bucket == 0 else (_PARTS + part) * width
        return begin, (_PARTS + part + 1) * width


def _find_quantiles(counts: list[int], shares: tuple[float, ...], largest: float) -> list[float]:
    """For each share (ascending) the middle of the bucket with the event of that rank."""
    total = sum(counts)
    if not total:
        return [0.0] * len(shares)
    found: list[float] = []
    seen = 0
    # Nearest rank: the smallest duration such that the share of all events is no longer than it.
    ranks = [max(1, math.ceil((min(share, 1.0) if share > 0 else 0.0) * total)) for share in shares]
    for index, number in enumerate(counts):
        seen += number
        while len(found) < len(ranks) and seen >= ranks[len(found)]:
            begin, end = LatencyHistogram.get_bounds(index)
            found.append(min((max(begin, _UNIT) + end) / 2, largest))
        if len(found) == len(ranks):
            break
    return found
