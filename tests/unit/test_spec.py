"""The core contract, read off the package: every name, signature, default, member and error that it promises.

The expectations are written by hand. Signatures are written as lambdas: their parameters are the table.
"""

from __future__ import annotations

import enum
import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest

import mvx_logger
from mvx_logger import (
    AsyncioLogSink,
    AsyncioLogSinkOp,
    AsyncioLogSinkQueueOverflowPolicy,
    FileLogSink,
    LogContext,
    LogErrorHandlingPolicy,
    LogEvent,
    LogEventMeta,
    LoggerError,
    LoggingFileConfig,
    LoggingStreamConfig,
    LogLevel,
    LogPayloadProcessor,
    LogSinkDescriptor,
    LogStreamOutput,
    LogVerbosityLevel,
    PatternLogEventPolicy,
    PatternLogEventPolicyAction,
    PatternLogEventPolicyConfig,
    PatternLogEventPolicyRuleConfig,
    StreamLogSink,
)

DEBUG, INFO, ERROR = LogLevel.DEBUG, LogLevel.INFO, LogLevel.ERROR

ALL_NAMES = """
AsyncioLogSink AsyncioLogSinkDispatcherCancelledError AsyncioLogSinkError AsyncioLogSinkErrorReason
AsyncioLogSinkEventLoopUnavailableError AsyncioLogSinkInvalidStateError AsyncioLogSinkOnStartingHookFailedError
AsyncioLogSinkOnStoppedHookFailedError AsyncioLogSinkOp AsyncioLogSinkOpResult AsyncioLogSinkQueueOverflowError
AsyncioLogSinkQueueOverflowPolicy AsyncioLogSinkState AsyncioLogSinkUnexpectedError AsyncioLogSinkWaitHandle
FileLogSink LogAdapter LogAdapterResolver LogContext LogContextProto LogContextProviderProto LogContextResetError
LogContextUnableToLog LogEntityIdProviderProto LogErrorHandlingPolicy LogEvent LogEventMeta LogEventPolicyProto LogLevel
LogPayloadProcessor LogPayloadProcessorProto LogPayloadProvider LogSinkClassProto LogSinkCloseError
LogSinkConfigurationConflictError LogSinkCreateError LogSinkDescriptor LogSinkDescriptorBuildError LogSinkIsInUseError
LogSinkProto LogSinkTerminator LogStreamOutput LogVerbosityLevel LoggerError LoggingFileConfig LoggingStreamConfig
PatternLogEventPolicy PatternLogEventPolicyAction PatternLogEventPolicyConfig PatternLogEventPolicyRuleConfig StreamLogSink
close_log_sink configure_log_context configure_log_sink flush get_configured_log_sink_names get_log_context
get_log_context_namespaces get_log_sink get_root_log_context has_configured_log_sinks has_log_context install_as
log_invocation reset_log_contexts reset_logger stats
"""
NAMES = ALL_NAMES.split()


def some(*args: Any, **kwargs: Any) -> Any:
    """Stands for a default that the contract leaves open."""


def emit(
    event: Any,
    payload: Any = None,
    *,
    event_namespace: Any = None,
    event_outcome: Any = None,
    entity_id: Any = None,
    source_path: Any = None,
    source_line: Any = None,
    source_func: Any = None,
    skip_payload_normalization: Any = False,
) -> None:
    """The signature of `log_info_event` and its kind."""


def log_event(
    event: Any,
    level: Any,
    payload: Any = None,
    *,
    event_namespace: Any = None,
    event_outcome: Any = None,
    entity_id: Any = None,
    source_path: Any = None,
    source_line: Any = None,
    source_func: Any = None,
    skip_payload_normalization: Any = False,
) -> None:
    """The signature of `log_event`."""


def log_context(
    *,
    namespace: Any = None,
    parent: Any = None,
    log_sink: Any = None,
    event_policy: Any = None,
    payload_processor: Any = None,
    log_error_handling_policy: Any = None,
    min_level: Any = None,
) -> None:
    """`LogContext`."""


def configure_log_context(
    namespace: Any,
    *,
    log_sink: Any = None,
    event_policy: Any = None,
    payload_processor: Any = None,
    log_error_handling_policy: Any = None,
    min_level: Any = None,
) -> None:
    """`configure_log_context`."""


def rule_config(
    action: Any,
    events: Any = (),
    event_namespaces: Any = (),
    event_names: Any = (),
    entity_ids: Any = (),
    source_paths: Any = (),
    source_funcs: Any = (),
) -> None:
    """`PatternLogEventPolicyRuleConfig`."""


def payload_processor(
    *,
    verbosity_level: Any = None,
    max_str_len: Any = None,
    max_items: Any = None,
    log_adapter_resolver: Any = None,
    max_depth: Any = None,
    redact_keys: Any = some,
) -> None:
    """`LogPayloadProcessor`."""


def log_invocation(
    event: Any,
    *,
    invoke_level: Any = DEBUG,
    success_level: Any = DEBUG,
    error_level: Any = ERROR,
    error_level_suppressed: Any = DEBUG,
    cancel_level: Any = INFO,
    log_closures_on_invoke: Any = None,
    context_fields: Any = (),
    context_formatter: Any = None,
    log_kwargs_on_invoke: Any = (),
    log_result_on_success: Any = None,
    log_error_policy: Any = (),
    ctx: Any = None,
    entity_id_getter: Any = None,
) -> None:
    """`log_invocation`."""


def stream_config(
    stream_output: Any = LogStreamOutput.STDERR,
    level: Any = 20,
    *,
    log_format: Any = some,
    date_format: Any = some,
    formatter_factory: Any = None,
    filters: Any = None,
) -> None:
    """`LoggingStreamConfig`."""


RAISE_ERROR = AsyncioLogSinkQueueOverflowPolicy.RAISE_ERROR
STREAM_CONFIG = LoggingStreamConfig()

# What there may be beside the contract's parameters is named last.
SIGNATURES: dict[str, tuple[Callable[..., Any], str]] = {
    # Model
    "LogEventMeta": (
        lambda event_namespace, event_name, entity_id=some, source_path=some, source_line=some, source_func=some: 0,
        "",
    ),
    "LogEvent": (lambda level, meta, event_outcome, timestamp, payload: 0, "message exception stack origin"),
    "LogSinkDescriptor": (lambda sink_type, resource_key, config_key=(): 0, ""),
    "LogSinkDescriptor.to_log_payload": (lambda: 0, ""),
    "LogSinkProto.log": (lambda event: 0, ""),
    "LogSinkClassProto.build_descriptor": (lambda **kwargs: 0, ""),
    "LogSinkClassProto.create": (lambda **kwargs: 0, ""),
    "LogEventPolicyProto.is_event_enabled": (lambda event: 0, ""),
    "LogPayloadProcessorProto.normalize_payload": (lambda payload, *, unbounded=False: 0, ""),
    "LogPayloadProcessorProto.normalize_value_for_log": (lambda value, *, unbounded=False: 0, ""),
    "LogPayloadProcessorProto.get_plain_verbosity_level": (lambda: 0, ""),
    "LogPayloadProvider.to_log_payload": (lambda: 0, ""),
    "LogAdapterResolver.__call__": (lambda value: 0, ""),
    "LogContextProviderProto.get_log_context": (lambda: 0, ""),
    "LogContextProto.log_event": (log_event, ""),
    "LogContextProto.is_event_enabled": (lambda meta: 0, ""),
    "LogContextProto.normalize_value_for_log": (lambda value, *, unbounded=False: 0, ""),
    "LogContextProto.get_plain_verbosity_level": (lambda: 0, ""),
    "LogContextProto.build_error_payload": (lambda err: 0, ""),
    "LogContextProto.is_error_logged": (lambda err: 0, ""),
    "LogContextProto.mark_error_logged": (lambda err: 0, ""),
    # LogContext
    "LogContext": (log_context, ""),
    "LogContext.get_local_log_sink": (lambda: 0, ""),
    **{
        f"LogContext.set_{name}": (lambda value: 0, "")
        for name in ("log_sink", "event_policy", "payload_processor", "log_error_handling_policy", "min_level")
    },
    **{
        f"LogContext.reset_{name}": (lambda: 0, "")
        for name in ("log_sink", "event_policy", "payload_processor", "log_error_handling_policy", "min_level")
    },
    "LogContext.log_event": (log_event, ""),
    **{f"LogContext.log_{level.name.lower()}_event": (emit, "") for level in LogLevel},
    "LogContext.is_event_enabled": (lambda meta: 0, ""),
    "LogContext.emit_log_event": (lambda event: 0, ""),
    "LogContext.build_error_payload": (lambda err: 0, ""),
    "LogContext.is_error_logged": (lambda err: 0, ""),
    "LogContext.mark_error_logged": (lambda err: 0, ""),
    "LogContext.normalize_payload": (lambda payload, *, unbounded=False: 0, ""),
    "LogContext.normalize_value_for_log": (lambda value, *, unbounded=False: 0, ""),
    "LogContext.get_plain_verbosity_level": (lambda: 0, ""),
    # Registry
    "configure_log_sink": (lambda *, name, sink_cls, **kwargs: 0, ""),
    "get_log_sink": (lambda name: 0, ""),
    "get_configured_log_sink_names": (lambda: 0, ""),
    "has_configured_log_sinks": (lambda: 0, ""),
    "close_log_sink": (lambda name: 0, ""),
    "configure_log_context": (configure_log_context, ""),
    "get_root_log_context": (lambda: 0, ""),
    "get_log_context": (lambda namespace: 0, ""),
    "has_log_context": (lambda namespace: 0, ""),
    "get_log_context_namespaces": (lambda: 0, ""),
    "reset_log_contexts": (lambda: 0, ""),
    "reset_logger": (lambda: 0, ""),
    "flush": (lambda timeout=None: 0, ""),
    "stats": (lambda: 0, ""),
    "install_as": (lambda name, *, force=False: 0, ""),
    # Policies, payloads, invocation
    "PatternLogEventPolicy": (lambda config: 0, ""),
    "PatternLogEventPolicy.is_event_enabled": (lambda event: 0, ""),
    "PatternLogEventPolicyConfig": (lambda default_enabled=True, rules=(): 0, ""),
    "PatternLogEventPolicyConfig.from_mapping": (lambda mapping: 0, "path"),
    "PatternLogEventPolicyRuleConfig": (rule_config, ""),
    "PatternLogEventPolicyRuleConfig.from_mapping": (lambda mapping: 0, "path"),
    "LogPayloadProcessor": (payload_processor, ""),
    "LogPayloadProcessor.normalize_payload": (lambda payload, *, unbounded=False: 0, ""),
    "LogPayloadProcessor.normalize_value_for_log": (lambda value, *, unbounded=False: 0, ""),
    "LogPayloadProcessor.get_plain_verbosity_level": (lambda: 0, ""),
    **{
        f"LogPayloadProcessor.set_{name}": (lambda value: 0, "")
        for name in (
            *("verbosity_level", "max_str_len", "max_items", "log_adapter_resolver", "max_depth", "redact_keys"),
        )
    },
    **{
        f"LogPayloadProcessor.reset_{name}": (lambda: 0, "")
        for name in (
            *("verbosity_level", "max_str_len", "max_items", "log_adapter_resolver", "max_depth", "redact_keys"),
        )
    },
    "log_invocation": (log_invocation, ""),
    # Ready sinks
    "StreamLogSink": (lambda *, logger_name="mvx.stream_log_sink", config=STREAM_CONFIG: 0, ""),
    "StreamLogSink.log": (lambda event: 0, ""),
    "StreamLogSink.build_descriptor": (lambda **kwargs: 0, ""),
    "StreamLogSink.create": (lambda **kwargs: 0, ""),
    "LoggingStreamConfig": (stream_config, ""),
    "FileLogSink": (lambda *, logger_name="mvx.file_log_sink", config, **async_options: 0, "queue_max_size"),
    "FileLogSink.build_descriptor": (lambda **kwargs: 0, ""),
    "FileLogSink.create": (lambda **kwargs: 0, ""),
    "LoggingFileConfig": (lambda file_path, level=20, *, mode="a", encoding="utf-8": 0, "*"),
    # AsyncioLogSink
    "AsyncioLogSink": (
        lambda *, namespace=None, queue_max_size=10_000, queue_overflow_policy=RAISE_ERROR: 0,
        "*",
    ),
    "AsyncioLogSink.log": (lambda event: 0, ""),
    "AsyncioLogSink.build_descriptor": (lambda **kwargs: 0, ""),
    "AsyncioLogSink.create": (lambda **kwargs: 0, ""),
    "AsyncioLogSink._dispatch_core": (lambda event: 0, ""),
    "AsyncioLogSink._dispatch_batch": (lambda events: 0, ""),
    "AsyncioLogSink._on_starting": (lambda: 0, ""),
    "AsyncioLogSink._on_stopped": (lambda: 0, ""),
    "AsyncioLogSink.start": (lambda: 0, ""),
    "AsyncioLogSink.stop": (lambda: 0, ""),
    "AsyncioLogSink.get_status": (lambda: 0, ""),
    "AsyncioLogSink.flush": (lambda timeout=None: 0, ""),
    "AsyncioLogSink.stats": (lambda: 0, ""),
    "AsyncioLogSinkWaitHandle.wait": (lambda: 0, "timeout"),
    "AsyncioLogSinkWaitHandle.__await__": (lambda: 0, ""),
    "AsyncioLogSinkOpResult": (lambda op_name, success, error=None: 0, ""),
    # Errors
    "LoggerError.to_log_payload": (lambda: 0, ""),
}

ENUMS: dict[str, tuple[type, dict[str, Any]]] = {
    "LogLevel": (enum.IntEnum, {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}),
    "LogErrorHandlingPolicy": (enum.Enum, {"IGNORE": ..., "PRINT_STDERR": ..., "RAISE": ...}),
    "LogVerbosityLevel": (enum.Enum, {"MINIMAL": ..., "NORMAL": ..., "MAXIMUM": ...}),
    "LogStreamOutput": (enum.Enum, {"STDERR": ..., "STDOUT": ...}),
    "PatternLogEventPolicyAction": (enum.Enum, {"ALLOW": "allow", "DENY": "deny"}),
    "AsyncioLogSinkState": (
        enum.Enum,
        dict.fromkeys(("VIRGIN", "STARTING", "RUNNING", "STOPPING", "STOPPED", "FAILURE", "CANCELLED"), ...),
    ),
    "AsyncioLogSinkOp": (enum.Enum, {"START": ..., "STOP": ...}),
    "AsyncioLogSinkQueueOverflowPolicy": (
        enum.Enum,
        dict.fromkeys(("DROP", "DROP_OLDEST", "BLOCK", "RAISE_ERROR"), ...),
    ),
}

PROTOCOLS = [
    *("LogSinkProto", "LogSinkClassProto", "LogEventPolicyProto", "LogPayloadProcessorProto", "LogPayloadProvider"),
    *("LogAdapterResolver", "LogContextProto", "LogContextProviderProto", "LogEntityIdProviderProto"),
]


def resolve(dotted: str) -> Any:
    found: Any = mvx_logger
    for name in dotted.split("."):
        found = getattr(found, name)
    return found


def parameters(function: Any, *, bound: bool) -> dict[str, inspect.Parameter]:
    found = dict(inspect.signature(function).parameters)
    if bound:
        found.pop("self", None)
    return found


class TestNames:
    @pytest.mark.parametrize("name", NAMES)
    def test_everything_is_importable_from_the_package(self, name: str) -> None:
        """And listed, in `__all__` and by `dir()`."""
        assert getattr(mvx_logger, name) is not None
        assert name in mvx_logger.__all__
        assert name in dir(mvx_logger)

    def test_everything_that_is_listed_is_there(self) -> None:
        """`from mvx_logger import *` works, and the lists are sorted and free of repetitions."""
        program = "from mvx_logger import *\nimport mvx_logger\nassert set(mvx_logger.__all__) <= set(globals())"
        subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
        assert len(set(mvx_logger.__all__)) == len(mvx_logger.__all__)

    def test_what_is_not_there(self) -> None:
        """An unknown name is an `AttributeError`, as with any module."""
        with pytest.raises(AttributeError, match="no attribute 'LogSnik'"):
            mvx_logger.LogSnik  # noqa: B018


class TestSignatures:
    @pytest.mark.parametrize("name", SIGNATURES)
    def test_parameters_and_defaults(self, name: str) -> None:
        """Names, kinds, order and defaults; what there is beside them has a default, and is a known addition."""
        expected_function, additions = SIGNATURES[name]
        actual = parameters(resolve(name), bound="." in name or isinstance(resolve(name), type))
        expected = parameters(expected_function, bound=False)
        assert [entry for entry in actual if entry in expected and not is_keyword(actual[entry])] == [
            entry for entry in expected if not is_keyword(expected[entry])
        ]
        for entry, parameter in expected.items():
            assert entry in actual, f"{name} has no parameter {entry}"
            assert actual[entry].kind is parameter.kind, entry
            if parameter.default is some:
                assert actual[entry].default is not inspect.Parameter.empty, entry
            else:
                assert actual[entry].default == parameter.default, entry
        for entry, parameter in actual.items():
            if entry not in expected:
                assert additions == "*" or entry in additions.split(), f"{name} has an unknown parameter {entry}"
                assert parameter.default is not inspect.Parameter.empty, f"{name} demands {entry}"

    @pytest.mark.parametrize("name", ENUMS)
    def test_enumerations(self, name: str) -> None:
        """Members, and values where the contract tells them."""
        base, members = ENUMS[name]
        found = resolve(name)
        assert issubclass(found, base)
        assert list(found.__members__) == list(members)
        for member, value in members.items():
            assert value is ... or found[member].value == value

    @pytest.mark.parametrize("name", ["_dispatch_core", "_dispatch_batch", "_on_starting", "_on_stopped"])
    def test_what_a_sink_overrides_is_asynchronous(self, name: str) -> None:
        """Coroutine functions."""
        assert inspect.iscoroutinefunction(getattr(AsyncioLogSink, name))

    def test_the_base_of_asynchronous_sinks_is_abstract(self) -> None:
        """It cannot be made itself."""
        with pytest.raises(TypeError, match="abstract"):
            AsyncioLogSink.create()
        assert issubclass(FileLogSink, AsyncioLogSink)

    def test_results_of_operations(self) -> None:
        """Operation, success and error."""
        result = mvx_logger.AsyncioLogSinkOpResult(AsyncioLogSinkOp.START, True)
        assert (result.op_name, result.success, result.error) == (AsyncioLogSinkOp.START, True, None)

    def test_what_can_be_read_of_a_context(self) -> None:
        """Properties, not methods."""
        for name in (
            *("namespace", "is_root", "parent", "log_sink", "event_policy", "payload_processor"),
            *("log_error_handling_policy", "min_level"),
        ):
            assert isinstance(inspect.getattr_static(LogContext, name), property), name
        assert isinstance(inspect.getattr_static(mvx_logger.LogEntityIdProviderProto, "entity_id"), property)


def is_keyword(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD)


class TestModel:
    def test_keyword_construction_works_for_all_fields(self) -> None:
        """And the values are the fields'."""
        meta = LogEventMeta(
            event_namespace="a", event_name="b", entity_id="c", source_path="d", source_line=5, source_func="f"
        )
        event = LogEvent(level=25, meta=meta, event_outcome="ok", timestamp=1.5, payload={"a": 1})
        assert (meta.event_namespace, meta.event_name, meta.entity_id) == ("a", "b", "c")
        assert (meta.source_path, meta.source_line, meta.source_func) == ("d", 5, "f")
        assert (event.level, event.meta, event.event_outcome, event.timestamp) == (25, meta, "ok", 1.5)
        assert isinstance(event.payload, Mapping)

    def test_they_are_immutable(self) -> None:
        """All three."""
        meta = LogEventMeta(None, "e")
        for value, name in (
            (meta, "event_name"),
            (LogEvent(20, meta, None, 0.0, {}), "level"),
            (LogSinkDescriptor("t", ()), "sink_type"),
        ):
            with pytest.raises(AttributeError):
                setattr(value, name, None)
        assert hash(LogSinkDescriptor("t", ("a",))) == hash(LogSinkDescriptor("t", ("a",), ()))

    @pytest.mark.parametrize("name", PROTOCOLS)
    def test_protocols_are_runtime_checkable(self, name: str) -> None:
        """`isinstance` works, and an object without the methods is none."""
        assert not isinstance(object(), resolve(name))

    def test_ready_objects_fulfil_the_protocols(self) -> None:
        """Each of ours is what it has to be."""
        root = mvx_logger.get_root_log_context()
        assert isinstance(StreamLogSink(), mvx_logger.LogSinkProto)
        for cls in (StreamLogSink, FileLogSink, AsyncioLogSink):
            assert isinstance(cls, mvx_logger.LogSinkClassProto)
        assert isinstance(PatternLogEventPolicy(PatternLogEventPolicyConfig()), mvx_logger.LogEventPolicyProto)
        assert isinstance(LogPayloadProcessor(), mvx_logger.LogPayloadProcessorProto)
        assert isinstance(root, mvx_logger.LogContextProto)
        assert isinstance(root, mvx_logger.LogPayloadProcessorProto)
        assert isinstance(LoggerError("x"), mvx_logger.LogPayloadProvider)
        assert isinstance(LogSinkDescriptor("t", ()), mvx_logger.LogPayloadProvider)


class TestPayloads:
    """The defaults of `LogPayloadProcessor`, sentence by sentence."""

    @pytest.fixture
    def value(self) -> Callable[[Any], Any]:
        processor = LogPayloadProcessor()
        return lambda value: processor.normalize_payload({"v": value})["v"]

    def test_the_defaults(self) -> None:
        """NORMAL, 200, 10, none, 5, and a set of secret-looking keys."""
        processor = LogPayloadProcessor()
        assert processor.verbosity_level is LogVerbosityLevel.NORMAL
        assert (processor.max_str_len, processor.max_items, processor.max_depth) == (200, 10, 5)
        assert processor.log_adapter_resolver is None
        assert {"password", "token", "authorization"} <= processor.redact_keys
        assert processor.get_plain_verbosity_level() == "NORMAL"

    def test_what_is_too_long_is_cut(self, value: Callable[[Any], Any]) -> None:
        """Each kind in its way."""
        assert value("x" * 201) == "x" * 200 + "..."
        assert value("x" * 200) == "x" * 200
        assert value(list(range(13))) == [*range(10), "... (3 more)"]
        assert value({str(number): number for number in range(12)})["__more__"] == "2 more keys"

    def test_what_is_too_deep_is_named(self, value: Callable[[Any], Any]) -> None:
        """By its type; and so is what cannot be described."""
        nested: Any = "x"
        for _ in range(6):
            nested = [nested]
        assert value(nested) == [[[[["<list>"]]]]]
        assert value(object()) == "<object>"

    def test_what_has_a_plain_form(self, value: Callable[[Any], Any]) -> None:
        """Enums, bytes and keys."""
        assert value(LogStreamOutput.STDERR) == LogStreamOutput.STDERR.value
        assert value(bytearray(b"x")) == b"x"
        assert type(value(memoryview(b"x"))) is bytes
        assert value({5: 1}) == {"5": 1}

    def test_who_describes_himself_wins(self) -> None:
        """Over an adapter; an adapter over the built-in rules."""

        class Provider:
            def to_log_payload(self) -> dict[str, Any]:
                return {"own": "x" * 300}

        processor = LogPayloadProcessor(log_adapter_resolver=lambda value: lambda value, verbosity: {"as": verbosity})
        assert processor.normalize_payload({"v": Provider()}) == {"v": {"own": "x" * 300}}
        assert processor.normalize_payload({"v": object()}) == {"v": {"as": "NORMAL"}}

    def test_secrets(self) -> None:
        """The key stays, the value goes, in any case; an empty set turns it off."""
        payload = {"Password": "a", "TOKEN": "b", "authorization": "c", "passwords_checked": 3}
        redacted = LogPayloadProcessor().normalize_payload(payload)
        assert list(redacted) == list(payload)
        assert redacted["passwords_checked"] == 3
        assert not {"a", "b", "c"} & set(map(str, redacted.values()))
        assert LogPayloadProcessor(redact_keys=()).normalize_payload(payload) == payload


class TestPolicies:
    def test_the_first_rule_that_matches_decides(self) -> None:
        """Shell patterns, case-sensitive; `events` is for `namespace.event_name`."""
        policy = PatternLogEventPolicy(
            PatternLogEventPolicyConfig(
                default_enabled=True,
                rules=(
                    PatternLogEventPolicyRuleConfig(PatternLogEventPolicyAction.ALLOW, events=("shop.order.paid",)),
                    PatternLogEventPolicyRuleConfig(PatternLogEventPolicyAction.DENY, events=("shop.order.*",)),
                ),
            )
        )
        assert policy.is_event_enabled(LogEventMeta("shop", "order.paid"))
        assert not policy.is_event_enabled(LogEventMeta("shop", "order.created"))
        assert policy.is_event_enabled(LogEventMeta("Shop", "order.created"))

    def test_from_mappings(self) -> None:
        """Errors name the field."""
        config = PatternLogEventPolicyConfig.from_mapping(
            {"default_enabled": False, "rules": [{"action": "allow", "event_names": ["a*"]}]}
        )
        assert config.rules == (
            PatternLogEventPolicyRuleConfig(PatternLogEventPolicyAction.ALLOW, event_names=("a*",)),
        )
        with pytest.raises(mvx_logger.LogConfigurationError, match=r"rules\[0\]\.action"):
            PatternLogEventPolicyConfig.from_mapping({"rules": [{"action": "maybe"}]})


class TestReadySinks:
    def test_configurations(self) -> None:
        """The first two fields by position."""
        config = LoggingStreamConfig(LogStreamOutput.STDOUT, LogLevel.DEBUG)
        assert (config.stream_output, config.level) == (LogStreamOutput.STDOUT, 10)
        assert LoggingFileConfig("x.log", LogLevel.DEBUG).level == 10  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("namespace", "fields", "message"),
        [
            ("my_app", {}, "my_app.order.created"),
            ("my_app.db", {}, "my_app.db.order.created"),
            ("my_app", {"entity_id": "order-42"}, "my_app.order-42.order.created"),
            ("my_app", {"event_outcome": "success"}, "my_app.order.created [success]"),
            ("my_app", {"entity_id": "o", "event_outcome": "failed"}, "my_app.o.order.created [failed]"),
            ("my_app", {"event_namespace": "other"}, "other.order.created"),
            (None, {}, "order.created"),
            (None, {"entity_id": "o", "event_outcome": "x"}, "o.order.created [x]"),
        ],
    )
    @pytest.mark.parametrize("payload", [{}, {"service": "demo", "mode": "local"}])
    def test_the_default_line(
        self,
        namespace: str | None,
        fields: dict[str, Any],
        message: str,
        payload: dict[str, Any],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """`2026-05-12 14:30:25 INFO: my_app.app.started {'service': 'demo', 'mode': 'local'}`."""
        root = mvx_logger.get_root_log_context()
        context = root if namespace is None else mvx_logger.configure_log_context(namespace)
        context.log_info_event("order.created", payload, **fields)
        rest = re.escape(f" {payload!r}" if payload else "")
        assert re.fullmatch(
            rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d INFO: {re.escape(message)}{rest}\n", capsys.readouterr().err
        )


class TestErrors:
    def test_they_are_one_family(self) -> None:
        """Each derives from `LoggerError`, with a reason code, details and a cause, and describes itself."""
        for name in NAMES:
            found = resolve(name)
            if isinstance(found, type) and issubclass(found, Exception):
                assert issubclass(found, LoggerError)
                assert isinstance(found.reason_code, str)
                assert found("x").details == {}
                assert found("x").cause is None
                assert isinstance(found("x").to_log_payload(), dict)
        for name in NAMES:
            if name.startswith("AsyncioLogSink") and name.endswith("Error"):
                assert issubclass(resolve(name), mvx_logger.AsyncioLogSinkError)
                assert isinstance(resolve(name).reason, mvx_logger.AsyncioLogSinkErrorReason)

    def test_a_root_prints_failures(self) -> None:
        """The default of a root's error policy."""
        root = mvx_logger.get_root_log_context()
        assert root.log_error_handling_policy is LogErrorHandlingPolicy.PRINT_STDERR
        assert root.namespace == "<not defined>"


SNIPPET = """\
from mvx.common.logger import configure_log_context
ctx = configure_log_context("my_app")
ctx.log_info_event(
event="order.created",
payload={
"order_id": "order-42",
},
)
"""


class TestTheSnippet:
    """The page that the project grew from."""

    def run(self, program: str) -> str:
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
        assert result.stdout == ""
        return result.stderr

    LINE = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d INFO: my_app\.order\.created \{'order_id': 'order-42'\}\n"

    def test_with_only_the_import_line_changed(self) -> None:
        """It writes its event to standard error."""
        assert re.fullmatch(self.LINE, self.run(SNIPPET.replace("mvx.common.logger", "mvx_logger")))

    def test_unchanged_under_the_old_name(self) -> None:
        """After `install_as`, not a character of it has to change."""
        start = 'import mvx_logger\nmvx_logger.install_as("mvx.common.logger")\n'
        assert re.fullmatch(self.LINE, self.run(start + SNIPPET))

    def test_only_the_sink_changes(self) -> None:
        """The code that creates the event is the same, whichever sink the context has."""
        custom = (
            "import mvx_logger\n"
            'mvx_logger.install_as("mvx.common.logger")\n'
            "import sys\n"
            "class Custom:\n"
            "    def log(self, event):\n"
            "        print(event.meta.event_name, dict(event.payload), file=sys.stderr)\n"
            'mvx_logger.configure_log_context("my_app", log_sink=Custom())\n'
        )
        assert self.run(custom + SNIPPET) == "order.created {'order_id': 'order-42'}\n"
