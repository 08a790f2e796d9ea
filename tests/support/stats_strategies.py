"""Accounts of sinks, as hypothesis draws them."""

from __future__ import annotations

from hypothesis import strategies as st

from mvx_logger import LogSinkStats
from mvx_logger.delivery.stats import LatencyHistogram

DAY = 86_400.0

durations = st.floats(1e-6, DAY)
samples = st.lists(st.tuples(durations, st.integers(1, 1_000)), min_size=1, max_size=50)
anything = st.floats(allow_nan=True, allow_infinity=True)
counts = st.integers(0, 1 << 40)
reasons = st.dictionaries(st.sampled_from(["queue_full", "error", "shutdown"]), counts)


def histogram_of(entries: list[tuple[float, int]]) -> LatencyHistogram:
    histogram = LatencyHistogram()
    for seconds, weight in entries:
        histogram.record(seconds, weight)
    return histogram


@st.composite
def accounts(draw: st.DrawFn) -> LogSinkStats:
    """The accounts of some sink; the law holds."""
    delivered, dead, pending, dropped = draw(counts), draw(counts), draw(counts), draw(reasons)
    return LogSinkStats(
        accepted=delivered + dead + pending + sum(dropped.values()),
        delivered=delivered,
        dropped=dropped,
        dead_lettered=dead,
        pending=pending,
        rejected=draw(reasons),
        batches=draw(counts),
        retries=draw(counts),
        recovered=draw(counts),
        spooled=draw(st.integers(0, pending)),
        spool_bytes=draw(counts),
        queue_bytes=draw(counts),
        oldest_pending_age=draw(st.none() | st.floats(0, DAY)),
        latency=draw(st.none() | samples.map(lambda entries: histogram_of(entries).snapshot())),
        circuit=draw(st.sampled_from(["", "closed", "open", "half_open"])),
        last_error=draw(st.none() | st.just("OSError: x")),
        last_error_at=draw(st.none() | st.floats(0, 1e10)),
    )
