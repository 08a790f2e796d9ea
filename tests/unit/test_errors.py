"""Every error: where it belongs, its reason code, how it describes itself."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest

import mvx_logger
from mvx_logger import AsyncioLogSinkError, AsyncioLogSinkErrorReason, LoggerError, errors

ERRORS: list[type[Any]] = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)
]


class TestAllErrors:
    def test_the_codes_are_stable(self) -> None:
        """Programs branch on them: changing one is a change of the API."""
        assert {error.__name__: error.reason_code for error in ERRORS} == {
            "LoggerError": "logger_error",
            "LogContextUnableToLog": "log_context_unable_to_log",
            "LogContextResetError": "log_context_reset",
            "LogContextNotFoundError": "log_context_not_found",
            "LogSinkNotFoundError": "log_sink_not_found",
            "LogSinkConfigurationConflictError": "log_sink_configuration_conflict",
            "LogSinkDescriptorBuildError": "log_sink_descriptor_build_failed",
            "LogSinkCreateError": "log_sink_create_failed",
            "LogSinkIsInUseError": "log_sink_is_in_use",
            "LogSinkCloseError": "log_sink_close_failed",
            "LogConfigurationError": "log_configuration",
            "ModuleAliasError": "module_alias",
            "AsyncioLogSinkError": "asyncio_log_sink",
            "AsyncioLogSinkEventLoopUnavailableError": "asyncio_log_sink_event_loop_unavailable",
            "AsyncioLogSinkInvalidStateError": "asyncio_log_sink_invalid_state",
            "AsyncioLogSinkOnStartingHookFailedError": "asyncio_log_sink_on_starting_hook_failed",
            "AsyncioLogSinkOnStoppedHookFailedError": "asyncio_log_sink_on_stopped_hook_failed",
            "AsyncioLogSinkQueueOverflowError": "asyncio_log_sink_queue_overflow",
            "AsyncioLogSinkDispatcherCancelledError": "asyncio_log_sink_dispatcher_cancelled",
            "AsyncioLogSinkUnexpectedError": "asyncio_log_sink_unexpected",
            "LogDeliveryError": "log_delivery",
            "LogDeliveryTransientError": "log_delivery_transient",
            "LogDeliveryRefusedError": "log_delivery_refused",
            "LogDeliveryPartialError": "log_delivery_partial",
        }

    @pytest.mark.parametrize("error", ERRORS)
    def test_one_family(self, error: type[Any]) -> None:
        """Each is a `LoggerError`, importable from the package, with a docstring of its own."""
        assert issubclass(error, LoggerError)
        assert getattr(mvx_logger, error.__name__) is error
        assert error.__name__ in errors.__all__
        assert inspect.getdoc(error) != inspect.getdoc(Exception)

    @pytest.mark.parametrize("error", ERRORS)
    def test_it_describes_itself(self, error: type[Any]) -> None:
        """Kind, code and message always; details and cause where there are any."""
        plain = error("went wrong")
        assert str(plain) == "went wrong"
        assert plain.details == {}
        assert plain.cause is None
        assert plain.__cause__ is None
        assert plain.to_log_payload() == {
            "kind": error.__name__,
            "code": error.reason_code,
            "message": "went wrong",
        }
        cause = OSError("secret text")
        details = {"name": "main"}
        full = error("went wrong", details=details, cause=cause)
        assert full.cause is cause is full.__cause__
        assert full.to_log_payload() == {
            "kind": error.__name__,
            "code": error.reason_code,
            "message": "went wrong",
            "details": {"name": "main"},
            "cause": "OSError",
        }
        details["more"] = "x"
        assert full.details == {"name": "main"}
        full.to_log_payload()["details"]["more"] = "x"
        assert full.details == {"name": "main"}

    @pytest.mark.parametrize("error", ERRORS)
    def test_it_travels(self, error: type[Any]) -> None:
        """To another process and back, with its details."""
        err = error("went wrong", details={"name": "main"}, cause=OSError("x"))
        for again in (pickle.loads(pickle.dumps(err)), copy.copy(err)):
            assert type(again) is error
            assert str(again) == "went wrong"
            assert again.details == {"name": "main"}
            assert isinstance(again.cause, OSError)

    def test_families_of_the_language(self) -> None:
        """Lookups, values and imports that fail can be caught as such."""
        assert issubclass(mvx_logger.LogSinkNotFoundError, LookupError)
        assert issubclass(mvx_logger.LogContextNotFoundError, LookupError)
        assert issubclass(mvx_logger.LogConfigurationError, ValueError)
        assert issubclass(mvx_logger.ModuleAliasError, ImportError)


class TestAsynchronousSinks:
    def test_each_reason_has_its_error(self) -> None:
        """And each error its reason."""
        own = [error for error in ERRORS if issubclass(error, AsyncioLogSinkError) and error is not AsyncioLogSinkError]
        assert {error.reason for error in own} == set(AsyncioLogSinkErrorReason)
        assert len({error.reason for error in own}) == len(own)
        for error in own:
            assert error.reason_code == f"asyncio_log_sink_{error.reason.value}"

    def test_the_base(self) -> None:
        """Without a reason of its own it is unexpected."""
        assert AsyncioLogSinkError("x").reason is AsyncioLogSinkErrorReason.UNEXPECTED
