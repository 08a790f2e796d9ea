"""The bounds of the queue, and its accounts: to the event and to the byte."""

from __future__ import annotations

import threading

import pytest

from events import make_numbered
from mvx_logger.delivery import accounts as accounts_module
from mvx_logger.delivery.accounts import MARKS, Accounts
from mvx_logger.delivery.queue import NEVER, EventQueue
from mvx_logger.delivery.sizes import EVENT_BYTES
from mvx_logger.model import LogEvent
from waiting import wait_until


def make_queue(max_size: int = 1000, max_bytes: int = 1000 * EVENT_BYTES) -> tuple[EventQueue, Accounts]:
    accounts = Accounts()
    queue = EventQueue(max_size, max_bytes, accounts)
    queue.open(fast=True)
    return queue, accounts


def fill(queue: EventQueue, *excesses: int) -> list[LogEvent]:
    events = [make_numbered(number) for number in range(len(excesses))]
    for event, excess in zip(events, excesses, strict=True):
        queue.append(event, excess)
    return events


class TestBounds:
    def test_as_many_as_it_may_hold(self) -> None:
        """The last one fits, the next does not; so it is with the room for bytes."""
        for queue, _ in (
            make_queue(max_size=3),
            make_queue(max_bytes=3 * EVENT_BYTES),
            make_queue(3, 4 * EVENT_BYTES - 1),
        ):
            assert queue.limit == queue.capacity == 3
            fill(queue, 0, 0)
            assert queue.has_room(0)
            fill(queue, 0)
            assert not queue.has_room(0)

    def test_a_large_event_takes_the_bytes_that_it_holds(self) -> None:
        """To the byte; others have less room then, and `limit` says so."""
        queue, _ = make_queue(max_bytes=10 * EVENT_BYTES)
        fill(queue, 0, 100)
        assert queue.count_bytes() == 2 * EVENT_BYTES + 100
        assert queue.limit == queue.capacity == 9
        fits = 7 * EVENT_BYTES - 100
        assert queue.has_room(fits)
        assert not queue.has_room(fits + 1)
        queue.append(make_numbered(0), fits)
        assert queue.count_bytes() == 10 * EVENT_BYTES
        assert queue.limit == queue.capacity == 3
        assert not queue.has_room(0)

    def test_one_event_always_fits(self) -> None:
        """Into an empty queue, however large it is: else it could never be delivered."""
        queue, _ = make_queue(max_bytes=2 * EVENT_BYTES)
        assert queue.has_room(10**9)
        fill(queue, 10**9)
        assert queue.capacity == 1
        assert not queue.has_room(0)

    def test_without_a_quick_way_the_bounds_are_the_same(self) -> None:
        """`limit` stays 0, whatever comes and goes."""
        queue, _ = make_queue()
        queue.open(fast=False)
        fill(queue, 0, 50)
        queue.take(2, 10**6)
        assert queue.limit == 0
        assert queue.has_room(0)
        queue.shut()
        assert (queue.limit, queue.wake_at) == (0, 1)

    def test_a_queue_that_is_not_open(self) -> None:
        """What becomes of an event is decided elsewhere, and no caller waits for room."""
        queue = EventQueue(1, EVENT_BYTES, Accounts())
        assert (queue.limit, queue.wake_at, queue.is_open) == (0, NEVER, False)
        for _ in range(2):
            fill(queue, 0, 0)
            assert queue.has_room(0)
            queue.open(fast=True)
            assert (queue.limit, queue.wake_at) == (1, NEVER)
            assert not queue.has_room(0)
            queue.shut()


class TestTake:
    @pytest.mark.parametrize(
        ("max_bytes", "taken"),
        [
            (1, 1),
            (EVENT_BYTES, 1),
            (2 * EVENT_BYTES + 9, 1),
            (2 * EVENT_BYTES + 10, 2),
            (3 * EVENT_BYTES + 9, 2),
            (3 * EVENT_BYTES + 10, 3),
            (10**6, 3),
        ],
    )
    def test_what_fits_into_a_batch(self, max_bytes: int, taken: int) -> None:
        """At least one; the excess of each counts."""
        queue, accounts = make_queue()
        events = fill(queue, 0, 10, 0)
        assert queue.take(3, max_bytes) == events[:taken]
        assert accounts.head == taken
        assert queue.count_bytes() == (3 - taken) * EVENT_BYTES + (10 if taken < 2 else 0)

        queue.take(3, 10**6)
        events = fill(queue, 0, 10, 0)  # others have left the queue before these
        assert queue.take(3, max_bytes) == events[:taken]

    def test_small_events_are_bounded_by_bytes_too(self) -> None:
        queue, _ = make_queue()
        fill(queue, 0, 0, 0)
        assert len(queue.take(3, 2 * EVENT_BYTES)) == 2
        assert len(queue.take(3, 2 * EVENT_BYTES)) == 1
        assert queue.take(3, 2 * EVENT_BYTES) == []

    def test_what_is_given_back_is_charged_again(self) -> None:
        """In front, in its order, with the excess of each, the last one included; taken again, nothing is left."""
        queue, accounts = make_queue()
        excesses = (7, 5, 30)
        events = fill(queue, *excesses)
        charges = dict(zip(map(id, events), excesses, strict=True))
        before = queue.count_bytes()
        queue.append(make_numbered(3), 100)
        taken = queue.take(3, 10**6)
        accounts.settled_own = 3  # as where a run has ended meanwhile
        queue.give_back(taken, lambda event: charges[id(event)])
        assert list(queue.events)[:3] == events
        assert (accounts.head, accounts.settled_own) == (0, 0)
        assert queue.count_bytes() == before + EVENT_BYTES + 100
        queue.take(1, 10**6)
        assert queue.count_bytes() == 3 * EVENT_BYTES + 135
        queue.take(2, 10**6)
        assert queue.count_bytes() == EVENT_BYTES + 100
        queue.take(1, 10**6)
        assert (queue.count_bytes(), queue.capacity) == (0, 1000)


class TestWaitForRoom:
    def test_it_is_over_when_time_is(self) -> None:
        queue, _ = make_queue(max_size=1)
        assert queue.wait_for_room(0, 0)
        fill(queue, 0)
        assert not queue.wait_for_room(0, 0)
        assert not queue.wait_for_room(0, 0.001)

    def test_another_may_have_taken_the_room(self) -> None:
        """Whoever is woken looks again, and goes on waiting."""
        queue, _ = make_queue(max_size=1)
        fill(queue, 0)
        answers: list[bool] = []
        waiter = threading.Thread(target=lambda: answers.append(queue.wait_for_room(0, 60)))
        waiter.start()
        for _ in range(2):
            wait_until(lambda: queue._room_waiters)
            queue.tell_of_room()
        wait_until(lambda: queue._room_waiters)
        assert answers == []
        queue.take(1, 10**6)
        queue.tell_of_room()
        waiter.join(60)
        assert answers == [True]


class TestEvict:
    def test_only_as_many_as_there_must(self) -> None:
        """The oldest go, and what they held is free again: one large event makes room for many small ones."""
        queue, accounts = make_queue(max_size=4)
        fill(queue, 0, 0, 0, 0)
        queue.evict(0, "overflow")
        assert len(queue.events) == 3
        assert queue.has_room(0)
        queue, accounts = make_queue(max_bytes=5 * EVENT_BYTES)
        fill(queue, 3 * EVENT_BYTES, 0)
        queue.evict(0, "overflow")
        assert accounts.dropped == {"overflow": 1}
        assert (accounts.head, accounts.settled_own) == (1, 1)
        assert (len(queue.events), queue.capacity) == (1, 5)
        fill(queue, 0, 0, 0)
        queue.evict(2 * EVENT_BYTES, "overflow")
        assert accounts.dropped == {"overflow": 3}
        assert queue.has_room(2 * EVENT_BYTES)

    def test_nothing_goes_where_there_is_room(self) -> None:
        queue, accounts = make_queue(max_size=3)
        fill(queue, 0, 0)
        queue.evict(0, "overflow")
        queue.evict(EVENT_BYTES, "overflow")
        assert not accounts.dropped


class TestAges:
    def test_one_event_in_sixteen_is_timed(self) -> None:
        """The oldest one has an age as long as it is not settled, then the next one that was timed."""
        queue, accounts = make_queue()
        fill(queue, *[0] * (2 * MARKS + 1))
        assert [before for before, _ in accounts.marks] == [0, MARKS, 2 * MARKS]
        accounts.inflight = len(queue.take(MARKS, 10**6))
        assert accounts.tell(len(queue.events)).oldest_pending_age is not None
        accounts.deliver(MARKS)
        assert accounts.finish(MARKS, 0, delivered=True)
        assert [before for before, _ in accounts.marks] == [MARKS, 2 * MARKS]
        assert accounts.tell(len(queue.events)).latency.count == 1
        fill(queue, *[0] * (MARKS - 1))  # 32 in the queue: the next is timed again, counted from the first of all
        queue.append(make_numbered(0), 0)
        assert accounts.marks[-1][0] == 3 * MARKS

    def test_the_times_of_a_long_queue_are_thinned(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every second one stays, the oldest among them; as many as may be are kept as they are."""
        monkeypatch.setattr(accounts_module, "_MAX_MARKS", 4)
        queue, accounts = make_queue()
        fill(queue, *[0] * (4 * MARKS))
        queue.take(0, 10**6)
        assert [before // MARKS for before, _ in accounts.marks] == [0, 1, 2, 3]
        queue.append(make_numbered(0), 0)
        queue.take(0, 10**6)
        assert [before // MARKS for before, _ in accounts.marks] == [0, 2, 4]


class TestWaiters:
    def test_nothing_to_wait_for(self) -> None:
        assert Accounts().add_waiter(0) is None

    def test_until_the_last_of_them_is_settled(self) -> None:
        """What came before the call; what came later is not waited for."""
        queue, accounts = make_queue()
        fill(queue, 0, 0)
        waiter = accounts.add_waiter(2)
        assert waiter is not None
        assert accounts.is_hurried()
        fill(queue, 0)
        accounts.inflight = len(queue.take(3, 10**6))
        accounts.deliver(1)
        accounts.finish(1, 0, delivered=True)
        assert not waiter.done.is_set()
        assert accounts.is_hurried()
        accounts.deliver(1)
        accounts.finish(1, 0, delivered=True)
        assert waiter.done.is_set()
        assert not accounts.is_hurried()
        assert accounts.remove_waiter(waiter)

    @pytest.mark.parametrize("dead_lettered", [False, True])
    def test_what_is_lost_meanwhile_is_told(self, dead_lettered: bool) -> None:
        """All is settled, and yet the answer is no. What was lost earlier, or was never in the queue, does not matter."""
        queue, accounts = make_queue()
        fill(queue, 0, 0)
        accounts.inflight = len(queue.take(1, 10**6))
        accounts.give_up("refused", dead_lettered=dead_lettered)
        accounts.finish(1, 0, delivered=False)
        for is_lost in (False, True):
            waiter = accounts.add_waiter(len(queue.events))
            assert waiter is not None
            accounts.lose_new("overflow")
            accounts.inflight = len(queue.take(1, 10**6))
            if is_lost:
                accounts.give_up("refused", dead_lettered=dead_lettered)
            else:
                accounts.deliver(1)
                fill(queue, 0)
            accounts.finish(1, 0, delivered=not is_lost)
            assert waiter.done.is_set()
            assert accounts.remove_waiter(waiter) is not is_lost
        stats = accounts.tell(0)
        assert (stats.accepted, stats.delivered, stats.pending) == (5, 1, 0)
        assert stats.dead_lettered + sum(stats.dropped.values()) == 4

    def test_a_run_that_is_over_counts_no_more(self) -> None:
        """What the worker that was given up on still does was counted when it was given up."""
        queue, accounts = make_queue()
        fill(queue, 0, 0)
        accounts.inflight = len(queue.take(2, 10**6))
        accounts.ended = True
        accounts.deliver(1)
        assert not accounts.give_up("refused", dead_lettered=False)
        assert not accounts.finish(2, 0, delivered=True)
        assert (accounts.inflight, accounts.delivered, accounts.settled_own) == (2, 0, 0)
        assert not accounts.dropped


class TestDisk:
    def test_what_a_run_leaves_is_waited_for_until_the_next_one_has_it(self) -> None:
        """One event is enough. What the next run finds is counted as recovered, what others took as handed over."""
        accounts = Accounts()
        accounts.head = 3
        accounts.take_over(0)
        accounts.spooled = 3
        waiter = accounts.add_waiter(0)
        assert waiter is not None
        accounts.lose_spooled(2, 0, "expired")
        assert (accounts.spooled, accounts.settled_own) == (1, 2)
        accounts.finish_all()
        assert waiter.recovered is None
        assert accounts.has_left_behind()
        assert not waiter.done.is_set()
        later = accounts.add_waiter(0)
        assert later is not None
        accounts.take_over(1)
        assert not later.done.is_set()
        accounts.spooled, accounts.inflight = -1, 1  # its writer has not counted it yet
        assert accounts.tell(0).spooled == 0
        accounts.spooled = 0
        accounts.deliver(1)
        accounts.finish(0, 1, delivered=True)
        assert waiter.done.is_set()
        assert not accounts.remove_waiter(waiter)  # two are lost
        assert accounts.remove_waiter(later)
        stats = accounts.tell(0)
        assert (stats.accepted, stats.delivered, stats.dropped, stats.recovered) == (3, 1, {"expired": 2}, 0)

    def test_what_others_leave_and_take(self) -> None:
        """Both are said to whoever flushes: what others took may be delivered or not."""
        accounts = Accounts()
        accounts.take_over(2)
        assert accounts.tell(0).recovered == 2
        waiter = accounts.add_waiter(0)
        assert waiter is not None
        accounts.lose_spooled(0, 1, "expired")
        assert not waiter.done.is_set()
        accounts.finish_all()
        accounts.take_over(0)
        assert waiter.done.is_set()
        assert accounts.handed_over == 1
        assert not accounts.remove_waiter(waiter)
        assert accounts.tell(0).accepted == 1
