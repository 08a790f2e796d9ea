"""Asynchronous sinks and the process around them: its ends, its forks, its signals. Each test is a program of its own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import mvx_logger
from matrix_helpers import PRELUDE, Program


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


class TestEnd:
    @pytest.mark.parametrize(
        ("code", "returncode", "complaint"),
        [
            ("", 0, ""),
            ("sys.exit(3)", 3, ""),
            ("raise ValueError('oops')", 1, "ValueError: oops"),
            ("os.kill(os.getpid(), signal.SIGINT); time.sleep(30)", -2, "KeyboardInterrupt"),
            ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(4)); os.kill(os.getpid(), signal.SIGTERM)", 4, ""),
            ("assert mvx_logger.flush(20); os._exit(5)", 5, ""),
            ("assert sink.flush(20); os.kill(os.getpid(), signal.SIGKILL)", -9, ""),
        ],
        ids=["return", "sys.exit", "exception", "ctrl-c", "sigterm", "os._exit after flush", "kill after flush"],
    )
    def test_short_script_ends_and_its_last_events_are_there(
        self, program: Program, code: str, returncode: int, complaint: str
    ) -> None:
        """Whatever way it ends, without any call of close()."""
        done = program.run(f"""
            sink, _ = ToFile.create()
            for number in range(500):
                sink.log(event(number))
            {code}
        """)
        assert (done.returncode, done.stdout) == (returncode, "")
        assert complaint in done.stderr
        if not complaint:
            assert done.stderr == ""
        assert program.names() == [str(number) for number in range(500)]

    def test_exception_in_another_thread(self, program: Program) -> None:
        """The thread's last words are there, and what came after."""
        done = program.run("""
            sink, _ = ToFile.create()

            def fail():
                sink.log(event("last words"))
                raise ValueError("oops")

            thread = threading.Thread(target=fail)
            thread.start()
            thread.join()
            sink.log(event("after"))
        """)
        assert done.returncode == 0
        assert done.stderr.count("Traceback") == 1
        assert program.names() == ["last words", "after"]

    def test_non_daemon_threads_go_on_logging(self, program: Program) -> None:
        """The main thread has ended long before; all of it arrives, and nobody complains."""
        done = program.run("""
            sink, _ = ToFile.create()

            def go_on():
                for number in range(50):
                    sink.log(event(number))
                    time.sleep(0.002)
                    if number == 25:
                        assert sink.flush(20)

            threading.Thread(target=go_on).start()
        """)
        assert (done.returncode, done.stderr) == (0, "")
        assert program.names() == [str(number) for number in range(50)]

    def test_daemon_threads_still_logging(self, program: Program) -> None:
        """They do not keep the process from ending, and break nothing; what the main thread logged is there."""
        done = program.run("""
            sink, _ = ToFile.create(queue_max_size=1_000_000)

            def go_on():
                while True:
                    sink.log(event("daemon"))
                    time.sleep(0.0001)

            for _ in range(4):
                threading.Thread(target=go_on, daemon=True).start()
            time.sleep(0.05)
            sink.log(event("main"))
        """)
        assert done.returncode == 0
        assert done.stderr == ""
        assert program.names().count("main") == 1

    def test_atexit_handlers_that_log(self, program: Program) -> None:
        """Also those that were registered before the package was imported, and so run after its own."""
        (program.directory / "first.py").write_text(
            "import atexit, sys\n"
            "def early():\n"
            "    import __main__\n"
            "    for number in range(3):\n"
            "        __main__.sink.log(__main__.event(f'early {number}'))\n"
            "atexit.register(early)\n"
        )
        (program.directory / "prelude.py").write_text("import first\n" + PRELUDE)
        done = program.run(
            """
            sink, _ = ToFile.create()
            atexit.register(lambda: sink.log(event("late")))
            sink.log(event("main"))
        """,
            fresh=True,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert program.names() == ["main", "late", "early 0", "early 1", "early 2"]

    def test_sink_that_is_closed_before_the_end_and_used_at_it(self, program: Program) -> None:
        """The event arrives where a thread can still be started; else the caller is told, at once."""
        done = program.run("""
            sink, close = ToFile.create()
            sink.log(event("main"))
            close()

            @atexit.register
            def late():
                try:
                    sink.log(event("late"))
                except mvx_logger.AsyncioLogSinkInvalidStateError as err:
                    os.write(1, str(err.cause).encode())
        """)
        assert done.returncode == 0
        if program.names() == ["main"]:
            assert "cannot be started" in done.stdout
        else:
            assert program.names() == ["main", "late"]
        assert done.stderr == ""

    @pytest.mark.parametrize("kind", ["Frozen", "Stuck"])
    def test_process_never_ends_because_the_server_is_down(self, program: Program, kind: str) -> None:
        """It ends at the deadline, and says how many events were left. The other sinks' events arrive."""
        done = program.run(f"""
            broken, _ = {kind}.create(shutdown_timeout=0.2)
            sink, _ = ToFile.create()
            for number in range(7):
                broken.log(event(number))
                sink.log(event(number))
        """)
        assert done.returncode == 0
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("mvx-logger: shutdown: ")
        assert done.stderr.rstrip().endswith("lost=7")
        assert program.names() == [str(number) for number in range(7)]

    def test_many_servers_that_are_down_share_the_deadline(self, program: Program) -> None:
        """The process does not wait for one after the other."""
        done = program.run(
            """
            for number in range(25):
                stuck, _ = Stuck.create(shutdown_timeout=0.2, namespace=f"n{number}")
                stuck.log(event("x"))
            """,
        )
        assert done.returncode == 0
        assert done.stderr.count("lost=1") == 25

    def test_process_has_a_deadline_of_its_own(self, program: Program) -> None:
        """However patient the sinks are."""
        done = program.run(
            """
            patient, _ = Frozen.create(shutdown_timeout=3600)
            patient.log(event("x"))
            mvx_logger.set_shutdown_timeout(0.2)
            """,
        )
        assert done.returncode == 0
        assert "lost=1" in done.stderr

    @pytest.mark.parametrize(("seconds", "error"), [(-1, ValueError), ("1", TypeError), (True, TypeError)])
    def test_deadline_of_the_process_that_is_none(self, seconds: Any, error: type[Exception]) -> None:
        """It is refused, and what was set stays."""
        with pytest.raises(error, match="seconds: expected"):
            mvx_logger.set_shutdown_timeout(seconds)

    def test_frozen_server_while_daemon_threads_go_on(self, program: Program) -> None:
        """It ends all the same."""
        done = program.run("""
            broken, _ = Frozen.create(
                shutdown_timeout=0.2, queue_overflow_policy=mvx_logger.AsyncioLogSinkQueueOverflowPolicy.DROP_OLDEST
            )

            def go_on():
                while True:
                    broken.log(event("daemon"))
                    time.sleep(0.005)

            threading.Thread(target=go_on, daemon=True).start()
            time.sleep(0.05)
        """)
        assert done.returncode == 0
        assert "lost=" in done.stderr

    def test_last_flush_can_resolve_a_name_and_open_a_connection(self, program: Program) -> None:
        """No "can't start new thread" and no "cannot schedule new futures" at the end, on any Python."""
        done = program.run("""
            class Connecting(ToFile):
                async def _dispatch_batch(self, events):
                    await asyncio.sleep(0.1)
                    loop = asyncio.get_running_loop()
                    assert await loop.getaddrinfo("localhost", server.sockets[0].getsockname()[1])
                    reader, writer = await asyncio.open_connection("localhost", server.sockets[0].getsockname()[1])
                    writer.close()
                    await writer.wait_closed()
                    await asyncio.to_thread(time.sleep, 0)
                    await super()._dispatch_batch(events)

            class Server(ToFile):
                async def _on_starting(self):
                    global server
                    server = await asyncio.start_server(lambda reader, writer: writer.close(), "localhost", 0)

                async def _on_stopped(self):
                    server.close()

            keep = Server.create()
            sink, _ = Connecting.create(batch_max_size=1)
            for number in range(5):
                sink.log(event(number))
        """)
        assert (done.returncode, done.stderr) == (0, "")
        assert program.names() == ["0", "1", "2", "3", "4"]

    def test_last_flush_can_use_a_thread_pool_of_the_client(self, program: Program) -> None:
        """The executors refuse work only after the flush."""
        done = program.run("""
            from concurrent.futures import ThreadPoolExecutor

            pool = ThreadPoolExecutor(1)

            class Pooled(ToFile):
                async def _dispatch_batch(self, events):
                    await asyncio.sleep(0.05)
                    await asyncio.get_running_loop().run_in_executor(pool, time.sleep, 0)
                    await super()._dispatch_batch(events)

            pool.submit(time.sleep, 0).result()
            sink, _ = Pooled.create()
            sink.log(event("last"))
        """)
        assert (done.returncode, done.stderr) == (0, "")
        assert program.names() == ["last"]

    def test_sink_that_blocks_its_worker_in_development_mode(self, program: Program) -> None:
        """asyncio's debug mode has nothing to complain about: that is what the thread is for."""
        done = program.run("""
            class Slow(ToFile):
                async def _dispatch_batch(self, events):
                    await self._run_blocking(time.sleep, 0.15)
                    await super()._dispatch_batch(events)

            sink, _ = Slow.create()
            sink.log(event("0"))
        """)
        assert (done.returncode, done.stderr) == (0, "")
        assert program.names() == ["0"]

    def test_no_standard_error(self, program: Program) -> None:
        """Without one (pythonw, daemons) nothing breaks."""
        done = program.run("""
            sink, _ = ToFile.create()
            broken, _ = Frozen.create(shutdown_timeout=0.1)
            sys.stderr = sys.__stderr__ = None
            broken.log(event("lost"))
            sink.log(event("main"))
        """)
        assert (done.returncode, done.stderr) == (0, "")
        assert program.names() == ["main"]

    def test_asyncio_program_that_ends_without_stopping_its_sink(self, program: Program) -> None:
        """What was accepted is delivered when `asyncio.run` ends."""
        done = program.run("""
            async def main():
                sink = ToFile()
                for number in range(100):
                    sink.log(event(number))

            asyncio.run(main())
            asyncio.run(main())
        """)
        assert (done.returncode, done.stderr) == (0, "")
        assert program.names() == [str(number) for number in range(100)] * 2

    def test_program_that_never_closes_its_loop(self, program: Program) -> None:
        """Nobody can deliver on a loop that does not run: the process ends at once, and says what was left."""
        done = program.run(
            """
            async def main():
                sink = Frozen(shutdown_timeout=3600)
                sink.log(event("lost"))
                idle = ToFile(shutdown_timeout=3600)
                idle.start()

            loop = asyncio.new_event_loop()
            loop.run_until_complete(main())
            """,
            strict=False,
        )
        assert done.returncode == 0
        assert done.stderr.count("\n") == 1
        assert "lost=1" in done.stderr

    def test_subclass_with_a_broken_flush(self, program: Program) -> None:
        """It does not keep the others' events from arriving."""
        done = program.run("""
            class Broken(ToFile):
                def flush(self, timeout=None):
                    raise ValueError("broken")

            broken, _ = Broken.create()
            sink, _ = ToFile.create()
            broken.log(event("of the broken one"))
            sink.log(event("main"))
        """)
        assert done.returncode == 0
        assert "a sink failed to flush" in done.stderr
        assert sorted(program.names()) == ["main", "of the broken one"]

    def test_signal_handler_that_logs(self, program: Program) -> None:
        """In the midst of the main thread's logging, and at the end."""
        done = program.run("""
            sink, _ = ToFile.create(queue_max_size=1_000_000)
            handled = 0

            def handle(*_):
                global handled
                sink.log(event("signal"))
                handled += 1
                if handled == 200:
                    signal.setitimer(signal.ITIMER_REAL, 0)

            signal.signal(signal.SIGALRM, handle)
            signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
            logged = 0
            while handled < 200:
                sink.log(event("main"))
                logged += 1
            print(logged, handled)
        """)
        assert (done.returncode, done.stderr) == (0, "")
        logged, handled = map(int, done.stdout.split())
        assert Counter(program.names()) == {"signal": handled, "main": logged}


class TestFork:
    def test_child_delivers_its_own_events_only(self, program: Program) -> None:
        """No logs from the child of a fork? They arrive, and what the parent had accepted is not sent twice."""
        done = program.run("""
            class Slow(ToFile):
                async def _dispatch_batch(self, events):
                    await asyncio.sleep(0.05)
                    await super()._dispatch_batch(events)

            sink, _ = Slow.create()
            for number in range(10):
                sink.log(event(f"parent {number}"))
            child = os.fork()
            for number in range(10, 20):
                sink.log(event(f"{'parent' if child else 'child'} {number}"))
            if child:
                assert os.waitpid(child, 0)[1] == 0
        """)
        assert (done.returncode, done.stderr) == (0, "")
        lines = program.lines()
        parent = [name for process, name in lines if name.startswith("parent")]
        assert parent == [f"parent {number}" for number in range(20)]
        assert [name for process, name in lines if name.startswith("child")] == [
            f"child {number}" for number in range(10, 20)
        ]
        assert len({(process, name.split()[0]) for process, name in lines}) == 2

    @pytest.mark.parametrize(
        "ending", ["sys.exit(0)", "assert sink.flush(20); os._exit(0)", "os.execv('/bin/true', ['x'])"]
    )
    def test_ways_in_which_a_child_ends(self, program: Program, ending: str) -> None:
        """Its accounts begin at zero; the parent goes on."""
        done = program.run(f"""
            sink, _ = ToFile.create()
            sink.log(event("before"))
            assert sink.flush(20)
            for number in range(3):
                if not (child := os.fork()):
                    assert (sink.stats().accepted, sink.get_status().value) == (0, "virgin")
                    sink.log(event("child"))
                    assert sink.flush(20)
                    assert sink.stats().accepted == 1
                    {ending}
                assert os.waitpid(child, 0)[1] == 0
            sink.log(event("after"))
        """)
        assert (done.returncode, done.stderr) == (0, "")
        assert program.names() == ["before", "child", "child", "child", "after"]

    def test_grandchildren(self, program: Program) -> None:
        """Each process has a worker of its own."""
        done = program.run("""
            sink, _ = ToFile.create()
            sink.log(event("0"))
            for generation in range(1, 4):
                if child := os.fork():
                    assert os.waitpid(child, 0)[1] == 0
                    break
                sink.log(event(generation))
        """)
        assert (done.returncode, done.stderr) == (0, "")
        assert len(set(program.lines())) == 4
        assert sorted(program.names()) == ["0", "1", "2", "3"]

    @pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
    def test_no_logs_from_multiprocessing_children(self, program: Program, method: str) -> None:
        """They arrive, from processes and from a pool, although nobody flushes."""
        done = program.run(f"""
            sink = None

            def work(number):
                global sink
                if sink is None:
                    sink, _ = ToFile.create()
                sink.log(event(f"work {{number}}"))

            if __name__ == "__main__":
                if "{method}" == "fork":
                    sink, _ = ToFile.create()
                    sink.log(event("parent"))
                    assert sink.flush(20)
                context = multiprocessing.get_context("{method}")
                children = [context.Process(target=work, args=(number,)) for number in range(3)]
                for child in children:
                    child.start()
                for child in children:
                    child.join(30)
                    assert child.exitcode == 0, child
                with context.Pool(2) as pool:
                    pool.map(work, range(3, 9), chunksize=1)
                    pool.close()
                    pool.join()
        """)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        expected = [f"work {number}" for number in range(9)] + (["parent"] if method == "fork" else [])
        assert sorted(program.names()) == sorted(expected)

    def test_child_deadlocks_when_another_thread_held_a_lock(self, program: Program) -> None:
        """Forks while eight threads log, flush, and close: each child delivers, none hangs."""
        done = program.run(
            """
            OVERFLOW = mvx_logger.AsyncioLogSinkQueueOverflowPolicy.DROP_OLDEST
            FORKS = 40
            sink, _ = ToFile.create(queue_max_size=50, queue_overflow_policy=OVERFLOW)
            other, _ = ToFile.create()
            over = threading.Event()

            def log_all(thread):
                while not over.is_set():
                    sink.log(event("noise"))
                    if thread == 0:
                        sink.flush(1)
                    elif thread == 1:
                        sink.stats()
                    elif thread == 2:
                        other.close()
                        other.log(event("noise"))
                        other.start()
                    time.sleep(0.0002)

            threads = [threading.Thread(target=log_all, args=(number,)) for number in range(8)]
            for thread in threads:
                thread.start()
            failed = 0
            for number in range(FORKS):
                if not (child := os.fork()):
                    signal.signal(signal.SIGALRM, signal.SIG_DFL)
                    signal.alarm(20)
                    sink.log(event(f"child {number}"))
                    other.log(event(f"other {number}"))
                    os._exit(0 if mvx_logger.flush(15) else 1)
                failed += os.waitpid(child, 0)[1] != 0
            over.set()
            for thread in threads:
                thread.join()
            print(failed)
            """,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")
        names = Counter(name for name in program.names() if name != "noise")
        assert names == {f"{kind} {number}": 1 for kind in ("child", "other") for number in range(40)}

    def test_fork_inside_of_a_running_loop(self, program: Program) -> None:
        """The child of a sink that is bound to the application's loop gets a thread and a loop of its own."""
        done = program.run("""
            async def main():
                sink = ToFile()
                sink.log(event("parent 0"))
                await sink.start()
                child = os.fork()
                if not child:
                    sink.log(event("child"))
                    assert sink.flush(20)
                    assert sink.stats().accepted == 1
                    sink.close()
                    os._exit(0)
                assert os.waitpid(child, 0)[1] == 0
                sink.log(event("parent 1"))
                await sink.stop()

            asyncio.run(main())
        """)
        assert (done.returncode, done.stderr) == (0, "")
        assert program.names().count("child") == 1
        assert [name for name in program.names() if name != "child"] == ["parent 0", "parent 1"]

    def test_child_of_a_sink_that_was_closed(self, program: Program) -> None:
        """It stays closed there, and serves stragglers as in the parent."""
        done = program.run("""
            sink, close = ToFile.create()
            close()
            if not (child := os.fork()):
                assert sink.get_status().value == "stopped"
                assert sink.stop().wait(20).success
                sink.log(event("straggler"))
                assert sink.flush(20)
                deadline = time.monotonic() + 20
                while sink.get_status().value != "stopped" and time.monotonic() < deadline:
                    time.sleep(0.001)
                assert sink.start().wait(20).success
                sink.log(event("child"))
                sys.exit(0)
            assert os.waitpid(child, 0)[1] == 0
        """)
        assert (done.returncode, done.stderr) == (0, "")
        assert program.names() == ["straggler", "child"]

    def test_end_of_a_child_throws_away_the_parents_tasks(self, program: Program) -> None:
        """Nobody complains of them, and what they held does not get into the child's accounts."""
        done = program.run("""
            import gc
            from mvx_logger.delivery import sink as module

            class Busy(ToFile):
                async def _on_starting(self):
                    await super()._on_starting()
                    self.task = asyncio.create_task(asyncio.sleep(3600))

                async def _dispatch_batch(self, events):
                    await asyncio.sleep(0.2)
                    await super()._dispatch_batch(events)

            async def main():
                asyncio.get_running_loop().slow_callback_duration = 60
                application = ToFile()
                application.log(event("application"))
                sink, _ = Busy.create()
                await asyncio.sleep(0.05)
                sink.log(event("parent"))
                await asyncio.sleep(0.05)
                if not (child := os.fork()):
                    sink.log(event("child"))
                    application.log(event("child"))
                    sys.setswitchinterval(1000)  # with a batch in flight
                    module._of_the_parent.clear()
                    gc.collect()
                    sys.setswitchinterval(0.005)
                    assert mvx_logger.flush(20)
                    assert sink.stats().accepted == sink.stats().delivered == 1
                    assert application.stats().accepted == application.stats().delivered == 1
                    os._exit(0)
                assert os.waitpid(child, 0)[1] == 0
                await application.stop()

            asyncio.run(main())
        """)
        assert (done.returncode, done.stderr) == (0, "")
        assert sorted(program.names()) == ["application", "child", "child", "parent"]

    def test_child_does_not_close_what_the_parent_uses(self, program: Program) -> None:
        """What the sink held is left alone when the child's sink begins afresh."""
        done = program.run("""
            class Closing:
                def __del__(self):
                    os.write(1, b"closed by %d\\n" % os.getpid())

            class Connected(ToFile):
                async def _on_starting(self):
                    await super()._on_starting()
                    self.connection = Closing()

            import gc

            sink, _ = Connected.create()
            if not (child := os.fork()):
                sink.log(event("child"))
                assert sink.flush(20)
                gc.collect()
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            print(child, "is over", flush=True)
        """)
        assert (done.returncode, done.stderr) == (0, "")
        child = done.stdout.split()[0]
        assert f"closed by {child}" not in done.stdout
