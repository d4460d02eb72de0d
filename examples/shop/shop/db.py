"""The database: schema, a small pool of SQLite connections, transactions."""

from __future__ import annotations

import queue
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1
APPLICATION_ID = 0x53484F50  # "SHOP": tells our files from other SQLite files
BUSY_TIMEOUT_S = 10.0

_SCHEMA = """
CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE product (
    sku TEXT PRIMARY KEY, name TEXT NOT NULL, category TEXT NOT NULL, description TEXT NOT NULL,
    unit_cents INTEGER NOT NULL, weight_g INTEGER NOT NULL, stock INTEGER NOT NULL
);
CREATE INDEX product_category ON product (category, sku);
CREATE TABLE orders (
    number TEXT PRIMARY KEY, day TEXT NOT NULL, customer TEXT NOT NULL, total_cents INTEGER NOT NULL
);
CREATE INDEX orders_day ON orders (day, number);
CREATE TABLE order_line (
    number TEXT NOT NULL REFERENCES orders (number), position INTEGER NOT NULL,
    sku TEXT NOT NULL REFERENCES product (sku), quantity INTEGER NOT NULL, unit_cents INTEGER NOT NULL,
    PRIMARY KEY (number, position)
);
"""


class DatabaseError(Exception):
    """A file that this shop can't use as its database; the message says why."""


class Database:
    """One SQLite file and the connections to it that are free at the moment.

    Any number of threads may use it; each holds a connection only inside `connection` or `transaction`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._free: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection; it goes back to the pool afterwards, or is closed after an error."""
        try:
            connection = self._free.get_nowait()
        except queue.Empty:
            connection = self._connect()
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        self._free.put(connection)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection inside one write transaction: committed, or rolled back by an exception."""
        with self.connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[sqlite3.Row]:
        """Run one query and return all its rows."""
        with self.connection() as connection:
            return connection.execute(sql, values).fetchall()

    def stream(self, sql: str, values: Sequence[object] = (), at_a_time: int = 100) -> Iterator[sqlite3.Row]:
        """Run one query and hand out its rows while they are read."""
        with self.connection() as connection:
            cursor = connection.execute(sql, values)
            while batch := cursor.fetchmany(at_a_time):
                yield from batch

    def scalar(self, sql: str, values: Sequence[object] = ()) -> Any:
        """Return the first column of the first row, None without rows."""
        rows = self.rows(sql, values)
        return rows[0][0] if rows else None

    @property
    def is_new(self) -> bool:
        """Whether the file holds nothing yet."""
        return not self.path.exists() or self.path.stat().st_size == 0

    def create(self, settings: dict[str, str], tables: dict[str, Iterable[Sequence[object]]]) -> None:
        """Make the schema and fill it, in one transaction.

        Args:
            settings: kept in the file and given back by `settings`.
            tables: rows for each table, in the order of its columns.
        """
        with self.connection() as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            # executescript commits what is open before it starts, so the transaction is part of the script
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA}")
            self._insert(connection, "setting", settings.items())
            for table, rows in tables.items():
                self._insert(connection, table, rows)
            connection.execute("COMMIT")

    def settings(self) -> dict[str, str]:
        """Return what `create` was given.

        Raises:
            DatabaseError: the file is no database of this shop.
        """
        try:
            application, version = self.scalar("PRAGMA application_id"), self.scalar("PRAGMA user_version")
        except sqlite3.DatabaseError as error:
            raise DatabaseError(f"{self.path}: not an SQLite file ({error})") from error
        if (application, version) != (APPLICATION_ID, SCHEMA_VERSION):
            raise DatabaseError(f"{self.path}: not a database of this shop, give another --database")
        return {row["name"]: row["value"] for row in self.rows("SELECT name, value FROM setting")}

    def close(self) -> None:
        """Close the connections that are free; those in use are closed by Python when they are dropped."""
        while True:
            try:
                self._free.get_nowait().close()
            except queue.Empty:
                return

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    @staticmethod
    def _insert(connection: sqlite3.Connection, table: str, rows: Iterable[Sequence[object]]) -> None:
        listed = list(rows)
        if listed:
            marks = ", ".join("?" * len(listed[0]))
            connection.executemany(f"INSERT INTO {table} VALUES ({marks})", listed)
