"""The contract of a sink, for the sinks for log products."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

import preset_receivers
from http_receiver import DROP, HANG, Answer, Protocol, Receiver, Request
from mvx_logger.sinks.loki import LokiLogSink
from mvx_logger.sinks.otlp import OtlpLogSink
from mvx_logger.sinks.seq import SeqLogSink
from mvx_logger.sinks.splunk import SplunkLogSink
from mvx_logger.testing import SinkConformance, SinkDestination

SECRET = "s3cret-t0ken-0123456789"
BASIC = f"Basic {b64encode(f'shop:{SECRET}'.encode()).decode()}"


class ReceiverDestination(SinkDestination):
    """A receiver in this process.

    Args:
        protocol: What it takes.
        scheme: The scheme of the sink's URLs.
        options: Those of the sink; the last one is the secret.
        attributes: Those of the protocol that say which secret is right.
    """

    def __init__(self, protocol: Protocol, scheme: str, options: dict[str, Any], attributes: dict[str, Any]) -> None:
        self._protocol = protocol
        self._attributes = attributes
        self.restore_secret()
        self._handle = protocol.handle
        self._refused: set[str] = set()
        protocol.handle = self._look  # type: ignore[method-assign]
        self.receiver = Receiver(protocol)
        self._scheme = scheme
        self._options = options

    def options(self) -> dict[str, Any]:
        return {"url": self.receiver.url, **self._options}

    def url(self) -> str:
        user = f"{self._options.get('username', '')}:{SECRET}@"
        return self.receiver.url.replace("http://", f"{self._scheme}://{user}")

    def read(self) -> list[tuple[str | None, str]]:
        return [*self.receiver.protocol.read()]

    def break_down(self) -> None:
        self.receiver.always(DROP)
        self.receiver.drop()

    def repair(self) -> None:
        self.receiver.always(None)

    def stall(self) -> None:
        self.receiver.always(HANG)

    def go_on(self) -> None:
        self.receiver.always(None)
        self.receiver.release()

    def refuse(self, name: str) -> None:
        self._refused.add(name)

    def change_secret(self) -> None:
        for name in self._attributes:
            setattr(self._protocol, name, "another")

    def restore_secret(self) -> None:
        for name, value in self._attributes.items():
            setattr(self._protocol, name, value)

    def _look(self, request: Request) -> Answer:
        if self._refused & find_names(request):
            return Answer(400, "not that one")
        return self._handle(request)


def find_names(request: Request) -> set[str]:
    """The names of the kit's events in a request."""
    if request.headers.get("content-type") != "application/x-protobuf":
        return {name.decode() for name in re.findall(rb'"(event-\d+)\\?"', request.body)}
    message = ExportLogsServiceRequest.FromString(request.body)
    scopes = [scope for resource in message.resource_logs for scope in resource.scope_logs]
    return {record.event_name for scope in scopes for record in scope.log_records}


class _Preset(SinkConformance):
    protocol: ClassVar[type[Protocol]]
    scheme: ClassVar[str]
    options: ClassVar[dict[str, Any]]
    attributes: ClassVar[dict[str, Any]]
    secrets = (SECRET,)
    secret_error = "40[13] "

    @pytest.fixture
    def destination(self) -> Iterator[ReceiverDestination]:
        found = ReceiverDestination(self.protocol(), self.scheme, self.options, self.attributes)
        yield found
        found.go_on()
        found.receiver.close()


class TestLoki(_Preset):
    """A destination that deduplicates."""

    sink_class = LokiLogSink
    protocol = preset_receivers.LokiPush
    scheme = "loki"
    options: ClassVar = {"username": "shop", "password": SECRET}
    attributes: ClassVar = {"authorization": BASIC}
    deduplicates = True


class TestSplunk(_Preset):
    """One that takes batches in part."""

    sink_class = SplunkLogSink
    protocol = preset_receivers.SplunkHec
    scheme = "splunk"
    options: ClassVar = {"token": SECRET}
    attributes: ClassVar = {"token": SECRET}


class TestSeq(_Preset):
    """One that takes batches as a whole."""

    sink_class = SeqLogSink
    protocol = preset_receivers.SeqIngest
    scheme = "seq"
    options: ClassVar = {"api_key": SECRET}
    attributes: ClassVar = {"key": SECRET}


class TestOtlp(_Preset):
    """Another encoding."""

    sink_class = OtlpLogSink
    protocol = preset_receivers.OtlpCollector
    scheme = "otlp"
    options: ClassVar = {"username": "shop", "password": SECRET}
    attributes: ClassVar = {"authorization": BASIC}
    deduplicates = True
