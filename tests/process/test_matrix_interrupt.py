"""What comes in the middle of a log call: signals, finalizers, the end of the stack, the end of the memory.

Each test is a program that logs natively, by `logging` and by structlog, with payloads that take some work.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from matrix_helpers import Program

pytestmark = pytest.mark.untraced

START = """
import random


class Rich:
    def to_log_payload(self):
        return {"a": [1, {"b": 2}], "c": "d"}


rich = Rich()
reports = []
mvx_logger.selflog.redirect(reports.append)
sink, _ = ToFile.create(queue_max_size=10_000_000)
ways = rich_ways_in(sink, rich)
for log in ways:
    log("first")
assert sink.flush(20)


def count_refused():
    "How many native events were refused, because it is the logger that seemed to log; of the others, as many were."
    assert {report.kind for report in reports} <= {"recursion"}, reports
    refused = sink.stats().rejected.get("recursion", 0)
    assert bool(reports) >= bool(refused)
    return refused
"""

RICH_WAYS = '''

def rich_ways_in(sink, payload):
    """As ways_in(), with a payload."""
    native, by_logging, by_structlog = ways_in(sink)
    return (
        lambda name: native(name, {"x": payload}),
        lambda name: by_logging(name, extra={"x": payload}),
        lambda name: by_structlog(name, x=payload),
    )
'''


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    program = Program(tmp_path)
    prelude = tmp_path / "prelude.py"
    prelude.write_text(prelude.read_text() + RICH_WAYS)
    yield program
    program.end()


class TestSignals:
    def test_handler_that_logs(self, program: Program) -> None:
        """At a high rate, while three threads and the main one log: nothing is lost untold, nothing is delivered twice."""
        done = program.run(
            START
            + """
logged = [0] * 6
handled = 0
over = threading.Event()


def handle(*_):
    global handled
    for way, log in enumerate(ways):
        log(f"signal {way}")
    handled += 1
    if handled >= 300:
        signal.setitimer(signal.ITIMER_REAL, 0)


def log_on(way):
    while not over.is_set():
        ways[way](f"thread {way}")
        logged[3 + way] += 1
        time.sleep(0.0005)


threads = [threading.Thread(target=log_on, args=(way,)) for way in range(3)]
for thread in threads:
    thread.start()
signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
while handled < 300:
    for way, log in enumerate(ways):
        log(f"main {way}")
        logged[way] += 1
over.set()
for thread in threads:
    thread.join()
assert mvx_logger.flush(20)
assert_true(sink)
print(handled, count_refused(), *logged)
""",
            strict=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        handled, refused, *logged = map(int, done.stdout.split())
        counts = program.counts()
        # The handlers for logging tell a handler of signals from the logger's own doing.
        arrived = [counts.pop(f"signal {way}") for way in range(3)]
        assert arrived == [handled - refused, handled, handled - refused]
        names = [f"{where} {way}" for where in ("main", "thread") for way in range(3)]
        assert counts == {"first": 3, **dict(zip(names, logged, strict=True))}

    @pytest.mark.parametrize("way", [0, 1, 2], ids=["native", "logging", "structlog"])
    def test_handler_that_raises(self, program: Program, way: int) -> None:
        """A timeout, or ctrl-c where the program goes on: what is logged afterwards is not taken for the logger's own."""
        done = program.run(
            START
            + f"""
class Interrupted(BaseException):
    pass


def handle(*_):
    global fired
    fired = True
    raise Interrupted


log = ways[{way}]
signal.signal(signal.SIGALRM, handle)
begun = 0


def log_on():
    global begun
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00005, 0.0002))
    while not fired:
        begun += 1
        log("interrupted")


for number in range(300):
    fired = False
    try:
        log_on()
    except Interrupted:
        pass
    log(f"after {{number}}")
assert mvx_logger.flush(20)
assert_true(sink)
assert not reports, reports[0]
print(begun)
""",
            strict=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        counts = program.counts()
        begun = int(done.stdout)
        assert begun - 300 <= counts.pop("interrupted") <= begun
        assert counts == {"first": 3, **{f"after {number}": 1 for number in range(300)}}


class TestFinalizers:
    @pytest.mark.parametrize("kind", ["__del__", "weakref callback", "weakref.finalize", "gc callback"])
    def test_that_log(self, program: Program, kind: str) -> None:
        """The garbage collector may run them in the middle of anything: all that the program logs itself arrives, all that
        they log arrives or is told to have been refused."""
        done = program.run(
            START
            + f"""
kind = "{kind}"
collected = 0


def tell(*_):
    global collected
    collected += 1
    for way, log in enumerate(ways):
        log(f"collected {{way}}")


class Trash:
    def __init__(self):
        self.me = self
        if kind == "weakref callback":
            kept.append(weakref.ref(self, tell))
        elif kind == "weakref.finalize":
            weakref.finalize(self, tell)


if kind == "__del__":
    Trash.__del__ = tell
kept = []
gc.collect()
gc.freeze()  # each collection looks at the new objects only
if kind == "gc callback":
    gc.callbacks.append(lambda phase, info: phase == "start" and tell())
for number in range(500):
    gc.set_threshold(random.randint(1, 60), 1, 1)
    Trash()
    for log in ways:
        log("main")
gc.set_threshold(700, 10, 10)
gc.callbacks.clear()
gc.collect()
assert mvx_logger.flush(20)
assert_true(sink)
print(collected, count_refused())
""",
            strict=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        collected, refused = map(int, done.stdout.split())
        assert collected >= 500
        assert program.counts() == {
            "first": 3,
            "main": 1500,
            **{f"collected {way}": collected - refused for way in range(3)},
        }


class TestEndOfTheStack:
    def test_at_every_depth(self, program: Program) -> None:
        """Where the recursion limit is reached within a log call, the event is logged or not, and `RecursionError` is all
        that may come of it. The next one is logged, the accounts are true, and the interpreter lives."""
        done = program.run(
            START
            + """
logging.raiseExceptions = False
normal = sys.getrecursionlimit()


def depth():
    frame, found = sys._getframe(), 0
    while frame is not None:
        frame, found = frame.f_back, found + 1
    return found


logged = refused = 0
for log in ways:
    for room in range(4, 90):
        assert sink.flush(20)  # it sleeps, and has to be woken
        before = sink.stats().accepted
        sys.setrecursionlimit(depth() + room)
        try:
            log("deep")
        except RecursionError:
            refused += 1
        finally:
            sys.setrecursionlimit(normal)
        accepted = sink.stats().accepted - before
        assert accepted in (0, 1)
        logged += accepted
        log("after")
        assert sink.stats().accepted - before == accepted + 1
        assert_true(sink)


def dive():
    for log in ways:
        log("dive")
    dive()


try:
    dive()
except RecursionError:
    pass
for log in ways:
    log("last")
assert mvx_logger.flush(20)
assert_true(sink)
print(logged, refused)
""",
            strict=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        logged, refused = map(int, done.stdout.split())
        assert refused > 0
        counts = program.counts()
        assert counts.pop("dive") > 900
        assert counts == {"first": 3, "deep": logged, "after": 3 * 86, "last": 3}


class TestEndOfTheMemory:
    def test_payload_that_runs_out_of_it(self, program: Program) -> None:
        """MemoryError in a method of the program's own: the event arrives without what the method would have told."""
        done = program.run(
            START
            + """
class Huge:
    def to_log_payload(self):
        raise MemoryError

    __str__ = __repr__ = __len__ = to_log_payload


mvx_logger.selflog.redirect(lambda report: None)
for log in rich_ways_in(sink, Huge()):
    for _ in range(3):
        log("huge")
for log in ways:
    log("after")
assert mvx_logger.flush(20)
assert sink.stats().delivered == 15
assert_true(sink)
"""
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert program.counts() == {"first": 3, "huge": 9, "after": 3}

    def test_destination_that_runs_out_of_it(self, program: Program) -> None:
        """MemoryError in the sink: the next event arrives, and what did not is told."""
        done = program.run(
            """
            class Tight(ToFile):
                tight = True

                async def _dispatch_batch(self, events):
                    if self.tight:
                        raise MemoryError
                    await super()._dispatch_batch(events)

            sink, _ = Tight.create()
            ways = ways_in(sink)
            for log in ways:
                log("tight")
            wait_until(lambda: sink.stats().last_error)
            assert_true(sink)
            sink.tight = False
            for log in ways:
                log("after")
            assert mvx_logger.flush(20) or sink.stats().dropped
            assert_true(sink)
            stats = sink.stats()
            print(stats.delivered, sum(stats.dropped.values()) + stats.dead_lettered)
            """,
            strict=False,
        )
        assert done.returncode == 0, done.stderr
        delivered, lost = map(int, done.stdout.split())
        assert delivered + lost == 6
        assert len(program.names()) == delivered
        assert program.counts()["after"] == 3
