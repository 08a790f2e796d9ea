"""What is attempted next, how long to wait, when to give up: the decisions of delivery, without delivery.

`DeliverySchedule` looks after one batch at a time, the *window*. It knows events by their indices only, reads no clock and
waits for nothing: the time (seconds of a monotonic clock) and randomness are handed in. Given the same, it decides
the same.

The window is a row of *pieces*, each attempt covers the first one: events are delivered in the order of their indices. There
are two exceptions: a neighbour of a suspect (below) is delivered before the suspect, and events that the destination
wants to see again in a partial answer come after those that it took.

**Waits** are exponential backoff with full jitter, after Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture
Blog, 2015. A wait outlives the window that it began in: the next one waits too.

**The circuit** opens after a number of failed attempts in a row. While it is open, each attempt is a probe of one event. A
success closes it; then pieces that had been split on suspicion become one again, but only once: when that one fails
too, its halves stay apart. So a false suspicion costs little after an outage, and a true one is not forgotten at each probe.

**A refusal** concerns the content. It splits a piece in halves, until the refused event is alone. It may be the word of an
encoder and says nothing of the destination: it is neither a failure nor a success, and nothing waits for it. Where an
event is refused by name in a partial answer, the destination has spoken: that is a success.

**An unknown error** may be either; experiments tell. A piece is retried intact, then halved on suspicion; a half that
fails is halved at once, because the whole has had its retries. An event that has failed alone three times is a suspect:
after each further failure, one event behind it is attempted, a neighbour. When it passes, the destination is up, and
the suspect gets one last attempt. When it fails, the destination is taken to be down: wait, then the suspect again, then
another neighbour. The search for one that passes goes in doubling strides, to get past many poisonous events in a row. At
the end of the window it asks for more events; then it begins anew, one event further on than the last time, so that each
event has its turn. With the circuit open, that makes two failed attempts a wait at most.

What holds for unknown errors, and what cannot:

* An event is given up as refused only when it had failed alone at least four times, then another event passed, and the very
  next attempt was its own and failed. While the destination is down nothing passes, so nothing is given up.
* When the destination goes down exactly between those two attempts, and an earlier outage had made the event a suspect, a
  good event is given up. No experiment can tell; a sink that says which of its errors are transient is safe from this.
* A poisonous event is found out only where another one passes. While nothing else is logged, or when all is refused, it is
  tried until the timeout, or without end.
* A timeout that is shorter than the experiments (with the defaults, two minutes at most where the next event passes)
  lets a poisonous event take its whole window with it.

A window of n events, p of them poisonous, takes O(p log n) attempts, and one for each piece that a partial answer or a
false suspicion leaves. The work for each is O(1), or O(pieces) around a neighbour.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Collection, Mapping
from enum import Enum
from itertools import groupby
from math import inf

from msgspec import Struct, structs

__all__ = ["Attempt", "DeliverySchedule", "LogDeliveryErrorKind", "RetryPolicy", "Settled", "Wait"]

_TRIES = 3
"""Failures of unknown kind in a row that bring a piece, or an event, under suspicion."""


class LogDeliveryErrorKind(Enum):
    """What a failed delivery says about the next one."""

    TRANSIENT = "transient"
    """The destination is down, busy or slow: the same batch may pass later."""
    REFUSED = "refused"
    """The destination, or the encoder, refuses the content: trying again is no use."""
    UNKNOWN = "unknown"
    """Either; to be found out by experiment."""


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """How patient a sink is with its destination.

    Attributes:
        base_delay: The longest wait after the first failure, in seconds; it doubles with each further failure in a row.
            The actual wait is drawn between 0 and that.
        max_delay: The longest wait ever, in seconds, unless the destination asks for more.
        timeout: A batch that has been failing for so long, in seconds, is given up; 0 gives up at the first failure,
            None never. Any success within the batch starts it anew. Refusals do not count.
        circuit_threshold: Failed attempts in a row after which single events probe the destination, 1 or more.

    Raises:
        TypeError: A value is not a number.
        ValueError: A number is out of range.
    """

    base_delay: float = 0.5
    max_delay: float = 60.0
    timeout: float | None = None
    circuit_threshold: int = 5

    def __post_init__(self) -> None:
        for name in ("base_delay", "max_delay", "timeout", "circuit_threshold"):
            value: object = getattr(self, name)
            if name == "timeout" and value is None:
                continue
            whole = name == "circuit_threshold"
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                raise TypeError(f"{name}: expected {'an int' if whole else 'a number'}, got {type(value).__name__}")
            minimum = 1 if whole else 0
            if not minimum <= value < inf:
                raise ValueError(f"{name}: expected a finite number of {minimum} or more, got {value}")


class Attempt(Struct, frozen=True):
    """Attempt the events from ``start`` up to, not including, ``stop`` now; ``probe``: to see if the destination is up."""

    start: int
    stop: int
    probe: bool = False


class Wait(Struct, frozen=True):
    """Do nothing until ``until``; ``wants_more``: an event that is appended to the window would be attempted before that."""

    until: float
    wants_more: bool = False


class Settled(Struct, frozen=True):
    """The fate of the events from ``start`` up to, not including, ``stop``.

    Attributes:
        start: The first of them.
        stop: The first one behind them.
        delivered: True when the destination has them; False when they are given up.
        reason: Why they are given up: ``refused`` or ``retry_timeout``; empty for delivered ones.
        error: What the failed attempt said.
    """

    start: int
    stop: int
    delivered: bool
    reason: str = ""
    error: str | None = None


class _Piece(Struct):
    start: int
    stop: int
    tries: int = _TRIES  # failures of unknown kind until it is split
    soft: bool = False  # cut from the piece behind it on suspicion, and may be merged with it
    merged: bool = False  # it, or what it was cut from, was merged: not again


class _Turn(Enum):
    FRONT = "the first events that are not settled"
    NEIGHBOUR = "an event behind the suspect"
    VERDICT = "the suspect, after a neighbour has passed"


class DeliverySchedule:
    """Decides about one window at a time. Not for several threads at once.

    The owner calls `begin`, then `decide` again and again until it returns None, and tells the outcome of each
    attempt by one of `succeeded`, `failed` and `partially`, which return the events that it settles. In the end, every event
    of the window was in exactly one `Settled`.

    A wait is as long as the backoff says, or longer where the destination asks for it, but no longer than `hurry`
    allows, and it ends with the timeout of the window at the latest: then the last attempt is made.

    Args:
        policy: How patient to be.
        one_by_one: The destination takes single events: each attempt covers one.
        random: Draws from 0 up to, not including, 1.

    Attributes:
        failures: Failed attempts since the last success, over all windows.
        retries: Attempts that held events of an earlier attempt, ever.
        opened_at: When the circuit opened; None while it is closed.
    """

    def __init__(
        self, policy: RetryPolicy, *, one_by_one: bool = False, random: Callable[[], float] = random.random
    ) -> None:
        self._policy = policy
        self._one_by_one = one_by_one
        self._random = random
        self.failures = 0
        self.retries = 0
        self.opened_at: float | None = None
        self._not_before = -inf
        self._longest = inf
        self._forget()

    def _forget(self) -> None:
        self._pieces: deque[_Piece] = deque()
        self._size = 0
        self._attempt: Attempt | None = None
        self._first_failed_at: float | None = None
        self._reached = 0  # all events below were part of an attempt
        self._alone: dict[int, int] = {}  # events that failed alone: how often for unknown reasons
        self._turn = _Turn.FRONT
        self._fallback = -inf  # when the suspect is tried again if there is no neighbour
        self._seek()

    def _seek(self, start: int = 0, laps: int = 0) -> None:
        self._scout = start  # the next neighbour is not before this one
        self._stride = 1
        self._laps = laps  # how often the search came to the end of the window

    @property
    def circuit(self) -> str:
        """``closed``; ``open`` when the destination is taken to be down; ``half_open`` while it is probed."""
        if self.opened_at is None:
            return "closed"
        return "open" if self._attempt is None else "half_open"

    # ------------------------------------------------------------------ the window

    def begin(self, size: int) -> None:
        """Take on a new window.

        Args:
            size: How many events it has, 1 or more.

        Raises:
            RuntimeError: The former window is not settled.
            ValueError: The window would be empty.
        """
        if self._pieces:
            raise RuntimeError("the window is not settled")
        self._forget()
        self.extend(size)

    def extend(self, count: int) -> None:
        """Append events to the window. They are a batch of their own: no attempt joins them with those before them.

        Where `Wait.wants_more` asks for it, one is enough, and none is fine: it may ask in each wait of an outage.

        Args:
            count: How many, 1 or more.

        Raises:
            ValueError: It is less.
        """
        if count < 1:
            raise ValueError(f"expected 1 event or more, got {count}")
        self._pieces.append(_Piece(self._size, self._size + count))
        self._size += count

    def abandon(self) -> None:
        """Forget the window and the attempt that is under way: its owner has accounted for it. Circuit and wait stay."""
        if self._turn is _Turn.NEIGHBOUR and self._attempt is None:
            self._not_before = self._fallback
        self._forget()

    def hurry(self, now: float, *, max_delay: float | None = None) -> None:
        """End the present wait.

        Args:
            now: The time.
            max_delay: The longest wait from now on, in seconds, until `relax`; None leaves that as it is.
        """
        if max_delay is not None:
            self._longest = max_delay
        self._not_before = min(self._not_before, now)
        self._fallback = min(self._fallback, now)

    def is_waiting(self, now: float) -> bool:
        """True when nothing is to be attempted yet, whatever the window."""
        return now < self._not_before

    def relax(self) -> None:
        """Waits may be as long as ever again."""
        self._longest = inf

    # ------------------------------------------------------------------ deciding

    def decide(self, now: float) -> Attempt | Wait | None:
        """What to do now: attempt something, wait, or nothing, because every event of the window is settled.

        Raises:
            RuntimeError: The outcome of the last attempt was not told.
        """
        if self._attempt is not None:
            raise RuntimeError("the outcome of the last attempt was not told")
        if not self._pieces:
            return None
        piece = self._pieces[0]
        start = piece.start
        if self._turn is _Turn.NEIGHBOUR:
            neighbour = self._find_neighbour()
            if neighbour is not None:
                start = neighbour
            elif now < self._fallback:
                return Wait(self._fallback, wants_more=True)
            else:
                self._turn = _Turn.FRONT
                laps = self._laps + 1 if start + self._laps + 2 < self._size else 0
                self._seek(start + 1 + laps, laps)
        if now < self._not_before:
            return Wait(self._not_before)
        probe = self.opened_at is not None
        is_suspect = self._turn is not _Turn.FRONT or self._alone.get(start, 0) >= _TRIES
        stop = start + 1 if probe or is_suspect or self._one_by_one else piece.stop
        if start < self._reached or (self._alone and not self._alone.keys().isdisjoint(range(start, stop))):
            self.retries += 1
        if self._turn is not _Turn.NEIGHBOUR:
            self._reached = max(self._reached, stop)
        self._attempt = Attempt(start, stop, probe)
        return self._attempt

    def _find_neighbour(self) -> int | None:
        wanted = max(self._scout, self._pieces[0].start + 1)
        for piece in self._pieces:
            if piece.stop > wanted:
                return max(piece.start, wanted)
        return None

    # ------------------------------------------------------------------ the outcome of an attempt

    def succeeded(self, now: float) -> list[Settled]:
        """The destination has all events of the attempt.

        Raises:
            RuntimeError: No attempt is under way.
        """
        attempt = self._end_attempt()
        self._cut_out(attempt.start, attempt.stop)
        self._note_success(now, attempt)
        return [Settled(attempt.start, attempt.stop, True)]

    def failed(
        self, now: float, kind: LogDeliveryErrorKind, *, retry_after: float | None = None, error: str | None = None
    ) -> list[Settled]:
        """The destination has none of the events of the attempt, or it is not known which.

        Args:
            now: The time.
            kind: What the error says about the next attempt.
            retry_after: How long the destination asks to be left alone, in seconds.
            error: The text for events that are given up now.

        Raises:
            RuntimeError: No attempt is under way.
        """
        attempt = self._end_attempt()
        start, stop, turn = attempt.start, attempt.stop, self._turn
        is_alone = stop - start == 1
        if kind is LogDeliveryErrorKind.REFUSED or (kind is LogDeliveryErrorKind.UNKNOWN and turn is _Turn.VERDICT):
            if turn is _Turn.VERDICT:
                self._turn = _Turn.FRONT
            self._not_before = self._until(now, 0.0, retry_after)
            if is_alone:
                self._cut_out(start, stop)
                return [Settled(start, stop, False, "refused", error)]
            self._split(soft=False)
            return []

        self._turn = _Turn.FRONT
        self.failures += 1
        if self.opened_at is None and self.failures >= self._policy.circuit_threshold:
            self.opened_at = now
        if self._first_failed_at is None:
            self._first_failed_at = now
        if self._policy.timeout is not None and now >= self._first_failed_at + self._policy.timeout:
            given_up = [Settled(piece.start, piece.stop, False, "retry_timeout", error) for piece in self._pieces]
            self._forget()
            self._not_before = self._until(now, self._draw(), retry_after)
            return given_up
        self._not_before = self._until(now, self._draw(), retry_after)
        at_once = self._until(now, 0.0, retry_after)
        if is_alone:
            count = self._alone.setdefault(start, 0)
            if kind is LogDeliveryErrorKind.UNKNOWN:
                self._alone[start] = count + 1
                if turn is _Turn.NEIGHBOUR:
                    self._scout = min(start + self._stride, self._size)
                    self._stride = min(self._stride * 2, self._size)
                elif count >= _TRIES:
                    self._turn = _Turn.NEIGHBOUR
                    self._fallback, self._not_before = self._not_before, at_once
        elif kind is LogDeliveryErrorKind.UNKNOWN:
            piece = self._pieces[0]
            piece.tries -= 1
            if piece.tries <= 0:
                self._split(soft=not piece.merged)
                if self.opened_at is None:
                    self._not_before = at_once
        return []

    def partially(
        self,
        now: float,
        *,
        refused: Mapping[int, str],
        retry: Collection[int],
        retry_after: float | None = None,
    ) -> list[Settled]:
        """The destination has told the fate of each event of the attempt; those that are not named here are delivered.

        It counts as a success, unless all events are to come again: that is a transient failure.

        Args:
            now: The time.
            refused: Events that are refused for good, by their index in the attempt, with the text of the error.
            retry: Events that are to come again, by their index in the attempt.
            retry_after: How long the destination asks to be left alone before that, in seconds.

        Raises:
            RuntimeError: No attempt is under way.
            ValueError: An index is not in the attempt, or is refused and to come again. Nothing was changed.
        """
        if self._attempt is None:
            raise RuntimeError("no attempt is under way")
        start, size = self._attempt.start, self._attempt.stop - self._attempt.start
        again = set(retry)
        for index in (*refused, *again):
            if not 0 <= index < size:
                raise ValueError(f"there is no event {index} in an attempt of {size}")
            if index in refused and index in again:
                raise ValueError(f"event {index} is both refused and to come again")
        if len(again) == size:
            return self.failed(now, LogDeliveryErrorKind.TRANSIENT, retry_after=retry_after)
        attempt = self._end_attempt()
        self._cut_out(attempt.start, attempt.stop)
        settled: list[Settled] = []
        rest: list[_Piece] = []
        # Runs of delivered ones, runs of those that come again, and the refused ones, each alone.
        for fate, run in groupby(
            range(size), lambda index: -1 if index in again else index if index in refused else size
        ):
            indices = list(run)
            first, last = start + indices[0], start + indices[-1] + 1
            if fate == -1:
                rest.append(_Piece(first, last))
            elif fate == size:
                settled.append(Settled(first, last, True))
            else:
                settled.append(Settled(first, last, False, "refused", refused[fate]))
        self._pieces.extendleft(reversed(rest))
        self._note_success(now, attempt)
        if rest:
            self._not_before = self._until(now, self._draw(), retry_after)
        return settled

    def _end_attempt(self) -> Attempt:
        attempt = self._attempt
        if attempt is None:
            raise RuntimeError("no attempt is under way")
        self._attempt = None
        return attempt

    def _note_success(self, now: float, attempt: Attempt) -> None:
        if self._turn is _Turn.NEIGHBOUR:
            self._turn = _Turn.VERDICT
            self._seek(attempt.stop)  # in a row of poisonous events, the next one need not search again
        else:
            self._turn = _Turn.FRONT
            self._seek()
        self.failures = 0
        self._first_failed_at = None
        self._not_before = now
        if self.opened_at is not None:
            self.opened_at = None
            self._merge()

    # ------------------------------------------------------------------ waits and pieces

    def _draw(self) -> float:
        exponent = min(max(self.failures, 1) - 1, 1000)  # floats end soon after
        return self._random() * min(self._policy.max_delay, self._policy.base_delay * 2.0**exponent)

    def _until(self, now: float, delay: float, retry_after: float | None) -> float:
        if retry_after is not None:
            delay = max(delay, retry_after)
        until = now + min(delay, self._longest)
        if self._policy.timeout is not None and self._first_failed_at is not None:
            until = min(until, self._first_failed_at + self._policy.timeout)
        return until

    def _cut_out(self, start: int, stop: int) -> None:
        pieces = self._pieces
        for position, piece in enumerate(pieces):
            if start < piece.stop:
                if start > piece.start:
                    if stop < piece.stop:
                        pieces.insert(position + 1, structs.replace(piece, start=stop))
                    piece.stop = start
                elif stop < piece.stop:
                    piece.start = stop
                else:
                    del pieces[position]
                return

    def _split(self, *, soft: bool) -> None:
        piece = self._pieces[0]
        piece.tries = max(piece.tries, 1)
        middle = (piece.start + piece.stop) // 2
        self._pieces.insert(1, structs.replace(piece, start=middle))
        piece.stop = middle
        piece.soft = soft

    def _merge(self) -> None:
        pieces = self._pieces
        while len(pieces) > 1 and pieces[0].soft and pieces[0].stop == pieces[1].start:
            behind = pieces[1]
            del pieces[1]
            pieces[0] = _Piece(pieces[0].start, behind.stop, 1, behind.soft, True)
