"""What the views share: quantiles, names, and the tree of frames that flame graphs are drawn from."""

from __future__ import annotations

import time

from autoprof.errors import printable
from autoprof.histogram import quantile_ns
from autoprof.units import format_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TypeAlias

    from autoprof.store_records import Key, ProbeRow, ReportData, Stack

    Stacks: TypeAlias = Iterable[tuple[Stack, int]]

QUANTILES = (("p50", 0.50), ("p95", 0.95), ("p99", 0.99))


def quantiles(row: ProbeRow) -> dict[str, int | None]:
    """Return p50, p95, p99 and max in nanoseconds; None where nothing was measured."""
    if not row.durations:
        return {"p50": None, "p95": None, "p99": None, "max": row.max_ns or None}
    found: dict[str, int | None] = {}
    for name, share in QUANTILES:
        value = quantile_ns(row.durations, share)
        found[name] = min(value, row.max_ns) if value is not None and row.max_ns else value
    return {**found, "max": row.max_ns or None}


def title_of(key: Key) -> str:
    """Return a row's name: the target, and its policy and strategy unless they are the usual ones."""
    target, policy, strategy = key
    extra = policy if strategy in ("", "sample", policy) else f"{policy}, {strategy}"
    return target if extra == "profile" else f"{target} [{extra}]"


def row_stacks(data: ReportData, key: Key) -> list[tuple[Stack, int]]:
    """Return the stacks of one row with their samples, weighed by the time they stand for, most first.

    A thread that computes is looked at less often than one that waits: the sampler needs the GIL for it. The row's
    samples are shared out by `weight_ns`, so that shares are shares of time; a stack that was seen has one at least.
    """
    sums_of = {stack: sums for stack, sums in data.stacks.get(key, {}).items() if sums[0] > 0}
    total = sum(samples for samples, _ in sums_of.values())
    total_ns = sum(weight_ns for _, weight_ns in sums_of.values())
    each = total / total_ns if total_ns > 0 else 0.0
    found = [
        (stack, max(round(weight_ns * each), 1) if each else samples)
        for stack, (samples, weight_ns) in sums_of.items()
    ]
    return sorted(found, key=lambda item: (-item[1], item[0]))


def sampled_keys(data: ReportData) -> list[Key]:
    """Return the rows that have stacks, in the report's order."""
    return [row.key for row in data.probes if data.stacks.get(row.key)]


def all_stacks(data: ReportData) -> Iterator[tuple[Stack, int]]:
    """Yield the stacks of every row, each below its row's name (unless they all begin with it).

    Rows are kept apart because targets may call each other: one sample can count for several of them.
    """
    for key in sampled_keys(data):
        title, stacks = title_of(key), row_stacks(data, key)
        named = title == key[0] and all(stack and short_name(stack[0]) == title for stack, _ in stacks)
        for stack, samples in stacks:
            yield (stack if named else (title, *stack)), samples


def self_samples(stacks: Stacks) -> list[tuple[str, int]]:
    """Return the functions that were running (the last frames) with their samples, most first."""
    totals: dict[str, int] = {}
    for stack, samples in stacks:
        leaf = stack[-1] if stack else "(no frame)"
        totals[leaf] = totals.get(leaf, 0) + samples
    return sorted(totals.items(), key=lambda item: (-item[1], item[0]))


def split_label(label: str) -> tuple[str, str, int | None]:
    """Return name, file ("" if there is none) and line of a label `module:qualname (file:line)`."""
    if label.endswith(")"):
        name, opening, place = label[:-1].rpartition(" (")
        file, colon, line = place.rpartition(":")
        if opening and colon and line.isascii() and line.isdigit() and len(line) < 10:
            return name, file, int(line)
    return label, "", None


def short_name(label: str) -> str:
    """Return a frame's name without its place."""
    return split_label(label)[0]


def clean(text: str) -> str:
    """Return text on one line in which nothing can steer a terminal or break markup's character rules."""
    return printable(text)


def moment(time_ns: int) -> str:
    """Return a time since the epoch for people, in UTC."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time_ns // 1_000_000_000))
    except (OverflowError, ValueError, OSError):  # a clock gone wild is no reason to have no report
        return f"{time_ns} ns"


def span(data: ReportData) -> str:
    """Return when the measured processes ran, in UTC, and for how long."""
    if data.ended_ns is None:
        last = max((row.last_ns for row in data.processes), default=data.started_ns)
        return f"{moment(data.started_ns)} UTC, still running, {_length(last - data.started_ns)} so far"
    length = _length(data.ended_ns - data.started_ns)
    return f"{moment(data.started_ns)} to {moment(data.ended_ns)} UTC, {length}"


def paid(data: ReportData) -> str:
    """Return what profiling took: its time, as a share of a core, and for several processes of the run's time."""
    overhead_ns = sum(row.overhead_ns for row in data.processes)
    said = f"profiling took {format_duration(overhead_ns)}"
    if data.lived_ns <= 0:
        return said
    said += f", {overhead_ns / data.lived_ns:.2%} of a core"
    last_ns = data.ended_ns or max((row.last_ns for row in data.processes), default=data.started_ns)
    whole_ns = last_ns - min((row.started_ns for row in data.processes), default=data.started_ns)
    if len(data.processes) > 1 and whole_ns > 0:
        said += f" in each on average, all together {overhead_ns / whole_ns:.2%} of the time the run took"
    return said


def _length(duration_ns: int) -> str:
    return format_duration(max(duration_ns, 0))


def plural(count: int, noun: str) -> str:
    """Return `1 process`, `2 processes`."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"


class Node:
    """A frame in the tree: `total` counts everything below it too, `left` what is beside it on the left."""

    __slots__ = ("children", "depth", "left", "name", "total")

    def __init__(self, name: str, depth: int, left: int, total: int) -> None:
        self.name, self.depth, self.left, self.total = name, depth, left, total
        self.children: list[Node] = []


class Tree:
    """The frames of many stacks, children by name so that two graphs of one program look alike.

    Args:
        depth_limit: Frames below it are cut off.
        narrowest: Share of the whole below which a frame, with all below it, is left out.

    Attributes:
        left_out: Number of such frames.
        deepest: Frames of the deepest stack.
    """

    def __init__(self, stacks: Stacks, depth_limit: int, narrowest: float = 0.0) -> None:
        self._stacks = sorted(item for item in stacks if item[1] > 0)
        self.deepest = max((len(stack) for stack, _ in self._stacks), default=0)
        self.root = Node("all", 0, 0, sum(weight for _, weight in self._stacks))
        self.left_out = 0
        self._least = self.root.total * narrowest
        pending = [(self.root, 0, len(self._stacks))]
        while pending:
            node, first, end = pending.pop()
            if node.depth < depth_limit:
                pending += self._grow(node, first, end)

    def _grow(self, node: Node, first: int, end: int) -> Iterator[tuple[Node, int, int]]:
        """Add a node's children, from the sorted stacks that pass through it."""
        depth, left, stacks = node.depth, node.left, self._stacks
        while first < end and len(stacks[first][0]) <= depth:  # those that end here come first
            first += 1
        while first < end:
            start, name, total = first, stacks[first][0][depth], 0
            while first < end and stacks[first][0][depth] == name:
                total += stacks[first][1]
                first += 1
            if total < self._least:
                self.left_out += 1
            else:
                child = Node(name, depth + 1, left, total)
                node.children.append(child)
                yield child, start, first
            left += total

    def nodes(self) -> Iterator[Node]:
        """Yield every node in preorder."""
        pending = [self.root]
        while pending:
            node = pending.pop()
            yield node
            pending.extend(reversed(node.children))
