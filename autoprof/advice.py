"""What to do about missing profiles, high overhead and memory, in sentences: for `explain` and `doctor`."""

from __future__ import annotations

import os

from autoprof import schema
from autoprof.errors import printable
from autoprof.probe_status import GATE_NS
from autoprof.store_file import store_files
from autoprof.units import format_duration, format_share, format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from autoprof.policy import Policy, Rule
    from autoprof.store_records import ProbeRow, ReportData

    Options = Mapping[str, object]

ENOUGH_PROFILES = 20
_FEW_PROFILES = 5
_LISTED = 5
_WORTH_CURING = 0.1  # of the budget
_DEFAULT_BUDGET = 0.01
_EXPENSIVE = frozenset({"call_graph", "memory", "fprof", "eprof", "cprof"})
_LONG_NS = 10 * schema.SECOND_NS

SKIPPED = {
    "nested": "a call of the same function was being measured in that thread (recursion), or autoprof itself was at "
    "work: the outermost call stands for the inner ones; nothing to do",
    "busy": "the strategy measures only so many calls at a time: a lower rate or `every: 10s` wastes fewer of them, "
    "and strategy sample has no such limit",
    "other_profiler": "another profiler, a debugger or coverage was active in that thread: run without it to measure",
    "paused": "profiling pauses above `load:` and `budget:`; for a test write check_load: false, or raise the limit",
    "error": "measuring failed inside autoprof; the logger `autoprof` has the reason (AUTOPROF_STRICT=1 raises it): "
    "please report it",
}


# missing profiles


def last_run_lines(data: ReportData, target: str, given: Mapping[str, Options]) -> list[str]:
    """Say what the last run has of one function, and what to do where that is too little.

    Args:
        data: The last run.
        given: The options of every policy that is in force on the function, by kind.
    """
    rows = {row.policy: row for row in data.probes if row.target == target}
    lines = []
    for kind in [*given, *(kind for kind in rows if kind not in given)]:
        row = rows.get(kind)
        said = row_lines(row, given.get(kind)) if row else [_not_there(data, target, kind)]
        said += _paused_lines(data, target, kind) if row else []
        lines += [f"{kind}: {said[0]}", *(f"  {line}" for line in said[1:])]
    return lines


def _paused_lines(data: ReportData, target: str, kind: str) -> list[str]:
    """Say that a probe was paused when it was last heard of."""
    return [
        f"{printable(state.reason)}: calls are counted meanwhile, and profiles come again when it is over; "
        "check_load: false measures all the same"
        for state in data.states
        if state.state == "paused" and (state.target, state.policy) == (target, kind)
    ]


def row_lines(row: ProbeRow, options: Options | None) -> list[str]:
    """Return the counts of one row and, below, a sentence for each thing that keeps profiles away.

    Args:
        options: Of the policy in force; None when it is not in force any more.
    """
    counts = f"{row.calls:,} calls, {row.profiled:,} profiled"
    if row.skipped:
        by = ", ".join(f"{count:,} {printable(reason)}" for reason, count in sorted(row.skipped_by.items()))
        counts += f", {row.skipped:,} skipped ({by})"
    if row.discarded:
        counts += f", {row.discarded:,} discarded"
    lines = [counts if row.calls else "the function was not called"]
    if options is None:
        lines.append("measured then; the policy file does not give it now")
    elif row.calls:
        lines += _too_few(row, options)
    lines += [f"{reason}: {SKIPPED[reason]}" for reason in sorted(row.skipped_by) if reason in SKIPPED]
    return lines


def _too_few(row: ProbeRow, options: Options) -> list[str]:
    rate = _number(options.get("rate"), 1.0)
    key = rate_key(row.policy)
    if rate == 0:
        return [f"{key}: 0 only counts calls: write a {key} to have profiles"]
    if row.discarded and not row.profiled:
        threshold = schema.describe_field("threshold_ns", options.get("threshold_ns"))
        return [f"every measured call was under the threshold of {threshold}: lower it"]
    expected = rate * row.calls
    if row.profiled >= _FEW_PROFILES or row.policy == "profile_if_slow":
        return []
    lines = []
    if expected < ENOUGH_PROFILES and rate < 1:
        share, better = (
            format_share(rate),
            format_share(min(_nice(ENOUGH_PROFILES / row.calls, up=True), 1.0)),
        )
        about = f"{expected:.2g}" if expected < 10 else f"{expected:.0f}"
        lines.append(f"at {key} {share} about {about} profiles come of that many calls; {key}: {better} gives "
                     f"{min(ENOUGH_PROFILES, row.calls)}")  # fmt: skip
    if options.get("every_ns") and expected > row.profiled:
        every = schema.describe_field("every_ns", options["every_ns"])
        lines.append(f"every: {every} allows one profile in that time and process; write a shorter one")
    return lines


def _not_there(data: ReportData, target: str, kind: str) -> str:
    """Say why the last run has no counts of a function."""
    module = target.partition(":")[0]
    states = [state for state in data.states if state.strategy]  # the others are rules that matched nothing
    for state in states:
        if state.target == target and state.policy == kind:
            if state.state == "installed":
                return "installed, and not called"
            return f"{printable(state.state)}: {printable(state.reason)}"
    known = [*(row.target for row in data.probes), *(state.target for state in states)]
    if any(name.startswith(f"{module}:") for name in known):
        return (
            f"not installed, though {module} was imported: the function is made while running, the code or the "
            "policy file has changed since, or another process has it"
        )
    return f"{module} was never imported in that run, or the policy file did not name it yet"


def exclusion_lines(rules: Iterable[Rule], env: str) -> list[str]:
    """Return what to write so that rules which select a function and are excluded apply to it."""
    lines = []
    for rule in rules:
        allowed = rule.options["env"]
        if not rule.options["enabled"]:
            lines.append(
                f"{rule.label} selects it: write enabled: true there, or set the variable it is taken from"
            )
        elif isinstance(allowed, tuple) and env not in allowed:
            names = ", ".join([*allowed, env])
            lines.append(
                f"{rule.label} selects it: write env: [{names}] there, or set AUTOPROF_ENV={allowed[0]}"
            )
    return lines


def load_line(policy: Policy) -> str:
    """Say above which load profiling pauses; "" when it never does."""
    limits = [("cpu", policy.load_cpu), ("memory", policy.load_memory)]
    shown = [f"{name} {format_share(limit)}" for name, limit in limits if limit is not None]
    return f"check_load: measuring pauses above {', '.join(shown)}" if shown else ""


# high overhead


class Cost:
    """What one row of a run has cost.

    Attributes:
        gate_ns: Estimate for the closed gate, which every call passes.
        share: Of the time the run's processes lived.
    """

    __slots__ = ("gate_ns", "row", "share")

    def __init__(self, row: ProbeRow, lived: int) -> None:
        self.row = row
        self.gate_ns = row.calls * GATE_NS
        self.share = self.total_ns / max(lived, 1)

    @property
    def total_ns(self) -> int:
        """Opened gates, stopwatches and closed gates."""
        return self.row.overhead_ns + self.gate_ns


def costs(data: ReportData) -> list[Cost]:
    """Return what each row has cost, the costliest first."""
    lived = data.lived_ns
    return sorted((Cost(row, lived) for row in data.probes), key=lambda cost: (-cost.total_ns, cost.row.key))


def cost_lines(data: ReportData, policy: Policy | None) -> list[str]:
    """Name the costliest probes of a run and, where they cost something worth curing, the edit that cures each."""
    found = costs(data)
    budget = (policy.budget if policy else None) or _DEFAULT_BUDGET
    # The processes' own figure holds the opened gates, and the sampler and the writer, which serve all probes.
    shared_ns = max(
        sum(row.overhead_ns for row in data.processes) - sum(row.overhead_ns for row in data.probes), 0
    )
    shared = shared_ns / max(data.lived_ns, 1)
    total = shared + sum(cost.share for cost in found)
    lines = [f"{_share(total)} of the time of the last run; {format_share(budget)} is the budget"]
    worth = [cost for cost in found if cost.share >= budget * _WORTH_CURING]
    allowed = budget / max(len(worth), 1)
    for cost in found[:_LISTED]:
        name = f"{printable(cost.row.target)} [{printable(cost.row.policy)}, {printable(cost.row.rule)}]"
        about = f"{_share(cost.share)} {name}: {format_duration(cost.total_ns)} for {cost.row.calls:,} calls"
        lines.append(f"{about}; to lower it: {cure(cost, allowed)}" if cost in worth else about)
    lines.append(f"{_share(shared)} the sampler and the writer: {format_duration(shared_ns)}")
    lines += [
        f"shed: {printable(each.target)}: {printable(each.reason)}"
        for each in data.states
        if each.state == "shed"
    ]
    return lines


def cure(cost: Cost, allowed: float) -> str:
    """Return the edit after which a probe costs about `allowed` of the run's time."""
    row = cost.row
    name = printable(row.target)
    if row.policy == "profile_if_slow":
        return "env: [dev], or a narrower glob: every call pays for its stopwatch, whatever the threshold"
    room = allowed - cost.share * cost.gate_ns / max(cost.total_ns, 1)  # the gate stays, whatever the rate
    if 2 * cost.gate_ns > cost.total_ns or room <= 0:
        return f"except: {name} (or a narrower glob): so many calls of so small a function cost by the gate alone"
    aim = min(room / cost.share, 0.5)
    opened = row.profiled + row.skipped + row.discarded
    if row.strategy == "flame_graph" and row.profiled:
        per_profile_ns = row.overhead_ns / row.profiled
        every_ns = max(int(_nice(per_profile_ns / allowed, up=True)), schema.SECOND_NS)
        return f"every: {format_duration(every_ns)}, and async: true has the files written after the call"
    rate = f"{rate_key(row.policy)}: {_plain(_nice(opened / max(row.calls, 1) * aim))}"
    if row.strategy in _EXPENSIVE and row.policy == "profile":
        return f"{rate}, or strategy: sample; leave {row.strategy} to env: [dev]"
    return rate


# memory


def memory_lines(folder: str, policy: Policy | None, at_start_bytes: int | None) -> list[str]:
    """Say how much autoprof takes on the disk and in a process, and which edits of the policy make it less.

    What is kept in a process between two writes is bounded, whatever the policy; no figure of it is stored.

    Args:
        folder: The output folder.
        at_start_bytes: What loading autoprof and the policy adds to a fresh process; None when not known.
    """
    stored, others = folder_bytes(folder)
    parts = [f"{format_size(stored)} in the store", f"{format_size(others)} in other files of {folder!r}"]
    if at_start_bytes is not None:
        parts.append(f"about {format_size(max(at_start_bytes, 0))} in a process at its start")
    lines = [printable(", ".join(parts))]
    for rule in policy.active_rules if policy else ():
        lines += [f"{rule.label}: {edit}" for edit in memory_edits(rule)]
    return lines


def memory_edits(rule: Rule) -> list[str]:
    """Return the edits that make a rule's measurements smaller; none for those that are bounded and small."""
    options = rule.options
    edits = []
    if rule.policy == "profile" and options["strategy"] in _EXPENSIVE:
        edits.append(f"strategy: sample keeps less than {options['strategy']}")
        if options["threshold_ns"] is None:
            edits.append("threshold: 1s keeps only the calls that matter")
    drawn = options["strategy"] in _EXPENSIVE or options["strategy"] == "flame_graph"
    if drawn and _number(options["duration_ns"], 0) > _LONG_NS:
        edits.append("duration: 10s bounds what one call can gather")
    if rule.policy == "profile_memory" and options["threshold_bytes"] is None:
        edits.append("threshold: 10MB tells of large allocations only")
    return edits


def folder_bytes(folder: str) -> tuple[int, int]:
    """Return the bytes of the stores in an output folder, and those of what else lies in it."""
    try:
        stores = [os.path.basename(path) for _, path in store_files(folder)]
        entries = [entry for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False)]
        sizes = [(entry.name, entry.stat(follow_symlinks=False).st_size) for entry in entries]
    except OSError:
        return 0, 0
    stored = sum(size for name, size in sizes if name.startswith(tuple(stores)))
    return stored, sum(size for _, size in sizes) - stored


def rate_key(kind: str) -> str:
    """Return the key that a policy's rate is written with."""
    return next((option.key for option in schema.POLICIES.get(kind, ()) if option.field == "rate"), "rate")


def _number(value: object, otherwise: float) -> float:
    return value if isinstance(value, (int, float)) else otherwise


def _nice(value: float, *, up: bool = False) -> float:
    """Return a positive number with one figure, not above `value` (or, `up`, not below); shares end at 1."""
    figures = f"{value:.0e}"
    nice = float(figures)
    step = float(f"1{figures[figures.index('e') :]}")
    if up:
        return nice if nice >= value else nice + step
    nice = nice if nice <= value else nice - step
    return min(nice, 1.0) if nice > 0 else float(f"9e{int(figures[figures.index('e') + 1 :]) - 1}")


def _plain(share: float) -> str:
    return f"{share:.10f}".rstrip("0").rstrip(".")


def _share(share: float) -> str:
    return format_share(float(f"{share:.2g}"))
