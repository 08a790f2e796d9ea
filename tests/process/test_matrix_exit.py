"""The roads on which an interpreter ends, and the standard streams that may be missing on them.

Each test is a program that logs natively, by `logging` and by structlog, and never closes its sink.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from matrix_helpers import Program

LOG = """
sink, _ = ToFile.create()
ways = ways_in(sink)
for number in range(30):
    for way, log in enumerate(ways):
        log(f"{way} {number}")
"""

LOGGED = Counter(f"{way} {number}" for way in range(3) for number in range(30))


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    program = Program(tmp_path)
    yield program
    program.end()


class TestRoads:
    @pytest.mark.parametrize(
        ("code", "returncode", "complaint"),
        [
            (
                "def end(*_):\n    raise SystemExit(6)\nsignal.signal(signal.SIGTERM, end)\nsignal.raise_signal(15)",
                6,
                "",
            ),
            (
                "def end(*_):\n    raise OSError('end')\nsignal.signal(signal.SIGTERM, end)\nos.kill(os.getpid(), 15)",
                1,
                "end",
            ),
            ("signal.raise_signal(signal.SIGINT)", -2, "KeyboardInterrupt"),
            ("sys.exit('no more')", 1, "no more"),
            ("for log in ways:\n    assert mvx_logger.flush(20)\nos._exit(7)", 7, ""),
            ("assert mvx_logger.flush(20)\nos.execv('/bin/true', ['true'])", 0, ""),
            ("assert mvx_logger.flush(20)\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(30)", -15, ""),
            ("assert mvx_logger.flush(20)\nos.abort()", -6, "Aborted"),
            ("faulthandler.enable()\nassert mvx_logger.flush(20)\nfaulthandler._sigsegv()", -11, "Segmentation fault"),
            ("import _thread\nlock = _thread.allocate_lock()\n_thread.exit()", 0, ""),
        ],
        ids=[
            "SIGTERM raises SystemExit",
            "SIGTERM raises an error",
            "SIGINT",
            "sys.exit with a text",
            "os._exit after flush",
            "os.execv after flush",
            "SIGTERM after flush",
            "os.abort after flush",
            "a crash after flush",
            "_thread.exit",
        ],
    )
    def test_last_events_are_there(self, program: Program, code: str, returncode: int, complaint: str) -> None:
        """Whatever way it ends: each event arrives, once."""
        done = program.run(f"{LOG}\n{code}\n")
        assert done.returncode == returncode, done.stderr
        assert complaint in done.stderr
        assert "mvx-logger" not in done.stderr
        if not complaint:
            assert done.stderr == ""
        assert program.counts() == LOGGED

    def test_sigterm_without_a_handler(self, program: Program) -> None:
        """The kernel ends the process: what is in its memory is lost, what was flushed is not, and nothing is twice."""
        done = program.run(f"""
{LOG}
assert mvx_logger.flush(20)
for log in ways:
    log("too late, perhaps")
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(30)
""")
        assert (done.returncode, done.stderr) == (-15, "")
        counts = program.counts()
        assert counts.pop("too late, perhaps", 0) <= 3
        assert counts == LOGGED

    @pytest.mark.parametrize(
        "launch",
        ["-c", "-m", "package", "stdin", "zip", "-O", "-OO", "-u", "-X faulthandler", "PYTHONFAULTHANDLER", "-v"],
    )
    def test_ways_to_start_a_program(self, program: Program, launch: str) -> None:
        """The end of it is the same."""
        code = f"from prelude import *\n{LOG}"
        stdin = None
        environment = {}
        (program.directory / "app.py").write_text(code)
        if launch == "-c":
            command = ["-c", code]
        elif launch == "-m":
            command = ["-m", "app"]
        elif launch == "package":
            (program.directory / "shop").mkdir()
            (program.directory / "shop" / "__main__.py").write_text(code)
            command = ["-m", "shop"]
        elif launch == "stdin":
            command, stdin = ["-"], code
        elif launch == "zip":
            import zipfile

            with zipfile.ZipFile(program.directory / "app.pyz", "w") as archive:
                archive.writestr("__main__.py", code)
            command = ["app.pyz"]
        elif launch == "PYTHONFAULTHANDLER":
            command, environment = ["app.py"], {"PYTHONFAULTHANDLER": "1", "PYTHONDEVMODE": "1"}
        else:
            command = [*launch.split(), "app.py"]
        done = program.execute([sys.executable, *command], stdin=stdin, environment=environment)
        assert done.returncode == 0, done.stderr
        assert launch == "-v" or done.stderr == ""
        assert program.counts() == LOGGED


class TestLastWords:
    """What is logged by the hooks that run at the end."""

    def test_hooks_for_unhandled_exceptions(self, program: Program) -> None:
        """Those for the main thread, for others and for finalizers log what they are given; it arrives."""
        done = program.run("""
            sink, _ = ToFile.create()
            native, by_logging, by_structlog = ways_in(sink)
            sys.excepthook = lambda kind, err, trace: native(f"main: {err}")
            threading.excepthook = lambda args: by_logging(f"thread: {args.exc_value}")
            sys.unraisablehook = lambda args: by_structlog(f"finalizer: {args.exc_value}")

            class Trash:
                def __del__(self):
                    raise ValueError("3")

            def fail():
                raise ValueError("2")

            thread = threading.Thread(target=fail)
            thread.start()
            thread.join()
            Trash()
            raise ValueError("1")
        """)
        assert (done.returncode, done.stderr) == (1, "")
        assert program.names() == ["thread: 2", "finalizer: 3", "main: 1"]

    def test_hook_that_fails(self, program: Program) -> None:
        """An exception in `sys.excepthook` costs no event, also not those that the hook has logged before."""
        done = program.run(
            """
            sink, _ = ToFile.create()
            ways = ways_in(sink)

            def hook(kind, err, trace):
                for way, log in enumerate(ways):
                    log(f"hook {way}")
                raise RuntimeError("the hook itself")

            sys.excepthook = hook
            raise ValueError("oops")
        """,
            fresh=True,
        )
        assert done.returncode == 1
        assert "the hook itself" in done.stderr
        assert "ValueError: oops" in done.stderr
        assert program.names() == ["hook 0", "hook 1", "hook 2"]

    def test_callbacks_of_the_end(self, program: Program) -> None:
        """`atexit`, the hooks of `threading`, finalizers of `weakref`, `__del__` of what is left: each way in."""
        done = program.run("""
            class Module:
                pass

            kept = Module()
            early = []
            weakref.finalize(kept, lambda: [log("finalize") for log in early])
            sink, _ = ToFile.create()
            ways = ways_in(sink)
            early.extend(ways)

            def each(name):
                return lambda: [log(name) for log in ways]

            threading._register_atexit(each("threading"))
            atexit.register(each("atexit"))
            weakref.finalize(sink, each("finalize of the sink")).atexit = False
        """)
        assert (done.returncode, done.stderr) == (0, "")
        assert program.counts() == {"threading": 3, "atexit": 3, "finalize": 3}

    def test_threads_that_outlive_the_main_thread(self, program: Program) -> None:
        """One that ends it all by `sys.exit`, one that fails, one that logs on: every event of theirs arrives."""
        done = program.run("""
            sink, _ = ToFile.create()
            ways = ways_in(sink)
            main = threading.main_thread()

            def go_on(end):
                main.join()
                for number in range(10):
                    for log in ways:
                        log(f"{end.__name__} {number}")
                    time.sleep(0.001)
                end()

            def fail():
                raise ValueError("oops")

            def rest():
                pass

            for end in (sys.exit, fail, rest):
                threading.Thread(target=go_on, args=(end,)).start()
            raise RuntimeError("main")
        """)
        assert done.returncode == 1
        assert done.stderr.count("Traceback") == 2
        assert "mvx-logger" not in done.stderr
        assert program.counts() == {f"{end} {number}": 3 for end in ("exit", "fail", "rest") for number in range(10)}

    def test_daemon_threads_still_logging(self, program: Program) -> None:
        """By every way in, at full speed: the process ends, says nothing, and what it logged before is there."""
        done = program.run("""
            sink, _ = ToFile.create(queue_overflow_policy=AsyncioLogSinkQueueOverflowPolicy.DROP_OLDEST)
            ways = ways_in(sink)
            for log in ways:
                log("main")
            assert sink.flush(20)

            def go_on(log):
                while True:
                    for _ in range(20):
                        log("daemon")
                    time.sleep(0.0005)

            for log in ways:
                threading.Thread(target=go_on, args=(log,), daemon=True).start()
            wait_until(lambda: sink.stats().accepted > 500)
            assert_true(sink)
        """)
        assert (done.returncode, done.stderr) == (0, "")
        assert program.counts()["main"] == 3

    @pytest.mark.parametrize(
        ("end", "returncode"),
        [("sys.exit(3)", 3), ("signal.raise_signal(signal.SIGINT); await asyncio.sleep(30)", -2)],
        ids=["sys.exit", "ctrl-c"],
    )
    def test_end_inside_of_an_event_loop(self, program: Program, end: str, returncode: int) -> None:
        """In a coroutine: the sinks of that loop and the others deliver."""
        done = program.run(f"""
            async def main():
                bound = ToFile()
                await bound.start()
                made, _ = ToFile.create()
                for sink in (bound, made):
                    for log in ways_in(sink):
                        log("coroutine")
                {end}

            asyncio.run(main())
        """)
        assert done.returncode == returncode, done.stderr
        assert "mvx-logger" not in done.stderr
        assert program.counts() == {"coroutine": 6}

    def test_impatient_user(self, program: Program) -> None:
        """A second ctrl-c while the last events are on their way: nothing that is not delivered goes untold."""
        done = program.run(
            """
            class Watched(Slow):
                async def _dispatch_batch(self, events):
                    if not threading.main_thread().is_alive():
                        os.kill(os.getpid(), signal.SIGINT)  # to the main thread, which waits for this one
                    await super()._dispatch_batch(events)

            sink, _ = Watched.create(batch_max_size=10)
            for number in range(60):
                sink.log(event(number))
            """,
            strict=False,
        )
        lost = int(done.stderr.rpartition("lost=")[2]) if "lost=" in done.stderr else 0
        names = program.names()
        assert len(set(names)) == len(names) == 60 - lost


class TestStreams:
    """Programs without the standard streams: services, `pythonw`, daemons."""

    @pytest.mark.parametrize(
        "code",
        [
            "sys.stdin = sys.stdout = sys.stderr = sys.__stderr__ = None",
            "sys.stderr.close()",
            "sys.stderr.close(); sys.stderr = sys.__stderr__ = None; sys.stdout.close()",
            "sys.stderr = open('/dev/full', 'w', buffering=1)",
            "sys.stderr = object()",
        ],
        ids=["None", "closed", "both", "full", "no stream"],
    )
    def test_failing_sinks_without_standard_error(self, program: Program, code: str) -> None:
        """A sink that fails, one that does not start, one that is too full, the default one: the others deliver."""
        done = program.run(
            f"""
            class Broken(ToFile):
                async def _dispatch_batch(self, events):
                    raise ValueError("broken")

            class NeverThere(Broken):
                async def _on_starting(self):
                    raise OSError("never there")

            import structlog  # which looks at sys.stdout

            sink, _ = ToFile.create()
            broken, _ = Broken.create(shutdown_timeout=0.2)
            frozen, _ = Frozen.create(shutdown_timeout=0.2, queue_max_size=2)
            root = mvx_logger.get_root_log_context()
            {code}
            try:
                NeverThere.create(namespace="x")
            except mvx_logger.AsyncioLogSinkOnStartingHookFailedError:
                pass
            for bad in (broken, frozen):
                for log in ways_in(bad):
                    for _ in range(3):
                        log("x")
            root.log_error_event("to the default sink")
            for log in ways_in(sink):
                log("good")
            assert_true(broken)
            assert_true(frozen)
            """,
            strict=False,
        )
        assert done.returncode in (0, 120), done.stderr  # 120: Python could not flush its own streams
        assert program.counts() == {"good": 3}

    @pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- >&- 2>&-"])
    def test_standard_descriptors_that_are_closed(self, program: Program, closed: str) -> None:
        """The destination's file may get the number of one of them: nothing that goes to stderr gets into it."""
        script = program.write(f"""
            class Broken(ToFile):
                async def _dispatch_batch(self, events):
                    raise ValueError("broken")

            {LOG.replace(chr(10), chr(10) + " " * 12)}
            broken, _ = Broken.create(shutdown_timeout=0.2, namespace="broken")
            frozen, _ = Frozen.create(shutdown_timeout=0.2)
            broken.log(event("x"))
            frozen.log(event("x"))
            mvx_logger.selflog.report("test", "to nowhere")
        """)
        done = program.execute(["/bin/sh", "-c", f'exec "$0" "$1" {closed}', sys.executable, str(script)])
        assert done.returncode == 0, done.stderr
        assert ("lost=1" in done.stderr) == ("2>" not in closed)
        assert program.counts() == LOGGED

    def test_daemon(self, program: Program) -> None:
        """A program that becomes a daemon after its sink was made, and closes all that was open: its events arrive."""
        done = program.run(
            f"""
            {LOG.replace(chr(10), chr(10) + " " * 12)}
            assert mvx_logger.flush(20)
            reader, writer = os.pipe()
            if os.fork():
                os.close(writer)
                os.read(reader, 1)  # until the daemon has ended
                os._exit(0)
            os.setsid()
            if os.fork():
                os._exit(0)
            lifeline = os.dup2(writer, 200)
            os.closerange(0, 200)
            for number in range(3):
                os.open("/dev/null", os.O_RDWR)
            for log in ways:
                log("daemon")
            os.chdir("/")
            """
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert program.counts() == LOGGED + Counter({"daemon": 3})
        assert len({process for process, _ in program.lines()}) == 2
