"""Servers that fork: gunicorn, uWSGI, Celery. Real ones, with two processes, on a port or in a directory of their own."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from matrix_helpers import TIMEOUT, Program

pytestmark = pytest.mark.slow

# One sink, made when the module is loaded; events of it come from the loading and from each request.
SINK = """
sink = mvx_logger.configure_log_sink(name="file", sink_cls=ToFile)
ways = ways_in(sink)


def log_by_all(name):
    for log in ways:
        log(name)
"""

WSGI = f"""
{SINK}
log_by_all(f"loaded by {{os.getpid()}}")


def application(environ, start_response):
    log_by_all(environ["PATH_INFO"])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    program = Program(tmp_path)
    yield program
    program.end()


class Server:
    """A web server that answers with the number of the process that did."""

    def __init__(self, program: Program, command: Callable[[int], list[str]]) -> None:
        self.program = program
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.process = program.start(*command(self.port))
        self.answered: list[str] = []

    def get(self, name: str, *, port: int | None = None) -> int | None:
        """Ask once; None when there is no answer."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=TIMEOUT)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", f"/{name}")
            answer = connection.getresponse()
            if answer.status == 200:
                process = int(answer.read())
                self.answered.append(f"/{name}")
                return process
        return None

    def get_all(self, name: str, *, until: Callable[[set[int]], bool]) -> set[int]:
        """Ask until the processes that have answered suffice."""
        processes: set[int] = set()
        deadline = time.monotonic() + TIMEOUT
        number = 0
        while not until(processes):
            assert time.monotonic() < deadline, self.program.output()
            assert self.process.poll() is None, self.program.output()
            process = self.get(f"{name}-{number}")
            number += 1
            if process is None:
                time.sleep(0.02)
            else:
                processes.add(process)
        return processes

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < deadline, self.program.output()
            time.sleep(0.02)

    def end(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        assert self.process.wait(TIMEOUT) == 0, self.program.output()

    def abort(self) -> None:
        """End the server the hard way. (Of uWSGI, one in five hangs when it is told to end while a thread of Python's runs,
        whatever the thread does: no test can say anything about its end.)"""
        self.program.end()

    def has_delivered(self) -> bool:
        """True when what the answered requests have logged has arrived."""
        counts = self.program.counts()
        return all(counts[name] == 3 for name in self.answered)

    def check(self) -> Counter[str]:
        """Each answered request has logged each way, once. Returns what was logged besides."""
        output = self.program.output()
        assert "mvx-logger" not in output, output
        assert "Traceback" not in output, output
        counts = self.program.counts()
        lost = {name: counts[name] for name in self.answered if counts[name] != 3}
        assert not lost, (lost, output)
        asked = set(self.answered)
        return Counter({name: count for name, count in counts.items() if name not in asked})


def two(processes: set[int]) -> bool:
    return len(processes) == 2


class TestGunicorn:
    @pytest.mark.parametrize("preload", [False, True], ids=["loaded by each", "preloaded"])
    def test_life_of_a_server(self, program: Program, preload: bool) -> None:
        """A worker is killed, another takes its place, all are replaced by a reload, the server ends: whatever was logged by
        a request that was answered arrives once, whether or not the application was loaded before the workers were."""
        program.write(WSGI)
        (program.directory / "gunicorn.conf.py").write_text(
            "workers = 2\n"
            f"preload_app = {preload}\n"
            "graceful_timeout = 20\n"
            "def post_worker_init(worker):\n"
            "    import app, os\n"
            "    app.log_by_all(f'worker {os.getpid()}')\n"
            "def worker_exit(server, worker):\n"
            "    import app, os\n"
            "    app.log_by_all(f'exit {os.getpid()}')\n"
        )
        server = Server(program, lambda port: [*PYTHON, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "app"])
        first = server.get_all("first", until=two)
        server.wait_until(server.has_delivered)  # a kill takes along what waits

        killed = first.pop()
        os.kill(killed, signal.SIGKILL)
        (left,) = first
        second = server.get_all("second", until=lambda processes: len(processes - {killed}) == 2)
        (fresh,) = second - {killed, left}

        server.process.send_signal(signal.SIGHUP)
        third = server.get_all("third", until=lambda processes: len(processes - {killed, left, fresh}) == 2)
        server.end()

        besides = server.check()
        replaced = third - {killed, left, fresh}
        workers = {killed, left, fresh, *replaced}
        loaders = {server.process.pid} if preload else workers
        for pid in workers:
            assert besides.pop(f"worker {pid}") == 3
            assert besides.pop(f"exit {pid}", 0) == (0 if pid == killed else 3)
        # Of a preloaded application, a reload loads nothing anew.
        assert {name for name in besides if name.startswith("loaded by")} == {f"loaded by {pid}" for pid in loaders}
        assert all(count == 3 for count in besides.values())
        # Nobody but the process that was asked has delivered.
        assert {pid for pid, name in program.lines() if name.startswith("/")} <= workers

    @pytest.mark.parametrize("kind", ["gthread", "uvicorn"])
    def test_other_workers(self, program: Program, kind: str) -> None:
        """Threads, and an event loop in each worker: of the requests that come at the same time none is lost."""
        program.write(f"""
{SINK}
asgi = {kind == "uvicorn"}


def wsgi_application(environ, start_response):
    log_by_all(environ["PATH_INFO"])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]


async def asgi_application(scope, receive, send):
    if scope["type"] == "http":
        log_by_all(scope["path"])
        await send({{"type": "http.response.start", "status": 200, "headers": []}})
        await send({{"type": "http.response.body", "body": str(os.getpid()).encode()}})


application = asgi_application if asgi else wsgi_application
""")
        if kind == "gthread":
            options = ["-m", "gunicorn", "--workers", "2", "--worker-class", "gthread", "--threads", "4", "--preload"]
        else:
            options = ["-m", "uvicorn", "--workers", "2", "--lifespan", "off"]

        def command(port: int) -> list[str]:
            where = ["--bind", f"127.0.0.1:{port}"] if kind == "gthread" else ["--port", str(port)]
            return [*PYTHON, *options, *where, "app:application"]

        server = Server(program, command)
        server.get_all("first", until=bool)
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(server.get, [f"many-{number}" for number in range(80)]))
        server.end()
        assert not server.check()


PYTHON = [sys.executable, "-W", "ignore::DeprecationWarning"]
UWSGI = [*PYTHON, "-c", "from pyuwsgi import run; run()", "--master", "--die-on-term", "--enable-threads", "--need-app"]


class TestUwsgi:
    @pytest.mark.parametrize("option", ["--py-call-uwsgi-fork-hooks", "--lazy-apps"])
    def test_life_of_a_server(self, program: Program, option: str) -> None:
        """A worker is killed, and another takes its place. With the option that tells Python of the forks, or with the
        application loaded by each worker, what the answered requests logged arrives once."""
        program.write(WSGI)
        server = Server(
            program,
            lambda port: [*UWSGI, "--processes=2", f"--http-socket=127.0.0.1:{port}", "--module=app", option],
        )
        first = server.get_all("first", until=two)
        server.wait_until(server.has_delivered)  # a kill takes along what waits
        killed = first.pop()
        os.kill(killed, signal.SIGKILL)
        second = server.get_all("second", until=lambda processes: len(processes - {killed}) == 2)
        server.wait_until(server.has_delivered)
        server.abort()
        besides = server.check()
        loaders = second | {killed} if option == "--lazy-apps" else {server.process.pid}
        assert besides == dict.fromkeys((f"loaded by {pid}" for pid in loaders), 3)

    def test_second_application_of_a_process(self, program: Program) -> None:
        """uWSGI would give it an interpreter of its own: it does not load there, and the log says why. With that changed,
        both applications are served."""
        program.write(WSGI)
        program.write("from app import application", "other.py")

        def command(port: int, *options: str) -> list[str]:
            mounts = ["--lazy-apps", "--manage-script-name", "--mount=/a=app.py", "--mount=/b=other.py"]
            return [*UWSGI, f"--http-socket=127.0.0.1:{port}", *mounts, *options]

        refused = Server(program, command)
        refused.wait_until(lambda: "cannot be imported in a sub-interpreter" in program.output())
        assert "uwsgi: --single-interpreter" in program.output()
        refused.abort()

        server = Server(program, lambda port: command(port, "--single-interpreter"))
        for name in ("a/x", "b/x"):
            server.wait_until(lambda name=name: server.get(name) is not None)
        server.wait_until(lambda: program.counts()["/x"] == 6)
        server.abort()


class TestCelery:
    def test_life_of_a_worker(self, program: Program) -> None:
        """Tasks log in two processes of a worker, which is told to end while some of them are running: what they and the
        hooks of the processes logged, and what was logged before the fork, arrives once."""
        broker = program.directory / "broker"
        broker.mkdir()
        program.write(f"""
from celery import Celery, signals

{SINK}
app = Celery("app", broker="filesystem://")
app.conf.update(
    broker_transport_options={{
        "data_folder_in": {str(broker)!r},
        "data_folder_out": {str(broker)!r},
        "control_folder": {str(broker / "control")!r},
        "store_processed": False,
        "polling_interval": 0.02,
    }},
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    worker_enable_remote_control=False,
)
logging.getLogger().addHandler(mvx_logger.SinkHandler("file", level="ERROR"))


@app.task
def work(name):
    log_by_all(name)


@app.task
def fail(name):
    log_by_all(name)
    raise ValueError(name)


@app.task
def linger(name):
    log_by_all(f"{{name}} begins")
    time.sleep(0.3)
    log_by_all(f"{{name}} ends")


@signals.worker_init.connect
def on_worker(**_):
    log_by_all("worker")


@signals.worker_process_init.connect
def on_process(**_):
    log_by_all(f"process {{os.getpid()}}")


@signals.worker_process_shutdown.connect
def on_shutdown(**_):
    log_by_all(f"end of {{os.getpid()}}")
""")
        send = program.write(
            """
            import app

            for number in range(20):
                app.work.delay(f"work {number}")
            app.fail.delay("fail")
            app.linger.delay("linger")
            """,
            "send.py",
        )
        worker = program.start(
            *PYTHON, "-m", "celery", "--app=app", "worker", "--pool=prefork", "--concurrency=2", "--without-gossip",
            "--without-mingle", "--without-heartbeat", "--loglevel=WARNING",
        )  # fmt: skip
        subprocess.run(
            [*PYTHON, str(send)], env=program.environment(), cwd=program.directory, check=True, timeout=TIMEOUT
        )
        deadline = time.monotonic() + TIMEOUT
        while "linger begins" not in program.names():
            assert time.monotonic() < deadline, program.output()
            assert worker.poll() is None, program.output()
            time.sleep(0.02)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(TIMEOUT) == 0, program.output()
        assert "mvx-logger" not in program.output()
        counts = program.counts()
        # Celery tells of the failed task by itself.
        (told,) = [name for name in counts if name.startswith("Task app.fail")]
        assert counts.pop(told) == 1
        processes = {pid for pid, name in program.lines() if name.startswith(("work ", "linger", "fail"))}
        assert len(processes) == 2
        for pid in processes:
            assert counts.pop(f"process {pid}") == 3
            assert counts.pop(f"end of {pid}") == 3
        names = ["worker", "fail", "linger begins", "linger ends", *(f"work {number}" for number in range(20))]
        assert counts == dict.fromkeys(names, 3)
