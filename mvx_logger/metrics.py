"""The accounts of all sinks as metrics: `register_prometheus`, `register_opentelemetry`.

Both read `mvx_logger.stats` when they are asked, so they cost nothing in between, and both tell the same figures under the
same names: OpenTelemetry has ``mvx_logger.sink.events.accepted``, Prometheus ``mvx_logger_sink_events_accepted_total``, as
the rules for converting the one into the other have it.

=========================  =======  ===================================================================================
``events.accepted``        counter  At every moment the sum of delivered, dropped (for all reasons), dead-lettered and
                                    pending: see `LogSinkStats`, also for the others.
``events.delivered``       counter
``events.dropped``         counter  By ``reason`` (OpenTelemetry: ``error.type``).
``events.dead_lettered``   counter
``events.pending``         gauge
``events.rejected``        counter  By ``reason``, too.
``events.recovered``       counter
``events.spooled``         gauge
``retries``, ``batches``   counter
``queue.size``             gauge    In bytes, as an estimate.
``spool.size``             gauge    In bytes.
``oldest_pending.age``     gauge    In seconds.
``last_error.timestamp``   gauge    In seconds since the epoch.
``state``, ``circuit``     gauge    1 for the ``state`` that it is in; no other is told.
``latency``                several  In seconds: Prometheus gets a histogram, OpenTelemetry (which has none that can be
                                    observed) the counters ``latency.sum`` and ``latency.count``.
``latency.quantile``       gauge    In seconds: 0.5, 0.9, 0.99, 0.999 and 1 (the maximum), of all events so far.
=========================  =======  ===================================================================================

The label ``sink`` (OpenTelemetry: ``mvx_logger.sink.name``) is the name in `mvx_logger.stats`, with secrets masked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import msgspec
from msgspec import Struct

from . import selflog
from .delivery.stats import LatencyHistogram, LogLatency, LogSinkStats
from .masking import mask_secrets
from .registry import stats

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

__all__ = ["OpenTelemetryExport", "PrometheusCollector", "register_opentelemetry", "register_prometheus"]

_Values = Iterable[tuple[str, float]]


class _Figure(Struct, frozen=True):
    """One metric.

    Attributes:
        name: Without what all have in common.
        kind: ``counter``, ``sum`` (that goes down too, and can be added over sinks) or ``gauge``.
        unit: In UCUM: ``s``, ``By``, or what is counted in braces.
        text: Its description.
        read: Its values, each with that of the label; empty where there is nothing to tell.
        label: The label that tells several values of one sink apart.
    """

    name: str
    kind: str
    unit: str
    text: str
    read: Callable[[LogSinkStats], _Values]
    label: str = ""


def _one(value: float | None) -> _Values:
    return () if value is None else (("", value),)


def _quantiles(latency: LogLatency | None) -> _Values:
    if latency is None or not latency.count:
        return ()
    return (
        ("0.5", latency.p50),
        ("0.9", latency.p90),
        ("0.99", latency.p99),
        ("0.999", latency.p999),
        ("1", latency.max),
    )


_FIGURES = (
    _Figure("events.accepted", "counter", "{event}", "Events that the sink took.", lambda s: _one(s.accepted)),
    _Figure("events.delivered", "counter", "{event}", "Events that the destination has.", lambda s: _one(s.delivered)),
    _Figure(
        "events.dropped", "counter", "{event}", "Accepted events that were lost.", lambda s: s.dropped.items(), "reason"
    ),
    _Figure(
        "events.dead_lettered",
        "counter",
        "{event}",
        "Accepted events that were set aside.",
        lambda s: _one(s.dead_lettered),
    ),
    _Figure(
        "events.pending", "sum", "{event}", "Accepted events that wait or are on their way.", lambda s: _one(s.pending)
    ),
    _Figure(
        "events.rejected",
        "counter",
        "{event}",
        "Events that were refused, and never accepted.",
        lambda s: s.rejected.items(),
        "reason",
    ),
    _Figure(
        "events.recovered",
        "counter",
        "{event}",
        "Accepted events that were taken over from a spool.",
        lambda s: _one(s.recovered),
    ),
    _Figure("events.spooled", "sum", "{event}", "Pending events that are on disk.", lambda s: _one(s.spooled)),
    _Figure("retries", "counter", "{attempt}", "Attempts that repeated events.", lambda s: _one(s.retries)),
    _Figure("batches", "counter", "{batch}", "Batches handed to the destination.", lambda s: _one(s.batches)),
    _Figure("queue.size", "sum", "By", "What waits in memory, as an estimate.", lambda s: _one(s.queue_bytes)),
    _Figure("spool.size", "sum", "By", "What the spool takes on disk.", lambda s: _one(s.spool_bytes)),
    _Figure(
        "oldest_pending.age",
        "gauge",
        "s",
        "How long the oldest pending event has waited.",
        lambda s: _one(s.oldest_pending_age),
    ),
    _Figure(
        "last_error.timestamp",
        "gauge",
        "s",
        "When something went wrong last, since the epoch.",
        lambda s: _one(s.last_error_at),
    ),
    _Figure("state", "sum", "1", "1 for the state of the sink.", lambda s: [(s.state, 1)] if s.state else (), "state"),
    _Figure(
        "circuit",
        "sum",
        "1",
        "1 for the state of the circuit.",
        lambda s: [(s.circuit, 1)] if s.circuit else (),
        "state",
    ),
    _Figure(
        "latency.quantile",
        "gauge",
        "s",
        "From acceptance to confirmation, of all events so far; 1 is the maximum.",
        lambda s: _quantiles(s.latency),
        "quantile",
    ),
)
_LATENCY = "From acceptance to confirmation."
_LATENCY_FIGURES = (
    _Figure("latency.sum", "counter", "s", _LATENCY, lambda s: _one(s.latency.sum if s.latency else None)),
    _Figure("latency.count", "counter", "{event}", _LATENCY, lambda s: _one(s.latency.count if s.latency else None)),
)
# Powers of four microseconds, from a quarter of a millisecond to five hours: where buckets of our histogram end too, so
# that none has to be divided.
_BOUNDS = tuple(4**exponent / 1e6 for exponent in range(4, 18))

_Accounts = Mapping[str, LogSinkStats]


def _get_accounts() -> _Accounts:
    """The accounts of all sinks under names that may be told, and can be."""
    accounts: dict[str, LogSinkStats] = {}
    for name, given in stats().items():
        label = told = _clean(name)
        try:
            account = msgspec.convert(msgspec.to_builtins(given), LogSinkStats)
        except Exception as err:  # of a sink of somebody else's making: the others are told all the same
            selflog.report("metrics", "the accounts of a sink are malformed", sink=label, error=type(err).__name__)
            continue
        number = 2
        while told in accounts:  # they differed in what is masked
            told = f"{label}#{number}"
            number += 1
        accounts[told] = account
    return accounts


def _clean(text: str) -> str:
    # A lone surrogate (a file's name that is no UTF-8) would make the exporter fail, and with it all metrics.
    return mask_secrets(text).encode("utf-8", "backslashreplace").decode("utf-8")


def _read(figure: _Figure, accounts: _Accounts) -> Iterator[tuple[str, str, float]]:
    """The sink, the label's value and the value of everything that there is to tell."""
    for name, account in accounts.items():
        for label, value in figure.read(account):
            yield name, _clean(label), value


# ---------------------------------------------------------------------- Prometheus


class PrometheusCollector:
    """Tells a registry of ``prometheus_client`` the accounts of all sinks. Made by `register_prometheus`."""

    def __init__(self, registry: CollectorRegistry, prefix: str) -> None:
        self._registry = registry
        self._prefix = prefix

    def describe(self) -> list[Metric]:
        """The metrics without values: what the registry looks at when this is registered."""
        return self._make({})

    def collect(self) -> list[Metric]:
        """The metrics of this moment. All are of one look at each sink, so its accounts add up."""
        return self._make(_get_accounts())

    def unregister(self) -> None:
        """Take the metrics out of the registry. Idempotent."""
        try:
            self._registry.unregister(self)
        except KeyError:
            pass

    def _make(self, accounts: _Accounts) -> list[Metric]:
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

        metrics: list[Metric] = []
        for figure in _FIGURES:
            kind = CounterMetricFamily if figure.kind == "counter" else GaugeMetricFamily
            labels = ["sink", figure.label] if figure.label else ["sink"]
            family = kind(self._name(figure.name, figure.unit), figure.text, labels=labels)
            for sink, label, value in _read(figure, accounts):
                family.add_metric([sink, label] if figure.label else [sink], value)
            metrics.append(family)
        metrics.append(self._make_histogram(accounts))
        return metrics

    def _make_histogram(self, accounts: _Accounts) -> Metric:
        from prometheus_client.metrics_core import HistogramMetricFamily

        family = HistogramMetricFamily(self._name("latency", "s"), _LATENCY, labels=["sink"])
        for sink, account in accounts.items():
            latency = account.latency
            if latency is not None:
                buckets = [(repr(bound), float(count)) for bound, count in _accumulate(latency)]
                family.add_metric([sink], [*buckets, ("+Inf", float(latency.count))], latency.sum)
        return family

    def _name(self, name: str, unit: str) -> str:
        suffix = {"s": "_seconds", "By": "_bytes"}.get(unit, "")
        return f"{self._prefix}_sink_{name.replace('.', '_')}{suffix}"


def _accumulate(latency: LogLatency) -> Iterator[tuple[float, int]]:
    """How many events took no longer than each of the bounds."""
    buckets = sorted(latency.buckets.items())
    count = index = 0
    for bound in _BOUNDS:
        while index < len(buckets) and LatencyHistogram.get_bounds(buckets[index][0])[1] <= bound:
            count += buckets[index][1]
            index += 1
        yield bound, count


def register_prometheus(
    registry: CollectorRegistry | None = None, *, prefix: str = "mvx_logger"
) -> PrometheusCollector:
    """Add the accounts of all sinks to what a registry of ``prometheus_client`` tells.

    They are this process': in the multiprocess mode of that package, metrics of collectors are not written to its files.

    Args:
        registry: The registry; None is the default one.
        prefix: What the names of the metrics begin with: letters, digits and ``_``.

    Returns:
        The collector; its ``unregister()`` undoes this.

    Raises:
        ImportError: ``prometheus_client`` is not installed; the text says how to.
        TypeError: An argument has the wrong type.
        ValueError: The prefix is malformed, or the registry has metrics of these names already.
    """
    try:
        from prometheus_client import REGISTRY
    except ImportError as err:
        raise ImportError("prometheus_client is not installed: pip install 'mvx-logger[prometheus]'") from err
    if not isinstance(prefix, str):
        raise TypeError(f"prefix: expected a str, got {type(prefix).__name__}")
    if not prefix.isascii() or not prefix.isidentifier():
        raise ValueError(f"prefix: {prefix!r} is malformed; use letters, digits and '_'")
    if registry is not None and not callable(getattr(registry, "register", None)):
        raise TypeError(f"registry: expected a CollectorRegistry or None, got {type(registry).__name__}")
    collector = PrometheusCollector(REGISTRY if registry is None else registry, prefix)
    collector._registry.register(collector)
    return collector


# ---------------------------------------------------------------------- OpenTelemetry

_SINK = "mvx_logger.sink.name"
_ATTRIBUTES = {"reason": "error.type", "state": "mvx_logger.sink.state", "quantile": "quantile"}


class OpenTelemetryExport:
    """Tells a meter of OpenTelemetry the accounts of all sinks. Made by `register_opentelemetry`."""

    def __init__(self, meter: Meter) -> None:
        self._active = True
        # One look at the sinks for all instruments of a collection, so that the accounts add up: whoever asks for the
        # second time begins the next one.
        self._look: tuple[_Accounts, set[str]] = ({}, {figure.name for figure in (*_FIGURES, *_LATENCY_FIGURES)})
        for figure in (*_FIGURES, *_LATENCY_FIGURES):
            create = {
                "counter": meter.create_observable_counter,
                "sum": meter.create_observable_up_down_counter,
                "gauge": meter.create_observable_gauge,
            }[figure.kind]
            create(
                f"mvx_logger.sink.{figure.name}",
                callbacks=[self._make_callback(figure)],
                unit=figure.unit,
                description=figure.text,
            )

    def unregister(self) -> None:
        """Tell nothing any more. Idempotent. The instruments stay: a meter gives none back."""
        self._active = False

    def _make_callback(self, figure: _Figure) -> Callable[[CallbackOptions], Iterable[Observation]]:
        from opentelemetry.metrics import Observation

        def callback(options: CallbackOptions) -> Iterable[Observation]:
            if not self._active:
                return []
            return [
                Observation(value, {_SINK: sink, _ATTRIBUTES[figure.label]: label} if figure.label else {_SINK: sink})
                for sink, label, value in _read(figure, self._get_accounts(figure.name))
            ]

        return callback

    def _get_accounts(self, name: str) -> _Accounts:
        accounts, seen = self._look
        if name in seen:
            accounts, seen = self._look = (_get_accounts(), set())
        seen.add(name)
        return accounts


class _Global:
    """Stands for the global meter provider, whichever it is by now."""


_the_global = _Global()
_exports: WeakKeyDictionary[Any, OpenTelemetryExport] = WeakKeyDictionary()


def register_opentelemetry(meter_provider: MeterProvider | None = None) -> OpenTelemetryExport:
    """Add the accounts of all sinks to the metrics of OpenTelemetry. Again for the same provider does nothing.

    Args:
        meter_provider: Where to; None is the global one, also where that is set later.

    Returns:
        The export; its ``unregister()`` undoes this.

    Raises:
        ImportError: ``opentelemetry-api`` is not installed; the text says how to.
        TypeError: ``meter_provider`` is none.
    """
    try:
        from opentelemetry.metrics import get_meter_provider
    except ImportError as err:
        raise ImportError("opentelemetry-api is not installed: pip install 'mvx-logger[otel]'") from err
    if meter_provider is not None and not callable(getattr(meter_provider, "get_meter", None)):
        raise TypeError(f"meter_provider: expected a MeterProvider or None, got {type(meter_provider).__name__}")
    key: Any = _the_global if meter_provider is None else meter_provider
    export = _exports.get(key)
    if export is None:
        from . import __version__

        provider = get_meter_provider() if meter_provider is None else meter_provider
        export = _exports[key] = OpenTelemetryExport(provider.get_meter("mvx_logger", __version__))
    export._active = True
    return export
