"""Reads stores and merges processes. One of the few modules that may import sqlite3."""

from __future__ import annotations

import sqlite3
import time

from autoprof import store_file
from autoprof.errors import StoreError
from autoprof.store_bounds import first_slot
from autoprof.store_merge import Merge
from autoprof.store_records import ProcessRow, ReportData, RunInfo
from autoprof.store_tables import File

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


class StoreReader:
    """Reads every store file of this schema in some folders; never changes one.

    Args:
        folders: Output folders.
        progress: Called now and then with what is being done, for a terminal.

    Attributes:
        notices: What a person should know: files that are not in the result (damaged, newer, locked).

    Raises:
        StoreError: On use, when no file could be read but there are some.
    """

    def __init__(self, folders: Sequence[str], *, progress: Callable[[str], None] | None = None) -> None:
        self._folders = list(folders)
        self._progress = progress or (lambda _: None)
        self.notices: list[str] = []

    def runs(self) -> list[RunInfo]:
        """Return every run, the one started last at the end."""
        rows: list[ProcessRow] = []
        self._each(lambda file: rows.extend(file.processes().values()))
        return _runs(rows)

    def select(
        self,
        run: str = "last",
        *,
        since_ns: int | None = None,
        target_glob: str | None = None,
        now_ns: int | None = None,
        stacks: bool = True,
    ) -> ReportData:
        """Return the sums over the processes of one run.

        Args:
            run: `last`, `all`, or a run's id (or an unambiguous beginning of one).
            since_ns: Only what was measured after this, since the epoch (as exactly as the store's time slots
                allow: a minute for the last minutes, then 10 minutes, hours, days).
            target_glob: Only targets that match; without a colon it is tried on module and name alike.
            stacks: False leaves the stacks out.

        Raises:
            StoreError: Nothing could be read, or `run` is ambiguous.
        """
        now_ns = time.time_ns() if now_ns is None else now_ns
        known = self.runs()
        wanted = _choose(known, run)
        data = ReportData("all" if run == "all" else wanted[0].run if wanted else run)
        data.runs = wanted
        if wanted:
            merge = Merge(data, {info.run for info in wanted}, target_glob)
            merge.slot = None if since_ns is None else first_slot(since_ns, now_ns)
            merge.since_ns = since_ns
            merge.with_stacks = stacks
            self._each(merge.add)
            merge.finish()
        data.notices = list(self.notices)
        return data

    def _each(self, use: Callable[[File], None]) -> None:
        """Use every readable file; one that can't be read is noted, unless it was the only kind there was."""
        problems: list[str] = []
        read = 0
        for schema, path in [item for folder in self._folders for item in store_files(folder)]:
            if schema != store_file.SCHEMA:
                age = "a newer" if schema > store_file.SCHEMA else "an older"
                problems.append(
                    f"{path!r} is of {age} autoprof (schema {schema}; this one reads {store_file.SCHEMA}): "
                    "use that version to read it"
                )
                continue
            self._progress(f"reading {path}")
            try:
                _use(path, use)
            except StoreError as problem:
                problems.append(str(problem))
            except (sqlite3.Error, OSError, OverflowError) as problem:
                problems.append(f"cannot read {path!r}: {problem}")
            else:
                read += 1
        if problems and not read:
            raise StoreError("; ".join(problems))
        self.notices = problems


def store_files(folder: str) -> list[tuple[int, str]]:
    """Return (schema, path) of a folder's stores.

    Raises:
        StoreError: The folder can't be listed.
    """
    try:
        return store_file.store_files(folder)
    except OSError as problem:
        raise StoreError(f"cannot read the folder {folder!r}: {problem.strerror}") from problem


def _use(path: str, use: Callable[[File], None]) -> None:
    connection = store_file.open_for_reading(path)
    # A name damaged on the disk is still shown, as well as it goes.
    connection.text_factory = lambda raw: raw.decode("utf-8", "backslashreplace")
    try:
        connection.execute("BEGIN")
        if connection.execute("PRAGMA user_version").fetchone()[0]:  # 0: another process is just making it
            use(File(connection))
    finally:
        connection.close()


def _runs(rows: Iterable[ProcessRow]) -> list[RunInfo]:
    by_run: dict[str, list[ProcessRow]] = {}
    for row in rows:
        by_run.setdefault(row.run, []).append(row)
    found = [RunInfo(run, group) for run, group in by_run.items()]
    return sorted(found, key=lambda info: (info.started_ns, info.run))


def _choose(known: list[RunInfo], run: str) -> list[RunInfo]:
    if run == "all":
        return known
    if run == "last":
        return known[-1:]
    exact = [info for info in known if info.run == run]
    begun = exact or [info for info in known if run and info.run.startswith(run)]
    if len(begun) > 1:
        raise StoreError(f"run {run!r} is ambiguous: {', '.join(info.run for info in begun[:5])}")
    return begun
