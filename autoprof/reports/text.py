"""The report for a terminal: at most 100 columns, no colours, nothing that could steer the terminal."""

from __future__ import annotations

import os

from autoprof.reports.model import (
    clean,
    paid,
    plural,
    quantiles,
    row_stacks,
    sampled_keys,
    self_samples,
    span,
    split_label,
    title_of,
)
from autoprof.units import format_duration, format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoprof.store_records import Key, ProbeRow, ReportData, Stack

WIDTH = 100
_GRAPHS = 10
_FUNCTIONS = 5
_STACKS = 3
_CALLEES = 10
_HEADS = ("TARGET", "POLICY", "CALLS", "PROFILED", "P50", "P95", "P99", "MAX", "TOTAL~")
_SHORT = {"profile_production": "production", "profile_if_slow": "if_slow", "profile_memory": "memory",
          "profile_calls": "calls"}  # fmt: skip


def render(data: ReportData) -> str:
    """Return the report; `TOTAL~` is the mean measured duration times calls."""
    return "\n".join([*_head(data), "", *_table(data), *_targets(data)]) + "\n"


def _head(data: ReportData) -> Iterator[str]:
    yield _cut(f"run {clean(data.run)}: {span(data)}", WIDTH)
    yield f"{plural(len(data.processes), 'process')}, {paid(data)}"
    if data.dropped:
        yield f"{data.dropped:,} samples were measured but not kept"


def _table(data: ReportData) -> Iterator[str]:
    rows = [_cells(row) for row in data.probes]
    widths = [max(len(line[column]) for line in (_HEADS, *rows)) for column in range(1, len(_HEADS))]
    room = max(WIDTH - sum(widths) - 2 * len(widths), len(_HEADS[0]))
    first = min(max(len(line[0]) for line in (_HEADS, *rows)), room)
    yield _line(_HEADS, first, widths)
    for row, line in zip(data.probes, rows, strict=True):
        if len(line[0]) > first:  # a name too long for its column has a line of its own
            yield from _wrapped(line[0], WIDTH)
            line = ("", *line[1:])
        yield _line(line, first, widths)
        extra = _extra(row)
        if extra:
            yield _cut(f"  {extra}", WIDTH)


def _line(cells: tuple[str, ...], first: int, widths: list[int]) -> str:
    numbers = [cell.rjust(width) for cell, width in zip(cells[2:], widths[1:], strict=True)]
    return "  ".join([cells[0].ljust(first), cells[1].ljust(widths[0]), *numbers]).rstrip()


def _cells(row: ProbeRow) -> tuple[str, ...]:
    times = [*quantiles(row).values(), row.estimated_total_ns]
    policy = _SHORT.get(row.policy, row.policy)
    return (
        clean(row.target),
        _cut(clean(policy), 11),
        str(row.calls),
        str(row.profiled),
        *("-" if value is None else format_duration(value) for value in times),
    )


def _extra(row: ProbeRow) -> str:
    """Return what only some rows have to say."""
    parts = []
    if row.strategy not in ("", "sample", row.policy):
        parts.append(f"strategy {clean(row.strategy)}")
    if row.skipped:
        reasons = ", ".join(f"{count} {clean(reason)}" for reason, count in sorted(row.skipped_by.items()))
        parts.append(f"skipped {row.skipped} ({reasons})")
    if row.discarded:
        parts.append(f"discarded {row.discarded}")
    if row.slow:
        parts.append(f"slow {row.slow}")
    if row.memory_delta_bytes is not None:
        parts.append(f"memory {format_size(row.memory_delta_bytes)}")
    if row.memory_counts.get("blocks_calls"):
        calls, blocks = row.memory_counts["blocks_calls"], row.memory_counts.get("blocks", 0)
        parts.append(f"{blocks:+,} blocks in {calls:,} calls, {blocks / calls:+.2f} a call")
    return "; ".join(parts)


def _targets(data: ReportData) -> Iterator[str]:
    keys = sampled_keys(data)
    for key in keys[:_GRAPHS]:
        yield ""
        yield from _samples(data, key)
    for row in data.probes:
        if row.callees:
            yield ""
            yield _cut(f"{clean(row.target)} called", WIDTH)
            counts = sorted(row.callees.items(), key=lambda item: (-item[1], item[0]))
            yield from (_cut(f"  {count:>10}  {clean(name)}", WIDTH) for name, count in counts[:_CALLEES])
    if len(keys) > _GRAPHS:
        yield ""
        yield f"{plural(len(keys) - _GRAPHS, 'more target')} with samples: see --target, or --format html"
    if data.artefacts:
        yield ""
        yield "files:"
        yield from (
            _cut(f"  {clean(item.path)}  {clean(item.target)}", WIDTH) for item in data.artefacts[-_GRAPHS:]
        )


def _samples(data: ReportData, key: Key) -> Iterator[str]:
    stacks = row_stacks(data, key)
    total = sum(samples for _, samples in stacks)
    yield _cut(f"{plural(total, 'sample')} in {clean(title_of(key))}", WIDTH)
    yield "  running functions"
    for label, samples in self_samples(stacks)[:_FUNCTIONS]:
        yield _cut(f"  {samples / total:7.1%}  {_short(label)}", WIDTH)
    yield "  hottest stacks"
    for stack, samples in stacks[:_STACKS]:
        yield f"  {samples / total:7.1%}  {_path(stack, WIDTH - 11)}"


def _short(label: str) -> str:
    """Return a frame with only the end of its file's path."""
    name, file, line = split_label(label)
    place = f" ({os.path.basename(file)}:{line})" if file else ""
    return clean(f"{name}{place}")


def _path(stack: Stack, room: int) -> str:
    """Return the last frames of a stack, as many as fit."""
    shown = ""
    for frame in reversed(stack):
        name = clean(split_label(frame)[0])
        longer = f"{name} > {shown}" if shown else name
        if len(longer) > room - 4:
            return f"... > {shown}" if shown else _cut(name, room)
        shown = longer
    return shown or "(no frame)"


def _wrapped(text: str, width: int) -> Iterator[str]:
    for start in range(0, len(text), width):
        yield text[start : start + width]


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 3] + "..."
