"""Event loops that come and go under the sinks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from matrix_helpers import Program

LOOPS = ["asyncio.run", "uvloop.run"]


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    program = Program(tmp_path)
    yield program
    program.end()


@pytest.mark.parametrize("run", LOOPS)
class TestRepeatedRuns:
    def test_sink_of_each_loop(self, program: Program, run: str) -> None:
        """One that is made in the coroutine, in each of many runs, and never stopped: it ends with its loop, all of its
        events have arrived by then, and those of the next run do."""
        done = program.run(
            f"""
            import uvloop

            async def main(number):
                sink = ToFile(namespace=f"n{{number}}")
                for log in ways_in(sink):
                    log(f"run {{number}}")
                    await asyncio.sleep(0)
                    log(f"run {{number}}")
                return sink

            for number in range(30):
                sink = {run}(main(number))
                stats = sink.stats()
                assert (stats.accepted, stats.delivered, stats.pending) == (6, 6, 0), stats
                for log in ways_in(sink):
                    log("too late")
            mvx_logger.selflog.redirect(lambda report: None)
            assert sum(sink.stats().rejected.values()) == 3
            assert_true(sink)
            assert not [thread for thread in threading.enumerate() if thread.name.startswith("mvx-logger")]
        """,
            strict=False,
        )
        assert done.returncode == 0, done.stderr
        assert program.counts() == {f"run {number}": 6 for number in range(30)}

    def test_one_sink_for_all_loops(self, program: Program, run: str) -> None:
        """One that `create` made serves them all, and what is between them."""
        done = program.run(f"""
            import uvloop

            sink, close = ToFile.create()
            ways = ways_in(sink)

            async def main(number):
                for log in ways:
                    log(f"run {{number}}")
                assert await asyncio.to_thread(sink.flush, 20)

            for number in range(30):
                {run}(main(number))
                for log in ways:
                    log(f"between {{number}}")
            close()
            assert_true(sink)
        """)
        assert (done.returncode, done.stderr) == (0, "")
        assert program.counts() == {f"{what} {number}": 3 for number in range(30) for what in ("run", "between")}

    def test_stop_and_start_on_the_loop(self, program: Program, run: str) -> None:
        """A sink of the application's loop, stopped and started again while tasks log; and one on a loop in a thread."""
        done = program.run(
            f"""
            import uvloop

            async def main(where):
                sink = ToFile()
                ways = ways_in(sink) if where == "main" else [lambda name: sink.log(event(name))]

                async def log_on(task):
                    for number in range(20):
                        for log in ways:
                            log(f"{{where}} {{task}} {{number}}")
                        await asyncio.sleep(0)

                for round in range(3):
                    await sink.start()
                    await asyncio.gather(*[log_on(f"{{round}} {{task}}") for task in range(3)])
                    assert (await sink.stop()).success
                    assert sink.stats().pending == 0
                assert_true(sink)

            def run_in_thread():
                loop = uvloop.new_event_loop() if "uvloop" in "{run}" else asyncio.new_event_loop()
                loop.run_until_complete(main("thread"))
                loop.close()

            thread = threading.Thread(target=run_in_thread)
            thread.start()
            {run}(main("main"))
            thread.join()
        """,
            strict=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        ways = {"main": 3, "thread": 1}
        assert program.counts() == {
            f"{where} {round} {task} {number}": count
            for where, count in ways.items()
            for round in range(3)
            for task in range(3)
            for number in range(20)
        }

    def test_loop_that_is_closed_under_a_sink(self, program: Program, run: str) -> None:
        """Its events cannot be delivered any more: that is told, with their number, and nobody hangs; `asyncio.run` may
        be called again, and a sink of that loop delivers."""
        done = program.run(
            f"""
            import uvloop

            mvx_logger.selflog.set_interval(0)
            reports = []
            mvx_logger.selflog.redirect(reports.append)
            make = uvloop.new_event_loop if "uvloop" in "{run}" else asyncio.new_event_loop

            async def begin():
                sink = Slow()
                await sink.start()
                return sink

            loop = make()
            sink = loop.run_until_complete(begin())
            ways = ways_in(sink)
            for log in ways:
                log("lost")
            assert not sink.flush(5)
            loop.close()
            for log in ways:
                log("refused")
            assert not sink.flush(5)
            assert_true(sink)
            stats = sink.stats()
            assert stats.delivered == stats.pending == 0
            lost = sum(stats.dropped.values())
            assert lost == stats.accepted >= 3
            assert any(report.fields.get("lost") == lost for report in reports), reports

            async def main():
                sink = await begin()
                for log in ways_in(sink):
                    log("next")

            {run}(main())
        """,
            strict=False,
        )
        assert done.returncode == 0, done.stderr
        assert program.counts() == {"next": 3}


class TestOtherLoops:
    def test_sink_that_is_made_on_uvloop(self, program: Program) -> None:
        """With uvloop's policy set, the threads of the sinks have its loops too: forks, ends and floods are the same."""
        done = program.run(
            """
            import uvloop, warnings

            warnings.simplefilter("ignore")  # policies are on their way out
            asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
            sink, _ = ToFile.create(queue_max_size=100_000)
            ways = ways_in(sink)
            for number in range(500):
                for log in ways:
                    log(f"parent {number}")
            assert sink.flush(20)
            if not (child := os.fork()):
                for log in ways:
                    log("child")
                sys.exit(0)
            assert os.waitpid(child, 0)[1] == 0
            for log in ways:
                log("end")
        """,
            strict=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert program.counts() == {"child": 3, "end": 3, **{f"parent {number}": 3 for number in range(500)}}
