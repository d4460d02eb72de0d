"""A cell of the table: one suite on one Python, plainly twice, then profiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .catalogue import Suite
from .compare import Difference, differences
from .environments import CACHE, full_version
from .profiled import WANTED_SHARE, Counts, ReportError, policy, read_report
from .runs import STATUS, Run, read_outcomes, run_suite

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for: `plain_only` stops before autoprof, `reuse` takes earlier plain runs."""

    policies: tuple[str, ...] = ("profile",)
    plain_only: bool = False
    reuse: bool = False
    variables: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Cell:
    """The result of one suite on one Python; seconds of one plain run and of the profiled one."""

    suite: str
    python: str
    policy: str = "profile"
    tests: int = 0
    failing: int = 0
    flaky: list[Difference] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    plain_s: float = 0.0
    profiled_s: float | None = None
    counts: Counts | None = None
    problem: str | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing differs and, if profiled, enough calls were."""
        # Of `profile_calls` only outermost calls are measured, one at a time: callees and other threads are skipped.
        wanted = self.policy in ("profile", "profile_if_slow", "profile_memory")
        enough = self.counts is None or not wanted or self.counts.share >= WANTED_SHARE
        return not self.differences and self.problem is None and self.tests > 0 and enough


def run_cells(suite: Suite, python: Path, source: Path | None, options: Options, say: Say) -> list[Cell]:
    """Run everything that one suite on one Python needs; return a cell for each policy.

    Args:
        python: of the environment that has the suite.
        say: told about each step.
    """
    version = full_version(python)
    folder = CACHE / "results" / version / suite.name
    plain = [_plain(suite, python, source, folder / f"plain-{turn}.jsonl", options, say) for turn in (1, 2)]
    cells = []
    for kind in options.policies[:1] if options.plain_only else options.policies:
        cell = Cell(suite.name, version, "" if options.plain_only else kind)
        cell.tests, cell.failing = plain[0].tests, len(failing(plain[0].outcomes))
        cell.plain_s = min(run.seconds for run in plain)
        cell.flaky = differences(plain[0].outcomes, plain[1].outcomes)
        if not cell.tests:
            cell.problem = f"no test ran: see {folder / 'plain-1.log'}"
        elif not options.plain_only:
            _profile(suite, python, source, folder, plain[0], cell, options, say)
        cells.append(cell)
    return cells


def failing(outcomes: dict[str, str]) -> list[str]:
    """Return the tests that did not end well."""
    good = ("passed", "skipped", "failed as expected", "collection skipped")
    return [test for test, outcome in outcomes.items() if test != STATUS and not outcome.startswith(good)]


def _plain(suite: Suite, python: Path, source: Path | None, results: Path, options: Options, say: Say) -> Run:
    kept = results.with_suffix(".kept")
    if options.reuse and kept.exists():
        status, seconds = kept.read_text("utf-8").split("\n")
        return Run({**read_outcomes(results), STATUS: status}, float(seconds))
    say(results.stem)
    kept.unlink(missing_ok=True)
    run = run_suite(suite, python, source, results)
    kept.write_text(f"{run.outcomes[STATUS]}\n{run.seconds:.3f}", "utf-8")
    return run


def _profile(
    suite: Suite,
    python: Path,
    source: Path | None,
    folder: Path,
    plain: Run,
    cell: Cell,
    options: Options,
    say: Say,
) -> None:
    kind = cell.policy
    output, policy_file = folder / kind, folder / f"{kind}.yaml"
    _empty(output)
    policy_file.write_text(policy(suite, output, kind), "utf-8")
    say(kind)
    variables = {"AUTOPROF_CONFIG": str(policy_file), **options.variables}
    run = run_suite(suite, python, source, folder / f"{kind}.jsonl", **variables)
    cell.profiled_s = run.seconds
    flaky = {difference.test for difference in cell.flaky}
    cell.differences = differences(plain.outcomes, run.outcomes, leave_out=flaky)
    if (len(cell.differences) > 1 or flaky) and not _crashed(run):
        # one failing test more or less turns the status too: that is no difference of its own
        cell.differences = [found for found in cell.differences if found.test != STATUS]
    try:
        cell.counts = read_report(python, output)
    except ReportError as error:
        cell.problem = str(error)


def _crashed(run: Run) -> bool:
    return run.outcomes[STATUS] not in ("0", "1")


def _empty(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()
