"""The scenarios of `tests/field` go wrong, in the way that was reported, with implementations as the reports have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from field_helpers import (
    NOT_THERE,
    directory_size,
    observe,
    observe_all,
)
from field_scenarios import (
    A_LOT,
    AFTER,
    ENDINGS,
    PARENTS,
    TEN_MINUTES,
    configure_a_formatter,
    configure_a_queue,
    configure_structlogs_formatter_from_a_file,
    end_by_os_exit,
    end_while_the_server_is_down,
    end_with_unsent_events,
    fork_in_the_middle_of_a_log_call,
    log_a_value_that_logs,
    log_and_be_killed,
    log_at_a_high_rate,
    log_during_shutdown,
    log_from_the_root_at_debug,
    log_in_a_child,
    log_structured_extras,
    log_through_two_handlers,
    log_to_a_closed_handler_while_reconfiguring,
    log_to_the_disk_while_the_server_is_down,
    log_while_the_server_is_down,
    reconfigure_while_a_library_keeps_its_handler,
    reconfigure_while_the_worker_sends,
    restart_a_server_that_was_not_ready,
    see_the_end,
)

pytestmark = pytest.mark.slow


def test_01_dictconfig_hangs_for_ever_on_a_naive_handler(tmp_path: Path) -> None:
    """It waits for the worker, and the worker for logging's module lock."""
    seen = observe(reconfigure_while_the_worker_sends, "naive.BackgroundHandler", tmp_path)
    assert seen.deadlock == {"MainThread": "worker", "worker": "MainThread"}


def test_02_every_log_call_blocks_after_a_reconfiguration_on_a_naive_handler(tmp_path: Path) -> None:
    """`emit` takes the handler's lock and then the module lock, `dictConfig` the other way round."""
    seen = observe(log_to_a_closed_handler_while_reconfiguring, "naive.ReopeningHandler", tmp_path)
    assert seen.deadlock == {"MainThread": "request", "request": "MainThread"}


def test_03_the_handler_logs_its_own_http_clients_lines_for_ever_on_a_naive_handler(tmp_path: Path) -> None:
    """Each request makes another one."""
    seen = observe(log_from_the_root_at_debug, "naive.BackgroundHandler", tmp_path)
    assert seen.told == {"sent": "more than 1000"}
    assert "POST /bulk" in seen.messages


def test_04_the_process_freezes_when_a_record_is_turned_into_an_event_on_a_naive_handler(tmp_path: Path) -> None:
    """It waits for the lock that it holds itself."""
    seen = observe(log_a_value_that_logs, "naive.EncodingHandler", tmp_path)
    assert seen.deadlock == {"MainThread": "MainThread"}


def test_05_no_logs_from_gunicorn_workers_or_multiprocessing_children_on_a_naive_handler(tmp_path: Path) -> None:
    """The worker thread did not survive the fork."""
    seen = observe(log_in_a_child, "naive.BackgroundHandler", tmp_path)
    assert seen.told["exitcode"] == 0
    assert seen.messages == PARENTS


def test_05_the_parents_events_are_sent_twice_on_a_naive_handler(tmp_path: Path) -> None:
    """The worker thread is started anew, and finds the parent's events in the queue."""
    seen = observe(log_in_a_child, "naive.RestartingHandler", tmp_path)
    assert seen.messages.count("parent 1") == 2


def test_06_the_child_deadlocks_on_a_naive_handler(tmp_path: Path) -> None:
    """It waits for a lock that a thread held which is not there any more."""
    seen = observe(fork_in_the_middle_of_a_log_call, "naive.LockingHandler", tmp_path)
    assert seen.deadlock == {"MainThread": NOT_THERE}
    assert seen.messages == ["parent slow"]


def test_07_a_short_script_ends_and_its_last_events_are_gone_on_a_naive_handler(tmp_path: Path) -> None:
    """Nobody waits for the worker."""
    endings = observe_all(end_with_unsent_events, "naive.HurriedHandler", tmp_path, "ending", ENDINGS)
    assert [seen.code for seen in endings] == [0, 1, 3]
    assert not any("19" in seen.messages for seen in endings)


def test_08_the_process_never_ends_because_the_server_is_down_on_a_naive_handler(tmp_path: Path) -> None:
    """The end of the process waits for the worker, and that tries without end."""
    seen = observe(end_while_the_server_is_down, "naive.PersistentHandler", tmp_path)
    assert seen.told == {"the_end_waits_for": "a thread that tries for ever"}


def test_09_at_exit_no_new_future_can_be_scheduled_on_a_naive_handler(tmp_path: Path) -> None:
    """The executor that is to resolve the name is closed by then."""
    lines, errors = see_the_end("naive.ResolvingAtExitHandler", tmp_path)
    assert lines == []
    assert "RuntimeError: cannot schedule new futures after interpreter shutdown" in errors


def test_10_memory_grows_without_end_while_the_server_is_down_on_a_naive_queue(tmp_path: Path) -> None:
    """After ten minutes it is too much, and nothing has left the queue."""
    seen = observe(log_while_the_server_is_down, "naive.UnboundedQueue", tmp_path, events=TEN_MINUTES)
    assert seen.told["memory"] > A_LOT
    assert seen.told["kept"] == TEN_MINUTES


def test_11_at_a_high_rate_nothing_arrives_any_more_and_the_database_never_shrinks_on_a_naive_handler(
    tmp_path: Path,
) -> None:
    """It sends when its queue is empty: that is when nobody logs any more. The space stays taken when all was sent."""
    seen = observe(log_at_a_high_rate, "naive.StoringHandler", tmp_path, most=5_000)
    assert seen.told["meanwhile"] < 0.1
    assert len(seen.messages) == 5_000
    assert directory_size(tmp_path / "store") == seen.told["largest"] > 700_000


def test_11_the_database_on_disk_grows_to_gigabytes_on_a_naive_handler(tmp_path: Path) -> None:
    """It is as large as what was logged."""
    seen = observe(log_to_the_disk_while_the_server_is_down, "naive.StoringHandler", tmp_path, enough=5_000_000)
    assert seen.told["largest"] > 5_000_000


def test_12_events_are_removed_from_the_local_store_when_they_were_written_to_the_socket_on_a_naive_handler(
    tmp_path: Path,
) -> None:
    """The server was not ready; all gone."""
    assert observe(restart_a_server_that_was_not_ready, "naive.writing_handler", tmp_path).messages == []


def test_13_the_formatter_in_dictconfig_has_no_effect_on_a_naive_handler(tmp_path: Path) -> None:
    """It is never asked."""
    assert observe(configure_a_formatter, "naive.BackgroundHandler", tmp_path).messages == ["order o-1"]


def test_14_extras_that_are_no_simple_values_are_dropped_with_a_warning_on_a_naive_handler(tmp_path: Path) -> None:
    """And `_logger` is one of them."""
    seen = observe(log_structured_extras, "naive.AttributesHandler", tmp_path)
    warnings = [message for message in seen.messages if message.startswith("Invalid")]
    assert warnings == [
        "Invalid type dict for 'request'",
        "Invalid type Item for 'item'",
        "Invalid type Odd for 'odd'",
        "Invalid type _FixedFindCallerLogger for '_logger'",
    ]
    events = [event for event in seen.delivered if event["message"] not in warnings]
    assert [event["payload"] for event in events] == [{"user": "alice"}, {"_name": "info"}]


def test_15_a_queue_handler_of_dictconfig_accepts_records_and_nobody_takes_them_out_on_a_naive_handler(
    tmp_path: Path,
) -> None:
    """The standard library's waits for somebody to start its listener."""
    seen = observe(configure_a_queue, "naive.queue_handlers", tmp_path)
    assert seen.told == {"waiting": 3, "threads": ["MainThread", "watcher"]}
    assert seen.messages == []


def test_16_the_second_handler_sees_a_message_that_the_first_ones_formatter_changed_on_a_naive_handler(
    tmp_path: Path,
) -> None:
    """Neither it nor what is behind the queue has anything but the text."""
    seen = observe(log_through_two_handlers, "naive.ListenedHandler", tmp_path)
    assert seen.told == {"msg": "[rendered] order o-1", "args": [], "exception": None, "stack": False}
    (event,) = seen.delivered
    assert event.keys() == {"process", "message"}


def test_17_received_message_after_logging_system_shutdown_on_a_naive_handler(tmp_path: Path) -> None:
    """It is out of order for good."""
    seen = observe(reconfigure_while_a_library_keeps_its_handler, "naive.ClosedForGoodHandler", tmp_path)
    assert seen.messages == ["before"]
    assert "Received message after logging system shutdown" in seen.errors


def test_18_a_log_call_during_shutdown_recurses_until_the_stack_is_full_on_a_naive_handler(tmp_path: Path) -> None:
    """That it was closed is logged to itself."""
    seen = observe(log_during_shutdown, "naive.TalkativeHandler", tmp_path)
    assert seen.told == {"recursion": True}


def test_19_os_exit_loses_the_queue_on_a_naive_handler(tmp_path: Path) -> None:
    """`flush` of a queue handler does nothing, and its listener is stopped by an exit handler."""
    seen = observe(end_by_os_exit, "naive.ListenedHandler", tmp_path)
    assert seen.code == 5
    assert "19" not in seen.messages


def test_19_a_killed_worker_loses_the_queue_on_a_naive_handler(tmp_path: Path) -> None:
    """It was in memory only."""
    assert observe(log_and_be_killed, "naive.BackgroundHandler", tmp_path, kill=True).messages == []
    assert observe(log_and_be_killed, "naive.BackgroundHandler", tmp_path, kill=False).messages == AFTER


def test_20_structlogs_formatter_cannot_be_configured_from_a_json_or_yaml_file_on_a_naive_handler(
    tmp_path: Path,
) -> None:
    """structlog's own takes the names for processors."""
    seen = observe(configure_structlogs_formatter_from_a_file, "naive.structlog_formatter", tmp_path)
    assert seen.told == {"lines": []}
    assert "TypeError: 'str' object is not callable" in seen.errors
