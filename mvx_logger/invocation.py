"""`log_invocation`: a call as one named event with outcomes.

The decorated function keeps its kind (function, method, coroutine function), signature, type and behaviour. What it
returns, raises and how it is cancelled pass through untouched, and nothing that goes wrong while logging reaches the
caller: it goes to `mvx_logger.selflog` (kind ``invocation``).

The payload of each outcome:

============= ===================================================================================================
``invoke``    context fields, ``kwargs`` (selected arguments), ``closures``
``success``   context fields, ``result`` (where asked for)
``failed``    context fields, ``error``: in full (`LogContext.build_error_payload`, and the traceback as the event's
              ``exception``), or ``kind`` and ``message`` only
``cancelled`` context fields, ``error`` (``kind`` and ``message``) where the cancellation has a message
============= ===================================================================================================

Every value passes `LogContextProto.normalize_value_for_log` together with its key, so that secrets are redacted.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from functools import wraps
from types import CodeType, FunctionType, GeneratorType
from typing import Any, NoReturn, Protocol, TypeAlias, TypeVar

from msgspec import Struct

from . import selflog
from .ambient import get_ambient
from .model import LogEvent, LogEventMeta, LogException, LogLevel
from .protocols import LogContextProto

__all__ = ["LogErrorPolicyRule", "LogErrorRule", "LogInvocationDecorator", "log_invocation"]

F = TypeVar("F", bound="Callable[..., Any] | staticmethod[..., Any] | classmethod[Any, ..., Any]")


class LogErrorRule(Struct, frozen=True):
    """How exceptions of some types are reported by `log_invocation`.

    Attributes:
        errors: The type, or a tuple of types; subclasses count.
        level: The level to report them at; None leaves it at ``error_level`` or, with ``suppress``, at
            ``error_level_suppressed``.
        suppress: True reports only the kind and the message, and does not mark the exception as reported, so that an
            outer function may still report it in full.
    """

    errors: type[BaseException] | tuple[type[BaseException], ...]
    level: int | None = None
    suppress: bool = False


LogErrorPolicyRule: TypeAlias = (
    "LogErrorRule | tuple[type[BaseException] | tuple[type[BaseException], ...], bool | int]"
)
"""A rule, or its short form: ``(types, level)``, ``(types, True)`` for in full, ``(types, False)`` for suppressed."""


class LogInvocationDecorator(Protocol):
    """What `log_invocation` returns: it decorates, and keeps the type of what it decorates."""

    def __call__(self, func: F, /) -> F:
        """Decorate a function, a coroutine function, a ``staticmethod`` or a ``classmethod``."""
        ...


def log_invocation(
    event: str,
    *,
    invoke_level: int = LogLevel.DEBUG,
    success_level: int = LogLevel.DEBUG,
    error_level: int = LogLevel.ERROR,
    error_level_suppressed: int = LogLevel.DEBUG,
    cancel_level: int = LogLevel.INFO,
    log_closures_on_invoke: Mapping[str, Any] | None = None,
    context_fields: Sequence[str] = (),
    context_formatter: Callable[[Any], Mapping[str, Any]] | None = None,
    log_kwargs_on_invoke: Sequence[str] = (),
    log_result_on_success: bool | Sequence[str] | Callable[[Any], Any] | None = None,
    log_error_policy: Sequence[LogErrorPolicyRule] = (),
    ctx: LogContextProto | None = None,
    entity_id_getter: Callable[[], str | None] | None = None,
) -> LogInvocationDecorator:
    """Log the calls of a function as one event with the outcomes ``invoke``, ``success``, ``failed`` and ``cancelled``.

    A coroutine function's invocation begins when it is awaited. Where a function returns an awaitable, the outcome is
    that of the awaitable: a future or task is returned as it is and watched; a coroutine or any other awaitable is
    returned in a wrapper that behaves like it. A generator or an asynchronous generator is a value like any other:
    ``success`` says that it was made, and what happens while it is consumed is not seen. ``failed`` is told of what
    derives from `Exception`, ``cancelled`` of `asyncio.CancelledError`; `KeyboardInterrupt`, `SystemExit` and
    `GeneratorExit` pass without an outcome.

    Whether ``invoke`` and ``success`` are logged is decided once, when the call begins, by the context's ``min_level``
    and ``is_event_enabled``. ``failed`` and ``cancelled`` are subject to ``min_level`` only: they go to the context's
    ``emit_log_event``, which asks no policy. A context of another make that has no such method gets them by
    ``log_event``, like all the rest.

    An exception is reported in full by the first decorated frame that it passes. Each frame further out tells that
    it failed too, with kind and message only, at ``error_level_suppressed``. The same holds for a cancellation.

    **Field specs** select values: ``[LEVELS:][alias=]path[!]``. They are read when the function is decorated.

    ============================ ======================================================================
    ``"order_id"``               the value of that name, under that name
    ``"order.customer.id"``      attributes; in a ``dict`` the key, in a list or tuple a position
                                 (``"items.0"``); the key in the payload is the last name (``id``)
    ``"size=order.items.len()"`` ``len()`` of the value, here under the key ``size`` (without an alias:
                                 ``items_len``); no other call is possible
    ``"MAXIMUM,NORMAL:body"``    only while the context's ``get_plain_verbosity_level()`` is one of these
    ``"headers!"``               all items, whatever ``max_items`` says
    ============================ ======================================================================

    What cannot be resolved (a missing name or attribute, a property that raises) is skipped.

    Args:
        event: The event's name, e.g. ``order.create``.
        invoke_level: The level of ``invoke``.
        success_level: The level of ``success``.
        error_level: The level of a failure that is reported in full.
        error_level_suppressed: The level of a failure that was reported before, or is suppressed by
            ``log_error_policy``.
        cancel_level: The level of ``cancelled``.
        log_closures_on_invoke: Further values for the ``invoke`` payload, under ``closures``. A callable is called with
            the arguments of the call, anything else is taken as it is.
        context_fields: Field specs for the payload of every outcome, resolved anew for each. The first name is a
            parameter of the function (``"self.state"``), or else an attribute of the first argument (``"state"``).
            Where a key is one of ``closures``, ``kwargs``, ``result``, ``error``, all go under ``context``.
        context_formatter: Called for every outcome with the first argument (None when there is none); the mapping that
            it returns is added to the context fields.
        log_kwargs_on_invoke: Field specs for the ``invoke`` payload, under ``kwargs``; the first name is a parameter,
            or a keyword that ``**kwargs`` caught.
        log_result_on_success: What of the result goes under ``result`` of the ``success`` payload. None or False:
            nothing; True or ``()``: the whole; field specs resolved on the result; or a callable that is given the
            result and returns what to log.
        log_error_policy: `LogErrorRule` items, or pairs ``(types, level)``, ``(types, True)`` (in full) and
            ``(types, False)`` (suppressed). The first one that matches decides.
        ctx: The context. None: the first argument's ``get_log_context()``; when that returns None, the call is not
            logged.
        entity_id_getter: Returns the entity's id. None: the first argument's ``entity_id``, if it has one.

    Returns:
        The decorator. It takes ``staticmethod`` and ``classmethod`` objects too, so that the order of the decorators
        does not matter; the first argument of a class method is the class.

    Raises:
        TypeError: An argument has the wrong type; the text names it.
        ValueError: A field spec is malformed; the text quotes it and says what is right.
        RuntimeError: Raised by the decorated function, before its body runs: there is neither ``ctx`` nor a first
            argument with ``get_log_context()``.
    """
    if not isinstance(event, str):
        raise TypeError(f"event: expected a str, got {type(event).__name__}; write @log_invocation('its.name')")
    if not event:
        raise ValueError("event: expected a name such as 'order.create', got an empty str")
    if ctx is not None and not isinstance(ctx, LogContextProto):
        raise TypeError(f"ctx: expected a log context (LogContextProto), got {type(ctx).__name__}")
    _check_callable("context_formatter", context_formatter)
    _check_callable("entity_id_getter", entity_id_getter)
    if log_closures_on_invoke is not None and not isinstance(log_closures_on_invoke, Mapping):
        raise TypeError(f"log_closures_on_invoke: expected a mapping, got {type(log_closures_on_invoke).__name__}")

    plan = _Plan()
    plan.event = event
    plan.invoke_level = _check_level("invoke_level", invoke_level)
    plan.success_level = _check_level("success_level", success_level)
    plan.error_level = _check_level("error_level", error_level)
    plan.error_level_suppressed = _check_level("error_level_suppressed", error_level_suppressed)
    plan.cancel_level = _check_level("cancel_level", cancel_level)
    plan.closures = tuple((str(key), value) for key, value in (log_closures_on_invoke or {}).items())
    plan.context_fields = _parse_fields("context_fields", context_fields)
    plan.context_formatter = context_formatter
    plan.kwargs_fields = _parse_fields("log_kwargs_on_invoke", log_kwargs_on_invoke)
    plan.log_result = log_result_on_success is not None and log_result_on_success is not False
    plan.result_fields = ()
    plan.result_formatter = None
    if callable(log_result_on_success):
        plan.result_formatter = log_result_on_success
    elif plan.log_result and log_result_on_success is not True:
        plan.result_fields = _parse_fields("log_result_on_success", log_result_on_success, on_value=True)
    plan.rules = _parse_rules(log_error_policy)
    plan.ctx = ctx
    plan.entity_id_getter = entity_id_getter

    def decorate(func: Any, /) -> Any:
        if isinstance(func, staticmethod):
            return staticmethod(_decorate(plan, func.__func__))
        if isinstance(func, classmethod):
            return classmethod(_decorate(plan, func.__func__))
        return _decorate(plan, func)

    return decorate


# ---------------------------------------------------------------------- field specs

_SYNTAX = "a field spec is '[LEVELS:][alias=]path[!]', e.g. 'order_id', 'size=order.items.len()', 'MAXIMUM:body!'"
_MISSING: Any = object()
_RESERVED = frozenset(("closures", "kwargs", "result", "error"))


class _Field:
    """A parsed field spec.

    Attributes:
        alias: The key in the payload.
        head: The first name of the path; "" when the path begins at the value itself.
        path: What follows: attribute names, positions, and `len` for ``len()``.
        levels: The verbosity levels that it is for; None for all.
        unbounded: True when ``max_items`` does not hold for it.
    """

    __slots__ = ("alias", "head", "levels", "path", "unbounded")

    def __init__(self, argument: str, spec: str, *, on_value: bool) -> None:
        def malformed(why: str) -> NoReturn:
            raise ValueError(f"{argument}: {spec!r}: {why}; {_SYNTAX}")

        text = spec.strip()
        before, colon, after = text.partition(":")
        self.levels: frozenset[str] | None = None
        if colon:
            names = [name.strip() for name in before.split(",")]
            if not all(name.isidentifier() for name in names):
                malformed("before ':' stands a list of verbosity levels such as 'NORMAL,MAXIMUM'")
            self.levels = frozenset(names)
            text = after.strip()
        self.unbounded = text.endswith("!")
        if self.unbounded:
            text = text[:-1].rstrip()
        before, equals, after = text.partition("=")
        alias = before.strip() if equals else ""
        if equals and not all(part.isidentifier() for part in alias.replace("-", "_").split(".")):
            malformed("before '=' stands the key for the payload, a name")
        path: list[Any] = []
        name = ""
        for part in (after if equals else text).split("."):
            part = part.strip()
            if part == "len()":
                name = f"{name}_len" if name else "len"
                path.append(len)
            elif part.isidentifier():
                name = part
                path.append(part)
            elif part.isascii() and part.isdigit():
                name = part
                path.append(int(part))
            elif part.endswith(")"):
                malformed(f"{part!r} is a call, and only 'len()' can be called")
            else:
                malformed(f"{part!r} is not a name" if part else "a name is missing")
        self.head = ""
        if not on_value:
            if type(path[0]) is not str:
                malformed("it begins with a name")
            self.head = path.pop(0)
        self.alias = alias or name
        self.path = tuple(path)

    def walk(self, value: Any) -> Any:
        """Follow the path from a value; whatever stands in the way raises."""
        for step in self.path:
            if step is len:
                value = len(value)
            elif type(step) is int:
                if not isinstance(value, (list, tuple)):
                    raise TypeError
                value = value[step]
            elif isinstance(value, dict):
                value = dict.get(value, step, _MISSING)  # dict's own: a subclass may make up missing keys, or worse
                if value is _MISSING:
                    raise KeyError
            else:
                value = getattr(value, step)
        return value


def _parse_fields(argument: str, specs: Any, *, on_value: bool = False) -> tuple[_Field, ...]:
    if isinstance(specs, (str, bytes)) or not isinstance(specs, Iterable):
        raise TypeError(f"{argument}: expected a tuple of field specs, got {type(specs).__name__}")
    fields = []
    for spec in specs:
        if not isinstance(spec, str):
            raise TypeError(f"{argument}: a field spec is a str, got {type(spec).__name__}")
        fields.append(_Field(argument, spec, on_value=on_value))
    return tuple(fields)


# ---------------------------------------------------------------------- what was asked for


class _Plan:
    """The arguments of `log_invocation`, checked and parsed."""

    event: str
    invoke_level: int
    success_level: int
    error_level: int
    error_level_suppressed: int
    cancel_level: int
    closures: tuple[tuple[str, Any], ...]
    context_fields: tuple[_Field, ...]
    context_formatter: Callable[[Any], Mapping[str, Any]] | None
    kwargs_fields: tuple[_Field, ...]
    log_result: bool
    result_fields: tuple[_Field, ...]
    result_formatter: Callable[[Any], Any] | None
    rules: tuple[LogErrorRule, ...]
    ctx: LogContextProto | None
    entity_id_getter: Callable[[], Any] | None


def _check_level(argument: str, level: Any) -> int:
    if not isinstance(level, int) or isinstance(level, bool):
        raise TypeError(f"{argument}: expected a level (LogLevel or int), got {type(level).__name__}")
    return level


def _check_callable(argument: str, value: Any) -> None:
    if value is not None and not callable(value):
        raise TypeError(f"{argument}: expected a callable or None, got {type(value).__name__}")


def _parse_rules(rules: Any) -> tuple[LogErrorRule, ...]:
    if isinstance(rules, LogErrorRule) or not isinstance(rules, Iterable):
        raise TypeError(f"log_error_policy: expected a sequence of LogErrorRule or pairs, got {type(rules).__name__}")
    parsed = []
    for rule in rules:
        if not isinstance(rule, LogErrorRule):
            if not isinstance(rule, tuple) or len(rule) != 2 or not isinstance(rule[1], int):
                raise TypeError(
                    "log_error_policy: a rule is LogErrorRule(types, level=..., suppress=...), (types, level), "
                    f"(types, True) or (types, False); got {type(rule).__name__}"
                )
            types, what = rule
            rule = LogErrorRule(types, None if isinstance(what, bool) else what, what is False)
        types = rule.errors if isinstance(rule.errors, tuple) else (rule.errors,)
        for item in types:
            if not isinstance(item, type) or not issubclass(item, BaseException):
                raise TypeError(
                    "log_error_policy: expected exception types, got "
                    + (item.__name__ if isinstance(item, type) else type(item).__name__)
                )
        level = rule.level if rule.level is None else _check_level("log_error_policy: level", rule.level)
        parsed.append(LogErrorRule(types, level, bool(rule.suppress)))
    return tuple(parsed)


# ---------------------------------------------------------------------- a decorated function and its calls


class _Function:
    """A plan for one function: where its context and its arguments are found."""

    __slots__ = ("first", "places", "plan", "source", "var_keyword")

    def __init__(self, plan: _Plan, func: Callable[..., Any], inspect: Any) -> None:
        self.plan = plan
        # The name of the first parameter, where it can be given by name.
        self.first: str | None = None
        # By parameter: its position (None: it is given by name only; -1 - n: all from n on), and its default.
        self.places: dict[str, tuple[int | None, Any]] = {}
        self.var_keyword: str | None = None
        try:
            parameters = tuple(inspect.signature(func).parameters.values())
        except (TypeError, ValueError):  # a callable that does not tell, e.g. some builtins
            parameters = ()
        for index, parameter in enumerate(parameters):
            default = _MISSING if parameter.default is parameter.empty else parameter.default
            if parameter.kind is parameter.VAR_KEYWORD:
                self.var_keyword = parameter.name
            elif parameter.kind is parameter.VAR_POSITIONAL:
                self.places[parameter.name] = (-1 - index, None)
            elif parameter.kind is parameter.KEYWORD_ONLY:
                self.places[parameter.name] = (None, default)
            else:
                self.places[parameter.name] = (index, default)
                if index == 0 and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
                    self.first = parameter.name
        code: CodeType | None = getattr(inspect.unwrap(func), "__code__", None)
        self.source: tuple[str | None, int | None, str | None] = (
            (None, None, None) if code is None else (code.co_filename, code.co_firstlineno, code.co_name)
        )

    def find_first(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The first argument, given by position or by name; None when there is none."""
        if args:
            return args[0]
        return kwargs.get(self.first) if self.first is not None else None

    def find_context(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> LogContextProto | None:
        """The context of the first argument; None when nothing is to be logged.

        Raises:
            RuntimeError: The first argument provides none.
        """
        first = self.find_first(args, kwargs)
        ctx: LogContextProto | None
        try:
            getter: Callable[[], Any] | None = getattr(first, "get_log_context", None)
            if callable(getter) and not (isinstance(first, type) and _is_for_instances(first, "get_log_context")):
                ctx = getter()
                return ctx
        except Exception as err:
            self.report("get_log_context() raised; the call is not logged", err)
            return None
        found = "it has no argument" if first is None else f"its first argument, {type(first).__name__}, has none"
        raise RuntimeError(
            f"log_invocation({self.plan.event!r}) finds no log context for {self.source[2] or 'the callable'}(): give "
            f"ctx=..., or a first argument with get_log_context(); {found}"
        )

    def begin(self, ctx: LogContextProto, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Call | None:
        """Log ``invoke``. The call when its success may be logged too, else None."""
        plan = self.plan
        try:
            minimum = getattr(ctx, "min_level", 0)
            if plan.invoke_level < minimum and plan.success_level < minimum:
                return None
            meta = self.make_meta(ctx, args, kwargs)
            if not ctx.is_event_enabled(meta):
                return None
        except Exception as err:
            self.report("the context failed; invoke and success are not logged", err)
            return None
        call = _Call(self, ctx, args, kwargs, meta)
        if plan.invoke_level >= minimum:
            call.log_invoke()
        return call

    def make_meta(self, ctx: LogContextProto, args: tuple[Any, ...], kwargs: dict[str, Any]) -> LogEventMeta:
        namespace = getattr(ctx, "namespace", None)
        if namespace == "<not defined>":  # the words of a context that has none
            namespace = None
        entity_id: Any = None
        try:
            if self.plan.entity_id_getter is not None:
                entity_id = self.plan.entity_id_getter()
            elif args or kwargs:
                first = self.find_first(args, kwargs)
                entity_id = getattr(first, "entity_id", None)
                if isinstance(first, type) and _is_for_instances(first, "entity_id"):
                    entity_id = None
            if entity_id is not None and type(entity_id) is not str:
                entity_id = str(entity_id)
        except Exception as err:
            entity_id = None
            self.report("the entity's id could not be read; it is left out", err)
        return LogEventMeta(namespace, self.plan.event, entity_id, *self.source)

    def report(self, message: str, err: BaseException) -> None:
        selflog.report("invocation", message, event=self.plan.event, error=type(err).__name__)


class _Call:
    """One call, from ``invoke`` to its outcome.

    What goes wrong in `log_invoke`, `succeed` and `end_badly` is reported. They still raise where not even that is
    possible, because the stack is full.
    """

    __slots__ = ("args", "ctx", "function", "kwargs", "meta", "plan")

    def __init__(
        self,
        function: _Function,
        ctx: LogContextProto,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        meta: LogEventMeta | None = None,
    ) -> None:
        self.function = function
        self.plan = function.plan
        self.ctx = ctx
        self.args = args
        self.kwargs = kwargs
        # None where invoke and success are not logged.
        self.meta = meta

    # ------------------------------------------------------------------ outcomes

    def log_invoke(self) -> None:
        plan = self.plan
        try:
            payload = self.make_payload()
            if plan.kwargs_fields:
                selected = self.collect(plan.kwargs_fields, self.find_argument)
                if selected:
                    payload["kwargs"] = selected
            if plan.closures:
                payload["closures"] = self.collect_closures()
            self.emit(plan.invoke_level, "invoke", payload)
        except Exception as err:
            self.function.report("invoke could not be logged", err)

    def succeed(self, result: Any) -> None:
        """Log ``success``, where the event is enabled."""
        plan = self.plan
        try:
            if self.meta is None or plan.success_level < getattr(self.ctx, "min_level", 0):
                return
            payload = self.make_payload()
            if plan.result_fields and result is not None:
                selected = self.collect(plan.result_fields, lambda field: field.walk(result))
                if selected:
                    payload["result"] = selected
            elif plan.result_formatter is not None:
                try:
                    payload["result"] = self.normalize("result", plan.result_formatter(result))
                except Exception as err:
                    self.function.report("log_result_on_success raised; the result is left out", err)
            elif plan.log_result:
                payload["result"] = self.normalize("result", result)
            self.emit(plan.success_level, "success", payload)
        except Exception as err:
            self.function.report("success could not be logged", err)

    def end_badly(self, err: BaseException) -> None:
        """Log ``failed`` or ``cancelled``, or nothing where the exception means neither."""
        try:
            if isinstance(err, Exception):
                self.fail(err)
            elif _is_cancellation(err):
                self.cancel(err)
        except Exception as trouble:
            self.function.report("the outcome could not be logged", trouble)

    def fail(self, err: Exception) -> None:
        plan, ctx = self.plan, self.ctx
        full = not ctx.is_error_logged(err)
        level = plan.error_level if full else plan.error_level_suppressed
        for rule in plan.rules:
            if isinstance(err, rule.errors):
                if rule.suppress:
                    full = False
                    level = plan.error_level_suppressed if rule.level is None else rule.level
                elif full and rule.level is not None:
                    level = rule.level
                break
        if level < getattr(ctx, "min_level", 0):
            return
        payload = self.make_payload()
        if full:
            # An error's own description is used as it is: the number of its items is not limited.
            payload["error"] = self.normalize("error", ctx.build_error_payload(err), unbounded=True)
            self.emit(level, "failed", payload, _make_exception(err))
            ctx.mark_error_logged(err)
        else:
            payload["error"] = self.describe(err)
            self.emit(level, "failed", payload)

    def cancel(self, err: BaseException | None) -> None:
        ctx, level = self.ctx, self.plan.cancel_level
        known = err is not None and ctx.is_error_logged(err)
        if known:
            level = min(level, self.plan.error_level_suppressed)
        if level < getattr(ctx, "min_level", 0):
            return
        payload = self.make_payload()
        if err is not None and err.args:
            payload["error"] = self.describe(err)
        self.emit(level, "cancelled", payload)
        if err is not None and not known:
            ctx.mark_error_logged(err)

    def watch(self, awaitable: Any) -> Any:
        """The awaitable, or one that behaves like it, such that its outcome is logged."""
        try:
            if getattr(awaitable, "_asyncio_future_blocking", None) is not None:
                # A future or task is cancelled, compared and waited for in ways that only itself can serve.
                if awaitable.done():
                    self.end_with(awaitable)
                else:
                    awaitable.add_done_callback(self.end_with)
                return awaitable
            if isinstance(awaitable, (Coroutine, GeneratorType)):
                outcome: Any = self.wait_for(awaitable)
                # The names that a warning of a coroutine that was never awaited shows.
                outcome.__name__ = getattr(awaitable, "__name__", outcome.__name__)
                outcome.__qualname__ = getattr(awaitable, "__qualname__", outcome.__qualname__)
                return outcome
            return _stand_in_for(type(awaitable))(awaitable, self)
        except Exception as err:
            self.function.report("the awaitable cannot be watched; its outcome is not logged", err)
            return awaitable

    async def wait_for(self, awaitable: Any) -> Any:
        try:
            result = await awaitable
        except BaseException as err:
            try:
                self.end_badly(err)
            except Exception:  # noqa: S110 - see _wrap_function
                pass
            raise
        try:
            self.succeed(result)
        except Exception:  # noqa: S110 - see _wrap_function
            pass
        return result

    def end_with(self, future: Any) -> None:
        """Log the outcome of a future that is done; never raises."""
        try:
            if future.cancelled():
                self.cancel(None)
                return
            # exception() counts as somebody having taken care of it, and asyncio would no longer tell that nobody did.
            err = future._exception if hasattr(future, "_exception") else future.exception()
            if err is None:
                self.succeed(future.result())
            else:
                self.end_badly(err)
        except Exception as trouble:
            self.function.report("the outcome could not be logged", trouble)

    # ------------------------------------------------------------------ payload

    def make_payload(self) -> dict[str, Any]:
        """What every outcome has."""
        plan = self.plan
        payload: dict[str, Any] = {}
        if plan.context_fields:
            payload = self.collect(plan.context_fields, self.find_context_field)
        if plan.context_formatter is not None:
            try:
                first = self.function.find_first(self.args, self.kwargs)
                for key, value in plan.context_formatter(first).items():
                    payload[str(key)] = self.normalize(str(key), value)
            except Exception as err:
                self.function.report("context_formatter failed; its fields are left out", err)
        return payload if _RESERVED.isdisjoint(payload) else {"context": payload}

    def find_argument(self, field: _Field) -> Any:
        """The value of a spec that begins with a parameter's name; whatever stands in the way raises."""
        head = field.head
        args, kwargs = self.args, self.kwargs
        place = self.function.places.get(head)
        value: Any
        if place is not None:
            index, value = place
            if index is None:
                value = kwargs.get(head, value)
            elif index < 0:
                value = args[-1 - index :]
            else:
                value = args[index] if index < len(args) else kwargs.get(head, value)
            if value is _MISSING:
                raise KeyError
        elif head == self.function.var_keyword:
            value = {key: item for key, item in kwargs.items() if key not in self.function.places}
        else:
            value = kwargs[head]
        return field.walk(value)

    def find_context_field(self, field: _Field) -> Any:
        """The same, where the name may also be an attribute of the first argument."""
        function = self.function
        if field.head in function.places or field.head == function.var_keyword:
            return self.find_argument(field)
        return field.walk(getattr(function.find_first(self.args, self.kwargs), field.head))

    def collect(self, fields: tuple[_Field, ...], find: Callable[[_Field], Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        verbosity: Any = _MISSING
        for field in fields:
            if field.levels is not None:
                if verbosity is _MISSING:
                    verbosity = self.ctx.get_plain_verbosity_level()
                if verbosity not in field.levels:
                    continue
            try:
                value = find(field)
            except Exception:  # noqa: S112 - what cannot be resolved is skipped
                continue
            found[field.alias] = self.normalize(field.alias, value, unbounded=field.unbounded)
        return found

    def collect_closures(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in self.plan.closures:
            if callable(value):
                try:
                    value = value(*self.args, **self.kwargs)
                except Exception as err:
                    self.function.report(f"log_closures_on_invoke: {key!r} raised; it is left out", err)
                    continue
            found[key] = self.normalize(key, value)
        return found

    def normalize(self, key: str, value: Any, *, unbounded: bool = False) -> Any:
        try:
            # Together with its key: only then does the processor see that it is one to redact.
            normalized = self.ctx.normalize_value_for_log({key: value}, unbounded=unbounded)
            if type(normalized) is dict and key in normalized:
                return normalized[key]
            return self.ctx.normalize_value_for_log(value, unbounded=unbounded)
        except Exception as err:
            self.function.report("a payload processor failed; a value is not shown", err)
            return f"<{type(value).__name__}>"

    def describe(self, err: BaseException) -> dict[str, Any]:
        return {"kind": type(err).__name__, "message": self.normalize("message", _text(err))}

    def emit(self, level: int, outcome: str, payload: dict[str, Any], exception: LogException | None = None) -> None:
        """Hand over an event that is to be logged."""
        ctx = self.ctx
        meta = self.meta or self.function.make_meta(ctx, self.args, self.kwargs)
        emit: Callable[[LogEvent], None] | None = getattr(ctx, "emit_log_event", None)
        if emit is None:
            ctx.log_event(
                meta.event_name,
                level,
                payload,
                event_outcome=outcome,
                entity_id=meta.entity_id,
                source_path=meta.source_path,
                source_line=meta.source_line,
                source_func=meta.source_func,
                skip_payload_normalization=True,
            )
            return
        bound = get_ambient()
        if bound:
            payload = {key: self.normalize(key, value) for key, value in bound.items()} | payload
        emit(LogEvent(level, meta, outcome, time.time(), payload, exception=exception))


def _is_for_instances(cls: type, name: str) -> bool:
    """True when an attribute of a class is a method or a descriptor for its instances."""
    for base in cls.__mro__:
        if name in base.__dict__:
            attribute = base.__dict__[name]
            return isinstance(attribute, FunctionType) or hasattr(attribute, "__set__")
    return False


def _text(err: BaseException) -> str:
    try:
        return str(err)
    except Exception:
        return f"<{type(err).__name__}>"


def _make_exception(err: BaseException) -> LogException | None:
    try:
        from traceback import format_exception

        return LogException(type(err).__name__, _text(err), "".join(format_exception(err)).rstrip("\n"))
    except Exception:  # an exception that fights back: the payload tells what can be told
        return None


def _is_cancellation(err: BaseException) -> bool:
    module = sys.modules.get("asyncio.exceptions")  # who has not loaded it cannot have raised it
    return module is not None and isinstance(err, module.CancelledError)


# ---------------------------------------------------------------------- wrappers

_CO_ITERABLE_COROUTINE = 0x100
# What most functions return; to find that a class lacks an attribute takes longer than all the rest of a muted call.
_NO_AWAITABLES = frozenset((type(None), bool, int, float, str, bytes, tuple, list, dict, set))


def _is_awaitable(value: Any) -> bool:
    cls = type(value)
    return hasattr(cls, "__await__") or (cls is GeneratorType and bool(value.gi_code.co_flags & _CO_ITERABLE_COROUTINE))


def _decorate(plan: _Plan, func: Any) -> Any:
    import inspect

    if not callable(func) or isinstance(func, type):
        what = f"the class {func.__name__}" if isinstance(func, type) else type(func).__name__
        raise TypeError(f"log_invocation({plan.event!r}): expected a function, got {what}")
    function = _Function(plan, func, inspect)
    if inspect.iscoroutinefunction(func):
        return _wrap_coroutine_function(function, func)
    return _wrap_function(function, func)


# In the wrappers, what logging itself raises is ignored: it has been reported, or there was no stack left to do so.
# They are written out rather than shared so that they add one frame to a traceback, and little to a call.


def _wrap_function(function: _Function, func: Any) -> Any:
    given, find_context, begin = function.plan.ctx, function.find_context, function.begin

    @wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        ctx = find_context(args, kwargs) if given is None else given
        if ctx is None:
            return func(*args, **kwargs)
        try:
            call = begin(ctx, args, kwargs)
        except Exception:
            call = None
        try:
            result = func(*args, **kwargs)
        except BaseException as err:
            try:
                (call or _Call(function, ctx, args, kwargs)).end_badly(err)
            except Exception:  # noqa: S110
                pass
            raise
        try:
            awaitable = type(result) not in _NO_AWAITABLES and _is_awaitable(result)
        except Exception:  # a metaclass that fights back
            awaitable = False
        try:
            if awaitable:
                return (call or _Call(function, ctx, args, kwargs)).watch(result)
            if call is not None:
                call.succeed(result)
        except Exception:  # noqa: S110
            pass
        return result

    return wrapper


def _wrap_coroutine_function(function: _Function, func: Any) -> Any:
    given, find_context, begin = function.plan.ctx, function.find_context, function.begin

    @wraps(func)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        ctx = find_context(args, kwargs) if given is None else given
        if ctx is None:
            return await func(*args, **kwargs)
        try:
            call = begin(ctx, args, kwargs)
        except Exception:
            call = None
        try:
            result = await func(*args, **kwargs)
        except BaseException as err:
            try:
                (call or _Call(function, ctx, args, kwargs)).end_badly(err)
            except Exception:  # noqa: S110
                pass
            raise
        if call is not None:
            try:
                call.succeed(result)
            except Exception:  # noqa: S110
                pass
        return result

    return wrapper


class _StandIn:
    """Stands in for an awaitable that is more than that: it may have attributes, or serve ``async with`` too.

    The outcome is logged when it is first awaited or entered; everything else goes to the awaitable.
    """

    __slots__ = ("_mvx_awaitable", "_mvx_call")

    def __init__(self, awaitable: Any, call: _Call) -> None:
        object.__setattr__(self, "_mvx_awaitable", awaitable)
        object.__setattr__(self, "_mvx_call", call)

    def _mvx_watch(self, awaitable: Any) -> Any:
        call = self._mvx_call
        if call is None:
            return awaitable
        object.__setattr__(self, "_mvx_call", None)
        return call.wait_for(awaitable)

    def __await__(self) -> Generator[Any, Any, Any]:
        watched: Generator[Any, Any, Any] = self._mvx_watch(self._mvx_awaitable).__await__()
        return watched

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_mvx_"):
            return object.__getattribute__(self, name)
        return getattr(object.__getattribute__(self, "_mvx_awaitable"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._mvx_awaitable, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._mvx_awaitable, name)


_stand_ins: dict[type, type[_StandIn]] = {}
_KEPT = {*dir(_StandIn), "__del__"} - {"__eq__", "__hash__", "__repr__", "__str__", "__format__"}


def _stand_in_for(cls: type) -> type[_StandIn]:
    """The stand-in for a class of awaitables, with the special methods that the class has."""
    stand_in = _stand_ins.get(cls)
    if stand_in is None:
        # Python looks special methods up on the type, where __getattribute__ does not reach.
        methods: dict[str, Any] = {
            name: _forward(name)
            for name in dir(cls)
            if name.startswith("__") and name not in _KEPT and callable(getattr(cls, name, None))
        }
        if len(_stand_ins) >= 256:  # classes made on the fly are not kept alive
            _stand_ins.clear()
        stand_in = _stand_ins[cls] = type(cls.__name__, (_StandIn,), {"__slots__": (), **methods})
    return stand_in


def _forward(name: str) -> Any:
    def method(self: _StandIn, *args: Any) -> Any:
        return getattr(self._mvx_awaitable, name)(*args)

    def enter(self: _StandIn) -> Any:
        return self._mvx_watch(self._mvx_awaitable.__aenter__())

    return enter if name == "__aenter__" else method
