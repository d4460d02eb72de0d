"""`autoprof compare`: two rows of the store side by side, and whether the second is faster."""

from __future__ import annotations

import json

from autoprof.comparison import CANT_TELL, LEAST_CALLS, Comparison, Median
from autoprof.errors import Ambiguous, NoData, nearest, printable
from autoprof.reports.model import clean, plural
from autoprof.store_merge import target_matches
from autoprof.units import format_duration, format_share

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from autoprof.store_reader import StoreReader
    from autoprof.store_records import ProbeRow, ReportData

SCHEMA = 1
_LISTED = 4


class Side:
    """One of the two: the run it was found in, its row and its median."""

    __slots__ = ("median", "row", "run")

    def __init__(self, run: str, row: ProbeRow) -> None:
        self.run, self.row = run, row
        self.median = Median(row.durations)

    @property
    def mean_ns(self) -> float | None:
        """The exact mean of what was measured; None where the total is of more calls than the histogram has."""
        return None if self.slow_only else self.row.total_ns / self.median.calls

    @property
    def slow_only(self) -> bool:
        """Whether the histogram has the slow calls alone."""
        return self.row.policy == "profile_if_slow"

    @property
    def measured_share(self) -> float:
        """The share of the calls that was measured, which may be the rule's rate or less."""
        return self.median.calls / max(self.row.calls, self.median.calls)


class Chooser:
    """Finds the rows that targets or globs name; reads each run once.

    Args:
        where: The folders as messages name them.
        run: Where targets without a run of their own are looked for.
        policy: Only rows of this policy; None: of any.
    """

    def __init__(self, reader: StoreReader, where: str, run: str, policy: str | None) -> None:
        self._reader, self._where, self._run, self._policy = reader, where, run, policy
        self._read: dict[str, ReportData] = {}
        self.notices: list[str] = []

    def choose(self, text: str) -> Side:
        """Return the one row that `TARGET` or `RUN/TARGET` names.

        Raises:
            NoData: There is none, or nothing of it was measured.
            Ambiguous: There are several.
            StoreError: The store can't be read, or the run is ambiguous.
        """
        run, slash, target = text.rpartition("/")
        data = self._data(run if slash else self._run)
        rows = [row for row in data.probes if self._policy in (None, row.policy)]
        found = [row for row in rows if row.target == target]
        found = found or [row for row in rows if target_matches(row.target, target)]
        measured = [row for row in found if Median(row.durations).calls]
        if len(measured) > 1:
            raise Ambiguous(_several(target, measured))
        if not found:
            raise NoData(self._no_such(target, data))
        if not measured:
            what = printable(found[0].target)
            calls = plural(sum(row.calls for row in found), "call")
            raise NoData(
                f"{what} has {calls} in run {printable(data.run)} and none was measured: raise its rate"
            )
        return Side(data.run, measured[0])

    def _data(self, run: str) -> ReportData:
        data = self._read.get(run)
        if data is None:
            data = self._read[run] = self._reader.select(run, stacks=False)
            self.notices = data.notices
        if not data.runs:
            known = [printable(info.run) for info in self._reader.runs()][-3:]
            if not known:
                raise NoData(f"no data in {self._where}: nothing was measured yet")
            raise NoData(f"no run {run!r} in {self._where}; the last ones are {', '.join(known)}")
        return data

    def _no_such(self, target: str, data: ReportData) -> str:
        of_policy = f" by {self._policy}" if self._policy else ""
        meant = nearest(target, [row.target for row in data.probes])
        hint = f" (did you mean {printable(meant)}?)" if meant else ""
        return f"nothing named {target!r} was measured{of_policy} in run {printable(data.run)}{hint}"


def _several(target: str, rows: list[ProbeRow]) -> str:
    names = list(dict.fromkeys(printable(row.target) for row in rows))
    if len(names) == 1:
        kinds = ", ".join(f"--policy {row.policy}" for row in rows[:_LISTED])
        return f"{names[0]} has {len(rows)} rows, choose one: {kinds}"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{target!r} is {len(names)} functions, name one: {', '.join(names[:_LISTED])}{more}"


class Comparing:
    """Two rows compared, ready to be shown."""

    def __init__(self, chooser: Chooser, a: str, b: str, difference: float) -> None:
        self.a, self.b = chooser.choose(a), chooser.choose(b)
        if (self.a.run, self.a.row.key) == (self.b.run, self.b.row.key):
            raise Ambiguous(
                f"A and B are the same: {printable(self.a.row.target)} in run {printable(self.a.run)}"
            )
        self.asked = difference
        self.result = Comparison(self.a.median, self.b.median, difference)
        self.notices = chooser.notices

    def render(self, kind: str) -> str:
        """Return the comparison as `text` or `json`."""
        if kind == "json":
            return json.dumps(self._document(), indent=1) + "\n"
        return "\n".join(self._lines()) + "\n"

    def _document(self) -> dict[str, Any]:
        result = self.result
        return {
            "schema": SCHEMA,
            "verdict": result.verdict,
            "ratio": result.ratio,
            "ratio_low": result.low,
            "ratio_high": result.high,
            "confidence": 0.95,
            "difference": result.difference,
            "measured_calls_needed": None
            if result.more is None
            else dict(zip("ab", result.more, strict=True)),
            "a": _side(self.a),
            "b": _side(self.b),
            "notes": list(self._notes()),
        }

    def _lines(self) -> Iterator[str]:
        result = self.result
        yield f"{result.verdict}: {self._sentence()}"
        if result.verdict == CANT_TELL:
            yield self._what_is_needed()
        yield ""
        head = ("", "MEDIAN", "95% INTERVAL", "MEAN", "MEASURED", "CALLS", "TARGET")
        rows = [head, _cells("A", self.a), _cells("B", self.b)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = [cell.rjust(width) for cell, width in zip(row[:-1], widths, strict=False)]
            yield "  ".join([*cells, row[-1]])
        yield from (f"note: {note}" for note in self._notes())

    def _sentence(self) -> str:
        result = self.result
        if result.low is None or result.high is None:
            return f"fewer than {LEAST_CALLS} measured calls say nothing about a median"
        ratio = f"B's median is {result.ratio:.4g} times A's"
        return f"{ratio} (95% interval {result.low:.4g} to {result.high:.4g})"

    def _what_is_needed(self) -> str:
        result = self.result
        size = format_share(result.difference)
        if result.low is None and result.more is not None:
            return (
                f"at least {result.more[0]:,} more measured calls of A and {result.more[1]:,} of B are needed"
            )
        if result.more is None:
            return (
                f"no number of calls will tell a difference of {size}: the durations lie so close together that "
                "the histogram's buckets (6.25%) decide; ask for a larger --difference"
            )
        if result.more == (0, 0):
            return f"if there is a difference, it is below {size}"
        a, b = result.more
        all_a, all_b = (round(n / side.measured_share) for n, side in ((a, self.a), (b, self.b)))
        calls = (
            f", at the shares measured so far {all_a:,} and {all_b:,} calls"
            if (all_a, all_b) != (a, b)
            else ""
        )
        return f"to tell a difference of {size}, about {a:,} more measured calls of A and {b:,} of B are needed{calls}"

    def _notes(self) -> Iterator[str]:
        ways = [f"{side.row.policy} ({side.row.strategy})" for side in (self.a, self.b)]
        if ways[0] != ways[1]:
            yield clean(f"A was measured by {ways[0]}, B by {ways[1]}: measuring may cost them differently")
        for name, side in (("A", self.a), ("B", self.b)):
            if side.slow_only:
                yield f"{name} is measured by profile_if_slow: only its slow calls are in these figures"
            if side.row.discarded:
                count = plural(side.row.discarded, "call")
                yield f"{name} has a threshold: {count} under it are not in these figures"


def _side(side: Side) -> dict[str, Any]:
    interval_ns = side.median.interval_ns
    return {
        "target": side.row.target,
        "run": side.run,
        "rule": side.row.rule,
        "policy": side.row.policy,
        "strategy": side.row.strategy,
        "calls": side.row.calls,
        "measured": side.median.calls,
        "median_ns": round(side.median.median_ns),
        "median_low_ns": None if interval_ns is None else round(interval_ns[0]),
        "median_high_ns": None if interval_ns is None else round(interval_ns[1]),
        "mean_ns": None if side.mean_ns is None else round(side.mean_ns),
    }


def _cells(name: str, side: Side) -> tuple[str, ...]:
    ends = side.median.interval_ns
    interval = " to ".join(format_duration(round(max(end, 0))) for end in ends) if ends else "-"
    return (
        name,
        format_duration(round(side.median.median_ns)),
        interval,
        "-" if side.mean_ns is None else format_duration(round(side.mean_ns)),
        f"{side.median.calls:,}",
        f"{side.row.calls:,}",
        f"{clean(side.row.target)}, run {clean(side.run)}",
    )
