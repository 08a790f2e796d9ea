"""What the documentation tells users of web and task frameworks to write does what it says, in the framework itself."""

from __future__ import annotations

import http.client
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import mvx_logger
from pages import ROOT, find_block
from servers import WAIT, find_free_port, wait_until

PAGE = ROOT / "docs" / "stdlib.md"

WSGI = """
import logging

logger = logging.getLogger("shop.orders")


def app(environ, start_response):
    logger.info("order %s placed", 42)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"thank you"]
"""

ASGI = """
import logging

logger = logging.getLogger("shop.orders")


async def app(scope, receive, send):
    assert scope["type"] == "http"
    logger.info("order %s placed", 42)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"thank you"})
"""

DJANGO = """
import logging

from django.http import HttpResponse
from django.urls import path

DEBUG = True
SECRET_KEY = "not-a-secret"
ROOT_URLCONF = __name__
USE_TZ = True
logger = logging.getLogger("shop.orders")


def place(request):
    logger.info("order %s placed", 42)
    return HttpResponse(b"thank you")


urlpatterns = [path("orders", place)]
"""

CELERY = """
import celery
from celery.signals import task_postrun
from celery.utils.log import get_task_logger
from celery.worker import state

app = celery.Celery("shop", broker="filesystem://")
app.conf.broker_transport_options = {"data_folder_in": "queue", "data_folder_out": "queue", "polling_interval": 0.02}
app.conf.task_ignore_result = True
logger = get_task_logger("shop.orders")


@app.task
def place(number):
    logger.info("order %s placed", number)


@task_postrun.connect
def stop_the_worker(**_):  # it would notice a signal seconds later
    state.should_stop = 0
"""


class Place:
    """A directory in which a framework runs, with the store into which it logs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def write(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text)

    def _environment(self) -> dict[str, str]:
        package = str(Path(mvx_logger.__file__).parent.parent)
        # gunicorn puts a socket into the home directory.
        path = os.pathsep.join([package, str(self.directory)])
        return {**os.environ, "HOME": str(self.directory), "PYTHONPATH": path}

    def run(self, *arguments: str) -> None:
        subprocess.run(
            [sys.executable, *arguments], cwd=self.directory, env=self._environment(), check=True, timeout=WAIT
        )

    def start(self, *arguments: str) -> None:
        with (self.directory / "output.txt").open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self.directory,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def get(self, port: int) -> None:
        """Ask for one order, once the server listens."""

        def get() -> bytes | None:
            assert self._process is not None
            assert self._process.poll() is None
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT)) as connection:
                try:
                    connection.connect()
                except ConnectionRefusedError:
                    return None
                connection.request("GET", "/orders")
                return connection.getresponse().read()

        assert wait_until(get, "the server answers") == b"thank you"

    def lines(self) -> list[tuple[str, str, str]]:
        """Logger, message and time of everything that has arrived."""
        with closing(sqlite3.connect(self.directory / "events.db")) as store:
            rows: list[tuple[str, str, str]] = store.execute(
                "SELECT namespace, message, timestamp FROM events"
            ).fetchall()
        return rows

    def stop(self, number: int, *loggers: str) -> list[tuple[str, str, str]]:
        """End the framework when lines of these loggers have arrived; return all lines."""
        wait_until(lambda: set(loggers) <= {line[0] for line in self.lines()}, f"lines of {loggers}")
        assert self._process is not None
        self._process.send_signal(number)
        return self.wait()

    def wait(self) -> list[tuple[str, str, str]]:
        """All lines, when the framework has ended."""
        assert self._process is not None
        assert self._process.wait(WAIT) == 0, self.output()
        return self.lines()

    def output(self) -> str:
        return (self.directory / "output.txt").read_text()

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(WAIT)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.end()


def check(lines: list[tuple[str, str, str]], *wanted: tuple[str, str]) -> None:
    """Each wanted line is there exactly once, and no record has come by two ways."""
    for logger, text in wanted:
        assert len([1 for name, message, _ in lines if name == logger and text in message]) == 1, (logger, text, lines)
    assert max(Counter(lines).values()) == 1, lines


ORDER = ("shop.orders", "order 42 placed")


def test_uvicorn(place: Place) -> None:
    """The access line, the lines of the server and those of the application arrive once, and nothing is printed."""
    place.write("logging.json", find_block(PAGE, "**uvicorn.**"))
    place.write("shop.py", ASGI)
    port = find_free_port()
    place.start("-m", "uvicorn", "shop:app", "--log-config", "logging.json", "--lifespan", "off", "--port", str(port))
    place.get(port)
    lines = place.stop(signal.SIGINT, "uvicorn.access", "shop.orders")
    check(lines, ORDER, ("uvicorn.access", '"GET /orders HTTP/1.1" 200'), ("uvicorn.error", "Uvicorn running on"))
    assert place.output() == ""


def test_gunicorn(place: Place) -> None:
    """The access line of the worker, the lines of the arbiter and those of the application arrive once."""
    place.write("gunicorn.conf.py", find_block(PAGE, "**gunicorn.**"))
    place.write("shop.py", WSGI)
    port = find_free_port()
    place.start("-m", "gunicorn", "shop:app", "--bind", f"127.0.0.1:{port}")
    place.get(port)
    lines = place.stop(signal.SIGTERM, "gunicorn.access", "shop.orders")
    check(lines, ORDER, ("gunicorn.access", '"GET /orders HTTP/1.1" 200'), ("gunicorn.error", "Listening at"))
    assert place.output() == ""


def test_django(place: Place) -> None:
    """The access line of ``runserver`` and the lines of the application arrive once."""
    place.write("shop.py", DJANGO + find_block(PAGE, "**Django.**"))
    port = find_free_port()
    place.start("-m", "django", "runserver", "--settings", "shop", "--noreload", "--skip-checks", str(port))
    place.get(port)
    lines = place.stop(signal.SIGINT, "django.server", "shop.orders")
    check(lines, ORDER, ("django.server", '"GET /orders HTTP/1.1" 200'))


def test_celery(place: Place) -> None:
    """What a task logs and what the worker says of it arrive once."""
    (place.directory / "queue").mkdir()
    place.write("shop.py", find_block(PAGE, "**Celery.**") + CELERY)
    place.run("-c", "import shop; shop.place.delay(42)")
    place.start(
        "-m", "celery", "-A", "shop", "worker", "-P", "solo", "-l", "INFO", "--without-gossip", "--without-mingle"
    )
    lines = place.wait()
    check(lines, ORDER, ("celery.worker.strategy", "received"), ("celery.app.trace", "succeeded"))
    assert "order 42" not in place.output()
