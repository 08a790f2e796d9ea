"""What goes wrong in the field does not go wrong here: twenty reports on handlers and libraries that do this job today.

`field_scenarios` has a scenario for each report. `tests/nightly/test_naive_controls.py` shows that each scenario goes wrong,
in the way that was reported, with an implementation as the reports have it: a scenario that has lost its sting is noticed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from field_helpers import (
    directory_size,
    observe,
    observe_all,
)
from field_scenarios import (
    A_LOT,
    AFTER,
    BEFORE,
    ENDINGS,
    PARENTS,
    TEN_MINUTES,
    configure_a_formatter,
    configure_a_queue,
    configure_everything_from_a_file,
    configure_structlogs_formatter_from_a_file,
    end_by_os_exit,
    end_while_the_server_is_down,
    end_with_unsent_events,
    fork_in_the_middle_of_a_log_call,
    fork_under_load,
    log_a_value_that_logs,
    log_and_be_killed,
    log_at_a_high_rate,
    log_during_shutdown,
    log_from_the_root_at_debug,
    log_in_a_child,
    log_structured_extras,
    log_through_two_handlers,
    log_to_a_closed_handler_while_reconfiguring,
    log_to_every_sink_from_the_root_at_debug,
    log_to_the_disk_while_the_server_is_down,
    log_while_the_server_is_down,
    reconfigure_while_a_library_keeps_its_handler,
    reconfigure_while_the_worker_sends,
    restart_a_server_that_was_not_ready,
    see_the_end,
)

pytestmark = pytest.mark.slow


def test_01_dictconfig_hangs_for_ever(tmp_path: Path) -> None:
    """Reconfiguring under load returns, and nothing that was accepted is lost."""
    seen = observe(reconfigure_while_the_worker_sends, "ours.handler", tmp_path)
    assert seen.code == 0
    assert {"before", "after"} < set(seen.messages)
    assert sorted(seen.messages) == seen.told["accepted"]


def test_02_every_log_call_blocks_after_a_reconfiguration(tmp_path: Path) -> None:
    """The module lock is never taken under a handler's lock."""
    seen = observe(log_to_a_closed_handler_while_reconfiguring, "ours.reopening_handler", tmp_path)
    assert (seen.code, seen.errors) == (0, "")
    assert sorted(seen.messages) == ["after", "while"]


def test_03_the_handler_logs_its_own_http_clients_lines_for_ever(tmp_path: Path) -> None:
    """On the root logger at level 1: what arrives is what the application logged."""
    seen = observe(log_from_the_root_at_debug, "ours.handler", tmp_path)
    assert seen.told == {"sent": 100}
    assert seen.messages == [str(number) for number in range(100)]
    assert seen.errors.startswith("mvx-logger: recursion: ")


def test_03_what_arrives_is_what_the_application_logged_with_every_sink_on_the_root_logger(tmp_path: Path) -> None:
    """No sink logs to itself, nor to another one."""
    seen = observe(log_to_every_sink_from_the_root_at_debug, "ours.every_sink", tmp_path)
    assert seen.code == 0
    assert len(seen.told) > 10
    assert seen.told == dict.fromkeys(seen.told, 100)


def test_04_the_process_freezes_when_a_record_is_turned_into_an_event(tmp_path: Path) -> None:
    """What is logged meanwhile on the same thread is kept out, and told once; other threads are not concerned."""
    seen = observe(log_a_value_that_logs, "ours.handler", tmp_path)
    assert (seen.code, seen.errors.count("\n")) == (0, 1)
    assert set(seen.messages) == {"placed an order", "from another thread"}
    assert seen.messages.count("placed an order") == 2
    assert "an order without a number" in seen.errors


def test_05_no_logs_from_gunicorn_workers_or_multiprocessing_children(tmp_path: Path) -> None:
    """The child's events arrive, the parent's are not sent twice."""
    seen = observe(log_in_a_child, "ours.handler", tmp_path)
    assert seen.told["exitcode"] == 0
    assert seen.messages == ["child", *PARENTS]
    assert [event["process"] == seen.told["parent"] for event in seen.delivered] == [False, True, True, True]
    assert (seen.code, seen.errors) == (0, "")


def test_06_the_child_deadlocks(tmp_path: Path) -> None:
    """Another thread was in the middle of a log call at the moment of the fork: the child logs all the same."""
    seen = observe(fork_in_the_middle_of_a_log_call, "ours.handler", tmp_path)
    assert (seen.code, seen.told) == (0, {"status": 0})
    assert seen.messages == ["child", "parent slow"]


def test_06_the_child_deadlocks_in_none_of_a_hundred_forks(tmp_path: Path) -> None:
    """Wherever the other threads happen to be."""
    seen = observe(fork_under_load, "ours.handler", tmp_path, forks=100)
    assert seen.told == {"failed": 0}
    children = [message for message in seen.messages if message != "noise"]
    assert sorted(children) == sorted(f"child {number}" for number in range(100))


def test_07_a_short_script_ends_and_its_last_events_are_gone(tmp_path: Path) -> None:
    """All are delivered before it ends, also by `sys.exit` and with an unhandled exception."""
    endings = observe_all(end_with_unsent_events, "ours.handler", tmp_path, "ending", ENDINGS)
    assert [seen.code for seen in endings] == [0, 1, 3]
    assert [seen.messages for seen in endings] == [[str(number) for number in range(20)]] * 3


def test_08_the_process_never_ends_because_the_server_is_down(tmp_path: Path) -> None:
    """It ends at the shutdown deadline, and says how many events were left."""
    options = {"retry_delay": 0.01, "retry_max_delay": 0.05, "shutdown_timeout": 0.5}
    seen = observe(end_while_the_server_is_down, "ours.handler", tmp_path, **options)
    assert (seen.code, seen.told) == (0, {})
    last = seen.errors.splitlines()[-1]
    assert last.startswith("mvx-logger: shutdown: ")
    assert "lost=5" in last


def test_08_the_process_says_where_the_events_are_that_are_left(tmp_path: Path) -> None:
    """With a spool they are on the disk, for the next process."""
    spool = str(tmp_path / "spool")
    options = {"retry_delay": 0.01, "retry_max_delay": 0.05, "shutdown_timeout": 0.5, "durable": spool}
    seen = observe(end_while_the_server_is_down, "ours.handler", tmp_path, **options)
    assert (seen.code, seen.told) == (0, {})
    last = seen.errors.splitlines()[-1]
    assert last.startswith("mvx-logger: shutdown: ")
    assert "spooled=5" in last
    assert spool in last


def test_09_at_exit_no_new_thread_can_be_created_and_no_new_future_scheduled(tmp_path: Path) -> None:
    """The last flush can still resolve a name and open a connection."""
    assert see_the_end("ours.connecting_handler", tmp_path) == (["last line", "in an exit handler"], "")


def test_10_memory_grows_without_end_while_the_server_is_down(tmp_path: Path) -> None:
    """It is bounded by count and by bytes over ten minutes' worth of events, and each of them is accounted for."""
    seen = observe(log_while_the_server_is_down, "ours.BoundedQueue", tmp_path, events=TEN_MINUTES)
    assert seen.told["memory"] < A_LOT
    assert 0 < seen.told["kept"] <= 10_000 + 1_000  # in the queue, and in the batch that is tried again and again
    assert seen.told["kept"] + seen.told["dropped"] == TEN_MINUTES


def test_11_at_a_high_rate_nothing_arrives_any_more_and_the_database_never_shrinks(tmp_path: Path) -> None:
    """The spool drains faster than it fills, and gives its space back."""
    seen = observe(log_at_a_high_rate, "ours.handler", tmp_path, most=100_000)
    assert seen.told["meanwhile"] > 0.9
    assert [int(message.split()[0]) for message in seen.messages] == list(range(seen.told["logged"]))
    assert directory_size(tmp_path / "store") < 30_000 < 300_000 < seen.told["largest"]


def test_11_the_database_on_disk_grows_to_gigabytes(tmp_path: Path) -> None:
    """It is as large as it is allowed to be."""
    seen = observe(log_to_the_disk_while_the_server_is_down, "ours.handler", tmp_path, enough=500_000)
    assert seen.told["largest"] < 1_100_000


def test_12_events_are_removed_from_the_local_store_when_they_were_written_to_the_socket(tmp_path: Path) -> None:
    """Only when the destination has confirmed them."""
    seen = observe(restart_a_server_that_was_not_ready, "ours.confirming_handler", tmp_path)
    assert seen.messages == [str(number) for number in range(10)]


def test_13_the_formatter_in_dictconfig_has_no_effect(tmp_path: Path) -> None:
    """It makes the message."""
    assert observe(configure_a_formatter, "ours.handler", tmp_path).messages == ["INFO [shop] order o-1"]


def test_14_extras_that_are_no_simple_values_are_dropped_with_a_warning(tmp_path: Path) -> None:
    """They arrive as structured data; what structlog passes along for itself does not."""
    seen = observe(log_structured_extras, "ours.handler", tmp_path)
    assert [(event["message"], event["payload"]) for event in seen.delivered] == [
        (
            "from logging",
            {
                "user": "alice",
                "request": {"path": "/x", "sizes": [1, 2]},
                "item": {"sku": "A-1", "count": 2},
                "odd": "<Odd>",
            },
        ),
        ("from structlog", {"item": {"sku": "B-2", "count": 1}}),
    ]
    assert seen.errors == ""


def test_15_a_queue_handler_of_dictconfig_accepts_records_and_nobody_takes_them_out(tmp_path: Path) -> None:
    """Configured means running."""
    seen = observe(configure_a_queue, "ours.queue_handlers", tmp_path)
    assert seen.messages == ["0", "1", "2"]


def test_16_the_second_handler_sees_a_message_that_the_first_ones_formatter_changed(tmp_path: Path) -> None:
    """The record is as it was; the first one's event has exception, arguments and stack as data."""
    seen = observe(log_through_two_handlers, "ours.handler", tmp_path)
    assert seen.told == {"msg": "order %s", "args": ["o-1"], "exception": "KeyError", "stack": True}
    (event,) = seen.delivered
    assert event["message"] == "[rendered] order o-1"
    assert (event["args"], event["exception"], event["stack"]) == (["o-1"], "KeyError", True)


def test_17_received_message_after_logging_system_shutdown(tmp_path: Path) -> None:
    """A handler that is used after `close()` works again."""
    seen = observe(reconfigure_while_a_library_keeps_its_handler, "ours.handler", tmp_path)
    assert seen.messages == ["before", "after 0", "after 1", "after 2"]
    assert (seen.code, seen.errors) == (0, "")


def test_18_a_log_call_during_shutdown_recurses_until_the_stack_is_full(tmp_path: Path) -> None:
    """It does not: the event is delivered or, where the interpreter starts no more threads for it, told to be lost."""
    seen = observe(log_during_shutdown, "ours.handler", tmp_path)
    assert seen.told == {}
    assert (seen.code, seen.errors.count("\n")) == (0, seen.errors.count("events are lost"))
    assert seen.messages[0] == "before"
    assert seen.messages.count("late") + seen.errors.count("events are lost") == 1


def test_19_os_exit_loses_the_queue(tmp_path: Path) -> None:
    """`mvx_logger.flush` before it, and it does not."""
    seen = observe(end_by_os_exit, "ours.handler", tmp_path)
    assert seen.code == 5
    assert seen.messages == [str(number) for number in range(20)]


def test_19_a_killed_worker_loses_the_queue(tmp_path: Path) -> None:
    """It is in the spool, and the next process delivers it."""
    assert observe(log_and_be_killed, "ours.handler", tmp_path, kill=True).messages == []
    seen = observe(log_and_be_killed, "ours.handler", tmp_path, kill=False)
    assert (seen.code, seen.messages) == (0, BEFORE + AFTER)


def test_20_structlogs_formatter_cannot_be_configured_from_a_json_or_yaml_file(tmp_path: Path) -> None:
    """Everything that the bridge offers can be written in a plain data file."""
    seen = observe(configure_structlogs_formatter_from_a_file, "ours.structlog_formatter", tmp_path)
    assert seen.told == {"lines": ['{"amount": 3, "event": "order o-1", "level": "info"}']}
    assert (seen.code, seen.errors) == (0, "")


def test_20_everything_that_the_bridge_offers_can_be_written_in_a_plain_data_file(tmp_path: Path) -> None:
    """Processors by name and with options, in a chain, in a sink and in a formatter."""
    seen = observe(configure_everything_from_a_file, "ours.everything", tmp_path)
    assert seen.code == 0
    assert seen.errors.splitlines() == [
        "timestamp=now level=info logger=shop amount=3 shop=north msg=order.created",
        'timestamp=now level=warning logger=shop.db seconds=2 msg="slow query"',
    ]
    assert seen.told == {"formatted": '{"event": "slow query", "level": "warning", "seconds": 2}\n'}
