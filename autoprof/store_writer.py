"""Writes what one process measured. One of the few modules that may import sqlite3."""

from __future__ import annotations

import os
import sqlite3
import sys
import time
import weakref

from autoprof import guard, store_bounds, store_file
from autoprof.errors import StoreError
from autoprof.primitives import allocate_lock, get_ident
from autoprof.store_batch import Batch, Ids, store_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import TypeAlias

    from autoprof.store_records import Artefact, CallsDelta, ProbeDelta, ProbeState, StackDelta

    _Action: TypeAlias = Callable[[sqlite3.Connection], None]

_BUSY_S = 2.0
_CLOSE_BUSY_S = 1.0
_HOUSEKEEPING_S = 60.0
_DAMAGED_LIMIT = 9


class StoreWriter:
    """Appends the measurements of one process to the store of its application.

    Touches nothing before the first `write`. Any thread may call; one call at a time is served. Of no
    use in a forked child: make a new one there (its connection is closed before every fork).

    Args:
        folder: Output folder, made when first needed.
        run: Id of the application's start, shared by its processes.
        service: Labels `service`, `instance`, `version`; others are ignored.
        max_size_bytes: Of the whole store; at least 1 MiB is used.
        max_age_ns: Age at which other runs are dropped.
        output_mode: Permissions of a new folder; new files get the same without the x bits.
        started_ns: Start of the process, since the epoch; now by default.
        env: Name of the environment in force.

    Attributes:
        stated: Whether the file that is open has all states of this process, as of some write.
    """

    _connection: sqlite3.Connection | None = None

    def __init__(
        self,
        folder: str,
        *,
        run: str,
        pid: int,
        host: str,
        service: Mapping[str, str | None],
        max_size_bytes: int,
        max_age_ns: int,
        output_mode: int = 0o700,
        started_ns: int | None = None,
        env: str = "",
    ) -> None:
        self._folder = os.path.abspath(folder)
        self._run, self._host, self._env = store_text(run), store_text(host), store_text(env)
        self._pid = pid
        self._service = dict(service)
        self._max_size_bytes, self._max_age_ns = max_size_bytes, max_age_ns
        self._folder_mode, self._file_mode = output_mode, output_mode & 0o666
        self._started_ns = time.time_ns() if started_ns is None else started_ns
        self._owner = os.getpid()
        self._lock = allocate_lock()
        self._connection = None
        self._file: tuple[int, int] | None = None
        self._private = _inherited_open
        self._damaged = 0
        self._process: int | None = None
        self._ids = Ids()
        self._housekeeping_s = 0.0
        self.stated = False
        self._notices: list[str] = []
        _writers.add(self)

    @property
    def path(self) -> str:
        """The file that is (or would next be) written."""
        if self._private:
            stem = store_file.private_name(self._host, self._pid, self._started_ns)[:-3]
        else:
            stem = store_file.SHARED_NAME[:-3]
        suffix = f".new{self._damaged}" if self._damaged else ""
        return os.path.join(self._folder, f"{stem}{suffix}.db")

    def take_notices(self) -> list[str]:
        """Return, once, what an operator should be told: damaged files that were left aside."""
        notices, self._notices = self._notices, []
        return notices

    def write(
        self,
        probes: Sequence[ProbeDelta | CallsDelta],
        stacks: Sequence[StackDelta] = (),
        artefacts: Sequence[Artefact] = (),
        *,
        dropped: int = 0,
        overhead_ns: int = 0,
        now_ns: int,
        states: Sequence[ProbeState] | None = None,
        whole: bool = True,
    ) -> None:
        """Store one batch in one transaction: all of it or, on an error, nothing.

        Args:
            dropped: Samples and profiles lost since the last write.
            overhead_ns: What profiling cost this process since the last write.
            states: Replaces the states stored for this process; None leaves them.
            whole: False: only those of the same probes are replaced.

        Raises:
            StoreError: The batch was not stored (folder not writable, disk full, newer schema, …); it may be
                given again later.
        """

        def store(connection: sqlite3.Connection) -> None:
            process = self._register(connection, now_ns, dropped, overhead_ns)
            batch = Batch(connection, self._ids, process, store_bounds.slot_of(now_ns))
            batch.add(probes, stacks, artefacts, states, whole)

        with self._lock:
            self._check_owner()
            self._attempt(store, _BUSY_S)
            if whole and states is not None:
                self.stated = True
            try:
                self._keep_bounds(now_ns)
            except (sqlite3.Error, OSError):
                self._disconnect()
            except Exception as problem:  # beware: whoever hears of it gives the same batch again
                self._disconnect()
                guard.note("store", problem)

    def close(self, now_ns: int) -> None:
        """Mark the process as ended, if it ever wrote, and let go of the file. Can be called again.

        Raises:
            StoreError: The mark was not stored.
        """
        with self._lock:
            if self._process is None or os.getpid() != self._owner:
                return
            try:
                self._attempt(lambda connection: self._mark_end(connection, now_ns), _CLOSE_BUSY_S)
            finally:
                self._process = None
                self._disconnect()

    def __del__(self) -> None:
        if self._connection is not None:  # one that nobody closed warns from Python 3.13 on
            self._disconnect()

    def _check_owner(self) -> None:
        if os.getpid() != self._owner:
            raise StoreError(f"this writer belongs to process {self._owner}; make a new one after a fork")

    def _attempt(self, action: _Action, busy_s: float) -> None:
        """Run `action` in a transaction, waiting for other processes and going round damaged files."""
        deadline = time.monotonic() + busy_s
        while True:
            try:
                self._transact(action)
                return
            except (sqlite3.Error, OSError, StoreError) as problem:
                if store_file.is_busy(problem) and time.monotonic() < deadline:
                    continue
                path = self.path
                self._disconnect()
                if isinstance(problem, store_file.NoWalError) and not self._private:
                    self._private = True
                elif store_file.is_damage(problem) and self._damaged < _DAMAGED_LIMIT:
                    self._damaged += 1
                    left = f"{path!r} was left as it is, new data goes to {self.path!r}"
                    self._notices.append(f"{problem}; {left}")
                elif isinstance(problem, StoreError):
                    raise
                else:
                    said = f"cannot store profiles in {self._folder!r}: {_reason(problem)}"
                    raise StoreError(said) from problem

    def _transact(self, action: _Action) -> None:
        connection = self._connect()
        connection.execute("BEGIN IMMEDIATE")
        try:
            self._ids.follow(connection)
            action(connection)
            connection.execute("COMMIT")
        except BaseException:
            self._ids.forget()
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _connect(self) -> sqlite3.Connection:
        if self._connection is not None:
            if _identity(self.path) == self._file:
                return self._connection
            self._disconnect()  # the file was deleted or replaced under us: begin again
        store_file.make_folder(self._folder, self._folder_mode)
        if not self._private and store_file.on_network_disk(self._folder):
            self._private = True
        path = self.path
        self._connection = store_file.open_for_writing(
            path, shared=not self._private, mode=self._file_mode, max_size_bytes=self._max_size_bytes
        )
        self._file = _identity(path)
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection, self._file = self._connection, None, None
        self.stated = False
        self._ids.forget()
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error:  # closing a connection to a broken file may fail; it is gone either way
                pass

    def _register(self, connection: sqlite3.Connection, now_ns: int, dropped: int, overhead_ns: int) -> int:
        """Return the id of this process' row, made when it is not there (first write, new file, pruned)."""
        if self._process is not None:
            updated = connection.execute(
                "UPDATE processes SET last_ns = ?, dropped = dropped + ?, overhead_ns = overhead_ns + ? "
                "WHERE id = ? AND run = ? AND pid = ? AND started_ns = ?",
                (now_ns, dropped, overhead_ns, self._process, self._run, self._pid, self._started_ns),
            )
            if updated.rowcount:
                return self._process
        labels = [self._service.get(name) for name in ("service", "instance", "version")]
        row = connection.execute(
            "INSERT INTO processes (run, pid, host, env, service, instance, version, started_ns, last_ns, "
            "overhead_ns, dropped) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(self._run, self._pid, self._host, self._env),
                *(None if label is None else store_text(str(label)) for label in labels),
                *(self._started_ns, now_ns, overhead_ns, dropped),
            ),
        )
        assert row.lastrowid is not None
        self._process = row.lastrowid
        return self._process

    def _mark_end(self, connection: sqlite3.Connection, now_ns: int) -> None:
        process = self._register(connection, now_ns, 0, 0)
        connection.execute("UPDATE processes SET ended_ns = ? WHERE id = ?", (now_ns, process))

    def _keep_bounds(self, now_ns: int) -> None:
        """Prune when it is time; a failure is left for the next write, since the batch is stored."""
        connection, process = self._connection, self._process
        assert connection is not None
        assert process is not None
        full = store_bounds.used_bytes(connection) > store_bounds.tables_limit(self._max_size_bytes)
        if full:
            store_bounds.shrink(connection, process, self._run, now_ns, self._max_size_bytes)
        if time.monotonic() >= self._housekeeping_s:
            self._housekeeping_s = time.monotonic() + _HOUSEKEEPING_S
            store_bounds.fold_slots(connection, process, now_ns)
            store_bounds.drop_old_runs(connection, self._run, now_ns - self._max_age_ns)
            store_bounds.give_back(connection, self._max_size_bytes)
            if self._private:
                limits = (self._max_size_bytes, self._max_age_ns)
                store_bounds.drop_old_files(self._folder, self.path, self._run, now_ns, *limits)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino)


def _reason(problem: BaseException) -> str:
    if store_file.is_full(problem):
        return "the disk is full"
    if store_file.is_busy(problem):
        return f"other processes kept the store locked for {_BUSY_S:.0f} s"
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    return str(problem) or type(problem).__name__


# SQLite keeps locks and shared memory per process: a connection that a fork carried over would leave
# the child with wrong beliefs about every lock on that file, its own later connections included. So none
# is open while forking. Should a write take too long to wait for, the child uses a file of its own.
_writers: weakref.WeakSet[StoreWriter] = weakref.WeakSet()
_held: dict[int, list[tuple[StoreWriter, bool]]] = {}
_inherited_open = False
_FORK_WAIT_S = 1.0


def _before_fork() -> None:
    held = []
    for writer in list(_writers):
        got = writer._lock.acquire(timeout=_FORK_WAIT_S)
        held.append((writer, got))
        if got and writer._connection is not None:
            if sys.version_info >= (3, 12):  # no checkpoint, with its disk wait, here
                writer._connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)
            writer._disconnect()
    _held[get_ident()] = held


def _after_fork_in_parent() -> None:
    for writer, got in _held.pop(get_ident(), ()):
        if got:
            writer._lock.release()


def _after_fork_in_child() -> None:
    global _inherited_open
    for writer, got in _held.pop(get_ident(), ()):
        writer._lock = allocate_lock()
        _inherited_open = _inherited_open or not got
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
    )
