"""What every sink does with its options: one row for each class. What is special to one sink is in its own module."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import pytest

import mvx_logger
from mvx_logger.bridge import config
from mvx_logger.sinks import memory
from mvx_logger.testing import SinkOptionsConformance

HUSH = "Hush-Hush-0123"
NO_FILE = "tls_ca: there is no file '/no/such.pem'"
NOWHERE: dict[str, Any] = {"host": "127.0.0.1", "port": 1}
PART = memory.MemoryLogSink()

# What a product's sink does not take over from the general one.
PRODUCT: list[tuple[dict[str, Any], str]] = [
    ({"format": "json"}, "format: "),
    ({"template": "json"}, "template: "),
    ({"method": "PUT"}, "method: "),
    ({"url": "ftp://localhost"}, "url: expected a URL"),
    ({"compression": "brotli"}, "compression: expected one of "),
]


def install(extra: str) -> str:
    return f"pip install 'mvx-logger[{extra}]'"


class Row(SinkOptionsConformance):
    constructor_checks = True


class TestAmqp(Row):
    sink_class = mvx_logger.AmqpLogSink
    options = NOWHERE
    urls: ClassVar = {
        "amqp://": {},
        "amqp://one:7000": {"host": "one", "port": 7000},
        "amqp://one/": {"host": "one"},
        "amqp://one/%2F": {"host": "one", "vhost": "/"},
        "amqp://user:p%40ss@one/shop": {"host": "one", "username": "user", "password": "p@ss", "vhost": "shop"},
        "amqps://one?tls_ca=/ca.pem": {"host": "one", "tls": True, "tls_ca": "/ca.pem"},
        "amqp:?exchange=x&exchange_type=direct&routing_key={level}&queue=q&queue_type=quorum&binding_key=info"
        "&declare=false&mandatory=0&persistent=false&expiration=1.5&app_id=a&heartbeat=7&connect_timeout=3"
        "&batch_max_size=7": {
            "exchange": "x", "exchange_type": "direct", "routing_key": "{level}", "queue": "q", "queue_type": "quorum",
            "binding_key": "info", "declare": False, "mandatory": False, "persistent": False, "expiration": 1.5,
            "app_id": "a", "heartbeat": 7, "connect_timeout": 3, "batch_max_size": 7,
        },
    }  # fmt: skip
    wrong_urls: ClassVar = {"amqp://a:b": "port"}
    wrong_options: ClassVar = [
        ({"host": ""}, "host: may not be empty"),
        ({"port": 0}, "port: expected a number from 1"),
        ({"port": "x"}, "port: expected int"),
        ({"username": ""}, "username: may not be empty"),
        ({"exchange": "ü" * 128}, "exchange: longer than 255 bytes"),
        ({"exchange_type": ""}, "exchange_type: may not be empty"),
        ({"exchange": ""}, "routing_key: the default exchange needs one"),
        ({"routing_key": "{nonsense}"}, "routing_key: there is no field {nonsense}"),
        ({"queue": ""}, "queue: may not be empty"),
        ({"queue_type": "wooden"}, "queue_type: expected one of "),
        ({"exchange_type": "direct", "queue": "q"}, "binding_key: needed where the routing key"),
        ({"expiration": 0}, "expiration: expected 0.001"),
        ({"heartbeat": -1}, "heartbeat: expected a number from 0"),
        ({"connect_timeout": 0}, "connect_timeout: expected more than 0"),
        ({"persistent": 1}, "persistent: expected bool"),
        ({"tls_ca": "/ca.pem"}, "tls_ca: only with tls"),
        ({"tls": True, "tls_ca": "/no/such.pem"}, NO_FILE),
    ]
    other_resource: ClassVar = {"host": "one", "port": 2, "vhost": "a", "exchange": "a", "routing_key": "{level}"}
    same_resource: ClassVar = {"username": "a", "declare": False}
    secrets: ClassVar = {"password": HUSH, "tls_key_password": HUSH}
    beside_secrets: ClassVar = {"tls": True}
    clients: ClassVar = {"aiormq": install("amqp")}


class TestClickHouse(Row):
    sink_class = mvx_logger.ClickHouseLogSink
    options: ClassVar = {"url": "http://127.0.0.1:1"}
    urls: ClassVar = {
        "clickhouse://me:p%40ss@one:7/logs?table=t&compression=gzip&create_table=true&settings=a=1": {
            "url": "http://one:7", "username": "me", "password": "p@ss", "database": "logs", "table": "t",
            "compression": "gzip", "create_table": True, "settings": ["a=1"],
        },
        "clickhouses://one": {"url": "https://one"},
    }  # fmt: skip
    wrong_urls: ClassVar = {"clickhouse://a:b": "port"}
    wrong_options: ClassVar = [
        ({"table": ""}, "table: expected a name"),
        ({"table": "a\nb"}, "table: expected a name"),
        ({"table": 5}, "table: expected str"),
        ({"database": ""}, "database: expected a name"),
        ({"create_table": 5}, "create_table: expected bool"),
        ({"settings": ["x"]}, "settings: expected a mapping of names to values"),
        ({"settings": {"a b": 1}}, "settings: expected a mapping of names to values"),
        ({"settings": {"query": "DROP"}}, "settings: query is for the sink to say"),
        ({"settings": 5}, "settings: expected"),
        ({"url": "clickhouse://x"}, "url: expected a URL like http://"),
    ]
    other_resource: ClassVar = {"url": "http://one", "database": "a", "table": "a"}
    same_resource: ClassVar = {"create_table": True, "settings": {"a": 1}}
    secrets: ClassVar = {"password": HUSH}
    clients: ClassVar = {"aiohttp": install("http")}


class TestDatadog(Row):
    sink_class = mvx_logger.DatadogLogSink
    options: ClassVar = {"api_key": "k", "url": "http://127.0.0.1:1"}
    urls: ClassVar = {
        "datadog://:KEY@us3.datadoghq.com?service=shop": {
            "site": "us3.datadoghq.com", "api_key": "KEY", "service": "shop",
        },
    }  # fmt: skip
    wrong_options: ClassVar = [
        *PRODUCT,
        ({"api_key": ""}, "api_key: expected printable ASCII"),
        ({"site": "https://datadoghq.eu"}, "site: 'https://datadoghq.eu' is not the name of a site"),
        ({"source": ""}, "source: expected printable ASCII"),
        ({"service": "{nothing}"}, "service: there is no field"),
        ({"tags": ["env"]}, "tags: expected a mapping, or a list"),
        ({"tags": {"": "x"}}, "tags: '' is no name: expected text that is not empty"),
        ({"batch_max_size": 1_001}, "batch_max_size: Datadog takes at most 1000 at once, got 1001"),
    ]
    other_resource: ClassVar = {"url": "http://one", "site": "datadoghq.eu"}
    same_resource: ClassVar = {"service": "a", "tags": {"a": "b"}}
    secrets: ClassVar = {"api_key": HUSH}
    clients: ClassVar = {"aiohttp": install("http")}


class TestElasticsearch(Row):
    sink_class = mvx_logger.ElasticsearchLogSink
    options: ClassVar = {"url": "http://127.0.0.1:1"}
    urls: ClassVar = {
        "elasticsearch://shop:p%40ss@one:7/logs-a?compression=gzip": {
            "url": "http://one:7", "username": "shop", "password": "p@ss", "index": "logs-a", "compression": "gzip",
        },
        "elasticsearchs://host/es/logs-%7Btime%3A%25Y%7D": {"url": "https://host/es", "index": "logs-{time:%Y}"},
        "opensearch://host:9200/": {"url": "http://host:9200"},
        "opensearchs://host": {"url": "https://host"},
    }  # fmt: skip
    wrong_options: ClassVar = [
        ({"index": "Logs"}, "index: expected a name in small letters"),
        ({"index": ""}, "index: expected a name"),
        ({"index": "-logs"}, "index: expected a name"),
        ({"index": "a b"}, "index: expected a name"),
        ({"index": "{nothing}"}, "index: there is no field"),
        ({"pipeline": ""}, "pipeline: expected the name"),
        ({"api_key": "a b"}, "api_key: expected what the cluster has given"),
        ({"api_key": 5}, "api_key: expected str"),
        ({"api_key": "a", "username": "b"}, "api_key: the sink authenticates by this or"),
        ({"compression": "zstd"}, "compression: expected one of "),
        ({"url": "elasticsearch://x"}, "url: expected a URL like http://"),
        ({"format": "json"}, "format: ElasticsearchLogSink has no such option"),
    ]
    other_resource: ClassVar = {"url": "http://one", "index": "a"}
    same_resource: ClassVar = {"pipeline": "a"}
    secrets: ClassVar = {"api_key": HUSH}
    clients: ClassVar = {"aiohttp": install("http")}


class TestHttp(Row):
    sink_class = mvx_logger.HttpLogSink
    options: ClassVar = {"url": "http://127.0.0.1:1"}
    urls: ClassVar = {
        "http://shop:p%40ss@one/?x=1&compression=gzip&batch_max_size=7&headers=X-A:%20b": {
            "url": "http://one/?x=1", "username": "shop", "password": "p@ss", "compression": "gzip",
            "batch_max_size": 7, "headers": ["X-A: b"],
        },
        "https://one/a?headers=X-A:b&headers=X-B:c": {"url": "https://one/a", "headers": ["X-A:b", "X-B:c"]},
    }  # fmt: skip
    wrong_urls: ClassVar = {
        "http://host:x/": "the port in the URL is not a number",
        "http:///path": "the URL has no host",
        f"http://shop:{HUSH}@:80/": "host",
    }
    wrong_options: ClassVar = [
        ({"url": "ftp://host"}, "url: expected a URL like http://host:port/path or https://"),
        ({"url": "http://"}, "url: expected a URL"),
        ({"url": "http://host:99999"}, "url: expected a URL"),
        ({"url": "http://[::1"}, "url: expected a URL"),
        ({"url": "http://host/#part"}, "url: expected a URL"),
        ({"url": "http://host/a b"}, "url: expected a URL"),
        ({"url": 5}, "url: expected str"),
        ({"url": b"http://x"}, "url: expected str"),
        ({"username": 5}, "username: expected str"),
        ({"method": "GET"}, "method: expected the name of a method"),
        ({"method": "post it"}, "method: expected the name of a method"),
        ({"format": "xml"}, "format: expected one of "),
        ({"format": "template"}, "template: goes with"),
        ({"format": "template", "template": 5}, "template: expected str"),
        ({"template": "{event}"}, "template: goes with"),
        ({"format": "template", "template": "{nothing}"}, "template: there is no field {nothing}"),
        ({"headers": 5}, "headers: expected"),
        ({"headers": {"a b": "c"}}, "headers: a name is malformed"),
        ({"headers": {"a": "b\r\nc: d"}}, "headers: the value of a is malformed"),
        ({"headers": {"Content-Length": "5"}}, "headers: Content-Length is for the client to say"),
        ({"headers": [HUSH]}, "headers: expected a mapping, or a list of 'Name: value'"),
        ({"username": "a:b"}, "username: basic authentication does not allow a colon"),
        ({"username": "a", "bearer_token": "b"}, "username: the sink authenticates by this or by bearer_token"),
        ({"username": "a", "headers": {"authorization": "b"}}, "username: "),
        ({"bearer_token": "a b"}, "bearer_token: expected ASCII"),
        ({"bearer_token": "ü"}, "bearer_token: expected ASCII"),
        ({"bearer_token": ""}, "bearer_token: expected ASCII"),
        ({"compression": "brotli"}, "compression: expected one of "),
        ({"proxy": "socks5://host"}, "proxy: expected a URL like http://host:port/path"),
        ({"tls_ca": "/x"}, "tls_ca: there is no TLS in http://"),
        ({"url": "https://127.0.0.1:1", "tls_ca": "/no/such.pem"}, NO_FILE),
        ({"connect_timeout": 0}, "connect_timeout: expected more than 0"),
        ({"connect_timeout": True}, "connect_timeout: expected"),
        ({"connect_timeout": "1"}, "connect_timeout: expected"),
        ({"batch_max_size": 0}, "batch_max_size: expected 1 or more"),
        ({"batch_max_sise": 1}, "batch_max_sise: HttpLogSink has no such option; did you mean 'batch_max_size'"),
    ]
    other_resource: ClassVar = {"url": "http://one"}
    same_resource: ClassVar = {"method": "PUT"}
    secrets: ClassVar = {"bearer_token": HUSH, "tls_key_password": HUSH}
    beside_secrets: ClassVar = {"url": "https://127.0.0.1:1"}
    test_an_unknown_option_of_a_url_is_named = None  # the rest of the query is the server's
    clients: ClassVar = {"aiohttp": install("http"), "zstandard": "'zstandard' is missing"}
    client_options: ClassVar = {"zstandard": {"compression": "zstd"}}


class TestKafka(Row):
    sink_class = mvx_logger.KafkaLogSink
    options: ClassVar = {"servers": "127.0.0.1:1"}
    urls: ClassVar = {
        "kafka://bob:s%40e@one:9092,two/logs-%7Blevel%7D": {
            "servers": "one:9092,two", "username": "bob", "password": "s@e", "topic": "logs-{level}",
        },
        "kafkas://one": {"servers": "one", "tls": True},
        "kafka://one/logs?compression=zstd&key={level}&linger=0.01": {
            "servers": "one", "topic": "logs", "compression": "zstd", "key": "{level}", "linger": 0.01,
        },
    }  # fmt: skip
    wrong_urls: ClassVar = {"kafka://one:x": "'one:x' is not host:port"}
    wrong_options: ClassVar = [
        ({"servers": "one:x"}, "servers: 'one:x' is not host:port"),
        ({"servers": f"bob:{HUSH}@one"}, "servers: username and password are options of their own"),
        ({"topic": "a b"}, "topic: expected up to 249"),
        ({"topic": ".."}, "topic: expected up to 249"),
        ({"topic": "{nope}"}, "topic: there is no field {nope}"),
        ({"key": "{nope}"}, "key: there is no field {nope}"),
        ({"compression": "bzip2"}, "compression: expected one of "),
        ({"acks": "none"}, "acks: expected one of "),
        ({"acks": "leader"}, "acks: an idempotent producer needs all of them"),
        ({"linger": -1.0}, "linger: expected 0 to 60"),
        ({"max_message_bytes": 5}, "max_message_bytes: expected 1000"),
        ({"username": "bob"}, "username: username and password go together"),
        ({"mechanism": "GSSAPI"}, "mechanism: expected one of "),
        ({"connect_timeout": 0.1}, "connect_timeout: expected 1"),
        ({"tls": 1}, "tls: expected bool, got int"),
        ({"tls": True, "tls_ca": "/no/such.pem"}, NO_FILE),
    ]
    other_resource: ClassVar = {"servers": "one", "topic": "a"}
    same_resource: ClassVar = {"compression": "zstd"}
    secrets: ClassVar = {"password": HUSH, "tls_key_password": HUSH}
    beside_secrets: ClassVar = {"username": "bob"}
    clients: ClassVar = {"confluent_kafka": install("kafka")}


class TestLoki(Row):
    sink_class = mvx_logger.LokiLogSink
    options: ClassVar = {"url": "http://127.0.0.1:1"}
    urls: ClassVar = {
        "loki://shop:p%40ss@one?tenant=shop": {
            "url": "http://one", "username": "shop", "password": "p@ss", "tenant": "shop",
        },
        "lokis://one?labels=app=shop,level={level}&structured_metadata=&line=logfmt": {
            "url": "https://one", "labels": ["app=shop", "level={level}"], "structured_metadata": [""], "line": "logfmt",
        },
    }  # fmt: skip
    wrong_options: ClassVar = [
        *PRODUCT,
        ({"labels": {"__name": "x"}}, "labels: '__name' is no name"),
        ({"labels": {"a-b": "x"}}, "labels: 'a-b' is no name"),
        ({"labels": {}}, "labels: expected 1 to 15, got 0"),
        ({"labels": {f"l{n}": "x" for n in range(16)}}, "labels: expected 1 to 15, got 16"),
        ({"labels": ["level"]}, "labels: expected a mapping, or a list of 'name=template'"),
        ({"labels": "level"}, "labels: expected"),
        ({"labels": {"a": 1}}, "labels"),
        ({"labels": {"a": "{nothing}"}}, "labels.a: there is no field {nothing}"),
        ({"structured_metadata": {"a b": "x"}}, "structured_metadata: 'a b' is no name"),
        ({"line": "xml"}, "line: expected one of "),
        ({"tenant": "a\nb"}, "tenant: expected printable ASCII"),
        ({"tenant": ""}, "tenant: expected printable ASCII"),
        ({"tenant": 5}, "tenant: expected str"),
    ]
    other_resource: ClassVar = {"url": "http://one", "tenant": "a"}
    same_resource: ClassVar = {"line": "logfmt"}
    secrets: ClassVar = {"password": HUSH}
    clients: ClassVar = {"aiohttp": install("http")}


class TestMqtt(Row):
    sink_class = mvx_logger.MqttLogSink
    options = NOWHERE
    urls: ClassVar = {
        "mqtt://": {},
        "mqtt://one:7000": {"host": "one", "port": 7000},
        "mqtt://user:p%40ss@one": {"host": "one", "username": "user", "password": "p@ss"},
        "mqtts://one?tls_ca=/ca.pem": {"host": "one", "tls": True, "tls_ca": "/ca.pem"},
        "mqtt:?topic=l/{level}&qos=2&retain=true&expiry=60&client_id=a&keepalive=7&connect_timeout=3"
        "&batch_max_size=7": {
            "topic": "l/{level}", "qos": 2, "retain": True, "expiry": 60, "client_id": "a", "keepalive": 7,
            "connect_timeout": 3, "batch_max_size": 7,
        },
    }  # fmt: skip
    wrong_urls: ClassVar = {"mqtt://a:b": "port", "mqtt://a/path": "path"}
    wrong_options: ClassVar = [
        ({"host": ""}, "host: may not be empty"),
        ({"port": 0}, "port: expected a number from 1"),
        ({"port": "x"}, "port: expected int"),
        ({"topic": ""}, "topic: may not be empty"),
        ({"topic": "logs/#"}, "topic: may not hold"),
        ({"topic": "{nonsense}"}, "topic: there is no field {nonsense}"),
        ({"qos": 3}, "qos: expected one of "),
        ({"retain": 1}, "retain: expected bool"),
        ({"expiry": 0}, "expiry: expected 1"),
        ({"client_id": "x" * 70_000}, "client_id: longer than"),
        ({"keepalive": -1}, "keepalive: expected a number from 0"),
        ({"connect_timeout": 0}, "connect_timeout: expected more than 0"),
        ({"tls_ca": "/ca.pem"}, "tls_ca: only with tls"),
        ({"tls": True, "tls_ca": "/no/such.pem"}, NO_FILE),
    ]
    other_resource: ClassVar = {"host": "one", "port": 2, "topic": "a"}
    same_resource: ClassVar = {"qos": 2}
    secrets: ClassVar = {"password": HUSH, "tls_key_password": HUSH}
    beside_secrets: ClassVar = {"tls": True}
    clients: ClassVar = {"mqtt5": install("mqtt")}


class TestNats(Row):
    sink_class = mvx_logger.NatsLogSink
    options: ClassVar = {"servers": "127.0.0.1:1"}
    urls: ClassVar = {
        "nats://": {},
        "nats://bob:s%40e@one:4222,two/logs.%7Blevel%7D": {
            "servers": "one:4222,two", "username": "bob", "password": "s@e", "subject": "logs.{level}",
        },
        "natss://tok%2Fen@one": {"servers": "one", "token": "tok/en", "tls": True},
        "nats://one/shop.{level}?stream=SHOP&max_bytes=100000&stream_subjects=shop.a,shop.info": {
            "servers": "one", "subject": "shop.{level}", "stream": "SHOP", "max_bytes": 100_000,
            "stream_subjects": ["shop.a", "shop.info"],
        },
    }  # fmt: skip
    wrong_urls: ClassVar = {"nats://one:x": "'one:x' is not host:port"}
    wrong_options: ClassVar = [
        ({"servers": "host:none"}, "servers: 'host:none' is not host:port"),
        ({"servers": f"user:{HUSH}@host"}, "servers: username and password are options of their own"),
        ({"servers": []}, "servers: expected one address or more"),
        ({"subject": "logs.*"}, "subject: expected names"),
        ({"subject": "logs. {event}"}, "subject: expected names"),
        ({"subject": "logs..{event}"}, "subject: expected names"),
        ({"subject": "{nope}"}, "subject: there is no field {nope}"),
        ({"stream": "a.b"}, "stream: expected a name"),
        ({"max_age": 0.0}, "max_age: expected 0.1"),
        ({"max_bytes": 0}, "max_bytes: expected 1"),
        ({"discard": "newest"}, "discard: expected one of "),
        ({"duplicate_window": 0.0}, "duplicate_window: expected"),
        ({"replicas": 9}, "replicas: expected 1 to 5"),
        ({"username": "me"}, "username: username and password go together"),
        ({"token": "t", "nkey": "/seed"}, "nkey: not together with token"),
        ({"inbox_prefix": "a.>"}, "inbox_prefix: expected names"),
        ({"jetstream": "yes"}, "jetstream: expected bool, got str"),
        ({"connect_timeout": 0.0}, "connect_timeout: expected"),
        ({"tls": True, "tls_ca": "/no/such.pem"}, NO_FILE),
    ]
    other_resource: ClassVar = {"servers": "one", "subject": "a", "stream": "A", "jetstream": False}
    same_resource: ClassVar = {"max_bytes": 5, "token": "a"}
    secrets: ClassVar = {"token": HUSH, "tls_key_password": HUSH}
    clients: ClassVar = {"nats": install("nats"), "nkeys": install("nats")}
    client_options: ClassVar = {"nkeys": {"nkey": "/no/such/seed"}}


class TestOtlp(Row):
    sink_class = mvx_logger.OtlpLogSink
    options: ClassVar = {"url": "http://127.0.0.1:1"}
    urls: ClassVar = {
        "otlp://shop:p%40ss@one": {"url": "http://one", "username": "shop", "password": "p@ss"},
        "otlps://one/base?encoding=json&service_name=shop&resource=a=1,b=two&compression=zstd": {
            "url": "https://one/base", "encoding": "json", "service_name": "shop", "resource": ["a=1", "b=two"],
            "compression": "zstd",
        },
    }  # fmt: skip
    wrong_options: ClassVar = [
        *PRODUCT,
        ({"encoding": "xml"}, "encoding: expected one of "),
        ({"resource": ["name"]}, "resource: expected a mapping, or a list of 'name=value'"),
        ({"resource": {"": 1}}, "resource: '' is not the name of an attribute"),
        ({"resource": 5}, "resource: expected"),
        ({"service_name": 5}, "service_name: expected str, got int"),
        ({"trace_context": "yes"}, "trace_context: expected bool, got str"),
    ]
    other_resource: ClassVar = {"url": "http://one"}
    same_resource: ClassVar = {"service_name": "a"}
    secrets: ClassVar = {"password": HUSH}
    clients: ClassVar = {
        "opentelemetry.proto.collector.logs.v1.logs_service_pb2": install("otlp"),
        "aiohttp": install("otlp"),
    }


class TestPostgres(Row):
    sink_class = mvx_logger.PostgresLogSink
    options = NOWHERE
    urls: ClassVar = {
        "postgresql://me:p%40ss@one:7/logs?table=t&partition=day&statement_timeout=5"
        "&columns=%7B%22at%22%3A%22timestamp%22%2C%22e%22%3A%22event%22%7D": {
            "host": "one", "port": 7, "username": "me", "password": "p@ss", "database": "logs", "table": "t",
            "partition": "day", "statement_timeout": 5.0, "columns": '{"at":"timestamp","e":"event"}',
        },
        "postgres:///logs?host=/run/pg&port=7&table=t": {
            "host": "/run/pg", "port": 7, "database": "logs", "table": "t",
        },
    }  # fmt: skip
    wrong_urls: ClassVar = {"postgres://a:b": "port"}
    wrong_options: ClassVar = [
        ({"host": ""}, "host"),
        ({"host": 1}, "host: expected str"),
        ({"port": "x"}, "port"),
        ({"port": 0}, "port"),
        ({"database": 1}, "database"),
        ({"password": 1}, "password: expected str, got int"),
        ({"table": ""}, "table"),
        ({"table": "ä" * 32}, "table"),
        ({"table": "x" * 55, "partition": "day"}, "table"),
        ({"schema": "a\0b"}, "schema"),
        ({"table": "\ud800"}, "table"),
        ({"columns": {}}, "columns"),
        ({"columns": ["a"]}, "columns"),
        ({"columns": "{"}, "columns"),
        ({"columns": {"a": "tmestamp"}}, "columns.a"),
        ({"columns": {"a": "payload."}}, "columns.a"),
        ({"columns": {"a": "{nothing}"}}, "columns.a"),
        ({"columns": {"x" * 64: "event"}}, "columns"),
        ({"columns": {"a": 1}}, "columns"),
        ({"partition": "week"}, "partition"),
        ({"partition": "day", "columns": {"a": "event"}}, "partition: needs a column with"),
        ({"retention_days": 3}, "retention_days"),
        ({"retention_days": 0, "partition": "day"}, "retention_days"),
        ({"statement_timeout": 0}, "statement_timeout"),
        ({"statement_timeout": float("nan")}, "statement_timeout"),
        ({"connect_timeout": "1"}, "connect_timeout"),
        ({"tls_ca": "/ca.pem"}, "tls_ca: needs tls"),
        ({"tls": True, "host": "/tmp"}, "tls"),
        ({"tls": True, "tls_ca": "/no/such.pem"}, NO_FILE),
    ]
    other_resource: ClassVar = {"host": "one", "port": 2, "database": "a", "schema": "a", "table": "a"}
    same_resource: ClassVar = {"partition": "day", "username": "a"}
    secrets: ClassVar = {"password": HUSH}
    clients: ClassVar = {"asyncpg": install("postgres")}


class TestRedis(Row):
    sink_class = mvx_logger.RedisLogSink
    options = NOWHERE
    urls: ClassVar = {
        "redis://": {},
        "redis://one:7000/3": {"host": "one", "port": 7000, "db": 3},
        "redis://:p%40ss@one": {"host": "one", "password": "p@ss"},
        "redis://user:pw@one": {"host": "one", "username": "user", "password": "pw"},
        "rediss://one?tls_ca=/ca.pem": {"host": "one", "tls": True, "tls_ca": "/ca.pem"},
        "redis://[::1]:1": {"host": "::1", "port": 1},
        "redis+sentinel://a:1,b/main": {"nodes": ["a:1", "b"], "master_name": "main"},
        "rediss+sentinel://u:p@a/main?db=2&sentinel_password=s": {
            "nodes": ["a"], "master_name": "main", "tls": True, "username": "u", "password": "p", "db": 2,
            "sentinel_password": "s",
        },
        "redis+cluster://a,b:2": {"nodes": ["a", "b:2"]},
        "rediss+cluster://:p@a": {"nodes": ["a"], "tls": True, "password": "p"},
        "redis+unix:///run/redis%20.sock?db=1": {"unix_socket": "/run/redis .sock", "db": 1},
        "redis:?kind=list&key=l:{namespace}&max_len=5&deduplicate=1.5&wait_replicas=1&wait_timeout=2"
        "&max_event_bytes=9&connect_timeout=3&batch_max_size=7": {
            "kind": "list", "key": "l:{namespace}", "max_len": 5, "deduplicate": 1.5, "wait_replicas": 1,
            "wait_timeout": 2, "max_event_bytes": 9, "connect_timeout": 3, "batch_max_size": 7,
        },
    }  # fmt: skip
    wrong_urls: ClassVar = {
        "redis+sentinel://a": "", "redis+sentinel:///main": "", "redis+cluster://": "", "redis://a/x": "db",
        "redis://a:b": "port",
    }  # fmt: skip
    wrong_options: ClassVar = [
        ({"port": 0}, "port: expected 1 to 65535"),
        ({"port": "x"}, "port: expected int"),
        ({"db": -1}, "db: expected 0"),
        ({"kind": "hash"}, "kind: expected one of "),
        ({"key": "{nonsense}"}, "key: there is no field {nonsense}"),
        ({"key": "{"}, "key: a single '{'"),
        ({"max_len": 0}, "max_len: expected 1"),
        ({"max_event_bytes": 0}, "max_event_bytes: expected 1"),
        ({"deduplicate": 0}, "deduplicate: expected 0.001"),
        ({"wait_replicas": -1}, "wait_replicas: expected 0"),
        ({"wait_timeout": 0}, "wait_timeout: expected 0.001"),
        ({"connect_timeout": 0}, "connect_timeout: expected 0.001"),
        ({"username": "u"}, "username: needs password"),
        ({"nodes": ["a"], "master_name": "m", "sentinel_username": "u"}, "sentinel_username: needs sentinel_password"),
        ({"master_name": "m"}, "master_name: needs nodes"),
        ({"nodes": []}, "nodes: expected one address"),
        ({"nodes": ["a", "b:99999"]}, "nodes[1]: expected host or host:port"),
        ({"nodes": [f"user:{HUSH}@b"]}, "nodes[0]: expected host or host:port"),
        ({"nodes": ["a"], "db": 1}, "db: a cluster has database 0 only"),
        ({"nodes": ["a"], "wait_replicas": 1}, "wait_replicas: not in a cluster"),
        ({"unix_socket": "/s", "tls": True}, "unix_socket: goes with neither"),
        ({"unix_socket": "/s", "nodes": ["a"]}, "unix_socket: goes with neither"),
        ({"kind": "pubsub", "max_len": 1}, "max_len: a channel keeps nothing"),
        ({"kind": "pubsub", "deduplicate": 1.0}, "deduplicate: a channel keeps nothing"),
        ({"tls": True, "tls_ca": "/no/such.pem"}, NO_FILE),
        ({"tls": True, "tls_key": __file__}, "tls_key: needs tls_cert"),
    ]
    other_resource: ClassVar = {"host": "one", "port": 2, "db": 1, "key": "a"}
    same_resource: ClassVar = {"max_len": 5}
    secrets: ClassVar = {"password": HUSH, "sentinel_password": HUSH, "tls_key_password": HUSH}
    clients: ClassVar = {"redis.asyncio": install("redis")}


class TestSeq(Row):
    sink_class = mvx_logger.SeqLogSink
    options: ClassVar = {"url": "http://127.0.0.1:1"}
    urls: ClassVar = {
        "seq://:k%2F@one:7/base": {"url": "http://one:7/base", "api_key": "k/"},
        "seqs://one?path=/api/events/raw": {"url": "https://one", "path": "/api/events/raw"},
    }
    wrong_urls: ClassVar = {"seq://me@one": "no option for the username"}
    wrong_options: ClassVar = [
        *PRODUCT,
        ({"api_key": ""}, "api_key: expected printable ASCII"),
        ({"path": "ingest"}, "path: expected one like /ingest/clef"),
        ({"path": "/a?b"}, "path: expected one like /ingest/clef"),
    ]
    other_resource: ClassVar = {"url": "http://one"}
    same_resource: ClassVar = {"compression": "gzip"}
    secrets: ClassVar = {"api_key": HUSH}
    clients: ClassVar = {"aiohttp": install("http")}


class TestSplunk(Row):
    sink_class = mvx_logger.SplunkLogSink
    options: ClassVar = {"url": "http://127.0.0.1:1", "token": "tok"}
    urls: ClassVar = {
        "splunk://:TOKEN@one:8088": {"url": "http://one:8088", "token": "TOKEN"},
        "splunks://:TOKEN@one?index=shop": {"url": "https://one", "token": "TOKEN", "index": "shop"},
    }
    wrong_options: ClassVar = [
        *PRODUCT,
        ({"token": ""}, "token: expected printable ASCII"),
        ({"token": "a b\n"}, "token: expected printable ASCII"),
        ({"token": 5}, "token: expected str"),
        ({"acknowledge": "yes"}, "acknowledge: expected bool"),
        ({"index": "{nothing}"}, "index: there is no field"),
        ({"fields": ["x"]}, "fields: expected a mapping, or a list"),
        ({"username": "shop"}, "username: HEC knows tokens only"),
        ({"compression": "zstd"}, "compression: expected one of "),
    ]
    other_resource: ClassVar = {"url": "http://one", "index": "a"}
    same_resource: ClassVar = {"fields": {"a": "b"}}
    secrets: ClassVar = {"token": HUSH}
    clients: ClassVar = {"aiohttp": install("http")}


class TestVictoriaLogs(Row):
    sink_class = mvx_logger.VictoriaLogsSink
    options: ClassVar = {"url": "http://127.0.0.1:1"}
    urls: ClassVar = {
        "victorialogs://shop:p%40ss@one:7": {"url": "http://one:7", "username": "shop", "password": "p@ss"},
        "victorialogss://one?stream_fields=app&account_id=7": {
            "url": "https://one", "stream_fields": ["app"], "account_id": 7,
        },
    }  # fmt: skip
    wrong_options: ClassVar = [
        *PRODUCT,
        ({"stream_fields": [""]}, "stream_fields: '' is not the name of a field"),
        ({"stream_fields": ["a,b"]}, "stream_fields: 'a,b' is not the name of a field"),
        ({"stream_fields": "service"}, "stream_fields: expected"),
        ({"fields": ["x"]}, "fields: expected a mapping, or a list"),
        ({"fields": 5}, "fields: expected"),
        ({"account_id": -1}, "account_id: expected 0 to 4294967295, got -1"),
        ({"project_id": "7"}, "project_id: expected int, got str"),
        ({"max_line_bytes": 5}, "max_line_bytes: expected 1024 to"),
    ]
    other_resource: ClassVar = {"url": "http://one", "account_id": 1, "project_id": 1}
    same_resource: ClassVar = {"stream_fields": ["app"]}
    secrets: ClassVar = {"password": HUSH}
    clients: ClassVar = {"aiohttp": install("http")}


class TestSyslog(Row):
    sink_class = mvx_logger.SyslogLogSink
    options: ClassVar = {"transport": "tls", **NOWHERE}
    urls: ClassVar = {
        "syslog://logs": {"transport": "udp", "host": "logs"},
        "syslog://": {"transport": "udp"},
        "syslog+udp://logs:5140": {"transport": "udp", "host": "logs", "port": 5140},
        "syslog+tcp://[::1]:5140/": {"transport": "tcp", "host": "::1", "port": 5140},
        "syslog+tls://logs?rfc=3164&framing=newline": {
            "transport": "tls", "host": "logs", "rfc": "3164", "framing": "newline",
        },
        "syslog:///dev/log": {"transport": "unix", "path": "/dev/log"},
        "syslog+unix:///run/a%20b?rfc=5424": {"transport": "unix", "path": "/run/a b", "rfc": "5424"},
        "syslog+tcp://logs?facility=local7&severity=25:notice,60:alert&app_name={namespace}&hostname=web"
        "&procid=-&msgid={outcome|none}&enterprise_id=4711&max_message_size=1000&bom=true&structured_data=false"
        "&connect_timeout=1.5&batch_max_size=7": {
            "transport": "tcp", "host": "logs", "facility": "local7", "severity": ["25:notice", "60:alert"],
            "app_name": "{namespace}", "hostname": "web", "procid": "-", "msgid": "{outcome|none}",
            "enterprise_id": "4711", "max_message_size": 1000, "bom": True, "structured_data": False,
            "connect_timeout": 1.5, "batch_max_size": 7,
        },
    }  # fmt: skip
    wrong_urls: ClassVar = {
        "syslog+tcp://user@logs": "no option for the username",
        f"syslog+tcp://:{HUSH}@logs": "no option for the password",
        "syslog+tcp://logs/dev/log": "path",
        "syslog://logs:99999": "port",
        "syslog://logs?rfc=1": "rfc",
    }
    wrong_options: ClassVar = [
        ({"transport": "relp"}, "transport: expected one of "),
        ({"transport": "unix", "host": None, "port": None}, "path: missing"),
        ({"transport": "tcp", "path": "/dev/log"}, "path: there is none"),
        ({"transport": "unix", "path": "/dev/log", "port": None}, "host: there is none beside a path"),
        ({"transport": "unix", "path": "/dev/log", "host": None}, "host: there is none beside a path"),
        ({"path": ""}, "path: expected"),
        ({"host": ""}, "host: expected"),
        ({"host": 7}, "host: expected str"),
        ({"port": "514"}, "port: expected int"),
        ({"port": 0}, "port: expected a number from 1 to 65535"),
        ({"port": 70_000}, "port: expected a number from 1 to 65535"),
        ({"framing": "nul"}, "framing: expected one of "),
        ({"transport": "udp", "framing": "octet"}, "framing: a datagram has none"),
        ({"transport": "udp", "tls_ca": "ca.pem"}, "tls_ca: only for the transport tls"),
        ({"tls_key_password": 7}, "tls_key_password: expected str"),
        ({"tls_ca": "/no/such.pem"}, NO_FILE),
        ({"connect_timeout": 0}, "connect_timeout: expected more than 0"),
        ({"connect_timeout": "1"}, "connect_timeout: expected"),
        ({"transport": "udp", "max_message_size": 65_508}, "max_message_size: a datagram has 480 to 65507"),
        ({"max_message_size": 100}, "max_message_size: expected 480 or more"),
        ({"rfc": 5424}, "rfc: expected"),
        ({"facility": "loud"}, "facility: 'loud'"),
        ({"queue_max_size": 0}, "queue_max_size"),
    ]
    other_resource: ClassVar = {"transport": "tcp", "host": "one", "port": 2}
    same_resource: ClassVar = {"facility": "local7", "rfc": "3164"}
    secrets: ClassVar = {"tls_key_password": HUSH}


class TestSqlite(Row):
    sink_class = mvx_logger.SqliteLogSink
    options: ClassVar = {"path": "/no/such/place/events.db"}
    urls: ClassVar = {
        "sqlite:///relative.db": {"path": "relative.db"},
        "sqlite:////tmp/with%20space.db?table=log&retention_max_age=60&synchronous=off": {
            "path": "/tmp/with space.db", "table": "log", "retention_max_age": 60.0, "synchronous": "off",
        },
        "sqlite:short.db?retention_max_events=5": {"path": "short.db", "retention_max_events": 5},
    }  # fmt: skip
    wrong_urls: ClassVar = dict.fromkeys(
        ["sqlite://", "sqlite:///", "sqlite:", "sqlite://events.db", "sqlite:///:memory:"],
        "sqlite:///relative.db or sqlite:////absolute/path.db",
    )
    wrong_options: ClassVar = [
        ({"path": ""}, "path"),
        ({"path": ":memory:"}, "path"),
        ({"path": b"events.db"}, "path: expected"),
        ({"table": "drop table"}, "table"),
        ({"table": "sqlite_master"}, "table"),
        ({"table": "1st"}, "table"),
        ({"table": ""}, "table"),
        ({"table": "x" * 64}, "table"),
        ({"table": 'a"; DROP TABLE events; --'}, "table"),
        ({"retention_max_age": "1d"}, "retention_max_age: expected"),
        ({"retention_max_age": -1}, "retention_max_age"),
        ({"retention_max_events": True}, "retention_max_events: expected"),
        ({"retention_max_bytes": -1}, "retention_max_bytes"),
        ({"retention_interval": float("nan")}, "retention_interval"),
        ({"busy_timeout": None}, "busy_timeout: expected"),
        ({"synchronous": "maybe"}, "synchronous"),
    ]
    other_resource: ClassVar = {"path": "other.db", "table": "other"}
    same_resource: ClassVar = {"synchronous": "off", "queue_max_size": 5}


class TestFile(Row):
    sink_class = mvx_logger.FileLogSink
    options: ClassVar = {"file_path": "/no/such/place/a.log"}
    urls: ClassVar = {
        "file:///tmp/with%20space/app.log?format=json&max_bytes=1000": {
            "file_path": "/tmp/with space/app.log", "format": "json", "max_bytes": 1000,
        },
        "file:a.log": {"file_path": "a.log"},
        "file:a.log?rotate_every=3600&permissions=640&delay=true&level=debug": {
            "file_path": "a.log", "rotate_every": 3600.0, "permissions": "640", "delay": True, "level": 10,
        },
    }  # fmt: skip
    wrong_urls: ClassVar = dict.fromkeys(["file:", "file://server/a.log"], "file:///absolute")
    wrong_options: ClassVar = [
        ({"max_bytes": 0}, "max_bytes: expected"),
        ({"max_byte": 3}, "max_byte: FileLogSink has no such option; did you mean 'max_bytes'"),
        ({"permissions": True}, "permissions"),
        ({"logger_name": 3}, "logger_name: expected"),
        ({"config": "a.log"}, "config: expected"),
    ]
    other_resource: ClassVar = {"file_path": "other.log"}
    same_resource: ClassVar = {"max_bytes": 6, "queue_max_size": 7}


class TestDeadLetterFile(Row):
    sink_class = mvx_logger.DeadLetterFile
    options: ClassVar = {"path": "/no/such/place/dead.jsonl"}
    wrong_options: ClassVar = [
        ({"path": 5}, "path: expected"),
        ({"path": b"dead"}, "path: expected"),
        ({"path": ""}, "path: expected a file"),
        ({"max_bytes": 0}, "max_bytes: expected a number of at least 1, got 0"),
        ({"backup_count": -1}, "backup_count: expected"),
        ({"permissions": "999"}, "permissions: '999' is no mode"),
        ({"fsync": "often"}, "fsync: "),
    ]
    other_resource: ClassVar = {"path": "other.jsonl"}
    same_resource: ClassVar = {"max_bytes": None}


class TestMemory(Row):
    sink_class = mvx_logger.MemoryLogSink
    urls: ClassVar = {
        "memory:": {},
        "memory:orders": {"name": "orders"},
        "memory://orders": {"name": "orders"},
        "memory:orders?max_events=5": {"name": "orders", "max_events": 5},
    }
    wrong_options: ClassVar = [
        ({"max_events": 0}, "max_events"),
        ({"max_events": -1}, "max_events"),
        ({"max_events": True}, "max_events: expected"),
        ({"max_events": 1.5}, "max_events: expected"),
        ({"max_events": "5"}, "max_events: expected"),
        ({"max_event": 1}, "max_event: MemoryLogSink has no such option; did you mean 'max_events'"),
        ({"name": 5}, "name: expected"),
        ({"name": None}, "name: expected"),
    ]
    other_resource: ClassVar = {"name": "a"}
    same_resource: ClassVar = {"max_events": None}


class TestStream(Row):
    sink_class = mvx_logger.StreamLogSink
    urls: ClassVar = {
        "stdout:?level=ERROR&log_format=%25(event)s": {
            "stream_output": "stdout", "level": "ERROR", "log_format": "%(event)s",
        },
        "stderr:": {"stream_output": "stderr"},
    }  # fmt: skip
    wrong_urls: ClassVar = {"stderr:///dev/null": "takes no path"}
    wrong_options: ClassVar = [
        ({"levle": "DEBUG"}, "levle: StreamLogSink has no such option; did you mean 'level'?"),
        ({"level": "LOUD"}, "level: 'LOUD' is not a level"),
        ({"level": None}, "level: "),
        ({"config": {"level": "LOUD"}}, "config.level: 'LOUD' is not a level"),
        ({"config": {"levle": 10}}, "config.levle: there is no such field; did you mean 'level'?"),
        ({"config": 5}, "config: "),
        ({"config": 5, "level": 10}, "config: "),
        ({"stream_output": "stdlog"}, "stream_output: expected one of 'stderr', 'stdout', got 'stdlog'"),
        ({"log_format": "%(asctime"}, "log_format: "),
        ({"log_format": 5}, "log_format: "),
        ({"logger_name": 5}, "logger_name: "),
        ({"formatter_factory": 5}, "formatter_factory: expected a callable, got int"),
        ({"filters": [5]}, "filters: expected a callable or an object with filter(), got int"),
    ]
    other_resource: ClassVar = {"stream_output": "stdout"}
    same_resource: ClassVar = {"level": "DEBUG", "log_format": "%(event)s", "date_format": "%H", "logger_name": "x"}


class TestStructlog(Row):
    sink_class = mvx_logger.StructlogSink
    urls: ClassVar = {
        "console:": {},
        "console:stdout": {"stream": "stdout"},
        "console://stdout?colors=false&renderer=logfmt&sort_keys=true": {
            "stream": "stdout", "colors": False, "renderer": "logfmt", "sort_keys": True,
        },
    }  # fmt: skip
    wrong_urls: ClassVar = {"console:nowhere": "console:stdout"}
    wrong_options: ClassVar = [
        ({"stream": "nowhere"}, "stream"),
        ({"stream": 5}, "stream"),
        ({"renderer": "xml"}, "renderer"),
        ({"level": "loud"}, "level"),
        ({"processors": ["no.such.thing"]}, "processors[0]: there is no 'no.such.thing'"),
        ({"logger": "os.sep"}, "logger"),
        ({"rendrer": "json"}, "rendrer: StructlogSink has no such option; did you mean 'renderer'"),
    ]
    other_resource: ClassVar = {"stream": "stdout", "logger": "PrintLogger"}
    same_resource: ClassVar = {"renderer": "json", "level": "DEBUG"}


class TestFanOut(Row):
    sink_class = mvx_logger.FanOutSink
    options: ClassVar = {"sinks": [PART]}
    wrong_options: ClassVar = [
        ({"sinks": "memory:"}, "sinks: expected"),
        ({"owner": True}, "owner: FanOutSink has no such option"),
        ({"owns_sinks": "yes"}, "owns_sinks: expected"),
    ]
    other_resource: ClassVar = {"sinks": [PART, PART]}
    same_resource: ClassVar = {"owns_sinks": False}


class TestFallback(Row):
    sink_class = mvx_logger.FallbackSink
    options: ClassVar = {"sinks": [PART]}
    wrong_options: ClassVar = [
        ({"retry_after": "soon"}, "retry_after: expected"),
        ({"retry_after": True}, "retry_after: expected"),
        ({"retry_after": -1}, "retry_after"),
        ({"retry_after": float("nan")}, "retry_after"),
        ({"clock": 5}, "clock"),
    ]
    other_resource: ClassVar = {"sinks": [PART, PART]}
    same_resource: ClassVar = {"retry_after": 5.0}


class TestFilter(Row):
    sink_class = mvx_logger.FilterSink
    options: ClassVar = {"sink": PART}
    wrong_options: ClassVar = [
        ({"sink": "memory:?max_events=no"}, "sink.max_events: expected int"),
        ({"namespaces": "shop"}, "namespaces: expected"),
        ({"namespaces": [5]}, "namespaces"),
        ({"exclude_namespaces": 5}, "exclude_namespaces: expected"),
        ({"predicate": "x"}, "predicate"),
        ({"min_level": "LOUD"}, "min_level: "),
    ]
    other_resource: ClassVar = {"sink": memory.MemoryLogSink()}
    same_resource: ClassVar = {"min_level": 10}


class TestLogger(Row):
    sink_class = mvx_logger.LoggerSink
    options: ClassVar = {"name": "shop"}
    other_resource: ClassVar = {"name": "other"}


class TestHandler(Row):
    sink_class = mvx_logger.HandlerSink
    options: ClassVar = {"handler": {"class": "logging.NullHandler"}}
    wrong_options: ClassVar = [({"handler": 7}, "handler"), ({"handler": None}, "handler")]
    other_resource: ClassVar = {"handler": {"class": "logging.StreamHandler"}}


class TestAsyncHandler(TestHandler):
    sink_class = mvx_logger.AsyncHandlerSink
    same_resource: ClassVar = {"queue_max_size": 5}


ROWS = {
    row.sink_class
    for row in list(globals().values())
    if isinstance(row, type) and issubclass(row, Row) and row is not Row
}
BASES = {mvx_logger.AsyncioLogSink, mvx_logger.BaseHttpLogSink}


@pytest.mark.parametrize("dotted", sorted(set(config._SCHEMES.values())))
def test_every_sink_with_a_url_has_a_row(dotted: str) -> None:
    module, _, name = dotted.rpartition(".")
    assert getattr(__import__(module, fromlist=[name]), name) in ROWS


def test_every_public_sink_has_a_row() -> None:
    public = [getattr(mvx_logger, name) for name in mvx_logger.__all__]
    sinks = {sink for sink in public if inspect.isclass(sink) and hasattr(sink, "build_descriptor")}
    protocols = {sink for sink in sinks if getattr(sink, "_is_protocol", False)}
    assert sinks - protocols - BASES == ROWS
