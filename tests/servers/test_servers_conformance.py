"""The conformance kit on real servers: killed, frozen, or with another password, and nothing is lost.

One server of each kind for all tests of its class. A test has a table, stream, queue or topic of its own, and leaves the
server at work.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from clickhouse_server import ClickHouseServer, needs_clickhouse
from destinations import make_event
from kafka_server import KafkaServer, ObjectStore, needs_kafka
from mosquitto_server import PASSWORD, USER, Mosquitto, Subscriber, needs_mosquitto
from mvx_logger.sinks.amqp import AmqpLogSink
from mvx_logger.sinks.clickhouse import ClickHouseLogSink
from mvx_logger.sinks.kafka import KafkaLogSink
from mvx_logger.sinks.mqtt import MqttLogSink
from mvx_logger.sinks.nats import NatsLogSink
from mvx_logger.sinks.postgres import PostgresLogSink
from mvx_logger.sinks.redis import RedisLogSink
from mvx_logger.testing import SinkConformance, SinkDestination
from nats_server import NatsServer, needs_nats
from postgres_server import PostgresServer, needs_postgres
from rabbitmq_server import RabbitMq, Reader, needs_rabbitmq
from redis_server import RedisServer, name_events, needs_redis, read_stream
from servers import Proxy, Server
from waiting import WAIT

SECRET = "Hush-Hush-0123"
_numbers = itertools.count()
Found = Sequence[tuple[str | None, str]]


class OnServer(SinkDestination):
    """A server that is killed and frozen."""

    server: Server

    def break_down(self) -> None:
        self.server.kill()

    def repair(self) -> None:
        self.server.start()

    def stall(self) -> None:
        self.server.freeze()

    def go_on(self) -> None:
        self.server.thaw()

    def recover(self) -> None:
        """What the test has left broken is whole again."""
        if self.server.is_running:
            self.server.thaw()
        else:
            self.server.start()

    def read(self) -> Found:
        self.recover()
        return self.read_all()

    def read_all(self) -> Found:
        raise NotImplementedError


class OnProxy(OnServer):
    """A server behind a proxy: it takes long to start, or a reader of its own has to stay connected."""

    def __init__(self, port: int) -> None:
        self.proxy = Proxy(port)

    def break_down(self) -> None:
        self.proxy.refuse()
        self.proxy.drop()

    def repair(self) -> None:
        self.proxy.refuse(False)

    def recover(self) -> None:
        self.server.thaw()


# ---------------------------------------------------------------------- Redis


class OnRedis(OnServer):
    server: RedisServer

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        with server.connect() as client:
            client.flushall()

    def options(self) -> dict[str, Any]:
        return {"port": self.server.port, "username": "logger", "password": SECRET}

    def url(self) -> str:
        return f"redis://logger:{SECRET}@127.0.0.1:{self.server.port}"

    def read_all(self) -> Found:
        with self.server.connect() as client:
            return name_events(read_stream(client))

    def change_secret(self) -> None:
        self._set("another")
        with self.server.connect() as client:
            client.client_kill_filter(_type="normal", skipme=True)

    def restore_secret(self) -> None:
        self._set(SECRET)

    def _set(self, password: str) -> None:
        with self.server.connect() as client:
            client.execute_command("ACL", "SETUSER", "logger", "resetpass", f">{password}")


@pytest.fixture(scope="class")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    user = f"user logger on >{SECRET} ~logs* +@all"
    with RedisServer(tmp_path_factory.mktemp("redis"), user) as server:
        yield server


@needs_redis
class TestRedis(SinkConformance):
    sink_class = RedisLogSink
    test_an_event_that_is_refused = None  # it takes every event
    secrets = (SECRET,)
    secret_error = "WRONGPASS|AuthenticationError"

    @pytest.fixture
    def destination(self, redis: RedisServer) -> Iterator[OnRedis]:
        destination = OnRedis(redis)
        yield destination
        destination.recover()


# ---------------------------------------------------------------------- PostgreSQL


class OnPostgres(OnServer):
    server: PostgresServer

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self.table = f"events{next(_numbers)}"

    def options(self) -> dict[str, Any]:
        login = {"username": "logger", "password": SECRET}
        return {"host": self.server.host, "port": self.server.port, "database": "logs", "table": self.table, **login}

    def url(self) -> str:
        return f"postgresql://logger:{SECRET}@{self.server.host}:{self.server.port}/logs?table={self.table}"

    def read_all(self) -> Found:
        if not self.server.run(f"SELECT to_regclass('{self.table}')", database="logs")[0][0]:
            return []
        rows = self.server.run(f"SELECT delivery_id::text, event FROM {self.table} ORDER BY id", database="logs")
        return [tuple(row) for row in rows]

    def refuse(self, name: str) -> None:
        sink, close = PostgresLogSink.create(**self.options())
        sink.log(make_event(0))  # makes the table
        assert sink.flush(timeout=WAIT), sink.stats()
        close()
        self.server.run(
            f"DELETE FROM {self.table}; ALTER TABLE {self.table} ADD CONSTRAINT refused CHECK (event <> '{name}')",
            database="logs",
        )

    def change_secret(self) -> None:
        self.server.run("ALTER ROLE logger PASSWORD 'another'")
        self.server.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'logger'")

    def restore_secret(self) -> None:
        self.server.run(f"ALTER ROLE logger PASSWORD '{SECRET}'")


@pytest.fixture(scope="class")
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    try:
        server.start()
        server.run(f"CREATE ROLE logger LOGIN PASSWORD '{SECRET}'")
        server.run("CREATE DATABASE logs OWNER logger TEMPLATE template0")
        yield server
    finally:
        server.remove()


@needs_postgres
class TestPostgres(SinkConformance):
    sink_class = PostgresLogSink
    deduplicates = True
    secrets = (SECRET,)
    secret_error = "password authentication failed"

    @pytest.fixture
    def destination(self, postgres: PostgresServer) -> Iterator[OnPostgres]:
        destination = OnPostgres(postgres)
        yield destination
        destination.recover()


# ---------------------------------------------------------------------- NATS


class OnNats(OnServer):
    server: NatsServer

    def __init__(self, server: NatsServer) -> None:
        self.server = server
        self.stream = f"LOGS{next(_numbers)}"

    def options(self) -> dict[str, Any]:
        where = {"servers": f"127.0.0.1:{self.server.port}", "stream": self.stream, "subject": f"{self.stream}.all"}
        return {**where, "username": "logger", "password": SECRET}

    def read_all(self) -> Found:
        try:
            return self.server.read_names(self.stream, user="logger", password=SECRET)
        except Exception as err:
            if "stream not found" in str(err):
                return []
            raise

    def change_secret(self) -> None:
        set_nats_password(self.server, "another")

    def restore_secret(self) -> None:
        set_nats_password(self.server, SECRET)


def set_nats_password(server: NatsServer, password: str) -> None:
    """Who has another one is disconnected."""
    server.settings = f"authorization {{ user: logger, password: {json.dumps(password)} }}"
    if server.is_running:
        server.reload()


@pytest.fixture(scope="class")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    set_nats_password(server, SECRET)
    with server:
        yield server


@needs_nats
class TestNats(SinkConformance):
    sink_class = NatsLogSink
    test_an_event_that_is_refused = None  # it knows no names of events
    deduplicates = True
    secrets = (SECRET,)
    secret_error = "Authorization Violation"

    @pytest.fixture
    def destination(self, nats: NatsServer) -> Iterator[OnNats]:
        destination = OnNats(nats)
        yield destination
        destination.recover()


# ---------------------------------------------------------------------- AMQP


class OnRabbitMq(OnProxy):
    server: RabbitMq

    def __init__(self, server: RabbitMq) -> None:
        super().__init__(server.port)
        self.server = server
        self.reader = Reader(server, f"events-{next(_numbers)}")

    def options(self) -> dict[str, Any]:
        queue = self.reader.queue
        login = {"username": "logger", "password": SECRET}
        return {"host": "127.0.0.1", "port": self.proxy.port, "exchange": f"logs-{queue}", "queue": queue, **login}

    def url(self) -> str:
        queue = self.reader.queue
        return f"amqp://logger:{SECRET}@127.0.0.1:{self.proxy.port}?exchange=logs-{queue}&queue={queue}"

    def read_all(self) -> Found:
        from aiormq.exceptions import ChannelNotFoundEntity

        try:
            return self.reader.read_ids()
        except ChannelNotFoundEntity:  # no sink has declared it so far
            return []

    def change_secret(self) -> None:
        self.server.control("change_password", "logger", "another")
        self.proxy.drop()

    def restore_secret(self) -> None:
        self.server.control("change_password", "logger", SECRET)


@pytest.fixture(scope="class")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMq]:
    server = RabbitMq(tmp_path_factory.mktemp("rabbitmq"))
    try:
        server.start()
        server.control("add_user", "logger", SECRET)
        server.control("set_permissions", "logger", ".*", ".*", ".*")
        yield server
    finally:
        server.close()


@needs_rabbitmq
class TestRabbitMq(SinkConformance):
    sink_class = AmqpLogSink
    test_an_event_that_is_refused = None  # it knows no names of events
    secrets = (SECRET,)
    secret_error = "ACCESS_REFUSED"

    @pytest.fixture
    def destination(self, rabbitmq: RabbitMq) -> Iterator[OnRabbitMq]:
        destination = OnRabbitMq(rabbitmq)
        with destination.proxy:
            yield destination
            destination.recover()


# ---------------------------------------------------------------------- MQTT


class OnMosquitto(OnProxy):
    server: Mosquitto

    def __init__(self, server: Mosquitto) -> None:
        super().__init__(server.port)
        self.server = server
        self.topic = f"logs{next(_numbers)}"
        self.subscriber = Subscriber(server.port, f"{self.topic}/#", (USER, PASSWORD))

    def options(self) -> dict[str, Any]:
        login = {"username": USER, "password": PASSWORD}
        return {"host": "127.0.0.1", "port": self.proxy.port, "topic": f"{self.topic}/all", **login}

    def url(self) -> str:
        return f"mqtt://{USER}:{PASSWORD}@127.0.0.1:{self.proxy.port}?topic={self.topic}/all"

    def read_all(self) -> Found:
        self.subscriber.catch_up()
        return self.subscriber.read_ids()

    def change_secret(self) -> None:
        self._set("another")
        self.proxy.drop()

    def restore_secret(self) -> None:
        self._set(PASSWORD)

    def _set(self, password: str) -> None:
        self.server.set_password(password)
        self.server.reload()


@pytest.fixture(scope="class")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path_factory.mktemp("mosquitto"), with_password=True) as server:
        yield server


@needs_mosquitto
class TestMosquitto(SinkConformance):
    sink_class = MqttLogSink
    test_an_event_that_is_refused = None  # it knows no names of events
    secrets = (PASSWORD,)
    secret_error = "not authorized"

    @pytest.fixture
    def destination(self, mosquitto: Mosquitto) -> Iterator[OnMosquitto]:
        destination = OnMosquitto(mosquitto)
        with destination.proxy, destination.subscriber:
            yield destination
            destination.recover()


# ---------------------------------------------------------------------- Kafka


class OnKafka(OnServer):
    server: KafkaServer

    def __init__(self, server: KafkaServer) -> None:
        self.server = server
        self.topic = f"logs{next(_numbers)}"
        server.make_topic(self.topic)

    def options(self) -> dict[str, Any]:
        return {"servers": self.server.address, "topic": self.topic}

    def url(self) -> str:
        return f"kafka://{self.server.address}/{self.topic}?idempotent=false"

    def read_all(self) -> Found:
        return self.server.read_names(self.topic)


@pytest.fixture(scope="class")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    with ObjectStore(tmp_path_factory.mktemp("store")) as store:
        store.make_bucket("conformance")
        with KafkaServer(tmp_path_factory.mktemp("kafka"), store, "conformance") as server:
            yield server


@needs_kafka
class TestKafka(SinkConformance):
    sink_class = KafkaLogSink
    test_an_event_that_is_refused = None  # it knows no names of events
    test_the_secret_is_changed_and_changed_back = test_secrets_stay_secret = None  # it has none
    # Not idempotent: this broker notes the number of a batch before it has it, and takes it for known after a kill. The
    # producer tries again by itself for as long as a delivery may take: until then, the sink has nothing to report.
    fixed_options = {"idempotent": False, "delivery_timeout": 1.0}  # noqa: RUF012
    keeps_order = False

    @pytest.fixture
    def destination(self, kafka: KafkaServer) -> Iterator[OnKafka]:
        destination = OnKafka(kafka)
        yield destination
        destination.recover()


# ---------------------------------------------------------------------- ClickHouse


class OnClickHouse(OnServer):
    server: ClickHouseServer

    def __init__(self, server: ClickHouseServer) -> None:
        self.server = server
        self.table = f"events{next(_numbers)}"

    def options(self) -> dict[str, Any]:
        return {"url": self.server.url, "table": self.table, "username": "default", "password": SECRET}

    def read_all(self) -> Found:
        if self.server.query(f"EXISTS TABLE {self.table}") != "1\n":
            return []
        rows = self.server.query(
            f"SELECT delivery_id, event FROM {self.table} FINAL ORDER BY delivery_id FORMAT JSONEachRow"
        )
        return [(row["delivery_id"], row["event"]) for row in map(json.loads, rows.splitlines())]

    def change_secret(self) -> None:
        self.server.set_user(password="another")

    def restore_secret(self) -> None:
        self.server.set_user(password=SECRET)


@pytest.fixture(scope="class")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    server = ClickHouseServer(tmp_path_factory.mktemp("clickhouse"))
    server.password = SECRET
    with server:
        yield server


@needs_clickhouse
class TestClickHouse(SinkConformance):
    sink_class = ClickHouseLogSink
    test_an_event_that_is_refused = None  # constraints came after Debian's version; test_clickhouse.py has them
    deduplicates = True
    secrets = (SECRET,)
    secret_error = "Code: (193|516)"

    @pytest.fixture
    def destination(self, clickhouse: ClickHouseServer) -> Iterator[OnClickHouse]:
        destination = OnClickHouse(clickhouse)
        yield destination
        destination.recover()
