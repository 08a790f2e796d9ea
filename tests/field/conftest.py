"""The interpreters that programs are forked from."""

from __future__ import annotations

from fork_server import end_of_fork_servers as end_of_fork_servers
from fork_server import fork_servers as fork_servers
