"""The command line: see the package."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import __doc__ as description
from .catalogue import PYTHONS, SUITES, Suite, named
from .cells import Cell, Options, run_cells
from .environments import (
    CACHE,
    SetupError,
    find_python,
    install_autoprof,
    prepare_source,
    prepare_venv,
    the_cache,
)
from .profiled import POLICIES
from .table import details, table


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m tests.suites",
        description=description,
        epilog=f"suites: {', '.join(suite.name for suite in SUITES)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add(
        "--suite",
        action="append",
        default=[],
        metavar="NAME",
        help="only this one (may be given several times)",
    )
    add(
        "--python",
        action="append",
        default=[],
        metavar="X.Y",
        help=f"or a path (default: {' '.join(PYTHONS)})",
    )
    add(
        "--policy",
        action="append",
        default=[],
        choices=POLICIES,
        help="what is put on every function (may be given several times; default: all, one run each)",
    )
    add("--jobs", type=int, default=1, help="cells at a time (default: 1; more make timing tests flaky)")
    add("--plain-only", action="store_true", help="compare the two plain runs only, without autoprof")
    add("--reuse-plain", action="store_true", help="take the plain runs of last time where there are any")
    add(
        "--strict",
        action="store_true",
        help="let autoprof's own errors surface in the tests (AUTOPROF_STRICT=1)",
    )
    return made


class Progress:
    """One line on stderr for each step, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started = time.monotonic()

    def about(self, label: str) -> Callable[[str], None]:
        """Return what says a step of something called `label`."""

        def say(step: str) -> None:
            with self._lock:
                print(
                    f"{time.monotonic() - self._started:6.0f} s  {label}: {step}", file=sys.stderr, flush=True
                )

        return say


def cells(
    suites: list[Suite], pythons: list[Path], options: Options, jobs: int, progress: Progress
) -> list[Cell]:
    """Prepare what is needed, then run every suite on every Python; results in that order."""
    work = []
    for python in pythons:
        log = CACHE / "setup.log"
        progress.about(str(python))("environment")
        inside = prepare_venv(python, log)
        if not options.plain_only:
            install_autoprof(inside, log)
        work += [(suite, inside, prepare_source(suite, inside, log)) for suite in suites]
    with ThreadPoolExecutor(jobs) as pool:
        waiting = [
            pool.submit(run_cells, *item, options, progress.about(f"{item[0].name} {item[1].parts[-3]}"))
            for item in work
        ]
        return [cell for future in waiting for cell in future.result()]


def main() -> int:
    """Run the command line; return 0, 1 when something differs, 2 when it could not start."""
    arguments = parser().parse_args()
    variables = {"AUTOPROF_STRICT": "1"} if arguments.strict else {}
    policies = tuple(arguments.policy or POLICIES)
    options = Options(policies, arguments.plain_only, arguments.reuse_plain, variables)
    try:
        suites = named(arguments.suite)
        pythons = [find_python(version) for version in arguments.python or PYTHONS]
        progress = Progress()
        with the_cache(waiting=lambda: progress.about("cache")("in use by another run, waiting for its end")):
            done = cells(suites, pythons, options, max(1, arguments.jobs), progress)
    except (LookupError, SetupError) as error:
        print(f"tests.suites: {error}", file=sys.stderr)
        return 2
    print(table(done))
    print(details(done), end="")
    return 0 if all(cell.ok for cell in done) else 1


if __name__ == "__main__":
    sys.exit(main())
