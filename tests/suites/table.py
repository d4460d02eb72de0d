"""The table that people read."""

from __future__ import annotations

from collections.abc import Sequence

from .cells import Cell
from .profiled import WANTED_SHARE

SHOWN = 40
_HEAD = (
    *("suite", "python", "policy", "tests", "flaky", "differences"),
    *("calls", "profiled", "nested", "share", "plain s", "profiled s"),
)


def table(cells: Sequence[Cell]) -> str:
    """Return all cells as a Markdown table, with a line of sums."""
    rows = [_HEAD, *(_row(cell) for cell in cells)]
    if len(cells) > 1:
        rows.append(_sums(cells))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = [_line(row, widths) for row in rows]
    rule = (
        "|"
        + "|".join("-" * (width + 1) + (":" if column > 2 else "-") for column, width in enumerate(widths))
        + "|"
    )
    return "\n".join([lines[0], rule, *lines[1:]])


def details(cells: Sequence[Cell]) -> str:
    """Return what the table has no room for: each difference and problem, a line each."""
    lines: list[str] = []
    for cell in cells:
        label = f"{cell.suite} {cell.python} {cell.policy}"
        if cell.failing:
            lines.append(f"{label}: {cell.failing} tests fail without autoprof too")
        lines += [f"{label}: flaky: {found}" for found in cell.flaky[:SHOWN]]
        lines += [f"{label}: DIFFERENT: {found}" for found in cell.differences[:SHOWN]]
        if len(cell.differences) > SHOWN:
            lines.append(f"{label}: … and {len(cell.differences) - SHOWN} more differences")
        if cell.problem:
            lines.append(f"{label}: PROBLEM: {cell.problem}")
        if cell.counts and not cell.ok and cell.counts.share < WANTED_SHARE:
            reasons = ", ".join(
                f"{reason} {times:,}" for reason, times in sorted(cell.counts.skipped_by.items())
            )
            lines.append(f"{label}: SHARE under {WANTED_SHARE:.0%}: skipped by {reasons or 'nothing'}")
    return "".join(f"{line}\n" for line in lines)


def _row(cell: Cell) -> tuple[str, ...]:
    counts = cell.counts
    return (
        cell.suite,
        cell.python,
        cell.policy,
        f"{cell.tests:,}",
        f"{len(cell.flaky):,}",
        f"{len(cell.differences):,}" if cell.profiled_s is not None else "",
        f"{counts.calls:,}" if counts else "",
        f"{counts.profiled:,}" if counts else "",
        f"{counts.nested:,}" if counts else "",
        f"{counts.share:.2%}" if counts else "",
        f"{cell.plain_s:.1f}",
        f"{cell.profiled_s:.1f}" if cell.profiled_s is not None else "",
    )


def _sums(cells: Sequence[Cell]) -> tuple[str, ...]:
    counted = [cell.counts for cell in cells if cell.counts]
    profiled = [cell for cell in cells if cell.profiled_s is not None]
    return (
        "all",
        "",
        "",
        f"{sum(cell.tests for cell in cells):,}",
        f"{sum(len(cell.flaky) for cell in cells):,}",
        f"{sum(len(cell.differences) for cell in profiled):,}" if profiled else "",
        f"{sum(counts.calls for counts in counted):,}" if counted else "",
        f"{sum(counts.profiled for counts in counted):,}" if counted else "",
        f"{sum(counts.nested for counts in counted):,}" if counted else "",
        f"{min(counts.share for counts in counted):.2%} least" if counted else "",
        f"{sum(cell.plain_s for cell in cells):.1f}",
        f"{sum(cell.profiled_s or 0 for cell in profiled):.1f}" if profiled else "",
    )


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = (
        text.ljust(width) if column < 3 else text.rjust(width)
        for column, (text, width) in enumerate(zip(row, widths, strict=True))
    )
    return "| " + " | ".join(cells) + " |"
