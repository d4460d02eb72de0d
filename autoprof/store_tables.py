"""The tables of an open store, for readers. One of the few modules that may import sqlite3."""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from array import array

from autoprof.store_records import ProcessRow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_SIGN_OF_LIFE_NS = 60_000_000_000
_CHUNK = 500  # ids in one statement


class File:
    """One open store file, within one read transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def processes(self) -> dict[int, ProcessRow]:
        """Return its processes by id."""
        query = (
            "SELECT id, pid, host, run, started_ns, last_ns, ended_ns, overhead_ns, dropped, env, service, "
            "instance, version FROM processes"
        )
        found = {}
        for number, pid, host, run, started_ns, last_ns, ended_ns, *rest in self.connection.execute(query):
            row = ProcessRow(pid, host, run, started_ns, last_ns)
            row.overhead_ns, row.dropped, row.env, row.service, row.instance, row.version = rest
            row.alive = ended_ns is None and _is_alive(row)
            row.ended_ns = None if row.alive else ended_ns or last_ns
            found[number] = row
        return found

    def names(self, ids: Iterable[int]) -> dict[int, str]:
        """Return the texts of some names."""
        return dict(self._by_id("SELECT id, text FROM names WHERE id IN ({})", ids))

    def trie(self) -> Trie:
        """Return the trie of stacks."""
        count, last = self.connection.execute("SELECT count(*), coalesce(max(id), 0) FROM nodes").fetchone()
        trie = Trie(last + 1 if last < 16 * count + 4096 else 0)
        for node, parent, name in self.connection.execute("SELECT id, parent, name FROM nodes"):
            if 0 <= parent < node:  # always, unless the file is damaged: no circles
                trie.parents[node] = parent
                trie.names[node] = name
        return trie

    def _by_id(self, query: str, ids: Iterable[int]) -> list[Any]:
        rows: list[Any] = []
        pending = sorted(set(ids))
        for start in range(0, len(pending), _CHUNK):
            part = ",".join(map(str, pending[start : start + _CHUNK]))
            rows.extend(self.connection.execute(query.format(part)))
        return rows


class Trie:
    """Parent and name of every node, by id: arrays, since there may be millions, unless ids are sparse."""

    def __init__(self, size: int) -> None:
        self.parents: dict[int, int] | array[int] = array("q", bytes(8 * size)) if size else {}
        self.names: dict[int, int] | array[int] = array("q", bytes(8 * size)) if size else {}

    def path(self, node: int) -> list[int]:
        """Return the names on the way to a node, root first."""
        found = []
        try:
            while node > 0:
                found.append(self.names[node])
                node = self.parents[node]
        except LookupError:  # a node that is not there: show what is
            pass
        found.reverse()
        return found


class Names(dict[int, str]):
    """The texts of names, each read when it is first asked for."""

    def __init__(self, file: File) -> None:
        self._file = file

    def __missing__(self, number: int) -> str:
        self[number] = text = self._file.names([number]).get(number, "?")
        return text


def _is_alive(row: ProcessRow) -> bool:
    """Return whether a process that did not mark its end still lives, as far as one can tell from here."""
    import socket  # not where an application imports the store: gevent wants to patch it first

    if row.host != socket.gethostname() or sys.platform == "win32":
        return time.time_ns() - row.last_ns < _SIGN_OF_LIFE_NS
    try:
        os.kill(row.pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
