"""What the scheduler of delivery decides, told by a fake clock."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvx_logger.delivery.schedule import (
    Attempt,
    DeliverySchedule,
    LogDeliveryErrorKind,
    RetryPolicy,
    Settled,
    Wait,
)

TRANSIENT = LogDeliveryErrorKind.TRANSIENT
REFUSED = LogDeliveryErrorKind.REFUSED
UNKNOWN = LogDeliveryErrorKind.UNKNOWN

LATENCY = 0.01
"""Seconds that each attempt takes in a simulation."""


def make(size: int = 1, *, draw: float = 1.0, one_by_one: bool = False, **policy: Any) -> DeliverySchedule:
    schedule = DeliverySchedule(RetryPolicy(**policy), one_by_one=one_by_one, random=lambda: draw)
    schedule.begin(size)
    return schedule


def fail(
    schedule: DeliverySchedule, now: float, kind: LogDeliveryErrorKind = TRANSIENT, **options: Any
) -> tuple[Attempt, Attempt | Wait | None]:
    """Let an attempt fail that is due now: it, and what is decided next."""
    attempt = schedule.decide(now)
    assert isinstance(attempt, Attempt), attempt
    schedule.failed(now, kind, **options)
    return attempt, schedule.decide(now)


def fail_under_way(
    schedule: DeliverySchedule, now: float, kind: LogDeliveryErrorKind = TRANSIENT
) -> tuple[list[Settled], Attempt | Wait | None]:
    """The same for an attempt that was decided on already: what is settled, and what is decided next."""
    return schedule.failed(now, kind), schedule.decide(now)


def fail_for(schedule: DeliverySchedule, times: int, kind: LogDeliveryErrorKind = TRANSIENT, now: float = 0.0) -> float:
    """Let attempts fail that each wait for their time; when the last wait is over."""
    for _ in range(times):
        _, then = fail(schedule, now, kind)
        assert isinstance(then, Wait), then
        now = then.until
    return now


def span(attempt: object) -> tuple[int, int]:
    assert isinstance(attempt, Attempt), attempt
    return attempt.start, attempt.stop


# ---------------------------------------------------------------------- a world to try it in


class Destination:
    """A destination with events that it can not take, and with outages.

    Args:
        poison: The events that it never takes.
        says: What it says to them: ``refused``, ``unknown``, or ``named`` (it tells which they are, and takes the others).
        outages: From when to when it is down.
        down: What an attempt says while it is down.
        retry_after: What it asks for then.
        busy: How often it wants to see an event again, in partial answers.
    """

    def __init__(
        self,
        *,
        poison: Iterable[int] = (),
        says: str = "refused",
        outages: Sequence[tuple[float, float]] = (),
        down: LogDeliveryErrorKind = TRANSIENT,
        retry_after: float | None = None,
        busy: dict[int, int] | None = None,
    ) -> None:
        self.poison = frozenset(poison)
        self.says = says
        self.outages = outages
        self.down = down
        self.retry_after = retry_after
        self.busy = dict(busy or {})

    def is_down(self, now: float) -> bool:
        return any(start <= now < stop for start, stop in self.outages)


class Simulation:
    """Brings windows to an end, one after the other, and checks at each step what holds always."""

    def __init__(
        self,
        destination: Destination,
        policy: RetryPolicy | None = None,
        *,
        draws: Iterable[float] = (1.0,),
        one_by_one: bool = False,
        extend_by: int = 1,
    ) -> None:
        self.destination = destination
        self.policy = policy or RetryPolicy()
        self.one_by_one = one_by_one
        self.extend_by = extend_by
        self.draws = itertools.cycle(draws)
        self.drawn = 0.0
        self.schedule = DeliverySchedule(self.policy, one_by_one=one_by_one, random=self.draw)
        self.now = 100.0
        self.fates: dict[int, Settled] = {}
        self.log: list[tuple[float, range, bool, str]] = []  # when, the events, probe, the answer
        self.base = 0
        self.size = 0
        # What the attributes of the schedule should say.
        self.failures = 0
        self.retries = 0
        self.is_open = False
        self.seen: set[int] = set()
        # What the laws are about.
        self.alone: dict[int, int] = {}
        self.first_failed_at: float | None = None
        self.not_before = -math.inf
        self.not_after = math.inf
        self.unpaused = 0
        self.previous = ""  # who was attempted before this, and how it ended

    def draw(self) -> float:
        self.drawn = next(self.draws)
        return self.drawn

    def deliver(self, size: int, *, limit: int = 20_000) -> None:
        """Bring a window to its end.

        Args:
            size: Of the window.
            limit: How many attempts it may take.
        """
        self.base, self.size = self.base + self.size, size
        self.alone.clear()
        self.seen.clear()
        self.first_failed_at = None
        self.previous = ""
        self.schedule.begin(size)
        for _ in range(limit):
            attempt = self.wait()
            if attempt is None:
                assert self.fates.keys() == set(range(self.base + self.size))
                return
            self.attempt(attempt)
        raise AssertionError(f"no end after {limit} attempts")

    def wait(self) -> Attempt | None:
        while True:
            decision = self.schedule.decide(self.now)
            if not isinstance(decision, Wait):
                return decision
            assert self.now < decision.until
            assert self.not_before <= decision.until <= self.not_after
            if decision.wants_more and self.extend_by:
                self.schedule.extend(self.extend_by)
                self.size += self.extend_by
                sooner = self.schedule.decide(self.now)
                if isinstance(sooner, Wait):  # the destination asked to be left alone, and is
                    assert not sooner.wants_more
                    decision = sooner
                else:
                    return sooner
            between = (self.now + decision.until) / 2
            if between < decision.until:
                assert self.schedule.decide(between) == decision
            self.now = decision.until
            self.unpaused = 0

    def attempt(self, attempt: Attempt) -> None:
        events = range(self.base + attempt.start, self.base + attempt.stop)
        front = next(event for event in range(self.base, self.base + self.size) if event not in self.fates)
        assert self.now >= self.not_before
        assert events
        assert not any(event in self.fates for event in events)
        assert attempt.stop <= self.size
        is_neighbour = events[0] != front
        if is_neighbour:
            assert self.alone[front] >= 4
            assert self.previous in ("suspect failed", "neighbour refused")
        if self.one_by_one or attempt.probe or is_neighbour:
            assert len(events) == 1
        assert attempt.probe == self.is_open
        assert self.schedule.circuit == ("half_open" if self.is_open else "closed")
        self.retries += not self.seen.isdisjoint(events)
        self.seen.update(events)

        self.now += LATENCY
        before = self.previous
        settled, answer = self.answer(attempt, events)
        self.previous = f"{'neighbour' if is_neighbour else 'suspect' if len(events) == 1 else 'piece'} {answer}"
        self.log.append((self.now, events, attempt.probe, answer))
        for fate in settled:
            for event in range(self.base + fate.start, self.base + fate.stop):
                assert event not in self.fates
                self.fates[event] = fate
                assert fate.delivered == (not fate.reason)
                if fate.reason == "retry_timeout":
                    assert self.policy.timeout is not None
                    assert self.first_failed_at is not None
                    assert self.now >= self.first_failed_at + self.policy.timeout
                elif fate.reason == "refused" and answer == "failed":
                    assert before == "neighbour passed"
                    assert event == front
                    assert self.alone[event] >= 5
                    assert event in self.destination.poison or self.destination.is_down(self.now)
                else:
                    assert (event in self.destination.poison) == (fate.reason == "refused")
        assert self.schedule.failures == self.failures
        assert self.schedule.retries == self.retries
        assert self.schedule.circuit == ("open" if self.is_open else "closed")
        assert (self.schedule.opened_at is not None) == self.is_open

    def answer(self, attempt: Attempt, events: range) -> tuple[list[Settled], str]:
        destination = self.destination
        bad = [event for event in events if event in destination.poison]
        if destination.is_down(self.now):
            kind, retry_after = destination.down, destination.retry_after
        elif bad and destination.says != "named":
            kind, retry_after = LogDeliveryErrorKind(destination.says), None
        else:
            return self.take(attempt, events, bad)
        alone = len(events) == 1
        if kind is UNKNOWN and alone:
            self.alone[events[0]] = self.alone.get(events[0], 0) + 1
        is_verdict = self.previous == "neighbour passed"
        if kind is REFUSED or (kind is UNKNOWN and is_verdict):
            self.not_before = self.now
            if self.previous not in ("suspect failed", "neighbour refused"):
                self.not_after = self.now
            settled = self.schedule.failed(self.now, kind, error="bad")
            assert len(settled) == alone
            return settled, "refused" if kind is REFUSED else "failed"
        self.note_failure()
        settled = self.schedule.failed(self.now, kind, retry_after=retry_after, error="down")
        self.note_wait(retry_after, settled, certain=kind is TRANSIENT)
        return settled, "failed"

    def take(self, attempt: Attempt, events: range, bad: list[int]) -> tuple[list[Settled], str]:
        busy = [event for event in events if event not in bad and self.destination.busy.get(event, 0)]
        for event in busy:
            self.destination.busy[event] -= 1
        if len(busy) == len(events):
            self.note_failure()
        else:
            self.note_success()
        if not bad and not busy:
            return self.schedule.succeeded(self.now), "passed"
        settled = self.schedule.partially(
            self.now,
            refused={event - events[0]: "bad" for event in bad},
            retry=[event - events[0] for event in busy],
            retry_after=self.destination.retry_after,
        )
        if busy:
            self.note_wait(self.destination.retry_after, settled, certain=True)
        return settled, "failed" if len(busy) == len(events) else "passed"

    def note_failure(self) -> None:
        self.failures += 1
        self.is_open = self.is_open or self.failures >= self.policy.circuit_threshold
        if self.first_failed_at is None:
            self.first_failed_at = self.now
        # Nobody hammers a destination that is taken to be down.
        self.unpaused += self.is_open
        assert self.unpaused <= 2

    def note_success(self) -> None:
        self.failures = 0
        self.is_open = False
        self.first_failed_at = None
        self.unpaused = 0
        self.not_before, self.not_after = self.now, math.inf

    def note_wait(self, retry_after: float | None, settled: list[Settled], *, certain: bool) -> None:
        policy = self.policy
        over = any(fate.reason == "retry_timeout" for fate in settled)
        backoff = min(policy.max_delay, policy.base_delay * 2.0 ** (min(max(self.failures, 1), 99) - 1))
        limit = math.inf
        if policy.timeout is not None and self.first_failed_at is not None and not over:
            limit = self.first_failed_at + policy.timeout
        floor = retry_after or 0.0
        self.not_after = min(self.now + max(backoff, floor), limit)
        self.not_before = min(self.now + max(self.drawn * backoff if certain else 0.0, floor), limit)

    def named(self, reason: str) -> set[int]:
        return {event for event, fate in self.fates.items() if fate.reason == reason}

    @property
    def delivered(self) -> list[int]:
        return [event for _, events, _, answer in self.log if answer == "passed" for event in events]


# ---------------------------------------------------------------------- examples


class TestWaits:
    def test_backoff_doubles_up_to_a_limit(self) -> None:
        """The longer the destination is down, the less it is bothered: 0.5, 1, 2, 4 ... 60 seconds at most."""
        schedule = make(3)
        now, waits = 0.0, []
        for _ in range(10):
            _, then = fail(schedule, now)
            assert isinstance(then, Wait)
            waits.append(then.until - now)
            now = then.until
        assert waits == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60]

    @pytest.mark.parametrize("draw", [0.0, 0.25, 0.999])
    def test_full_jitter(self, draw: float) -> None:
        """A thousand processes do not come back in the same instant: the wait is drawn between nothing and the backoff."""
        schedule = make(draw=draw, base_delay=8.0)
        assert fail(schedule, 10.0)[1] == (Wait(10 + 8 * draw) if draw else Attempt(0, 1))

    def test_an_outage_of_a_year(self) -> None:
        """However often it failed, the numbers do not overflow."""
        schedule = make(base_delay=1e300, max_delay=30.0)
        schedule.failures = 10**9
        assert fail(schedule, 0.0)[1] == Wait(30.0)

    @pytest.mark.parametrize(
        ("asked", "waits"), [(None, 0.5), (0.1, 0.5), (7.0, 7.0), (300.0, 300.0), (-3.0, 0.5), (math.nan, 0.5)]
    )
    def test_the_destination_asks_to_be_left_alone(self, asked: float | None, waits: float) -> None:
        """A Retry-After is a lower bound, also beyond the longest wait of our own. Nonsense is not listened to."""
        assert fail(make(), 0.0, retry_after=asked)[1] == Wait(waits)

    @pytest.mark.parametrize("kind", [REFUSED, UNKNOWN])
    def test_it_is_left_alone_even_where_something_would_be_tried_at_once(self, kind: LogDeliveryErrorKind) -> None:
        """A batch that is split is not sent before the time that the destination asked for."""
        schedule = make(4)
        now = fail_for(schedule, 2, kind) if kind is UNKNOWN else 0.0
        assert fail(schedule, now, kind, retry_after=9.0)[1] == Wait(now + 9)
        assert schedule.decide(now + 9) == Attempt(0, 2)

    def test_a_wait_outlives_its_window(self) -> None:
        """A batch that was given up does not let the next one go at once against a destination that is down."""
        schedule = make(2, timeout=0.0)
        schedule.decide(0.0)
        assert schedule.failed(0.0, TRANSIENT, error="down") == [Settled(0, 2, False, "retry_timeout", "down")]
        assert schedule.decide(0.0) is None
        assert schedule.is_waiting(0.4) is True
        assert schedule.is_waiting(0.5) is False
        schedule.begin(5)
        assert schedule.decide(0.4) == Wait(0.5)
        assert fail(schedule, 0.5) == (Attempt(0, 5), None)
        schedule.begin(1)
        assert schedule.decide(0.5) == Wait(1.5)

    def test_failures_count_until_a_success(self) -> None:
        """The first failure after a success is waited for as briefly as the very first."""
        schedule = make(2, one_by_one=True)
        now = fail_for(schedule, 4)
        assert schedule.failures == 4
        schedule.decide(now)
        assert schedule.succeeded(now) == [Settled(0, 1, True)]
        assert schedule.failures == 0
        assert fail(schedule, now) == (Attempt(1, 2), Wait(now + 0.5))


class TestHurry:
    def test_the_present_wait_is_over(self) -> None:
        """Whoever flushes does not wait for the end of a long pause."""
        schedule = make()
        now = fail_for(schedule, 7)
        assert isinstance(fail(schedule, now)[1], Wait)
        schedule.hurry(now + 1)
        _, then = fail(schedule, now + 1)
        assert then == Wait(now + 61)

    def test_waits_are_short_until_further_notice(self) -> None:
        """While the process ends, waits are short, whatever the destination asks for; later they are as before."""
        schedule = make()
        now = fail_for(schedule, 7)
        schedule.hurry(now, max_delay=0.25)
        assert fail(schedule, now, retry_after=100.0)[1] == Wait(now + 0.25)
        schedule.hurry(now)
        assert fail(schedule, now)[1] == Wait(now + 0.25)
        schedule.abandon()
        schedule.begin(1)
        assert fail(schedule, now + 0.25)[1] == Wait(now + 0.5)
        schedule.relax()
        assert fail(schedule, now + 0.5)[1] == Wait(now + 60.5)

    def test_a_suspect_without_neighbour(self) -> None:
        """It does not wait for company that may not come, either."""
        schedule = make()
        now = fail_for(schedule, 3, UNKNOWN)
        assert fail(schedule, now, UNKNOWN)[1] == Wait(now + 4, wants_more=True)
        schedule.hurry(now + 1)
        assert schedule.decide(now + 1) == Attempt(0, 1)


class TestTransient:
    def test_the_batch_stays_intact(self) -> None:
        """What failed comes again as it was, and nothing overtakes it."""
        schedule = make(7)
        now = fail_for(schedule, 2)
        schedule.extend(5)
        assert span(schedule.decide(now)) == (0, 7)
        assert schedule.succeeded(now) == [Settled(0, 7, True)]
        assert span(schedule.decide(now)) == (7, 12)
        schedule.succeeded(now)
        assert schedule.decide(now) is None

    def test_giving_up(self) -> None:
        """After the timeout all that is left is given up at once, with the reason; the last attempt is made right then."""
        schedule = make(3, timeout=5.0)
        now = fail_for(schedule, 4, now=1000.0)
        schedule.extend(2)
        assert now == 1005.0
        schedule.decide(now)
        assert schedule.failed(now, TRANSIENT, error="down") == [
            Settled(0, 3, False, "retry_timeout", "down"),
            Settled(3, 5, False, "retry_timeout", "down"),
        ]
        assert schedule.decide(now) is None

    @given(first=st.floats(0, 1e9), timeout=st.floats(0.001, 1e6), draw=st.floats(0.5, 1))
    def test_the_last_attempt_is_the_last(self, first: float, timeout: float, draw: float) -> None:
        """An attempt at the limit that fails ends the window, however floats are rounded."""
        schedule = make(timeout=timeout, base_delay=1e7, max_delay=1e8, draw=draw)
        assert fail(schedule, first)[1] == Wait(first + timeout)
        schedule.decide(first + timeout)
        assert schedule.failed(first + timeout, TRANSIENT)

    def test_a_success_starts_the_timeout_anew(self) -> None:
        """A large batch that passes bit by bit is not given up for having taken long."""
        schedule = make(2, timeout=5.0, one_by_one=True)
        now = fail_for(schedule, 3)
        schedule.decide(now)
        schedule.succeeded(now)
        schedule.decide(now)
        assert schedule.failed(now, TRANSIENT) == []
        fail_for(schedule, 2, now=now + 0.5)

    def test_a_refusal_at_the_limit_gives_nothing_up(self) -> None:
        """The destination that answers at the last moment gets the rest."""
        schedule = make(2, timeout=1.0)
        now = fail_for(schedule, 2)
        schedule.decide(now)
        assert schedule.failed(now + 1, REFUSED) == []
        assert schedule.decide(now + 1) == Attempt(0, 1)
        assert schedule.succeeded(now + 1) == [Settled(0, 1, True)]


class TestCircuit:
    def test_open_probe_close(self) -> None:
        """A destination that is down sees one event now and then; when it takes one, it gets the rest in one piece."""
        schedule = make(100, circuit_threshold=3)
        now = fail_for(schedule, 2)
        assert (schedule.circuit, schedule.opened_at) == ("closed", None)
        fail(schedule, now)
        assert (schedule.circuit, schedule.opened_at) == ("open", now)
        opened_at, now = now, now + 2
        assert schedule.decide(now) == Attempt(0, 1, probe=True)
        assert schedule.circuit == "half_open"
        schedule.failed(now, TRANSIENT)
        assert (schedule.circuit, schedule.opened_at) == ("open", opened_at)
        now += 4
        assert schedule.decide(now) == Attempt(0, 1, probe=True)
        assert schedule.succeeded(now) == [Settled(0, 1, True)]
        assert (schedule.circuit, schedule.opened_at) == ("closed", None)
        assert schedule.decide(now) == Attempt(1, 100)

    def test_it_outlives_the_window(self) -> None:
        """The next batch does not find out all anew that the destination is down."""
        schedule = make(10, circuit_threshold=2)
        now = fail_for(schedule, 2)
        schedule.decide(now)
        schedule.abandon()
        assert schedule.circuit == "open"
        schedule.begin(4)
        assert schedule.decide(now) == Attempt(0, 1, probe=True)

    def test_a_refused_probe(self) -> None:
        """That the encoder refuses an event does not mean that the destination is up, nor that it is down."""
        schedule = make(10, circuit_threshold=2)
        now = fail_for(schedule, 2)
        schedule.decide(now)
        assert schedule.failed(now, REFUSED, error="no JSON") == [Settled(0, 1, False, "refused", "no JSON")]
        assert (schedule.circuit, schedule.failures) == ("open", 2)
        assert schedule.decide(now) == Attempt(1, 2, probe=True)

    def test_it_opens_in_the_middle_of_a_split(self) -> None:
        """Halves that were split on suspicion become one again when the suspicion was wrong."""
        schedule = make(16)
        now = fail_for(schedule, 2, UNKNOWN)
        assert fail(schedule, now, UNKNOWN) == (Attempt(0, 16), Attempt(0, 8))
        schedule.failed(now, UNKNOWN)
        assert fail(schedule, now, UNKNOWN) == (Attempt(0, 4), Wait(now + 8))
        assert schedule.decide(now + 8) == Attempt(0, 1, probe=True)
        schedule.succeeded(now + 8)
        assert schedule.decide(now + 8) == Attempt(1, 16)
        assert schedule.succeeded(now + 8) == [Settled(1, 16, True)]

    def test_a_true_suspicion_is_not_forgotten_twice(self) -> None:
        """When the whole fails although the destination has just taken an event, its halves stay apart from then on."""
        schedule = make(16, circuit_threshold=3)
        now = fail_for(schedule, 3, UNKNOWN)
        schedule.decide(now)
        schedule.succeeded(now)
        assert fail(schedule, now, UNKNOWN) == (Attempt(1, 16), Attempt(1, 8))
        schedule.failed(now, UNKNOWN)
        assert fail(schedule, now, UNKNOWN) == (Attempt(1, 4), Wait(now + 2))
        assert schedule.decide(now + 2) == Attempt(1, 2, probe=True)
        schedule.succeeded(now + 2)
        assert schedule.decide(now + 2) == Attempt(2, 4)

    def test_halves_of_a_refused_piece_stay_apart(self) -> None:
        """What was split because it was refused is not put together again by a probe."""
        schedule = make(8, circuit_threshold=1)
        assert fail(schedule, 0.0, REFUSED) == (Attempt(0, 8), Attempt(0, 4))
        schedule.failed(0.0, TRANSIENT)
        assert schedule.decide(0.5) == Attempt(0, 1, probe=True)
        schedule.succeeded(0.5)
        assert schedule.decide(0.5) == Attempt(1, 4)


class TestRefused:
    def test_split_until_it_is_alone(self) -> None:
        """One bad event among many is found without a wait, and all others arrive, in order."""
        simulation = Simulation(Destination(poison={5}))
        simulation.deliver(8)
        assert simulation.named("refused") == {5}
        assert simulation.delivered == [0, 1, 2, 3, 4, 6, 7]
        assert [(events.start, events.stop) for _, events, _, _ in simulation.log] == [
            (0, 8), (0, 4), (4, 8), (4, 6), (4, 5), (5, 6), (6, 8)
        ]  # fmt: skip
        assert simulation.now == pytest.approx(100 + 7 * LATENCY)

    def test_it_counts_neither_way(self) -> None:
        """Bad events do not open the circuit: the destination is up. Nor do they close it."""
        schedule = make(64)
        for _ in range(6):
            assert isinstance(schedule.decide(0.0), Attempt)
            assert schedule.failed(0.0, REFUSED) == []
        assert schedule.decide(0.0) == Attempt(0, 1)
        assert schedule.failures == 0
        assert schedule.failed(0.0, REFUSED, error="too long") == [Settled(0, 1, False, "refused", "too long")]
        assert schedule.circuit == "closed"

    def test_it_is_never_a_matter_of_time(self) -> None:
        """A timeout of 0 means no retries; the good events of a batch with a bad one still arrive."""
        simulation = Simulation(Destination(poison={3}), RetryPolicy(timeout=0.0))
        simulation.deliver(10)
        assert simulation.named("refused") == {3}
        assert len(simulation.delivered) == 9


class TestUnknown:
    def test_retried_intact_then_split(self) -> None:
        """A short hiccup does not tear a batch apart; the third failure does."""
        schedule = make(8)
        now = fail_for(schedule, 2, UNKNOWN)
        assert fail(schedule, now, UNKNOWN) == (Attempt(0, 8), Attempt(0, 4))
        schedule.succeeded(now)
        assert fail(schedule, now, UNKNOWN) == (Attempt(4, 8), Attempt(4, 6))

    def test_a_transient_error_says_nothing_of_the_content(self) -> None:
        """Errors that are known to be the destination's are no reason to suspect the batch."""
        schedule = make(8)
        now = fail_for(schedule, 2, UNKNOWN)
        now = fail_for(schedule, 2, TRANSIENT, now)
        assert fail(schedule, now, UNKNOWN) == (Attempt(0, 8), Wait(now + 8))
        assert schedule.decide(now + 8) == Attempt(0, 1, probe=True)

    def test_a_suspect_is_convicted_by_its_neighbour(self) -> None:
        """The poisonous event is given up when the next one passes and it fails once more; the rest arrives."""
        simulation = Simulation(Destination(poison={0}, says="unknown"))
        simulation.deliver(4)
        tail = [(events.start, events.stop, answer) for _, events, _, answer in simulation.log[-4:]]
        assert tail == [(0, 1, "failed"), (1, 2, "passed"), (0, 1, "failed"), (2, 4, "passed")]
        assert simulation.named("refused") == {0}

    def test_a_suspect_is_cleared(self) -> None:
        """An event that failed during an outage has its last attempt after a neighbour passed, and passes too."""
        simulation = Simulation(Destination(outages=[(100, 103.545)], down=UNKNOWN))
        simulation.deliver(1)
        assert [(events.start, answer) for _, events, _, answer in simulation.log] == [
            (0, "failed"), (0, "failed"), (0, "failed"), (0, "failed"), (1, "passed"), (0, "passed")
        ]  # fmt: skip

    def test_company_is_asked_for(self) -> None:
        """A bad event at the very end waits for the next one that is logged, for as long as the backoff at most."""
        schedule = make()
        now = fail_for(schedule, 3, UNKNOWN)
        assert fail(schedule, now, UNKNOWN)[1] == Wait(now + 4, wants_more=True)
        schedule.extend(3)
        assert schedule.decide(now + 1) == Attempt(1, 2)
        schedule.succeeded(now + 1)
        assert schedule.decide(now + 1) == Attempt(0, 1)
        assert schedule.failed(now + 1, UNKNOWN, error="no") == [Settled(0, 1, False, "refused", "no")]
        assert schedule.decide(now + 1) == Attempt(2, 4)

    def test_no_company_comes(self) -> None:
        """Without any other event it is tried again, and asks again."""
        schedule = make()
        now = fail_for(schedule, 3, UNKNOWN)
        for _ in range(20):
            attempt, then = fail(schedule, now, UNKNOWN)
            assert attempt.stop == 1
            assert isinstance(then, Wait)
            assert then.wants_more
            now = then.until

    def test_the_neighbour_fails_too(self) -> None:
        """Then the destination is taken to be down: wait, the suspect, another neighbour, farther and farther away; at
        the end of the window more events are asked for, then the search begins again elsewhere."""
        schedule = make(8, one_by_one=True)
        now = fail_for(schedule, 3, UNKNOWN)
        tried: list[object] = []
        for _ in range(10):
            suspect, then = fail(schedule, now, UNKNOWN)
            assert span(suspect) == (0, 1)
            if isinstance(then, Attempt):
                tried.append(then.start)
                schedule.failed(now, UNKNOWN)
                then = schedule.decide(now)
                assert isinstance(then, Wait)
                assert not then.wants_more
            else:
                assert isinstance(then, Wait)
                tried.append("more" if then.wants_more else "nothing")
            now = then.until
        assert tried == [1, 2, 4, "more", 2, 3, 5, "more", 3, 4]

    def test_the_neighbour_fails_for_a_known_reason(self) -> None:
        """The destination is down, says the neighbour: wait, and begin with the suspect again."""
        schedule = make()
        schedule.extend(7)
        now = fail_for(schedule, 3, UNKNOWN)
        assert fail(schedule, now, UNKNOWN) == (Attempt(0, 1), Attempt(1, 2))
        schedule.failed(now, TRANSIENT)
        assert schedule.decide(now) == Wait(now + 8)
        assert fail(schedule, now + 8, UNKNOWN) == (Attempt(0, 1, True), Attempt(1, 2, True))

    def test_the_last_attempt_meets_an_outage(self) -> None:
        """A known outage convicts nobody: the experiment is made again."""
        schedule = make()
        schedule.extend(2)
        now = fail_for(schedule, 3, UNKNOWN)
        assert fail(schedule, now, UNKNOWN)[1] == Attempt(1, 2)
        schedule.succeeded(now)
        assert fail(schedule, now, TRANSIENT) == (Attempt(0, 1), Wait(now + 0.5))
        assert fail(schedule, now + 0.5, UNKNOWN) == (Attempt(0, 1), Attempt(2, 3))

    def test_the_neighbour_is_refused(self) -> None:
        """That says nothing of the destination, so the next one is asked, at once."""
        schedule = make()
        schedule.extend(1)
        now = fail_for(schedule, 3, UNKNOWN)
        assert fail(schedule, now, UNKNOWN)[1] == Attempt(1, 2)
        assert schedule.failed(now, REFUSED) == [Settled(1, 2, False, "refused")]
        assert schedule.decide(now) == Wait(now + 4, wants_more=True)
        schedule.extend(1)
        assert schedule.decide(now) == Attempt(2, 3)

    def test_the_suspect_is_refused(self) -> None:
        """When the destination finds the words at last, the event is given up at once."""
        schedule = make()
        now = fail_for(schedule, 3, UNKNOWN)
        schedule.decide(now)
        assert schedule.failed(now, REFUSED) == [Settled(0, 1, False, "refused")]
        assert schedule.decide(now) is None

    @pytest.mark.parametrize("one_by_one", [False, True])
    @pytest.mark.parametrize("poisonous", [2, 3, 10, 100])
    def test_many_side_by_side(self, poisonous: int, one_by_one: bool) -> None:
        """However many bad events stand in a row, each is given up once a good one comes behind them."""
        simulation = Simulation(Destination(poison=range(poisonous), says="unknown"), one_by_one=one_by_one)
        simulation.deliver(1, limit=100 * poisonous)
        simulation.deliver(poisonous * 2, limit=100 * poisonous)
        assert simulation.named("refused") == set(range(poisonous))

    def test_a_row_of_them_is_searched_once(self) -> None:
        """What was found behind a row of bad events serves for all of them: a few attempts each, however long the row."""
        simulation = Simulation(Destination(poison=range(200), says="unknown"))
        simulation.deliver(1000)
        assert simulation.named("refused") == set(range(200))
        assert len(simulation.log) < 8 * 200

    def test_the_search_never_ends(self) -> None:
        """After any number of rounds, the neighbours that are there still have their turn when no others come."""
        simulation = Simulation(
            Destination(poison={0}, says="unknown", outages=[(0, 86400)], down=UNKNOWN), extend_by=0
        )
        simulation.deliver(5)
        assert simulation.named("refused") == {0}
        assert simulation.now < 86400 + 5 * 60

    def test_after_a_search_in_vain(self) -> None:
        """When the suspect passes at last, the next one's neighbour is the next event again, not one far away."""
        schedule = make(20, one_by_one=True)
        now = fail_for(schedule, 3, UNKNOWN)
        for _ in range(3):
            fail(schedule, now, UNKNOWN)
            _, then = fail_under_way(schedule, now, UNKNOWN)
            assert isinstance(then, Wait)
            now = then.until
        schedule.decide(now)
        schedule.succeeded(now)
        now = fail_for(schedule, 2, UNKNOWN, now)
        assert fail(schedule, now, UNKNOWN) == (Attempt(1, 2), Attempt(2, 3))

    def test_a_suspect_stays_alone(self) -> None:
        """Once under suspicion, an event is not sent among others again before it is cleared."""
        schedule = make(4, circuit_threshold=2)
        now = fail_for(schedule, 5, UNKNOWN)
        assert fail(schedule, now, UNKNOWN) == (Attempt(0, 1, True), Attempt(1, 2, True))
        _, then = fail_under_way(schedule, now, UNKNOWN)
        assert isinstance(then, Wait)
        now = then.until
        assert fail(schedule, now, UNKNOWN) == (Attempt(0, 1, True), Attempt(2, 3, True))
        schedule.succeeded(now)
        assert fail(schedule, now, TRANSIENT) == (Attempt(0, 1), Wait(now + 0.5))
        assert schedule.decide(now + 0.5) == Attempt(0, 1)

    def test_abandoned_while_it_asks_for_company(self) -> None:
        """The next window knows nothing of the suspect, and waits as long as it would have."""
        schedule = make(circuit_threshold=9)
        now = fail_for(schedule, 3, UNKNOWN)
        assert fail(schedule, now, UNKNOWN)[1] == Wait(now + 4, wants_more=True)
        schedule.abandon()
        assert schedule.decide(now) is None
        schedule.begin(3)
        assert schedule.decide(now) == Wait(now + 4)
        assert schedule.decide(now + 4) == Attempt(0, 3)

    def test_one_good_event_in_the_midst_of_bad_ones(self) -> None:
        """The strides of the search do not pass over it for ever."""
        for good in range(1, 40):
            schedule = make(40, one_by_one=True)
            for _ in range(1000):
                decision = schedule.decide(math.inf)
                assert isinstance(decision, Attempt)
                if decision.start == good:
                    break
                schedule.failed(0.0, UNKNOWN)
            else:
                raise AssertionError(f"event {good} had no turn")

    def test_after_an_outage_of_a_day(self) -> None:
        """A sink that cannot tell its errors apart loses nothing, and the rest of the batch follows in one piece."""
        simulation = Simulation(Destination(outages=[(0, 86400)], down=UNKNOWN), extend_by=0)
        simulation.deliver(1000)
        assert len(simulation.delivered) == 1000
        after = [events for now, events, _, _ in simulation.log if now >= 86400]
        assert len(after) <= 5
        assert len(simulation.log) < 2 * 86400 / 60 + 50

    @pytest.mark.parametrize("poison", [0, 1, 7, 249, 250, 500, 501, 750, 999])
    def test_two_minutes_are_enough(self, poison: int) -> None:
        """With the default delays a timeout of two minutes is never up before the bad event is found."""
        simulation = Simulation(
            Destination(poison={poison}, says="unknown"), RetryPolicy(timeout=120.0), draws=[0.99999]
        )
        simulation.deliver(1000)
        assert simulation.named("refused") == {poison}
        assert not simulation.named("retry_timeout")


class TestPartial:
    def test_each_has_its_fate(self) -> None:
        """Taken, refused by name, to come again: one answer settles all but the last, which come again in order."""
        schedule = make(8, draw=0.5)
        now = fail_for(schedule, 2)
        schedule.decide(now)
        assert schedule.partially(now, refused={1: "bad", 2: "worse"}, retry=[4, 5, 7]) == [
            Settled(0, 1, True),
            Settled(1, 2, False, "refused", "bad"),
            Settled(2, 3, False, "refused", "worse"),
            Settled(3, 4, True),
            Settled(6, 7, True),
        ]
        assert (schedule.failures, schedule.circuit) == (0, "closed")
        assert schedule.decide(now) == Wait(now + 0.25)
        assert schedule.decide(now + 0.25) == Attempt(4, 6)
        schedule.succeeded(now + 0.25)
        assert schedule.decide(now + 0.25) == Attempt(7, 8)
        schedule.succeeded(now + 0.25)
        assert schedule.decide(now + 0.25) is None

    def test_all_taken(self) -> None:
        """An answer that names nobody is a success, and nothing waits."""
        schedule = make(3)
        schedule.decide(0.0)
        assert schedule.partially(0.0, refused={}, retry=(), retry_after=5.0) == [Settled(0, 3, True)]
        schedule.begin(1)
        assert schedule.decide(0.0) == Attempt(0, 1)

    def test_none_taken(self) -> None:
        """An answer that wants everything again is a failure like any other: the batch stays intact."""
        schedule = make(3)
        for failures in (1, 2, 3):
            now = failures * 100.0
            assert schedule.decide(now) == Attempt(0, 3)
            assert schedule.partially(now, refused={}, retry={0, 1, 2}, retry_after=10.0) == []
            assert schedule.failures == failures
            assert schedule.decide(now) == Wait(now + 10)

    def test_a_refusal_by_name_closes_the_circuit(self) -> None:
        """The destination has answered: it is up."""
        schedule = make(3, circuit_threshold=1)
        now = fail_for(schedule, 1)
        schedule.decide(now)
        schedule.partially(now, refused={0: "bad"}, retry=())
        assert schedule.circuit == "closed"
        assert schedule.decide(now) == Attempt(1, 3)

    @pytest.mark.parametrize(
        ("refused", "retry"), [({3: ""}, ()), ({-1: ""}, ()), ({}, [3]), ({}, [0, -1]), ({1: ""}, [1])]
    )
    def test_nonsense(self, refused: dict[int, str], retry: list[int]) -> None:
        """An answer about events that were not sent, or that says two things of one, is refused whole."""
        schedule = make(3)
        schedule.decide(0.0)
        with pytest.raises(ValueError, match="event"):
            schedule.partially(0.0, refused=refused, retry=retry)
        assert schedule.partially(0.0, refused={}, retry=[]) == [Settled(0, 3, True)]


class TestOneByOne:
    def test_each_attempt_is_one_event(self) -> None:
        """A destination that takes single events gets single events, and each that passed stays passed."""
        simulation = Simulation(Destination(poison={1}, outages=[(100.02, 110)]), one_by_one=True)
        simulation.deliver(3)
        assert simulation.delivered == [0, 2]
        assert simulation.named("refused") == {1}

    def test_unknown_errors(self) -> None:
        """The same experiments, without splitting."""
        simulation = Simulation(Destination(poison={1}, says="unknown"), one_by_one=True)
        simulation.deliver(4)
        assert [events.start for _, events, _, _ in simulation.log] == [0, 1, 1, 1, 1, 2, 1, 3]
        assert simulation.named("refused") == {1}


class TestStatistics:
    def test_retries(self) -> None:
        """An attempt counts as a retry when it holds an event that was attempted before, and only then."""
        schedule = make(4)
        now = fail_for(schedule, 2)
        schedule.decide(now)
        assert schedule.retries == 2
        schedule.succeeded(now)
        schedule.extend(1)
        schedule.decide(now)
        schedule.succeeded(now)
        assert schedule.retries == 2
        schedule.begin(2)
        schedule.decide(now)
        assert schedule.retries == 2


class TestOwner:
    def test_out_of_turn(self) -> None:
        """Who does not tell an outcome, or tells one of nothing, has a bug, and is told."""
        schedule = DeliverySchedule(RetryPolicy())
        assert schedule.decide(0.0) is None
        outcomes: list[Callable[[], object]] = [
            lambda: schedule.succeeded(0.0),
            lambda: schedule.failed(0.0, TRANSIENT),
            lambda: schedule.partially(0.0, refused={}, retry=()),
        ]
        for tell in outcomes:
            with pytest.raises(RuntimeError, match="no attempt"):
                tell()
        for wrong in (schedule.begin, schedule.extend):
            with pytest.raises(ValueError, match="1 event or more"):
                wrong(0)
        schedule.begin(2)
        schedule.decide(0.0)
        with pytest.raises(RuntimeError, match="not told"):
            schedule.decide(0.0)
        with pytest.raises(RuntimeError, match="not settled"):
            schedule.begin(1)

    def test_a_window_that_is_settled_goes_on(self) -> None:
        """Events that come just after the end are counted on from there."""
        schedule = make(2)
        schedule.decide(0.0)
        schedule.succeeded(0.0)
        schedule.extend(2)
        assert schedule.decide(0.0) == Attempt(2, 4)

    @pytest.mark.parametrize("name", ["base_delay", "max_delay", "timeout", "circuit_threshold"])
    @pytest.mark.parametrize("value", [-1, math.nan, math.inf, "1", True])
    def test_a_wrong_policy(self, name: str, value: object) -> None:
        """A policy that makes no sense is refused with the name of what is wrong."""
        with pytest.raises((TypeError, ValueError), match=f"^{name}: expected"):
            RetryPolicy(**{name: value})  # type: ignore[arg-type]

    def test_a_wrong_policy_in_a_file(self) -> None:
        """The same for a policy that comes as plain data."""
        assert msgspec.convert({"timeout": 3}, RetryPolicy) == RetryPolicy(timeout=3.0)
        for data in ({"circuit_threshold": 0}, {"base_delay": -1.0}):
            with pytest.raises(msgspec.ValidationError, match=next(iter(data))):
                msgspec.convert(data, RetryPolicy)


# ---------------------------------------------------------------------- laws


policies = st.builds(
    RetryPolicy,
    base_delay=st.floats(0.1, 2),
    max_delay=st.floats(0.5, 30),
    circuit_threshold=st.integers(1, 8),
)
draws = st.lists(st.floats(0.1, 1, exclude_max=True), min_size=1, max_size=5)
sizes = st.lists(st.integers(1, 40), min_size=1, max_size=4)
poisons = st.frozensets(st.integers(0, 60), max_size=8) | st.integers(0, 8).map(range)
answers = st.sampled_from(["refused", "unknown", "named"])


def outages(shortest_up: float) -> st.SearchStrategy[list[tuple[float, float]]]:
    """Times when the destination is down, with times when it is up between them."""

    def place(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
        now, placed = 100.0, []
        for up, down in spans:
            placed.append((now + up, now + up + down))
            now += up + down
        return placed

    return st.lists(st.tuples(st.floats(shortest_up, 20), st.floats(0.001, 60)), max_size=6).map(place)


class TestLaws:
    """Every simulation checks, at each step: each event is settled exactly once; what is attempted is the first that is
    not settled, or a neighbour according to the rules; nothing is attempted before the end of a wait, and waits keep their
    bounds; while the circuit is open, two failures a wait at most; failures, retries and circuit are what they should be."""

    @given(
        policy=policies,
        draws=draws,
        sizes=sizes,
        poison=poisons,
        says=answers,
        outages=outages(0.0),
        retry_after=st.none() | st.floats(0, 100),
        busy=st.dictionaries(st.integers(0, 60), st.integers(1, 3), max_size=20),
        one_by_one=st.booleans(),
        extend_by=st.integers(1, 3),
    )
    def test_who_says_that_it_is_down_loses_nothing(
        self,
        policy: RetryPolicy,
        draws: list[float],
        sizes: list[int],
        poison: Iterable[int],
        says: str,
        outages: list[tuple[float, float]],
        retry_after: float | None,
        busy: dict[int, int],
        one_by_one: bool,
        extend_by: int,
    ) -> None:
        """Whatever happens, in the end all good events are delivered, and the bad ones are refused."""
        destination = Destination(poison=poison, says=says, outages=outages, retry_after=retry_after, busy=busy)
        simulation = Simulation(destination, policy, draws=draws, one_by_one=one_by_one, extend_by=extend_by)
        for size in sizes:
            simulation.deliver(size)
        assert simulation.named("refused") == destination.poison & simulation.fates.keys()
        assert not simulation.named("retry_timeout")

    @given(
        policy=policies,
        draws=draws,
        sizes=sizes,
        poison=poisons,
        says=answers,
        outages=outages(0.5),
        one_by_one=st.booleans(),
        extend_by=st.integers(1, 3),
    )
    def test_who_cannot_tell_loses_nothing_to_outages(
        self,
        policy: RetryPolicy,
        draws: list[float],
        sizes: list[int],
        poison: Iterable[int],
        says: str,
        outages: list[tuple[float, float]],
        one_by_one: bool,
        extend_by: int,
    ) -> None:
        """No good event is given up during any outage, as long as the destination, once it is up, stays up for a few
        attempts. Shorter times are beyond what experiments can tell: the next test says what is left of the promise."""
        destination = Destination(poison=poison, says=says, outages=outages, down=UNKNOWN)
        simulation = Simulation(destination, policy, draws=draws, one_by_one=one_by_one, extend_by=extend_by)
        for size in sizes:
            simulation.deliver(size)
        assert simulation.named("refused") == destination.poison & simulation.fates.keys()
        assert not simulation.named("retry_timeout")

    @given(
        policy=policies,
        draws=draws,
        sizes=sizes,
        outages=outages(0.0),
        retry_after=st.none() | st.floats(0, 100),
        one_by_one=st.booleans(),
    )
    def test_a_destination_that_flickers(
        self,
        policy: RetryPolicy,
        draws: list[float],
        sizes: list[int],
        outages: list[tuple[float, float]],
        retry_after: float | None,
        one_by_one: bool,
    ) -> None:
        """A good event can be given up for one reason only: it had failed alone four times, its neighbour was taken, and
        in the very next attempt the destination was down again. So an outage costs one event at most, at its beginning."""
        destination = Destination(outages=outages, down=UNKNOWN, retry_after=retry_after)
        simulation = Simulation(destination, policy, draws=draws, one_by_one=one_by_one)
        for size in sizes:
            simulation.deliver(size)  # checks it at each attempt
        assert len(simulation.named("refused")) <= len(outages)

    @given(
        policy=policies,
        timeout=st.floats(0, 100),
        draws=draws,
        sizes=sizes,
        poison=poisons,
        says=answers,
        outages=outages(0.0),
        for_ever=st.booleans(),
        down=st.sampled_from([TRANSIENT, UNKNOWN]),
        retry_after=st.none() | st.floats(0, 100),
        one_by_one=st.booleans(),
        extend_by=st.integers(0, 3),
    )
    def test_with_a_timeout_every_window_ends(
        self,
        policy: RetryPolicy,
        timeout: float,
        draws: list[float],
        sizes: list[int],
        poison: Iterable[int],
        says: str,
        outages: list[tuple[float, float]],
        for_ever: bool,
        down: LogDeliveryErrorKind,
        retry_after: float | None,
        one_by_one: bool,
        extend_by: int,
    ) -> None:
        """Also when the destination never comes back, and when a bad event stays without a neighbour."""
        if for_ever:
            outages = [*outages, (outages[-1][1] if outages else 100.0, math.inf)]
        destination = Destination(poison=poison, says=says, outages=outages, down=down, retry_after=retry_after)
        simulation = Simulation(
            destination,
            msgspec.structs.replace(policy, timeout=timeout),
            draws=draws,
            one_by_one=one_by_one,
            extend_by=extend_by,
        )
        for size in sizes:
            simulation.deliver(size)

    @given(
        size=st.integers(1, 2000),
        poison=st.frozensets(st.integers(0, 1999), max_size=10) | st.integers(0, 1990).map(lambda n: range(n, n + 10)),
        says=answers,
        threshold=st.integers(1, 30),
    )
    def test_how_many_attempts_it_takes(self, size: int, poison: Iterable[int], says: str, threshold: int) -> None:
        """A bad event in a batch of a thousand costs some tens of attempts, not hundreds."""
        destination = Destination(poison=poison, says=says)
        simulation = Simulation(destination, RetryPolicy(circuit_threshold=threshold))
        simulation.deliver(size)
        depth = math.ceil(math.log2(size)) if size > 1 else 1
        found = len(destination.poison & simulation.fates.keys())
        each = {"refused": 2 * depth, "named": 0, "unknown": 4 * depth + 10}[says]
        assert len(simulation.log) <= 1 + len(simulation.fates) - size + found * each

    @pytest.mark.parametrize("case", ["bad events", "gaps", "one by one"])
    def test_the_work_grows_with_the_window(self, case: str) -> None:
        """Four times the events: about four times the lines of Python that run, not sixteen times."""

        def count(size: int) -> int:
            schedule = make(size, draw=0.0, one_by_one=case == "one by one")
            lines = 0

            def trace(frame: Any, event: str, _: object) -> Any:
                nonlocal lines
                lines += event == "line"
                return trace

            tracer = sys.gettrace()
            sys.settrace(trace)
            try:
                while isinstance(attempt := schedule.decide(0.0), Attempt):
                    if case == "gaps" and attempt.stop - attempt.start == size:
                        schedule.partially(0.0, refused={}, retry=range(0, size, 2))
                    elif case == "bad events" and any(event % 50 == 7 for event in range(attempt.start, attempt.stop)):
                        schedule.failed(0.0, REFUSED)
                    else:
                        schedule.succeeded(0.0)
            finally:
                sys.settrace(tracer)
            return lines

        assert count(4000) < 6 * count(1000)
