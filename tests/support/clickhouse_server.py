"""A real clickhouse-server, with a configuration of its own."""

from __future__ import annotations

import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from http_receiver import Answer, Protocol, Request
from needs import find_program, needs_package, needs_program
from servers import Certificates, Server, find_free_port

_CONFIG = """<?xml version="1.0"?>
<yandex>
    <logger><level>warning</level><console>1</console></logger>
    <listen_host>127.0.0.1</listen_host>
    <http_port>{port}</http_port>
    {tls}
    <tcp_port>{native_port}</tcp_port>
    <max_connections>100</max_connections>
    <keep_alive_timeout>3</keep_alive_timeout>
    <mark_cache_size>10000000</mark_cache_size>
    <uncompressed_cache_size>1000000</uncompressed_cache_size>
    <path>{directory}/data/</path>
    <tmp_path>{directory}/tmp/</tmp_path>
    <user_files_path>{directory}/files/</user_files_path>
    <format_schema_path>{directory}/schemas/</format_schema_path>
    <users_config>users.xml</users_config>
    <default_profile>default</default_profile>
    <default_database>default</default_database>
    <builtin_dictionaries_reload_interval>3600</builtin_dictionaries_reload_interval>
    <mlock_executable>false</mlock_executable>
</yandex>
"""
_TLS = """<https_port>{port}</https_port>
    <openSSL><server>
        <certificateFile>{certificate}</certificateFile>
        <privateKeyFile>{key}</privateKeyFile>
        <caConfig>{ca}</caConfig>
        <verificationMode>{mode}</verificationMode>
        <loadDefaultCAFile>false</loadDefaultCAFile>
        <cacheSessions>false</cacheSessions>
    </server></openSSL>"""
_USERS = """<?xml version="1.0"?>
<yandex>
    <profiles><default>{settings}</default><reader><readonly>0</readonly><max_memory_usage>0</max_memory_usage></reader></profiles>
    <users>
        <default>
            <password>{password}</password>
            <networks><ip>127.0.0.1</ip></networks>
            <profile>default</profile>
            <quota>default</quota>
        </default>
        <reader>
            <password></password>
            <networks><ip>127.0.0.1</ip></networks>
            <profile>reader</profile>
            <quota>default</quota>
        </reader>
    </users>
    <quotas><default></default></quotas>
</yandex>
"""


needs_clickhouse = needs_program("clickhouse-server", debian="clickhouse-server")
needs_chdb = needs_package("chdb")


class ClickHouseServer(Server):
    """Its files stay in its directory. Tests look at it as a user of their own: `query`.

    Args:
        directory: Where its files are.
        settings: Of the profile, as XML.
    """

    def __init__(self, directory: Path, *, settings: str = "") -> None:
        super().__init__(directory)
        self.password = ""
        self.settings = settings
        self.tls_port = find_free_port()
        self._native_port = find_free_port()
        self._tls = ""

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def use_tls(self, certificates: Certificates, name: str = "right", *, asks: bool = False) -> None:
        """Serve TLS with this certificate from the next start on; ``asks`` clients for one of theirs."""
        certificate, key = getattr(certificates, name)
        self._tls = _TLS.format(
            port=self.tls_port,
            certificate=certificate,
            key=key,
            ca=certificates.ca,
            mode="strict" if asks else "none",
        )

    def prepare(self) -> None:
        for name in ("data", "tmp", "files", "schemas"):
            (self.directory / name).mkdir(exist_ok=True)
        config = _CONFIG.format(port=self.port, native_port=self._native_port, directory=self.directory, tls=self._tls)
        (self.directory / "config.xml").write_text(config)
        self._write_users()

    def set_user(self, *, password: str | None = None, settings: str | None = None) -> None:
        """Change the password of the user, or the settings of its profile, while the server runs."""
        self.password = self.password if password is None else password
        self.settings = self.settings if settings is None else settings
        self._write_users()
        self.query("SYSTEM RELOAD CONFIG")

    def _write_users(self) -> None:
        path = self.directory / "users.new"
        path.write_text(_USERS.format(password=self.password, settings=self.settings))
        path.rename(self.directory / "users.xml")

    def command(self) -> Sequence[str]:
        program = find_program("clickhouse-server")
        assert program is not None
        return [program, f"--config-file={self.directory / 'config.xml'}"]

    def is_ready(self) -> bool:
        return bool(self.query("SELECT 1") == "1\n")

    def query(self, query: str, **settings: Any) -> str:
        """What the server answers to a query of the user ``reader``, who may do anything.

        Raises:
            AssertionError: It is an error.
        """
        url = f"{self.url}/?{urllib.parse.urlencode({'user': 'reader', **settings})}"
        try:
            with urllib.request.urlopen(url, query.encode(), timeout=20) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as err:
            with err:
                raise AssertionError(f"{err.code}: {err.read().decode()}") from err


class ModernClickHouse(Protocol):
    """The engine of a recent ClickHouse (the package `chdb`) behind as much of its HTTP interface as the sink uses."""

    def __init__(self, store: Path | None = None) -> None:
        super().__init__(None)
        from chdb.session import Session

        assert store is not None
        self._session = Session(str(store.with_suffix(".chdb")))

    def handle(self, request: Request) -> Answer:
        query = request.body.decode()
        settings = ", ".join(f"{name} = '{value}'" for name, value in request.query.items())
        head, found, rows = query.partition(" FORMAT ")
        if settings and query.startswith("INSERT"):
            query = f"{head} SETTINGS {settings}{found}{rows}"
        try:
            return Answer(200, self._session.query(query, "TabSeparated").bytes())
        except Exception as err:
            code = re.search(r"Code: (\d+)", str(err))
            if code is None:
                raise
            status = 404 if code[1] in ("60", "81") else 400
            return Answer(status, f"{err}\n", {"X-ClickHouse-Exception-Code": code[1]})
