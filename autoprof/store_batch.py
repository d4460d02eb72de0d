"""One batch of measurements on its way into the tables. One of the few modules that may import sqlite3."""

from __future__ import annotations

import sqlite3

from autoprof.store_bounds import CALLS_AT_ONCE, UPSERT_CALLS, UPSERTS
from autoprof.store_file import CALLEE, DURATION, MEMORY, SKIPPED, WEIGHED
from autoprof.store_records import CallsDelta, ProbeDelta

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from autoprof.store_records import Artefact, Labelled, ProbeKey, ProbeState, Stack, StackDelta

_CACHED = 100_000
_TEXT_LIMIT = 16_384
_INT_LIMIT = 1 << 62


class Ids:
    """The ids of dictionary rows (probes, names, stacks) that this process already knows.

    Attributes:
        known: those of probes.
    """

    def __init__(self) -> None:
        self._generation = -1
        self.forget()

    def forget(self) -> None:
        """Forget everything, after a failed transaction or with another file."""
        self.known: dict[ProbeKey, int] = {}
        self._names: dict[str, int] = {}
        self._nodes: dict[tuple[int, int], int] = {}
        self._stacks: dict[Stack, int] = {}

    def follow(self, connection: sqlite3.Connection) -> None:
        """Forget everything if another process deleted dictionary rows, or if it is too much."""
        (generation,) = connection.execute("SELECT value FROM state WHERE key = 'generation'").fetchone()
        if generation != self._generation or len(self._nodes) + len(self._stacks) > _CACHED:
            self._generation = generation
            self.forget()

    def probe(self, connection: sqlite3.Connection, item: Labelled | CallsDelta, keep: bool = True) -> int:
        """Return the id of a (target, rule, policy, strategy).

        Args:
            keep: remember it; not for what is only named, as thousands of functions are that nobody calls.
        """
        key = item.key
        known = self.known.get(key)
        if known is None:
            columns = ("target", "rule", "policy", "strategy")
            known = _row_id(connection, "probes", columns, tuple(map(store_text, key)))
            if keep:
                self.known[key] = known
        return known

    def name(self, connection: sqlite3.Connection, name: str) -> int:
        """Return the id of a frame, callee or reason."""
        known = self._names.get(name)
        if known is None:
            known = self._names[name] = _row_id(connection, "names", ("text",), (store_text(name),))
        return known

    def stack(self, connection: sqlite3.Connection, stack: Stack) -> int:
        """Return the id of a stack's last frame in the trie; 0 for an empty stack."""
        node = self._stacks.get(stack)
        if node is None:
            node = 0
            for frame in stack:
                step = (node, self.name(connection, frame))
                known = self._nodes.get(step)
                if known is None:
                    known = self._nodes[step] = _row_id(connection, "nodes", ("parent", "name"), step)
                node = known
            self._stacks[stack] = node
        return node


class Batch:
    """One batch on its way into the tables, inside a transaction."""

    def __init__(self, connection: sqlite3.Connection, ids: Ids, process: int, slot: int) -> None:
        self._connection, self._ids, self._process, self._slot = connection, ids, process, slot

    def add(
        self,
        probes: Sequence[ProbeDelta | CallsDelta],
        stacks: Sequence[StackDelta],
        artefacts: Sequence[Artefact],
        states: Sequence[ProbeState] | None,
        whole: bool,
    ) -> None:
        """Add everything."""
        many = self._connection.executemany
        measured = [each for each in probes if isinstance(each, ProbeDelta)]
        self._add_calls([each for each in probes if isinstance(each, CallsDelta)])
        many(UPSERTS["counts"], map(self._counts, measured))
        many(UPSERTS["detail_counts"], [row for probe in measured for row in self._details(probe)])
        many(UPSERTS["stack_counts"], map(self._stack, stacks))
        many("DELETE FROM artefacts WHERE path = ?", [(store_text(item.path),) for item in artefacts])
        many(f"INSERT INTO artefacts VALUES (NULL{', ?' * 7})", map(self._artefact, artefacts))
        if states is not None:
            if whole:
                self._connection.execute("DELETE FROM probe_states WHERE process = ?", (self._process,))
            many("INSERT OR REPLACE INTO probe_states VALUES (?, ?, ?, ?)", map(self._state, states))

    def _add_calls(self, deltas: Sequence[CallsDelta]) -> None:
        """Add what has nothing but calls: in a large application hundreds, each second."""
        known, process, slot = self._ids.known, self._process, self._slot
        values: list[int] = []
        for each in deltas:
            number = known.get(each.key)
            if number is None:
                number = self._ids.probe(self._connection, each)
            values += (process, slot, number, _int(each.calls))
        whole = len(deltas) - len(deltas) % CALLS_AT_ONCE
        for many in range(0, whole, CALLS_AT_ONCE):
            self._connection.execute(
                UPSERT_CALLS[CALLS_AT_ONCE], values[4 * many : 4 * (many + CALLS_AT_ONCE)]
            )
        rest = values[4 * whole :]
        self._connection.executemany(UPSERT_CALLS[1], zip(*[iter(rest)] * 4, strict=True))

    def _at(self, item: Labelled | CallsDelta) -> tuple[int, int, int]:
        return (self._process, self._slot, self._ids.probe(self._connection, item))

    def _counts(self, probe: ProbeDelta) -> tuple[int | None, ...]:
        counts = (probe.calls, probe.profiled, probe.discarded, probe.slow, probe.samples)
        times = (probe.total_ns, probe.max_ns)
        memory = None if probe.memory_delta_bytes is None else _int(probe.memory_delta_bytes)
        return (*self._at(probe), *map(_int, counts), *map(_int, times), memory, _int(probe.overhead_ns))

    def _details(self, probe: ProbeDelta) -> Iterable[tuple[int | str, ...]]:
        at = self._at(probe)
        for bucket, count in probe.durations.items():
            yield (*at, DURATION, bucket, _int(count))
        for kind, counts in (
            (SKIPPED, probe.skipped),
            (CALLEE, probe.callees),
            (MEMORY, probe.memory_counts),
            (WEIGHED, probe.weighed),
        ):
            for name, count in counts.items():
                yield (*at, kind, self._ids.name(self._connection, name), _int(count))

    def _stack(self, item: StackDelta) -> tuple[int, ...]:
        node = self._ids.stack(self._connection, item.stack)
        return (*self._at(item), node, _int(item.samples), _int(item.weight_ns))

    def _place(self, item: Artefact) -> tuple[int, str]:
        return (self._process, store_text(item.path))

    def _artefact(self, item: Artefact) -> tuple[int | str | None, ...]:
        probe = self._ids.probe(self._connection, item)
        texts = (store_text(item.path), store_text(item.format))
        return (self._process, probe, *texts, item.created_ns, item.duration_ns, item.size_bytes)

    def _state(self, item: ProbeState) -> tuple[int | str, ...]:
        probe = self._ids.probe(self._connection, item, keep=False)
        return (self._process, probe, store_text(item.state), store_text(item.reason))


def _row_id(
    connection: sqlite3.Connection, table: str, columns: tuple[str, ...], values: tuple[object, ...]
) -> int:
    """Return the id of a dictionary row, made when it is not there."""
    where = " AND ".join(f"{column} = ?" for column in columns)
    found = connection.execute(f"SELECT id FROM {table} WHERE {where}", values).fetchone()
    if found is not None:
        return int(found[0])
    insert = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
    made = connection.execute(insert, values).lastrowid
    assert made is not None
    return made


def store_text(text: str) -> str:
    """Return text that SQLite can hold: no lone surrogates, and not a whole program as a file name."""
    text = text.encode("utf-8", "backslashreplace").decode()
    if len(text) <= _TEXT_LIMIT:
        return text
    import hashlib  # rare, and it loads OpenSSL

    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return f"{text[: _TEXT_LIMIT - 20]}…{digest}"


def _int(value: int) -> int:
    value = int(value)
    return value if -_INT_LIMIT <= value <= _INT_LIMIT else max(-_INT_LIMIT, min(_INT_LIMIT, value))
