"""The store's files: names, schema, permissions, opening. One of the few modules that may import sqlite3.

Names in the output folder, `1` being the schema number so that mixed versions of autoprof coexist:
    autoprof-1.db                       shared by all processes of the application (WAL)
    autoprof-1.HOST.PID.START.db        of one process, where WAL is unsafe (network disks)
    autoprof-1.newN.db                  shared, begun because an earlier one was damaged
"""

from __future__ import annotations

import os
import re
import sqlite3
import sys

from autoprof.errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA = 1
SHARED_NAME = f"autoprof-{SCHEMA}.db"
BUSY_SLICE_S = 0.2
_APPLICATION_ID = 0x61757072
_NAME = re.compile(r"autoprof-(\d{1,9})(\..+)?\.db")
_MAGIC = b"SQLite format 3\0"
_NETWORK = frozenset(
    (
        *(
            "9p",
            "afs",
            "beegfs",
            "ceph",
            "cifs",
            "coda",
            "davfs",
            "drvfs",
            "gfs",
            "gfs2",
            "glusterfs",
            "gpfs",
        ),
        *("lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "prl_fs", "pvfs2", "smb2", "smb3"),
        *("smbfs", "vboxsf", "virtiofs", "vmhgfs", "wekafs"),
    )
)

# Schema history. 1: the first. Tables ending in counts hold one row a time slot, so that reports can
# start anywhere; store_bounds folds old slots together. `probes`, `names`, `nodes` are dictionaries, nodes
# the trie of stacks. state.generation changes whenever dictionary rows were deleted: writers then forget
# the ids they know.
_TABLES = """
CREATE TABLE state(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE processes(id INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL, pid INTEGER NOT NULL,
  host TEXT NOT NULL, env TEXT NOT NULL, service TEXT, instance TEXT, version TEXT,
  started_ns INTEGER NOT NULL, last_ns INTEGER NOT NULL, ended_ns INTEGER,
  overhead_ns INTEGER NOT NULL, dropped INTEGER NOT NULL);
CREATE TABLE probes(id INTEGER PRIMARY KEY, target TEXT NOT NULL, rule TEXT NOT NULL, policy TEXT NOT NULL,
  strategy TEXT NOT NULL, UNIQUE(target, rule, policy, strategy));
CREATE TABLE names(id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE TABLE nodes(id INTEGER PRIMARY KEY, parent INTEGER NOT NULL, name INTEGER NOT NULL,
  UNIQUE(parent, name));
CREATE TABLE counts(process INTEGER NOT NULL, slot INTEGER NOT NULL, probe INTEGER NOT NULL,
  calls INTEGER NOT NULL, profiled INTEGER NOT NULL, discarded INTEGER NOT NULL, slow INTEGER NOT NULL,
  samples INTEGER NOT NULL, total_ns INTEGER NOT NULL, max_ns INTEGER NOT NULL, memory_delta_bytes INTEGER,
  overhead_ns INTEGER NOT NULL, PRIMARY KEY(process, slot, probe)) WITHOUT ROWID;
CREATE TABLE detail_counts(process INTEGER NOT NULL, slot INTEGER NOT NULL, probe INTEGER NOT NULL,
  kind TEXT NOT NULL, key INTEGER NOT NULL, count INTEGER NOT NULL,
  PRIMARY KEY(process, slot, probe, kind, key)) WITHOUT ROWID;
CREATE TABLE stack_counts(process INTEGER NOT NULL, slot INTEGER NOT NULL, probe INTEGER NOT NULL,
  node INTEGER NOT NULL, samples INTEGER NOT NULL, weight_ns INTEGER NOT NULL,
  PRIMARY KEY(process, slot, probe, node)) WITHOUT ROWID;
CREATE TABLE probe_states(process INTEGER NOT NULL, probe INTEGER NOT NULL, state TEXT NOT NULL,
  reason TEXT NOT NULL, PRIMARY KEY(process, probe)) WITHOUT ROWID;
CREATE TABLE artefacts(id INTEGER PRIMARY KEY, process INTEGER NOT NULL, probe INTEGER NOT NULL,
  path TEXT NOT NULL, format TEXT NOT NULL, created_ns INTEGER NOT NULL, duration_ns INTEGER,
  size_bytes INTEGER NOT NULL);
INSERT INTO state VALUES ('generation', 0);
"""

DURATION, SKIPPED, CALLEE, MEMORY = "d", "s", "c", "m"
"""Kinds of `detail_counts`; `key` is a histogram bucket, or the id of a name."""


class NewerStoreError(StoreError):
    """The file was written by a newer autoprof; it was not touched."""


class NoWalError(StoreError):
    """This file system has no room for what WAL needs."""


class DamagedStoreError(StoreError):
    """The file is not a store, or is damaged; it was not touched."""


def store_files(folder: str) -> list[tuple[int, str]]:
    """Return (schema, path) of every store file in a folder, by name; empty when there is no such folder."""
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = ((_NAME.fullmatch(name), name) for name in names)
    return [(int(match[1]), os.path.join(folder, name)) for match, name in found if match]


def private_name(host: str, pid: int, started_ns: int) -> str:
    """Return the name of a file that one process alone writes."""
    safe = re.sub(r"[^A-Za-z0-9-]", "_", host)[:64] or "host"
    return f"autoprof-{SCHEMA}.{safe}.{pid}.{started_ns:x}.db"


def on_network_disk(folder: str, mounts: str = "/proc/self/mounts") -> bool:
    """Return whether a folder lies on a file system whose shared memory or locks WAL cannot trust.

    Knows Linux's mount table and Windows' UNC paths; elsewhere the answer is no.
    """
    path = os.path.realpath(folder)
    if sys.platform == "win32":
        return path.startswith("\\\\")
    best, kind = "", ""
    for point, fstype in _mounts(mounts):
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fstype
    return kind in _NETWORK or kind == "fuse" or kind.startswith("fuse.")


def _mounts(table: str) -> Iterator[tuple[str, str]]:
    try:
        with open(table, encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                fields = line.split(" ")
                if len(fields) > 2:
                    yield re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[1]), fields[2]
    except OSError:
        return


def make_folder(folder: str, mode: int) -> None:
    """Make the output folder with `mode`; an existing one keeps its own."""
    try:
        os.makedirs(folder, mode=mode)
    except FileExistsError:
        if not os.path.isdir(folder):
            raise NotADirectoryError(20, "it is a file, not a folder", folder) from None
    else:
        os.chmod(folder, mode)  # makedirs obeys the umask


def check_header(path: str) -> None:
    """Raise NewerStoreError or DamagedStoreError for a file that must not be opened for writing.

    Reads the file's own header: opening it with SQLite could already change a newer version's file.
    """
    with open(path, "rb") as file:
        header = file.read(100)
    if not header:
        return
    if len(header) < 100 or not header.startswith(_MAGIC):
        raise DamagedStoreError(f"{path!r} is not an SQLite file")
    _check_numbers(path, int.from_bytes(header[60:64], "big"), int.from_bytes(header[68:72], "big"))


def _check_numbers(path: str, schema: int, application: int) -> None:
    if schema > SCHEMA:
        raise NewerStoreError(
            f"{path!r} was written by a newer autoprof (schema {schema}; this one knows {SCHEMA}): left "
            "untouched; upgrade autoprof here, or set another output folder"
        )
    if schema and application != _APPLICATION_ID:
        raise DamagedStoreError(f"{path!r} is a database of another program")


def open_for_writing(path: str, *, shared: bool, mode: int, max_size_bytes: int) -> sqlite3.Connection:
    """Open a store, making it when it is not there.

    Args:
        shared: Several processes write it: WAL. Otherwise a rollback journal, which needs no shared memory.
        mode: Permissions of a new file.

    Raises:
        NewerStoreError, DamagedStoreError: The file was left as it is.
        OSError, sqlite3.Error: As they come.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode))
        os.chmod(path, mode)  # open obeys the umask
    except FileExistsError:
        if os.path.islink(path):
            raise DamagedStoreError(f"{path!r} is a symbolic link, which is not followed") from None
        check_header(path)
    connection = sqlite3.connect(path, timeout=BUSY_SLICE_S, isolation_level=None, check_same_thread=False)
    try:
        _check_contents(connection, path)  # before the journal mode is set, which would change the file
        _configure(connection, shared, max_size_bytes)
        _ensure_schema(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_contents(connection: sqlite3.Connection, path: str) -> int:
    """Return the schema of an open store, 0 for an empty file.

    In one transaction: between the reads another process may make the tables.
    """
    inside = connection.in_transaction
    if not inside:
        connection.execute("BEGIN")
    try:
        return _read_contents(connection, path)
    finally:
        if not inside and connection.in_transaction:
            connection.execute("ROLLBACK")


def _read_contents(connection: sqlite3.Connection, path: str) -> int:
    (schema,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    _check_numbers(path, schema, application)
    if not schema and connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
        raise DamagedStoreError(f"{path!r} is a database of another program")
    return int(schema)


def _configure(connection: sqlite3.Connection, shared: bool, max_size_bytes: int) -> None:
    log_pages = min(max(max_size_bytes // 8 // 4096, 16), 1000)
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    wanted = "wal" if shared else "delete"
    (journal,) = connection.execute(f"PRAGMA journal_mode = {wanted}").fetchone()
    if journal != wanted:
        raise NoWalError(f"journal mode {wanted} is not possible here")
    for pragma in (
        "synchronous = NORMAL",
        f"wal_autocheckpoint = {log_pages}",
        f"journal_size_limit = {log_pages * 4096}",
        "cache_size = -2048",
        "temp_store = MEMORY",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _ensure_schema(connection: sqlite3.Connection, path: str) -> None:
    (schema,) = connection.execute("PRAGMA user_version").fetchone()
    if schema == SCHEMA:
        return
    connection.execute("BEGIN IMMEDIATE")
    if not _check_contents(connection, path):  # else another process was quicker
        for statement in _TABLES.split(";\n"):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA}")
    connection.execute("COMMIT")


def open_for_reading(path: str) -> sqlite3.Connection:
    """Open a store without ever changing it.

    Raises:
        NewerStoreError, DamagedStoreError, OSError, sqlite3.Error: As for writing.
    """
    check_header(path)
    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    try:
        return _open_checked(f"file:{quoted}?mode=ro", path)
    except sqlite3.OperationalError:
        # A folder that we may not write has no room for WAL's shared memory; without a log nothing is missed.
        log = path + "-wal"
        if os.path.exists(log) and os.path.getsize(log):
            raise
        return _open_checked(f"file:{quoted}?immutable=1", path)


def _open_checked(address: str, path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(address, uri=True, timeout=5, isolation_level=None)
    try:
        _check_contents(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def is_busy(problem: BaseException) -> bool:
    """Return whether another process merely holds the lock."""
    return _code(problem) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def is_damage(problem: BaseException) -> bool:
    """Return whether the file itself is broken, so that writing goes on in another one."""
    if isinstance(problem, DamagedStoreError):
        return True
    if _code(problem) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return True
    missing = ("no such table", "no such column")
    return isinstance(problem, sqlite3.OperationalError) and str(problem).startswith(missing)


def is_full(problem: BaseException) -> bool:
    """Return whether the disk (or a quota) is full."""
    return _code(problem) == sqlite3.SQLITE_FULL


def _code(problem: BaseException) -> int:
    # sqlite3 sets the attribute only on errors that SQLite itself reported.
    return (getattr(problem, "sqlite_errorcode", None) or 0) & 0xFF
