"""Reads stores and merges processes. One of the few modules that may import sqlite3."""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from fnmatch import fnmatchcase

from autoprof import store_file
from autoprof.errors import StoreError
from autoprof.store_bounds import first_slot
from autoprof.store_file import CALLEE, DURATION, SKIPPED
from autoprof.store_records import Artefact, ProbeRow, ProbeState, ProcessRow, ReportData, RunInfo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from autoprof.store_records import Key, Stack

_SIGN_OF_LIFE_NS = 60_000_000_000
_CHUNK = 500  # ids in one statement


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
            merge = _Merge(data, {info.run for info in wanted}, target_glob)
            merge.slot = None if since_ns is None else first_slot(since_ns, now_ns)
            merge.since_ns = since_ns
            merge.with_stacks = stacks
            self._each(merge.add)
            merge.finish()
        data.notices = list(self.notices)
        return data

    def _each(self, use: Callable[[_File], None]) -> None:
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


def _use(path: str, use: Callable[[_File], None]) -> None:
    connection = store_file.open_for_reading(path)
    # A name damaged on the disk is still shown, as well as it goes.
    connection.text_factory = lambda raw: raw.decode("utf-8", "backslashreplace")
    try:
        connection.execute("BEGIN")
        if connection.execute("PRAGMA user_version").fetchone()[0]:  # 0: another process is just making it
            use(_File(connection))
    finally:
        connection.close()


class _File:
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

    def nodes(self, leaves: Iterable[int]) -> dict[int, tuple[int, int]]:
        """Return id → (parent, name) of some nodes of the trie and all above them."""
        found: dict[int, tuple[int, int]] = {}
        wanted = set(leaves)
        while wanted:
            level = self._by_id("SELECT id, parent, name FROM nodes WHERE id IN ({})", wanted)
            fresh = {node: (parent, name) for node, parent, name in level}
            found.update(fresh)
            wanted = {parent for parent, _ in fresh.values() if parent and parent not in found}
        return found

    def _by_id(self, query: str, ids: Iterable[int]) -> list[Any]:
        rows: list[Any] = []
        pending = sorted(set(ids))
        for start in range(0, len(pending), _CHUNK):
            part = ",".join(map(str, pending[start : start + _CHUNK]))
            rows.extend(self.connection.execute(query.format(part)))
        return rows


class _Merge:
    """Adds up files into one ReportData."""

    def __init__(self, data: ReportData, runs: set[str], target_glob: str | None) -> None:
        self._data, self._runs, self._glob = data, runs, target_glob
        self._rows: dict[Key, ProbeRow] = {}
        self.slot: int | None = None
        self.since_ns: int | None = None
        self.with_stacks = True

    def add(self, file: _File) -> None:
        """Add one file."""
        processes = {
            number: row
            for number, row in file.processes().items()
            if row.run in self._runs and (self.since_ns is None or row.alive or row.last_ns >= self.since_ns)
        }
        if not processes:
            return
        self._data.processes.extend(processes.values())
        probes = self._probes(file)
        where = f"process IN ({_numbers(processes)}) AND probe IN ({_numbers(probes)})"
        sliced = where if self.slot is None else f"{where} AND slot >= {self.slot}"
        self._add_counts(file, sliced, processes, probes)
        self._add_details(file, sliced, probes)
        if self.with_stacks:
            self._add_stacks(file, sliced, probes)
        self._add_files(file, where, probes)
        self._add_states(file, where, probes)

    def finish(self) -> None:
        """Put everything in order and fill in the sums over processes."""
        data = self._data
        data.processes.sort(key=lambda row: (row.started_ns, row.host, row.pid))
        data.probes = sorted(self._rows.values(), key=_importance)
        data.dropped = sum(row.dropped for row in data.processes)
        starts = [row.started_ns for row in data.processes]
        if starts:
            data.started_ns = max(min(starts), self.since_ns or 0)
            ends = [row.ended_ns for row in data.processes]
            data.ended_ns = None if None in ends else max(end for end in ends if end is not None)

    def _probes(self, file: _File) -> dict[int, tuple[str, str, str, str]]:
        query = "SELECT id, target, rule, policy, strategy FROM probes"
        return {
            number: (target, rule, policy, strategy)
            for number, target, rule, policy, strategy in file.connection.execute(query)
            if self._glob is None or target_matches(target, self._glob)
        }

    def _row(self, probe: tuple[str, str, str, str]) -> ProbeRow:
        target, rule, policy, strategy = probe
        row = self._rows.get((target, policy, strategy))
        if row is None:
            row = self._rows[(target, policy, strategy)] = ProbeRow(target, policy, strategy)
        if rule not in row.rules:
            row.rules.append(rule)
        return row

    def _add_counts(
        self,
        file: _File,
        where: str,
        processes: dict[int, ProcessRow],
        probes: dict[int, tuple[str, str, str, str]],
    ) -> None:
        query = (
            "SELECT process, probe, sum(calls), sum(profiled), sum(discarded), sum(slow), sum(samples), "
            "sum(total_ns), max(max_ns), sum(memory_delta_bytes), sum(overhead_ns) FROM counts "
            f"WHERE {where} GROUP BY process, probe"
        )
        for process, probe, *sums in file.connection.execute(query):
            row = self._row(probes[probe])
            row.pids.add((processes[process].host, processes[process].pid))
            row.calls += sums[0]
            row.profiled += sums[1]
            row.discarded += sums[2]
            row.slow += sums[3]
            row.samples += sums[4]
            row.total_ns += sums[5]
            row.max_ns = max(row.max_ns, sums[6])
            if sums[7] is not None:
                row.memory_delta_bytes = (row.memory_delta_bytes or 0) + sums[7]
            row.overhead_ns += sums[8]

    def _add_details(self, file: _File, where: str, probes: dict[int, tuple[str, str, str, str]]) -> None:
        columns = "probe, kind, key"
        query = f"SELECT {columns}, sum(count) FROM detail_counts WHERE {where} GROUP BY {columns}"
        found = file.connection.execute(query).fetchall()
        names = file.names(key for _, kind, key, _ in found if kind != DURATION)
        for probe, kind, key, count in found:
            row = self._row(probes[probe])
            if kind == DURATION:
                row.durations[key] = row.durations.get(key, 0) + count
            elif kind in (SKIPPED, CALLEE):
                into = row.skipped_by if kind == SKIPPED else row.callees
                name = names.get(key, "?")
                into[name] = into.get(name, 0) + count

    def _add_stacks(self, file: _File, where: str, probes: dict[int, tuple[str, str, str, str]]) -> None:
        query = (
            "SELECT probe, node, sum(samples), sum(weight_ns) FROM stack_counts "
            f"WHERE {where} GROUP BY probe, node"
        )
        found = file.connection.execute(query).fetchall()
        nodes = file.nodes(node for _, node, _, _ in found if node)
        names = file.names(name for _, name in nodes.values())
        for probe, node, samples, weight_ns in found:
            target, _, policy, strategy = probes[probe]
            self._row(probes[probe])
            stacks = self._data.stacks.setdefault((target, policy, strategy), {})
            sums = stacks.setdefault(_stack(node, nodes, names), [0, 0])
            sums[0] += samples
            sums[1] += weight_ns

    def _add_files(self, file: _File, where: str, probes: dict[int, tuple[str, str, str, str]]) -> None:
        since = "" if self.since_ns is None else f" AND created_ns >= {self.since_ns}"
        query = (
            "SELECT probe, path, format, created_ns, duration_ns, size_bytes FROM artefacts "
            f"WHERE {where}{since} ORDER BY created_ns"
        )
        for probe, path, kind, created_ns, duration_ns, size_bytes in file.connection.execute(query):
            item = Artefact(*probes[probe], path, kind, created_ns)
            item.duration_ns, item.size_bytes = duration_ns, size_bytes
            self._data.artefacts.append(item)

    def _add_states(self, file: _File, where: str, probes: dict[int, tuple[str, str, str, str]]) -> None:
        query = f"SELECT probe, state, reason FROM probe_states WHERE {where}"
        for probe, state, reason in file.connection.execute(query):
            self._data.states.append(ProbeState(*probes[probe], state, reason))


def target_matches(target: str, glob: str) -> bool:
    """Return whether a report's `--target` glob selects a target.

    `module glob:name glob` is matched side by side; without a colon, the whole target or either side of it.
    """
    module, _, name = target.partition(":")
    left, colon, right = glob.partition(":")
    if colon:
        return fnmatchcase(module, left) and fnmatchcase(name, right)
    return any(fnmatchcase(text, glob) for text in (target, module, name))


def _stack(node: int, nodes: dict[int, tuple[int, int]], names: dict[int, str]) -> Stack:
    frames = []
    while node in nodes:
        node, name = nodes[node]
        frames.append(names.get(name, "?"))
    return tuple(reversed(frames))


def _runs(rows: Iterable[ProcessRow]) -> list[RunInfo]:
    by_run: dict[str, list[ProcessRow]] = {}
    for row in rows:
        by_run.setdefault(row.run, []).append(row)
    found = [RunInfo(run, group) for run, group in by_run.items()]
    return sorted(found, key=lambda info: (info.started_ns, info.run))


def _numbers(ids: Iterable[int]) -> str:
    return ",".join(map(str, ids))


def _importance(row: ProbeRow) -> tuple[int, int, Key]:
    return (-(row.estimated_total_ns or 0), -row.calls, row.key)


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
