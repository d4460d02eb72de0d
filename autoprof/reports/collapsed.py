"""Collapsed stacks: one line a stack, `frame;frame;frame samples`, as flamegraph.pl and others read."""

from __future__ import annotations

from autoprof.reports.model import all_stacks, clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from autoprof.reports.model import Stacks
    from autoprof.store_records import ReportData


def render(data: ReportData) -> str:
    """Return the stacks of every row, each below its target's name."""
    return render_stacks(all_stacks(data))


def render_stacks(stacks: Stacks) -> str:
    """Return the lines, sorted; `;` in a name becomes `,`, since the format has no way to quote it."""
    totals: dict[str, int] = {}
    for stack, weight in stacks:
        line = ";".join(clean(frame).replace(";", ",") for frame in stack)
        totals[line] = totals.get(line, 0) + weight
    return "".join(f"{line} {weight}\n" for line, weight in sorted(totals.items()))
