"""The window of events that are under way, and the batches that are made of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from delivery_helpers import make_event
from mvx_logger.delivery.spool import SpoolRun
from mvx_logger.delivery.window import Window

PREFIX = "0198f2aa-7c1e-8a01-9b2c-4d"


def make_window(count: int, first: int, *, spooled: bool = True) -> Window:
    events = [make_event(str(first + number)) for number in range(count)]
    return Window(events, SpoolRun(PREFIX, first, count), spooled=spooled, recovered=False)


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 20_000) | st.integers(0, 2**40 - 60)), min_size=1), st.data()
)
def test_ids_stay_with_their_events(parts: list[tuple[int, int]], data: st.DataObject) -> None:
    """However a window is put together and cut."""
    window = make_window(*parts[0])
    for count, first in parts[1:]:
        window.extend(make_window(count, first))
    numbers = [first + number for count, first in parts for number in range(count)]
    expected = [f"{PREFIX}{number:010x}" for number in numbers]
    start = data.draw(st.integers(0, len(numbers) - 1))
    stop = data.draw(st.integers(start + 1, len(numbers)))
    batch = window.make_batch(start, stop, 1)
    assert list(batch.delivery_ids) == expected[start:stop]
    assert [event.meta.event_name for event in batch] == [str(number) for number in numbers[start:stop]]
    assert window.get_id(start) == expected[start]


def test_a_run_across_a_border_of_the_table_of_endings() -> None:
    """No id is left out or made twice."""
    window = make_window(9_000, 4_090)
    assert list(window.make_batch(0, 9_000, 1).delivery_ids) == [f"{PREFIX}{n:010x}" for n in range(4_090, 13_090)]


@given(st.lists(st.tuples(st.integers(1, 8), st.booleans()), min_size=1, max_size=6), st.data())
def test_only_what_is_settled_with_all_before_it_is_confirmed(
    parts: list[tuple[int, bool]], data: st.DataObject
) -> None:
    """In order, once, and only what is on the disk."""
    first = 0
    windows = []
    for count, spooled in parts:
        windows.append(make_window(count, first, spooled=spooled))
        first += count
    window = windows[0]
    for other in windows[1:]:
        window.extend(other)
    on_disk = [number for number in range(first) if window.is_on_disk(number)]
    settled: set[int] = set()
    confirmed: list[int] = []
    while len(settled) < first:
        index = data.draw(st.sampled_from([number for number in range(first) if number not in settled]))
        window.settle(index, index + 1)
        settled.add(index)
        for run in window.take_confirmed():
            confirmed.extend(range(run.first, run.first + run.count))
        reach = next((number for number in range(first) if number not in settled), first)
        assert confirmed == [number for number in on_disk if number < reach]
        assert window.get_unsettled() == [number for number in range(first) if number not in settled]
