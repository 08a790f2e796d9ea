"""The accounts of all sinks in Prometheus and OpenTelemetry, read back by their own clients."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_open_metrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from prometheus_client.parser import text_string_to_metric_families as parse

import mvx_logger
from delivery_helpers import TIMEOUT
from delivery_helpers import selflog_reports as reporting
from mvx_logger import LogEvent, LogSinkDescriptor, LogSinkStats, configure_log_sink, get_root_log_context
from mvx_logger.delivery.stats import LatencyHistogram
from mvx_logger.metrics import PrometheusCollector, register_opentelemetry, register_prometheus
from stats_strategies import accounts, histogram_of

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Told:
    """A sink that has the accounts that it is given."""

    def __init__(self, tell: Callable[[], Any]) -> None:
        self.stats = tell

    def log(self, event: LogEvent) -> None:
        pass

    @classmethod
    def build_descriptor(cls, *, tell: Callable[[], Any], place: str = "") -> LogSinkDescriptor:
        return LogSinkDescriptor("told", (place,), (id(tell),))

    @classmethod
    def create(cls, *, tell: Callable[[], Any], place: str = "") -> tuple[Told, Callable[[], None]]:
        return cls(tell), lambda: None


def tell(stats: Any, name: str = "main") -> None:
    configure_log_sink(name=name, sink_cls=Told, tell=lambda: stats)


def scrape(registry: CollectorRegistry) -> Samples:
    """What Prometheus sees; without the sink that is always there, and those of others that are ending."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse(generate_latest(registry).decode())
        for sample in family.samples
        if sample.labels.get("sink") != "stderr" and _is_of_here(sample.labels.get("sink", ""))
    }


def _is_of_here(name: str) -> bool:
    return ":" not in name or name.startswith("told:")


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return f"mvx_logger_sink_{name}", frozenset({"sink": "main", **labels}.items())


STATS = LogSinkStats(
    accepted=20,
    delivered=7,
    dropped={"queue_full": 3, "shutdown": 1},
    dead_lettered=4,
    pending=5,
    rejected={"recursion": 2},
    batches=6,
    retries=8,
    recovered=9,
    spooled=2,
    spool_bytes=4096,
    queue_bytes=512,
    oldest_pending_age=1.5,
    latency=histogram_of([(0.001, 5), (0.1, 4), (30.0, 1)]).snapshot(),
    circuit="half_open",
    state="running",
    last_error="OSError: amqp://a:Zq7x@h",
    last_error_at=1_700_000_000.5,
)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def collector(registry: CollectorRegistry) -> PrometheusCollector:
    return register_prometheus(registry)


class TestPrometheus:
    def test_every_figure_is_told(self, registry: CollectorRegistry, collector: PrometheusCollector) -> None:
        """By the rules of that house: base units, `_total` for what only grows."""
        tell(STATS)
        found = scrape(registry)
        assert {entry: value for entry, value in found.items() if "latency" not in entry[0]} == {
            key("events_accepted_total"): 20,
            key("events_delivered_total"): 7,
            key("events_dropped_total", reason="queue_full"): 3,
            key("events_dropped_total", reason="shutdown"): 1,
            key("events_dead_lettered_total"): 4,
            key("events_pending"): 5,
            key("events_rejected_total", reason="recursion"): 2,
            key("events_recovered_total"): 9,
            key("events_spooled"): 2,
            key("retries_total"): 8,
            key("batches_total"): 6,
            key("queue_size_bytes"): 512,
            key("spool_size_bytes"): 4096,
            key("oldest_pending_age_seconds"): 1.5,
            key("last_error_timestamp_seconds"): 1_700_000_000.5,
            key("state", state="running"): 1,
            key("circuit", state="half_open"): 1,
        }
        assert STATS.latency is not None
        for quantile, value in (("0.5", STATS.latency.p50), ("0.99", STATS.latency.p99), ("1", 30.0)):
            assert found[key("latency_quantile_seconds", quantile=quantile)] == value
        assert found[key("latency_seconds_count")] == 10
        assert found[key("latency_seconds_sum")] == pytest.approx(30.405)
        for bound, count in (("0.000256", 0), ("0.001024", 5), ("0.262144", 9), ("67.108864", 10), ("+Inf", 10)):
            assert found[key("latency_seconds_bucket", le=bound)] == count

    @given(stats=accounts())
    def test_it_adds_up(self, stats: LogSinkStats) -> None:
        """What Prometheus sees of a sink obeys the law of its accounts."""
        registry = CollectorRegistry()
        register_prometheus(registry)
        mvx_logger.reset_logger()
        tell(stats)
        found = scrape(registry)
        dropped = sum(value for (name, _), value in found.items() if name == "mvx_logger_sink_events_dropped_total")
        assert found[key("events_accepted_total")] == dropped + sum(
            found[key(name)] for name in ("events_delivered_total", "events_dead_lettered_total", "events_pending")
        )

    @given(entries=st.lists(st.tuples(st.floats(1e-6, 50_000), st.integers(1, 9)), min_size=1, max_size=30))
    def test_the_histogram_counts_what_it_says(self, entries: list[tuple[float, int]]) -> None:
        """For each bound: exactly the events that took less."""
        registry = CollectorRegistry()
        register_prometheus(registry)
        mvx_logger.reset_logger()
        tell(LogSinkStats(latency=histogram_of(entries).snapshot()))
        buckets = [
            (dict(labels)["le"], value)
            for (name, labels), value in scrape(registry).items()
            if name.endswith("_bucket")
        ]
        for bound, count in buckets:
            assert count == sum(weight for seconds, weight in entries if seconds < float(bound))

    def test_it_is_read_anew_each_time(self, registry: CollectorRegistry, collector: PrometheusCollector) -> None:
        """A sink that comes or goes after the registration does so in the metrics too."""
        assert not scrape(registry)
        tell(LogSinkStats(accepted=1, delivered=1))
        tell(LogSinkStats(accepted=2, delivered=2), name="other")
        found = scrape(registry)
        assert found[key("events_accepted_total")] == 1
        assert found[key("events_accepted_total", sink="other")] == 2
        mvx_logger.close_log_sink("main")
        assert key("events_accepted_total") not in scrape(registry)

    def test_events_that_were_really_logged(self, registry: CollectorRegistry, collector: PrometheusCollector) -> None:
        """The number of them, of a sink that delivers."""
        sink = configure_log_sink(name="main", sink_cls=mvx_logger.MemoryLogSink, max_events=3)
        get_root_log_context().set_log_sink(sink)
        for _ in range(5):
            get_root_log_context().log_info_event("sold")
        found = scrape(registry)
        assert found[key("events_accepted_total")] == 5
        assert found[key("events_dropped_total", reason="overflow")] == 2

    def test_open_metrics(self, registry: CollectorRegistry, collector: PrometheusCollector) -> None:
        """The stricter format takes them as well: its parser checks names, units and buckets."""
        tell(STATS)
        families = {family.name: family for family in parse_open_metrics(generate_open_metrics(registry).decode())}
        assert families["mvx_logger_sink_events_accepted"].type == "counter"
        assert families["mvx_logger_sink_latency_seconds"].type == "histogram"
        assert len(families) == 18

    def test_nothing_measured(self, registry: CollectorRegistry, collector: PrometheusCollector) -> None:
        """No quantile of nothing, no age of nothing, no NaN."""
        tell(LogSinkStats(latency=LatencyHistogram().snapshot()))
        names = {name for name, _ in scrape(registry)}
        assert "mvx_logger_sink_latency_seconds_count" in names
        assert not {
            name for name in names if "quantile" in name or "age" in name or "error" in name or "circuit" in name
        }

    def test_unregister(self, registry: CollectorRegistry, collector: PrometheusCollector) -> None:
        """It is as it was; and can be registered again."""
        tell(STATS)
        collector.unregister()
        collector.unregister()
        assert generate_latest(registry) == b""
        register_prometheus(registry)
        assert scrape(registry)

    def test_twice(self, registry: CollectorRegistry, collector: PrometheusCollector) -> None:
        """The registry refuses the same names; another prefix is another set."""
        with pytest.raises(ValueError, match="mvx_logger_sink_events_accepted"):
            register_prometheus(registry)
        register_prometheus(registry, prefix="shop_logs")
        tell(STATS)
        assert scrape(registry)[("shop_logs_sink_events_pending", frozenset({("sink", "main")}))] == 5

    def test_the_default_registry(self) -> None:
        """Where none is named."""
        collector = register_prometheus()
        try:
            tell(STATS)
            assert key("events_pending") in scrape(REGISTRY)
        finally:
            collector.unregister()

    @pytest.mark.parametrize(
        ("options", "error", "text"),
        [
            ({"prefix": 5}, TypeError, "^prefix: expected a str, got int"),
            ({"prefix": ""}, ValueError, "^prefix: '' is malformed"),
            ({"prefix": "a-b"}, ValueError, "^prefix: 'a-b' is malformed"),
            ({"prefix": "1a"}, ValueError, "^prefix: '1a' is malformed"),
            ({"prefix": "größe"}, ValueError, "^prefix: 'größe' is malformed"),
            ({"registry": object()}, TypeError, "^registry: expected a CollectorRegistry or None, got object"),
        ],
    )
    def test_wrong_arguments(self, options: dict[str, Any], error: type[Exception], text: str) -> None:
        """The error names the argument; nothing is registered."""
        before = generate_latest(REGISTRY)
        with pytest.raises(error, match=text):
            register_prometheus(**options)
        assert generate_latest(REGISTRY).count(b"# TYPE") == before.count(b"# TYPE")

    def test_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The error says what to install."""
        monkeypatch.setitem(sys.modules, "prometheus_client", None)
        with pytest.raises(ImportError, match=r"pip install 'mvx-logger\[prometheus\]'"):
            register_prometheus()


class TestLabels:
    def test_no_secret_is_told(self, registry: CollectorRegistry, collector: PrometheusCollector) -> None:
        """Neither of a sink whose place is a URL, nor of what went wrong."""
        leases = [
            mvx_logger.registry.lease_sink(Told, {"tell": lambda: STATS, "place": f"amqp://bob:{password}@host/v"})
            for password in ("Zq7x", "kW3v")
        ]
        text = generate_latest(registry).decode()
        assert "Zq7x" not in text
        assert "kW3v" not in text
        found = scrape(registry)
        # They are two sinks still.
        for name in ("told:amqp://bob:***@host/v", "told:amqp://bob:***@host/v#2"):
            assert found[key("events_pending", sink=name)] == 5
        for lease in leases:
            lease.release()

    def test_a_name_that_is_no_text(self, registry: CollectorRegistry, collector: PrometheusCollector) -> None:
        """A file's name that is no UTF-8 would make the whole answer fail."""
        place = b"/var/log/\xff".decode("utf-8", "surrogateescape")
        stats = LogSinkStats(accepted=1, dropped={'a\udc80"\n\\': 1})
        lease = mvx_logger.registry.lease_sink(Told, {"tell": lambda: stats, "place": place})
        found = scrape(registry)
        name = r"told:/var/log/\udcff"
        assert found[key("events_accepted_total", sink=name)] == 1
        assert found[key("events_dropped_total", sink=name, reason='a\\udc80"\n\\')] == 1
        lease.release()

    @pytest.mark.parametrize(
        "wrong",
        [
            structs.replace(STATS, accepted=object()),
            structs.replace(STATS, dropped=None),
            structs.replace(STATS, dropped={object(): 1}),
            structs.replace(STATS, latency="fast"),
        ],
    )
    def test_one_that_tells_nonsense(self, registry: CollectorRegistry, wrong: Any) -> None:
        """A sink of somebody else's making takes no other's metrics away; and it is told of."""
        register_prometheus(registry)
        tell(wrong, name="wrong")
        tell(STATS)
        with reporting() as reports:
            found = scrape(registry)
        assert found[key("events_accepted_total")] == 20
        assert not [labels for _, labels in found if ("sink", "wrong") in labels]
        assert [report.fields["sink"] for report in reports] == ["wrong"]

    def test_one_that_raises(self, registry: CollectorRegistry, collector: PrometheusCollector) -> None:
        """Nor does one whose stats() fails."""

        def fail() -> LogSinkStats:
            raise RuntimeError

        configure_log_sink(name="wrong", sink_cls=Told, tell=fail)
        tell(STATS)
        with reporting() as reports:
            assert scrape(registry)[key("events_accepted_total")] == 20
        assert [report.kind for report in reports] == ["stats"]


class Otel:
    """A meter provider, and what a reader reads from it."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader], shutdown_on_exit=False)

    def read(self) -> dict[str, Any]:
        """The metrics by name."""
        data = self.reader.get_metrics_data()
        if not isinstance(data, MetricsData):
            return {}
        return {
            metric.name: metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def values(self, name: str, sink: str = "main") -> dict[str, float]:
        """The values of a sink by the other attribute."""
        metric = self.read().get(f"mvx_logger.sink.{name}")
        found = {}
        for point in metric.data.data_points if metric is not None else ():
            attributes = dict(point.attributes)
            if attributes.pop("mvx_logger.sink.name") == sink:
                found["".join(map(str, attributes.values()))] = point.value
        return found


@pytest.fixture
def meter() -> Iterator[Otel]:
    made = Otel()
    yield made
    made.provider.shutdown()


class TestOpenTelemetry:
    def test_every_figure_is_told(self, meter: Otel) -> None:
        """With UCUM units; what only grows is a monotonic sum, what goes up and down one that is not."""
        register_opentelemetry(meter.provider)
        tell(STATS)
        assert STATS.latency is not None
        expected: list[tuple[str, str, bool | None, dict[str, float]]] = [
            ("events.accepted", "{event}", True, {"": 20}),
            ("events.delivered", "{event}", True, {"": 7}),
            ("events.dropped", "{event}", True, {"queue_full": 3, "shutdown": 1}),
            ("events.dead_lettered", "{event}", True, {"": 4}),
            ("events.pending", "{event}", False, {"": 5}),
            ("events.rejected", "{event}", True, {"recursion": 2}),
            ("events.recovered", "{event}", True, {"": 9}),
            ("events.spooled", "{event}", False, {"": 2}),
            ("retries", "{attempt}", True, {"": 8}),
            ("batches", "{batch}", True, {"": 6}),
            ("queue.size", "By", False, {"": 512}),
            ("spool.size", "By", False, {"": 4096}),
            ("oldest_pending.age", "s", None, {"": 1.5}),
            ("last_error.timestamp", "s", None, {"": 1_700_000_000.5}),
            ("state", "1", False, {"running": 1}),
            ("circuit", "1", False, {"half_open": 1}),
            ("latency.sum", "s", True, {"": STATS.latency.sum}),
            ("latency.count", "{event}", True, {"": 10}),
            (
                "latency.quantile",
                "s",
                None,
                {
                    "0.5": STATS.latency.p50,
                    "0.9": STATS.latency.p90,
                    "0.99": STATS.latency.p99,
                    "0.999": STATS.latency.p999,
                    "1": 30.0,
                },
            ),
        ]
        found = meter.read()
        assert set(found) == {f"mvx_logger.sink.{name}" for name, *_ in expected}
        for name, unit, monotonic, values in expected:
            metric = found[f"mvx_logger.sink.{name}"]
            assert metric.unit == unit
            assert metric.description
            assert getattr(metric.data, "is_monotonic", None) is monotonic
            assert meter.values(name) == values
        point = found["mvx_logger.sink.events.rejected"].data.data_points[0]
        assert dict(point.attributes) == {"mvx_logger.sink.name": "main", "error.type": "recursion"}

    def test_a_collection_adds_up(self, meter: Otel) -> None:
        """All of its instruments tell of one moment, though the sink goes on meanwhile."""
        register_opentelemetry(meter.provider)
        looks = 0

        def count() -> LogSinkStats:
            nonlocal looks
            looks += 1
            return LogSinkStats(accepted=looks, delivered=looks)

        configure_log_sink(name="main", sink_cls=Told, tell=count)
        for number in (1, 2, 3):
            found = meter.read()
            for name in ("events.accepted", "events.delivered"):
                points = found[f"mvx_logger.sink.{name}"].data.data_points
                assert [point.value for point in points if point.attributes["mvx_logger.sink.name"] == "main"] == [
                    number
                ]

    def test_unregister(self, meter: Otel) -> None:
        """Nothing is told any more, until it is registered again; the instruments are not made twice."""
        export = register_opentelemetry(meter.provider)
        tell(STATS)
        assert meter.values("events.pending") == {"": 5}
        export.unregister()
        export.unregister()
        assert meter.values("events.pending") == {}
        assert register_opentelemetry(meter.provider) is export
        assert register_opentelemetry(meter.provider) is export
        assert meter.values("events.pending") == {"": 5}

    def test_two_providers(self, meter: Otel) -> None:
        """Each has all of it."""
        other = Otel()
        register_opentelemetry(meter.provider)
        export = register_opentelemetry(other.provider)
        tell(STATS)
        assert meter.values("events.pending") == other.values("events.pending") == {"": 5}
        export.unregister()
        assert meter.values("events.pending") == {"": 5}
        assert other.values("events.pending") == {}
        other.provider.shutdown()

    def test_the_global_provider_may_come_later(self) -> None:
        """A library registers at import; the application sets up its metrics after that. Once in a process, so elsewhere."""
        program = (
            "import mvx_logger\n"
            "from mvx_logger.metrics import register_opentelemetry\n"
            "export = register_opentelemetry()\n"
            "from opentelemetry import metrics\n"
            "from opentelemetry.sdk.metrics import MeterProvider\n"
            "from opentelemetry.sdk.metrics.export import InMemoryMetricReader\n"
            "reader = InMemoryMetricReader()\n"
            "metrics.set_meter_provider(MeterProvider([reader]))\n"
            "assert register_opentelemetry() is export\n"
            "found = reader.get_metrics_data().resource_metrics[0].scope_metrics[0]\n"
            "points = {metric.name: list(metric.data.data_points) for metric in found.metrics}\n"
            "print(found.scope.name, len(points['mvx_logger.sink.events.pending']))\n"
        )
        result = subprocess.run(
            [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
        assert (result.stdout, result.stderr) == ("mvx_logger 1\n", "")

    def test_no_secret_is_told(self, meter: Otel) -> None:
        """Nor what an exporter could not write."""
        register_opentelemetry(meter.provider)
        lease = mvx_logger.registry.lease_sink(Told, {"tell": lambda: STATS, "place": "amqp://bob:Zq7x@host/\udcff"})
        assert "Zq7x" not in repr(meter.read())
        assert meter.values("events.pending", sink=r"told:amqp://bob:***@host/\udcff") == {"": 5}
        lease.release()

    def test_wrong_argument(self) -> None:
        """The error names it."""
        with pytest.raises(TypeError, match=r"^meter_provider: expected a MeterProvider"):
            register_opentelemetry(5)  # type: ignore[arg-type]

    def test_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The error says what to install."""
        monkeypatch.setitem(sys.modules, "opentelemetry.metrics", None)
        with pytest.raises(ImportError, match=r"pip install 'mvx-logger\[otel\]'"):
            register_opentelemetry()

    def test_a_provider_that_is_gone(self) -> None:
        """Nothing of it is kept for ever."""
        from mvx_logger import metrics

        made = Otel()
        register_opentelemetry(made.provider)
        before = len(metrics._exports)
        made.provider.shutdown()
        del made
        gc.collect()
        assert len(metrics._exports) < before
