"""The interpreters that programs are forked from."""

from __future__ import annotations

from fork_server import fork_servers as fork_servers
