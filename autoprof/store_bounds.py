"""Keeps a store within its size and age. One of the few modules that may import sqlite3.

In this order, and only as far as needed: old time slots are folded together; runs that are too old
go; when the file is too large, the oldest other runs go, then ended processes of this run are folded
into one, then its rarest stacks go, their number added to `dropped`. Counts of the current run are
never lost.
"""

from __future__ import annotations

import os
import sqlite3

from autoprof.store_file import CALLEE, MEMORY, SCHEMA, SKIPPED, WEIGHED, open_for_reading, store_files

_MINUTE_NS = 60_000_000_000
_HOUR_NS = 60 * _MINUTE_NS
_DAY_NS = 24 * _HOUR_NS
SLOT_NS = _MINUTE_NS
_LEVELS = ((10 * _MINUTE_NS, 10 * _MINUTE_NS), (2 * _HOUR_NS, _HOUR_NS), (2 * _DAY_NS, _DAY_NS))
"""(age, width): slots older than the age are folded to that width."""

_QUIET_NS = 2 * _MINUTE_NS
_FLOOR_BYTES = 1 << 20
_SHARE = 0.75  # of max_size for the tables; the rest is room for the log and for one more batch
_VACUUM_PAGES = 2000

# table: (key columns after process and slot, {summed column: how two values become one})
_ADD = "{c} + excluded.{c}"
_COUNTED = {
    "counts": (
        ("probe",),
        {
            **dict.fromkeys(("calls", "profiled", "discarded", "slow", "samples", "total_ns"), _ADD),
            "max_ns": "max({c}, excluded.{c})",
            "memory_delta_bytes": "coalesce({c} + excluded.{c}, {c}, excluded.{c})",
            "overhead_ns": _ADD,
        },
    ),
    "detail_counts": (("probe", "kind", "key"), {"count": _ADD}),
    "stack_counts": (("probe", "node"), {"samples": _ADD, "weight_ns": _ADD}),
}


def upsert(table: str, source: str = "") -> str:
    """Return the statement that adds rows to a counted table; `source` defaults to one row of values."""
    keys, sums = _COUNTED[table]
    columns = ("process", "slot", *keys, *sums)
    source = source or f"VALUES ({', '.join('?' * len(columns))})"
    updates = ", ".join(f"{column} = {rule.format(c=column)}" for column, rule in sums.items())
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) {source} "
        f"ON CONFLICT (process, slot, {', '.join(keys)}) DO UPDATE SET {updates}"
    )


UPSERTS = {table: upsert(table) for table in _COUNTED}

CALLS_AT_ONCE = 64
"""Rows; of four values each, and the oldest SQLite takes 999."""

UPSERT_CALLS = {
    rows: f"INSERT INTO counts VALUES {', '.join(['(?, ?, ?, ?, 0, 0, 0, 0, 0, 0, NULL, 0)'] * rows)} "
    "ON CONFLICT (process, slot, probe) DO UPDATE SET calls = calls + excluded.calls"
    for rows in (1, CALLS_AT_ONCE)
}
"""The same for rows with nothing but calls, by how many: takes three quarters of the time, and half of it."""


def slot_of(time_ns: int) -> int:
    """Return the slot that a time is counted in."""
    return time_ns - time_ns % SLOT_NS


def first_slot(since_ns: int, now_ns: int) -> int:
    """Return the earliest slot that may hold something from `since_ns` on."""
    width = SLOT_NS
    for age, wider in _LEVELS:
        if now_ns - since_ns >= age:
            width = wider
    return since_ns - since_ns % width


def used_bytes(connection: sqlite3.Connection) -> int:
    """Return the bytes of the pages in use; the file may be larger."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    (page,) = connection.execute("PRAGMA page_size").fetchone()
    return int((pages - free) * page)


def tables_limit(max_size_bytes: int) -> int:
    """Return how many bytes the tables may use; below 1 MiB a store cannot work."""
    return int(max(max_size_bytes, _FLOOR_BYTES) * _SHARE)


def fold_slots(connection: sqlite3.Connection, process: int, now_ns: int) -> None:
    """Fold the old slots of one process together."""
    with _Transaction(connection):
        for age, width in _LEVELS:
            cutoff = now_ns - age
            where = f"process = {process} AND slot < {cutoff - cutoff % width} AND slot % {width} <> 0"
            _merge(connection, where, "process", f"slot - slot % {width}")


def drop_old_runs(connection: sqlite3.Connection, run: str, before_ns: int) -> None:
    """Drop the other runs in which no process gave a sign of life since `before_ns`."""
    with _Transaction(connection):
        query = "SELECT run FROM processes WHERE run <> ? GROUP BY run HAVING max(last_ns) < ?"
        runs = [row[0] for row in connection.execute(query, (run, before_ns))]
        for old in runs:
            _drop_run(connection, old)
        if runs:
            _sweep(connection)


def shrink(connection: sqlite3.Connection, process: int, run: str, now_ns: int, max_size_bytes: int) -> None:
    """Bring the tables under their share of `max_size_bytes`, as described above."""
    limit = tables_limit(max_size_bytes)
    while used_bytes(connection) > limit and _drop_oldest_run(connection, run, now_ns):
        pass
    if used_bytes(connection) > limit:
        _fold_processes(connection, run, now_ns)
    while used_bytes(connection) > limit and _thin_stacks(connection, process):
        pass
    give_back(connection, max_size_bytes)


def give_back(connection: sqlite3.Connection, max_size_bytes: int) -> None:
    """Return free pages to the file system, some at a time, when the file is larger than it should be."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (page,) = connection.execute("PRAGMA page_size").fetchone()
    if pages * page > tables_limit(max_size_bytes):
        connection.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()


def drop_old_files(
    folder: str, own: str, run: str, now_ns: int, max_size_bytes: int, max_age_ns: int
) -> None:
    """Delete other runs' private files (network disks): too old, or the oldest if all are too large."""
    others = []
    total = 0
    for schema, path in store_files(folder):
        if schema == SCHEMA:
            found = os.stat(path)
            total += found.st_size
            if path != own and now_ns - found.st_mtime_ns > _QUIET_NS and _is_other_run(path, run):
                others.append((found.st_mtime_ns, found.st_size, path))
    for changed_ns, size, path in sorted(others):
        if now_ns - changed_ns > max_age_ns or total > max_size_bytes:
            os.unlink(path)
            total -= size


def _is_other_run(path: str, run: str) -> bool:
    try:
        connection = open_for_reading(path)
    except Exception:  # damaged or newer: not ours to delete
        return False
    try:
        row = connection.execute("SELECT 1 FROM processes WHERE run = ? LIMIT 1", (run,)).fetchone()
    finally:
        connection.close()
    return row is None


class _Transaction:
    """`with` block of one write transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        self._connection.execute("ROLLBACK" if kind else "COMMIT")


def _merge(connection: sqlite3.Connection, where: str, process: str, slot: str) -> None:
    """Move the rows that `where` selects to another process and slot, adding up those that meet."""
    for table, (keys, sums) in _COUNTED.items():
        how = ", ".join(f"{'max' if column == 'max_ns' else 'sum'}({column})" for column in sums)
        moved = f"SELECT {process}, {slot}, {', '.join(keys)}, {how} FROM {table} WHERE {where}"
        connection.execute(f"CREATE TEMP TABLE moved AS {moved} GROUP BY 1, 2, {', '.join(keys)}")
        connection.execute(f"DELETE FROM {table} WHERE {where}")
        connection.execute(upsert(table, "SELECT * FROM moved WHERE true"))
        connection.execute("DROP TABLE moved")


def _drop_run(connection: sqlite3.Connection, run: str) -> None:
    for table in (*_COUNTED, "probe_states", "artefacts"):
        processes = "SELECT id FROM processes WHERE run = ?"
        connection.execute(f"DELETE FROM {table} WHERE process IN ({processes})", (run,))
    connection.execute("DELETE FROM processes WHERE run = ?", (run,))


def _drop_oldest_run(connection: sqlite3.Connection, run: str, now_ns: int) -> bool:
    with _Transaction(connection):
        query = "SELECT run, max(last_ns) FROM processes WHERE run <> ? GROUP BY run ORDER BY 2 LIMIT 1"
        oldest = connection.execute(query, (run,)).fetchone()
        if oldest is None or now_ns - oldest[1] < _QUIET_NS:
            return False
        _drop_run(connection, oldest[0])
        _sweep(connection)
    return True


def _fold_processes(connection: sqlite3.Connection, run: str, now_ns: int) -> None:
    """Fold what ended processes of this run counted into the first of them, and all slots into days."""
    query = (
        "SELECT id, overhead_ns, dropped FROM processes WHERE run = ? AND (ended_ns NOT NULL OR last_ns < ?)"
    )
    with _Transaction(connection):
        ended = connection.execute(query + " ORDER BY id", (run, now_ns - 10 * _MINUTE_NS)).fetchall()
        _merge(connection, f"slot % {_DAY_NS} <> 0", "process", f"slot - slot % {_DAY_NS}")
        if len(ended) < 2:
            return
        keep, gone = ended[0][0], ",".join(str(row[0]) for row in ended[1:])
        _merge(connection, f"process IN ({gone})", str(keep), "slot")
        connection.execute(f"UPDATE OR IGNORE artefacts SET process = {keep} WHERE process IN ({gone})")
        connection.execute(f"DELETE FROM probe_states WHERE process IN ({gone})")
        connection.execute(
            "UPDATE processes SET overhead_ns = ?, dropped = ?, last_ns = (SELECT max(last_ns) "
            f"FROM processes WHERE id IN ({keep},{gone})), "
            "ended_ns = (SELECT max(coalesce(ended_ns, last_ns)) "
            f"FROM processes WHERE id IN ({keep},{gone})) WHERE id = ?",
            (sum(row[1] for row in ended), sum(row[2] for row in ended), keep),
        )
        connection.execute(f"DELETE FROM processes WHERE id IN ({gone})")


def _thin_stacks(connection: sqlite3.Connection, process: int) -> bool:
    """Drop the rarer half of the stacks; returns whether there were any."""
    with _Transaction(connection):
        (rows,) = connection.execute("SELECT count(*) FROM stack_counts").fetchone()
        if not rows:
            return False
        columns = "process, slot, probe, node"
        connection.execute(
            f"CREATE TEMP TABLE thinned AS SELECT {columns}, samples FROM stack_counts "
            "ORDER BY samples, slot LIMIT ?",
            (-(-rows // 2),),
        )
        (lost,) = connection.execute("SELECT sum(samples) FROM thinned").fetchone()
        connection.execute(f"DELETE FROM stack_counts WHERE ({columns}) IN (SELECT {columns} FROM thinned)")
        connection.execute("DROP TABLE thinned")
        connection.execute("UPDATE processes SET dropped = dropped + ? WHERE id = ?", (lost, process))
        _sweep(connection)
    return True


def _sweep(connection: sqlite3.Connection) -> None:
    """Delete dictionary rows that nothing refers to, and tell the writers to forget the ids they know."""
    connection.execute(
        "WITH RECURSIVE used(id) AS (SELECT node FROM stack_counts UNION "
        "SELECT parent FROM nodes JOIN used USING (id) WHERE parent <> 0) "
        "DELETE FROM nodes WHERE id NOT IN used"
    )
    connection.execute(
        "DELETE FROM names WHERE id NOT IN (SELECT name FROM nodes) AND id NOT IN "
        f"(SELECT key FROM detail_counts WHERE kind IN ('{SKIPPED}', '{CALLEE}', '{MEMORY}', '{WEIGHED}'))"
    )
    users = " UNION ".join(f"SELECT probe FROM {table}" for table in (*_COUNTED, "probe_states", "artefacts"))
    connection.execute(f"DELETE FROM probes WHERE id NOT IN ({users})")
    connection.execute("UPDATE state SET value = value + 1 WHERE key = 'generation'")
