"""Adds up the tables of stores into one report's data."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase

from autoprof.store_file import CALLEE, DURATION, MEMORY, SKIPPED, WEIGHED
from autoprof.store_records import Artefact, ProbeRow, ProbeState
from autoprof.store_tables import Names, Trie

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from autoprof.store_records import Key, ProcessRow, ReportData
    from autoprof.store_tables import File


class Merge:
    """Adds up files into one ReportData."""

    def __init__(self, data: ReportData, runs: set[str], target_glob: str | None) -> None:
        self._data, self._runs, self._glob = data, runs, target_glob
        self._rows: dict[Key, ProbeRow] = {}
        self._files: dict[str, Artefact] = {}
        self.slot: int | None = None
        self.since_ns: int | None = None
        self.with_stacks = True

    def add(self, file: File) -> None:
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
        data.artefacts = sorted(self._files.values(), key=lambda item: item.created_ns)
        data.dropped = sum(row.dropped for row in data.processes)
        starts = [row.started_ns for row in data.processes]
        if starts:
            data.started_ns = max(min(starts), self.since_ns or 0)
            ends = [row.ended_ns for row in data.processes]
            data.ended_ns = None if None in ends else max(end for end in ends if end is not None)

    def _probes(self, file: File) -> dict[int, tuple[str, str, str, str]]:
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
        file: File,
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

    def _add_details(self, file: File, where: str, probes: dict[int, tuple[str, str, str, str]]) -> None:
        columns = "probe, kind, key"
        query = f"SELECT {columns}, sum(count) FROM detail_counts WHERE {where} GROUP BY {columns}"
        found = file.connection.execute(query).fetchall()
        names = file.names(key for _, kind, key, _ in found if kind != DURATION)
        for probe, kind, key, count in found:
            row = self._row(probes[probe])
            if kind == DURATION:
                row.durations[key] = row.durations.get(key, 0) + count
            elif kind in (SKIPPED, CALLEE, MEMORY, WEIGHED):
                into = {
                    SKIPPED: row.skipped_by, CALLEE: row.callees, MEMORY: row.memory_counts, WEIGHED: row.weighed,
                }[kind]  # fmt: skip
                name = names.get(key, "?")
                into[name] = into.get(name, 0) + count

    def _add_stacks(self, file: File, where: str, probes: dict[int, tuple[str, str, str, str]]) -> None:
        query = (
            "SELECT probe, node, sum(samples), sum(weight_ns) FROM stack_counts "
            f"WHERE {where} GROUP BY probe, node"
        )
        found = file.connection.execute(query).fetchall()
        trie = file.trie() if found else Trie(0)
        names = Names(file)
        for probe, node, samples, weight_ns in found:
            target, _, policy, strategy = probes[probe]
            self._row(probes[probe])
            stacks = self._data.stacks.setdefault((target, policy, strategy), {})
            stack = tuple([names[name] for name in trie.path(node)])
            sums = stacks.get(stack)
            if sums is None:
                stacks[stack] = [samples, weight_ns]
            else:
                sums[0] += samples
                sums[1] += weight_ns

    def _add_files(self, file: File, where: str, probes: dict[int, tuple[str, str, str, str]]) -> None:
        since = "" if self.since_ns is None else f" AND created_ns >= {self.since_ns}"
        query = (
            "SELECT probe, path, format, created_ns, duration_ns, size_bytes FROM artefacts "
            f"WHERE {where}{since} ORDER BY created_ns"
        )
        folder = os.path.dirname(file.connection.execute("PRAGMA database_list").fetchone()[2] or "")
        for probe, path, kind, created_ns, duration_ns, size_bytes in file.connection.execute(query):
            item = Artefact(*probes[probe], path, kind, created_ns)
            item.duration_ns, item.size_bytes = duration_ns, size_bytes
            # Under a fixed `output:` one profile takes another's place: there is one file, the newest.
            place = os.path.join(folder, path)
            if place not in self._files or self._files[place].created_ns <= created_ns:
                self._files[place] = item

    def _add_states(self, file: File, where: str, probes: dict[int, tuple[str, str, str, str]]) -> None:
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


def _numbers(ids: Iterable[int]) -> str:
    return ",".join(map(str, ids))


def _importance(row: ProbeRow) -> tuple[int, int, Key]:
    return (-(row.estimated_total_ns or 0), -row.calls, row.key)
