"""`LogSinkStats`, `LogLatency`, `LatencyHistogram`: what a sink tells of itself, and several as one."""

from __future__ import annotations

import math
import threading

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from delivery_helpers import assert_accounts
from mvx_logger import FanOutSink, LogEvent, LogPayloadProcessor, LogSinkStats
from mvx_logger.delivery.stats import LatencyHistogram, LogLatency, combine_stats
from stats_strategies import DAY, accounts, anything, histogram_of, samples


class Told:
    """A sink that has these accounts."""

    def __init__(self, stats: LogSinkStats) -> None:
        self._stats = stats

    def log(self, event: LogEvent) -> None:
        pass

    def stats(self) -> LogSinkStats:
        return self._stats


class TestLatencyHistogram:
    @given(entries=samples, q=st.floats(0, 1))
    def test_a_quantile_is_at_most_three_percent_off(self, entries: list[tuple[float, int]], q: float) -> None:
        """Against the exact one, of all the events one by one; from a microsecond to a day."""
        histogram = histogram_of(entries)
        rank = max(1, math.ceil(q * sum(weight for _, weight in entries)))
        for seconds, weight in sorted(entries):
            rank -= weight
            if rank <= 0:
                assert histogram.quantile(q) == pytest.approx(seconds, rel=1 / 32 + 1e-9)
                return
        raise AssertionError("there is no such rank")

    @given(entries=samples)
    def test_the_snapshot_tells_the_same(self, entries: list[tuple[float, int]]) -> None:
        """Count, sum and maximum are exact; the quantiles are those of `quantile()`, and grow."""
        histogram = histogram_of(entries)
        latency = histogram.snapshot()
        assert latency.count == histogram.count == sum(weight for _, weight in entries)
        assert latency.sum == pytest.approx(sum(seconds * weight for seconds, weight in entries))
        assert latency.max == max(seconds for seconds, _ in entries)
        quantiles = [latency.p50, latency.p90, latency.p99, latency.p999]
        assert quantiles == [histogram.quantile(q) for q in (0.5, 0.9, 0.99, 0.999)]
        assert quantiles == sorted(quantiles)
        assert quantiles[-1] <= latency.max

    @given(first=samples, second=samples)
    def test_merged_is_as_if_one_had_counted_all(
        self, first: list[tuple[float, int]], second: list[tuple[float, int]]
    ) -> None:
        """Whether with the histogram itself or with a snapshot that went over the wire."""
        expected = histogram_of(first + second).snapshot()
        over_the_wire = msgspec.json.decode(msgspec.json.encode(histogram_of(second).snapshot()), type=LogLatency)
        for other in (histogram_of(second), histogram_of(second).snapshot(), over_the_wire):
            histogram = histogram_of(first)
            histogram.merge(other)
            merged = histogram.snapshot()
            assert merged.sum == pytest.approx(expected.sum)
            assert msgspec.structs.replace(merged, sum=0.0) == msgspec.structs.replace(expected, sum=0.0)

    @given(seconds=anything | st.integers(-(1 << 70), 1 << 70), weight=st.integers(-5, 5), q=anything)
    @example(math.nan, 1, math.nan)
    @example(math.inf, 1, math.inf)
    @example(5e-324, 1, 0.5)
    @example(math.nextafter(DAY, 0), 1, 1.0)
    @example(DAY, 1, 1.0)
    def test_no_number_raises(self, seconds: float, weight: int, q: float) -> None:
        """A clock that was set back is no reason to fail: what makes no sense counts as the nearest that does."""
        histogram = LatencyHistogram()
        histogram.record(seconds, weight)
        latency = histogram.snapshot()
        assert latency.count == max(0, weight)
        assert 0 <= latency.max <= DAY
        assert 0 <= histogram.quantile(q) <= latency.max
        assert math.isfinite(latency.sum)

    def test_what_is_clamped(self) -> None:
        """Below nothing is 0, beyond a day is a day."""
        for seconds, expected in ((-1.0, 0.0), (math.nan, 0.0), (-math.inf, 0.0), (math.inf, DAY), (1e9, DAY)):
            histogram = LatencyHistogram()
            histogram.record(seconds)
            assert histogram.snapshot().max == expected
            assert histogram.snapshot().sum == expected

    @given(bucket=st.integers(0, 579))
    def test_buckets_join(self, bucket: int) -> None:
        """Each ends where the next one begins, and holds what is between."""
        begin, end = LatencyHistogram.get_bounds(bucket)
        assert begin < end == LatencyHistogram.get_bounds(bucket + 1)[0]
        histogram = LatencyHistogram()
        histogram.record((begin + end) / 2)
        assert list(histogram.snapshot().buckets) == [bucket]

    def test_nothing_was_recorded(self) -> None:
        """All zeros, and no division by them."""
        histogram = LatencyHistogram()
        assert histogram.snapshot() == LogLatency()
        assert histogram.quantile(0.5) == 0.0
        histogram.merge(LogLatency())
        histogram.merge(LatencyHistogram())
        assert histogram.count == 0

    def test_the_size_is_fixed(self) -> None:
        """Whatever is recorded."""
        histogram = LatencyHistogram()
        for exponent in range(-60, 60):
            histogram.record(2.0**exponent * 1.1)
        assert len(histogram.snapshot().buckets) <= 592
        assert histogram.count == 120

    def test_a_reader_in_another_thread(self) -> None:
        """It sees figures of some moment: never an error, never a count that goes back."""
        histogram = LatencyHistogram()
        done = threading.Event()

        def write() -> None:
            for number in range(20_000):
                histogram.record(number * 1e-5)
            done.set()

        thread = threading.Thread(target=write)
        thread.start()
        before = 0
        while not done.is_set():
            latency = histogram.snapshot()
            assert latency.count == sum(latency.buckets.values()) >= before
            before = latency.count
        thread.join()
        assert histogram.count == 20_000


class TestCombineStats:
    @given(parts=st.lists(accounts(), max_size=4))
    def test_the_law_holds_for_the_sum(self, parts: list[LogSinkStats]) -> None:
        """And each figure is made as it has to be."""
        total = combine_stats(parts)
        assert_accounts(total)
        for name in ("accepted", "delivered", "dead_lettered", "pending", "batches", "retries", "recovered", "spooled"):
            assert getattr(total, name) == sum(getattr(part, name) for part in parts)
        assert total.spool_bytes == sum(part.spool_bytes for part in parts)
        assert total.queue_bytes == sum(part.queue_bytes for part in parts)
        for reason in ("queue_full", "error", "shutdown"):
            assert total.dropped.get(reason, 0) == sum(part.dropped.get(reason, 0) for part in parts)
            assert total.rejected.get(reason, 0) == sum(part.rejected.get(reason, 0) for part in parts)
        ages = [part.oldest_pending_age for part in parts if part.oldest_pending_age is not None]
        assert total.oldest_pending_age == (max(ages) if ages else None)
        assert total.state == ""

    @given(parts=st.lists(accounts(), min_size=1, max_size=4))
    def test_latencies_are_those_of_all_events(self, parts: list[LogSinkStats]) -> None:
        """Not an average of quantiles: as if one histogram had counted all."""
        measured = [part.latency for part in parts if part.latency is not None]
        total = combine_stats(parts).latency
        if not measured:
            assert total is None
            return
        histogram = LatencyHistogram()
        for latency in measured:
            histogram.merge(latency)
        assert total == histogram.snapshot()
        assert total.count == sum(latency.count for latency in measured)

    def test_of_one_sink(self) -> None:
        """They are its own, but for the state."""
        stats = LogSinkStats(
            accepted=3, delivered=2, pending=1, latency=histogram_of([(1.0, 2)]).snapshot(), state="running"
        )
        assert combine_stats([stats]) == msgspec.structs.replace(stats, state="")
        assert combine_stats([]) == LogSinkStats()

    @pytest.mark.parametrize(
        ("circuits", "worst"),
        [
            (["closed", "closed"], "closed"),
            (["", "closed"], "closed"),
            (["half_open", "closed", ""], "half_open"),
            (["half_open", "open", "closed"], "open"),
            (["", ""], ""),
            (["odd", "closed"], "closed"),
        ],
    )
    def test_the_worst_circuit(self, circuits: list[str], worst: str) -> None:
        """Whoever looks at the whole sees that a part is down."""
        assert combine_stats(LogSinkStats(circuit=circuit) for circuit in circuits).circuit == worst

    def test_the_latest_error(self) -> None:
        """With its time."""
        parts = [
            LogSinkStats(last_error="A: first", last_error_at=5.0),
            LogSinkStats(),
            LogSinkStats(last_error="B: last", last_error_at=9.0),
            LogSinkStats(last_error="C: between", last_error_at=7.0),
        ]
        total = combine_stats(parts)
        assert (total.last_error, total.last_error_at) == ("B: last", 9.0)

    @given(parts=st.lists(accounts(), min_size=1, max_size=3))
    def test_a_sink_of_sinks(self, parts: list[LogSinkStats]) -> None:
        """`FanOutSink.stats()` leaves no figure out."""
        assert FanOutSink(*map(Told, parts)).stats() == combine_stats(parts)


class TestPayload:
    def test_it_is_plain(self) -> None:
        """Accounts can be logged: no object in them, and no hundreds of buckets."""
        stats = LogSinkStats(accepted=1, delivered=1, latency=histogram_of([(0.5, 1)]).snapshot())
        payload = stats.to_log_payload()
        latency = payload["latency"]
        assert {key: latency.pop(key) for key in ("count", "sum", "max")} == {"count": 1, "sum": 0.5, "max": 0.5}
        assert latency == dict.fromkeys(("p50", "p90", "p99", "p999"), pytest.approx(0.5, rel=1 / 32))
        assert payload["accepted"] == 1
        assert "buckets" not in repr(stats)
        assert "max=0.5" in repr(stats)
        assert msgspec.to_builtins(payload) == payload
        assert LogSinkStats().to_log_payload()["latency"] is None
        assert LogPayloadProcessor(max_items=50).normalize_payload(stats)["latency"]["max"] == 0.5

    @given(stats=accounts())
    def test_over_the_wire(self, stats: LogSinkStats) -> None:
        """A process may tell its accounts to another one."""
        assert msgspec.json.decode(msgspec.json.encode(stats), type=LogSinkStats) == stats
