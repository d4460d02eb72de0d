"""The state of the last run for a terminal: its processes and probes."""

from __future__ import annotations

from autoprof.reports.model import clean, moment, plural
from autoprof.units import format_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from autoprof.store_records import ProbeState, ReportData

_PROCESSES = 20


def render(data: ReportData) -> str:
    """Return the status; counts are sums over the run's processes."""
    return "\n".join(_lines(data)) + "\n"


def _lines(data: ReportData) -> Iterator[str]:
    alive = sum(row.alive for row in data.processes)
    envs = sorted({clean(row.env) for row in data.processes if row.env})
    known = f", environment {', '.join(envs)}" if envs else ""
    yield f"run {clean(data.run)}: {plural(len(data.processes), 'process')}, {alive} running{known}"
    yield ""
    rows = [
        (
            str(row.pid),
            clean(row.host),
            "running" if row.alive else "ended",
            moment(row.started_ns),
            format_duration(row.overhead_ns),
        )
        for row in sorted(data.processes, key=lambda row: (not row.alive, -row.started_ns))
    ]
    yield from _columns([("PID", "HOST", "STATE", "STARTED (UTC)", "OVERHEAD"), *rows[:_PROCESSES]])
    if len(rows) > _PROCESSES:
        yield f"and {plural(len(rows) - _PROCESSES, 'more process')}"
    yield ""
    yield from _columns(
        [("STATE", "CALLS", "PROFILED", "SKIPPED", "POLICY", "TARGET", "REASON"), *_probes(data)]
    )


def _probes(data: ReportData) -> Iterable[tuple[str, ...]]:
    states = {(item.target, item.policy, item.strategy): item for item in data.states}
    for row in data.probes:
        state = states.pop(row.key, None)
        counts = (str(row.calls), str(row.profiled), str(row.skipped))
        yield (*_state(state), *counts, clean(row.policy), clean(row.target), _reason(state))
    for state in states.values():  # probes without a call, rules without a match
        yield (*_state(state), "0", "0", "0", clean(state.policy), clean(state.target), _reason(state))


def _state(state: ProbeState | None) -> tuple[str]:
    return (clean(state.state) if state else "-",)


def _reason(state: ProbeState | None) -> str:
    return clean(state.reason) if state else ""


def _columns(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [min(max(map(len, column)), 60) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
