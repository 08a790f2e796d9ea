"""A destination, a sink that is right, and sinks that are wrong in one way each, for the conformance kit."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import pytest

from mvx_logger import AsyncioLogSink, LogDeliveryErrorKind, LogDeliveryRefusedError, LogEvent, LogEventBatch
from mvx_logger.testing import SinkConformance, SinkDestination

TOKEN = "hunter2-secret"
shelves: dict[str, Shelf] = {}


class Shelf(SinkDestination):
    """A file with a line for each event, which other processes see too."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "shelf"
        self.path.touch()
        self.is_down = False
        self.answers = threading.Event()
        self.answers.set()
        self.refused: set[str] = set()
        self.token = TOKEN
        shelves[str(self.path)] = self

    def options(self) -> dict[str, Any]:
        return {"shelf": str(self.path), "token": TOKEN}

    def url(self) -> str | None:
        return None

    def read(self) -> Sequence[tuple[str | None, str]]:
        return [(line[:36], json.loads(line[37:])) for line in self.path.read_text().splitlines()]

    def break_down(self) -> None:
        self.is_down = True

    def repair(self) -> None:
        self.is_down = False

    def stall(self) -> None:
        self.answers.clear()

    def go_on(self) -> None:
        self.answers.set()

    def refuse(self, name: str) -> None:
        self.refused.add(name)

    def change_secret(self) -> None:
        self.token = "another"

    def restore_secret(self) -> None:
        self.token = TOKEN

    def put(self, rows: Sequence[tuple[str, str]]) -> None:
        """Take events, all or none."""
        if self.is_down:
            raise ConnectionRefusedError("the shelf is down")
        if self.token != TOKEN:
            raise PermissionError("the token is wrong")
        if self.refused & {name for _, name in rows}:
            raise LogDeliveryRefusedError("not on this shelf")
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(fd, "".join(f"{delivery_id} {json.dumps(name)}\n" for delivery_id, name in rows).encode())
        finally:
            os.close(fd)


class ShelfSink(AsyncioLogSink):
    """A sink as it should be."""

    sink_type = "shelf"
    resource_options = ("shelf",)
    secret_options: ClassVar[tuple[str, ...]] = ("token",)

    def __init__(self, *, shelf: str, token: str | None = None, **async_options: Any) -> None:
        super().__init__(**async_options)
        self.shelf = shelves[shelf]
        self.token = token

    async def _dispatch_batch(self, events: LogEventBatch) -> None:
        while not self.shelf.answers.is_set():
            await asyncio.sleep(0.01)
        self.put(
            [
                (delivery_id, event.meta.event_name)
                for delivery_id, event in zip(events.delivery_ids, events, strict=True)
            ]
        )

    def put(self, rows: Sequence[tuple[str, str]]) -> None:
        self.shelf.put(rows)


class Loses(ShelfSink):
    def put(self, rows: Sequence[tuple[str, str]]) -> None:
        super().put(rows[:-1] if len(rows) > 2 else rows)


class Reorders(ShelfSink):
    def put(self, rows: Sequence[tuple[str, str]]) -> None:
        super().put(rows[::-1])


class DeliversTwice(ShelfSink):
    def put(self, rows: Sequence[tuple[str, str]]) -> None:
        super().put([*rows, *rows[:1]])


class WaitsForCompany(ShelfSink):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.held: list[tuple[str, str]] = []

    def put(self, rows: Sequence[tuple[str, str]]) -> None:
        self.held += rows
        if len(self.held) > 1:
            super().put(self.held)
            self.held = []


class Swallows(ShelfSink):
    def put(self, rows: Sequence[tuple[str, str]]) -> None:
        try:
            super().put(rows)
        except OSError:
            pass


class MakesNewIds(ShelfSink):
    def put(self, rows: Sequence[tuple[str, str]]) -> None:
        if len(rows) > 1:
            super().put([(str(uuid4()), rows[0][1])])
        super().put([(str(uuid4()), name) for _, name in rows])


class ConfirmsTooEarly(ShelfSink):
    def put(self, rows: Sequence[tuple[str, str]]) -> None:
        threading.Timer(0.2, super().put, (rows,)).start()


class ChangesEvents(ShelfSink):
    async def _dispatch_batch(self, events: LogEventBatch) -> None:
        for event in events:
            event.payload["seen"] = True  # type: ignore[index]
        await super()._dispatch_batch(events)


class ChokesOnContent(ShelfSink):
    async def _dispatch_batch(self, events: LogEventBatch) -> None:
        for event in events:
            json.dumps(dict(event.payload)).encode()
        await super()._dispatch_batch(events)


class Waits(ShelfSink):
    def log(self, event: LogEvent) -> None:
        super().log(event)
        while not self.shelf.answers.is_set():
            time.sleep(0.01)


class NeverCloses(ShelfSink):
    def close(self, *, wait: bool = True) -> None:
        while self.stats().pending and self.shelf.path.exists():
            time.sleep(0.01)
        super().close(wait=wait)


class NeverRefuses(ShelfSink):
    def _classify_error(self, error: BaseException) -> LogDeliveryErrorKind:
        return LogDeliveryErrorKind.TRANSIENT


class GivesUpOnASecret(ShelfSink):
    """A password that is wrong today is right tomorrow."""

    def _classify_error(self, error: BaseException) -> LogDeliveryErrorKind:
        if isinstance(error, PermissionError):
            return LogDeliveryErrorKind.REFUSED
        return super()._classify_error(error)


class SaysNothingOfTheSecret(ShelfSink):
    def put(self, rows: Sequence[tuple[str, str]]) -> None:
        try:
            super().put(rows)
        except PermissionError as err:
            raise OSError("it does not work") from err


class RefusesAll(ShelfSink):
    """Does not give the engine a chance to find the event that is refused."""

    async def _dispatch_batch(self, events: LogEventBatch) -> None:
        try:
            await super()._dispatch_batch(events)
        except LogDeliveryRefusedError:
            pass


class SharesABuffer(ShelfSink):
    """What is in it at a fork is in both processes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.held: list[tuple[str, str]] = []

    def put(self, rows: Sequence[tuple[str, str]]) -> None:
        held, self.held = self.held, list(rows[-1:])
        super().put([*held, *rows[:-1]])

    def flush(self, timeout: float | None = None) -> bool:
        return super().flush(timeout)

    async def _on_stopped(self) -> None:
        self.shelf.put(self.held)


class TellsItsToken(ShelfSink):
    secret_options = ()


class TellsItsTokenInErrors(ShelfSink):
    def put(self, rows: Sequence[tuple[str, str]]) -> None:
        try:
            super().put(rows)
        except OSError as err:
            raise OSError(f"{self.token} was not welcome") from err


class TakesAnything(ShelfSink):
    @classmethod
    def build_descriptor(cls, **kwargs: Any) -> Any:
        return super().build_descriptor(**{name: kwargs[name] for name in ("shelf", "token")})


class NeedsItAtTheStart(ShelfSink):
    async def _on_starting(self) -> None:
        self.shelf.put([])


class Conformance(SinkConformance):
    """For the modules that pytester makes."""

    secrets = (TOKEN,)
    secret_error = "token is wrong"
    patience = 1.5  # a broken sink takes all of it

    @pytest.fixture
    def destination(self, tmp_path: Path) -> Shelf:
        return Shelf(tmp_path)
