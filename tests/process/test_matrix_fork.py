"""Forked children and pools of processes: each delivers what it logged itself, by whatever way in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from matrix_helpers import Program

pytestmark = pytest.mark.slow


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    program = Program(tmp_path)
    yield program
    program.end()


class TestFork:
    def test_under_load(self, program: Program) -> None:
        """Six threads log natively, by logging and by structlog while the process forks: no child hangs, each delivers its
        own events once, and the parent loses none."""
        done = program.run("""
            sink, _ = Slow.create(queue_max_size=1_000_000)
            ways = ways_in(sink)
            over = threading.Event()
            counts = [0] * 6

            def log_all(thread):
                while not over.is_set():
                    ways[thread % 3](f"thread {thread}")
                    counts[thread] += 1
                    time.sleep(0.0003)

            threads = [threading.Thread(target=log_all, args=(number,)) for number in range(6)]
            for thread in threads:
                thread.start()
            failed = 0
            for number in range(40):
                if not (child := os.fork()):
                    signal.alarm(30)
                    for log in ways:
                        log(f"child {number}")
                    done = mvx_logger.flush(20)
                    assert_true(sink)
                    os._exit(0 if done and sink.stats().accepted == 3 else 1)
                failed += os.waitpid(child, 0)[1] != 0
            over.set()
            for thread in threads:
                thread.join()
            print(failed, *counts)
        """)
        assert (done.returncode, done.stderr) == (0, "")
        failed, *logged = map(int, done.stdout.split())
        assert failed == 0
        expected = Counter({f"child {number}": 3 for number in range(40)})
        expected.update({f"thread {number}": count for number, count in enumerate(logged)})
        assert program.counts() == expected

    def test_of_odd_places(self, program: Program) -> None:
        """From another thread, in a signal handler, under a pseudo-terminal, for `subprocess`: it is all the same."""
        done = program.run("""
            import pty, subprocess

            sink, _ = ToFile.create()
            ways = ways_in(sink)

            def fork(name, how=os.fork):
                child = how()
                child, terminal = child if isinstance(child, tuple) else (child, None)
                if not child:
                    for log in ways:
                        log(name)
                    sys.exit(0)
                assert os.waitpid(child, 0)[1] == 0
                if terminal is not None:
                    os.close(terminal)

            def fork_in_thread(name):
                if not (child := os.fork()):
                    for log in ways:
                        log(name)
                    os._exit(0 if sink.flush(20) else 1)  # no other thread is left that would end the process
                assert os.waitpid(child, 0)[1] == 0

            for log in ways:
                log("parent")
            thread = threading.Thread(target=fork_in_thread, args=("thread",))
            thread.start()
            thread.join()
            signal.signal(signal.SIGUSR1, lambda *_: fork("signal"))
            signal.raise_signal(signal.SIGUSR1)
            fork("terminal", pty.fork)
            subprocess.run(["/bin/true"], check=True, preexec_fn=lambda: (ways[0]("exec"), sink.flush(20)))
            for log in ways:
                log("parent")
        """)
        assert (done.returncode, done.stderr) == (0, "")
        assert program.counts() == {"parent": 6, "thread": 3, "signal": 3, "terminal": 3, "exec": 1}
        assert len(set(program.lines())) == 5

    def test_child_that_never_logs(self, program: Program) -> None:
        """It starts no thread, and ends at once, also while its parent's events cannot be delivered."""
        done = program.run("""
            sink, _ = Frozen.create(shutdown_timeout=0.1)
            sink.log(event("x"))
            if not (child := os.fork()):
                assert threading.active_count() == 1
                assert mvx_logger.flush(0)
                assert sink.stats().accepted == sink.stats().pending == 0
                sys.exit(0)
            assert os.waitpid(child, 0)[1] == 0
        """)
        assert done.returncode == 0
        assert done.stderr.count("lost=1") == done.stderr.count("\n") == 1


POOLS = """
from concurrent.futures import ProcessPoolExecutor

sink = ways = None


def configure():
    global sink, ways
    if sink is None:
        sink = mvx_logger.configure_log_sink(name="file", sink_cls=ToFile)
        ways = ways_in(sink)


def work(name):
    configure()
    for log in ways:
        log(name)
    return os.getpid()


def leave(name):
    work(name)
    sys.exit(3)


def fail(name):
    work(name)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # multiprocessing prints the traceback
    raise ValueError(name)


def vanish(name):
    work(name)
    assert mvx_logger.flush(20)
    os._exit(4)


def flush(name):
    work(name)
    assert mvx_logger.flush(20)


def nest(name):
    work(name)
    child = multiprocessing.Process(target=work, args=(f"{name} of a child",))
    child.start()
    child.join()


if __name__ == "__main__":
    configure() if early else None
    context = multiprocessing.get_context(method)
    for target, code in ((work, 0), (leave, 3), (fail, 1), (vanish, 4), (nest, 0)):
        child = context.Process(target=target, args=(target.__name__,))
        child.start()
        child.join()
        assert child.exitcode == code, child
    with context.Pool(1, initializer=work, initargs=("initializer",), maxtasksperchild=2) as pool:
        processes = pool.map(work, [f"pool {number}" for number in range(4)], chunksize=1)
        pool.close()
        pool.join()
    print(len(set(processes)))
    with ProcessPoolExecutor(1, mp_context=context, initializer=configure) as executor:
        list(executor.map(work, [f"executor {number}" for number in range(4)]))
    with context.Pool(1) as pool:  # which kills its processes at the end of the block
        pool.apply(flush, ("flushed",))
    work("parent")
"""


class TestMultiprocessing:
    @pytest.mark.parametrize(
        ("method", "early"), [("fork", False), ("fork", True), ("forkserver", True), ("spawn", True)]
    )
    def test_pools_and_processes(self, program: Program, method: str, early: bool) -> None:
        """Whatever way a child ends, but by a kill: what it logged by any way in arrives once, with nobody's help."""
        done = program.run(f'method, early = "{method}", {early}\n{POOLS}', strict=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert done.stdout == "2\n"
        names = ["work", "leave", "fail", "vanish", "nest", "nest of a child", "flushed", "parent"]
        names += [f"pool {number}" for number in range(4)] + [f"executor {number}" for number in range(4)]
        counts = program.counts()
        # The pool may have started one more process than there was work for.
        assert counts.pop("initializer") % 3 == 0
        assert counts == dict.fromkeys(names, 3)

    def test_sink_of_the_fork_server(self, program: Program) -> None:
        """One that a preloaded module makes: the children of the server deliver, as those of any fork."""
        program.write(
            """
            sink = mvx_logger.configure_log_sink(name="file", sink_cls=ToFile)
            ways = ways_in(sink)
            for log in ways:
                log("preloaded")
            """,
            "preloaded.py",
        )
        done = program.run("""
            def work(name):
                import preloaded

                assert preloaded.sink.stats().accepted == 0
                for log in preloaded.ways:
                    log(name)

            if __name__ == "__main__":
                context = multiprocessing.get_context("forkserver")
                context.set_forkserver_preload(["preloaded"])
                for number in range(3):
                    child = context.Process(target=work, args=(f"child {number}",))
                    child.start()
                    child.join()
                    assert child.exitcode == 0
        """)
        assert (done.returncode, done.stderr) == (0, "")
        counts = program.counts()
        assert counts.pop("preloaded") == 3
        assert counts == {f"child {number}": 3 for number in range(3)}
