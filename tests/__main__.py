"""`python -m tests`: linters, then the tests on every CPython there is, then the rewriting tests on 3.14 and 3.15.

Needs Python 3.11 or later and nothing else: every interpreter gets an environment of its own in `.venvs/`.

    python -m tests                 everything, as CI does
    python -m tests --python 3.12   one version, no WebAssembly
    python -m tests --jobs 1        one run after the other, not one for every core
    python -m tests -- -k gate      what follows goes to pytest
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENVS = ROOT / ".venvs"
VERSIONS = ("3.11", "3.12", "3.13")
WEBASSEMBLY = ("3.14", "3.15")
TIMED_ATTACKS = (
    *("code_replaced", "introspection", "lifetimes", "other_tools"),
    *("profilers", "recursion", "tracing", "travel"),
)
JOBS = min(3, os.cpu_count() or 1)  # with more runs than cores, tests that wait for a thread wait too long
CLOSING = re.compile(r"(\d+) (passed|failed|skipped|error|errors|xfailed|xpassed)\b")
RULED = re.compile(r"=+ (FAILURES|ERRORS|warnings summary|short test summary info) =+$")
TOLD_AGAIN_LINES = 150


class Totals:
    """What the runs counted."""

    def __init__(self) -> None:
        self.passed = self.failed = self.skipped = 0
        self.broken: list[str] = []
        self.told: list[str] = []  # what failed, once more at the end: who reads a log reads its end
        self._adding = threading.Lock()  # several runs end at once

    def add(self, name: str, label: str, lines: Sequence[str], status: int) -> None:
        """Read the closing line of one run; a status that the line does not explain counts as one failure."""
        closing = [line for line in lines[-40:] if CLOSING.search(line)]
        counted = (
            {word.rstrip("s"): int(count) for count, word in CLOSING.findall(closing[-1])} if closing else {}
        )
        failed = counted.get("failed", 0) + counted.get("error", 0) + counted.get("xpassed", 0)
        if status and not failed:
            failed = 1
        with self._adding:
            self.passed += counted.get("passed", 0)
            self.skipped += counted.get("skipped", 0)
            self.failed += failed
            if failed:
                self.broken.append(name)
                self.told += [f"{label} | {line}" for line in failures(lines)]


def failures(lines: Sequence[str]) -> list[str]:
    """Return what pytest said of the failed tests, or the end of an output that has no such part."""
    told: list[str] = []
    telling = False
    for line in lines:
        if ruled := RULED.match(line):
            telling = ruled[1] in ("FAILURES", "ERRORS")
        if telling or line.startswith(("FAILED ", "ERROR ")):
            told.append(line)
    return (told or list(lines))[-TOLD_AGAIN_LINES:]


def interpreters() -> Iterator[tuple[str, str]]:
    """Find one CPython of each version: on PATH, under pyenv, or the one that runs this."""
    for version in VERSIONS:
        candidates = [sys.executable, shutil.which(f"python{version}") or ""]
        pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
        candidates += [
            str(path / "bin" / "python") for path in sorted(pyenv.glob(f"{version}.*"), reverse=True)
        ]
        for candidate in candidates:
            if candidate and _version(candidate) == version:
                yield version, candidate
                break
        else:
            print(f"-- no CPython {version} here: not tested on it", flush=True)


def _version(python: str) -> str:
    ask = "import sys; print(sys.implementation.name, '%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", ask], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    name, _, version = done.stdout.strip().partition(" ")
    return version if name == "cpython" else ""


def environment(version: str, python: str, extra: str) -> str:
    """Make or refresh the environment of one version with autoprof installed; return its interpreter."""
    folder = VENVS / version
    made = folder / "bin" / "python"
    if not made.exists() or _version(str(made)) != version:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
    print(f"-- {version}: installing", flush=True)
    install = [str(made), "-m", "pip", "install", "-q", "--disable-pip-version-check", "-e", f".[{extra}]"]
    subprocess.run(install, check=True, cwd=ROOT)
    return str(made)


def lint(python: str, totals: Totals) -> None:
    """Run ruff, mypy and import-linter."""
    checks = {
        "ruff": [python, "-m", "ruff", "check", "."],
        "mypy": [python, "-m", "mypy"],
        "import-linter": [str(Path(python).parent / "lint-imports")],
    }
    for name, command in checks.items():
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        print(f"-- {name}: {'ok' if not done.returncode else 'failed'}", flush=True)
        if done.returncode:
            print(done.stdout[-4000:], done.stderr[-2000:], flush=True)
            totals.failed += 1
            totals.broken.append(name)
        else:
            totals.passed += 1


def run(name: str, label: str, command: Sequence[str], totals: Totals, **variables: str) -> None:
    """Run one command, showing its output as it comes behind a label, and count what it says."""
    began = time.monotonic()
    print(f"-- {name}", flush=True)
    env = {key: value for key, value in os.environ.items() if not key.startswith("AUTOPROF_")}
    env |= variables
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # without bytecode every start-up is ten times as slow
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    )
    lines: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        print(f"{label} | {line}", end="", flush=True)
        lines.append(line.rstrip("\n"))
    totals.add(name, label, lines, process.wait())
    print(f"-- {name}: {time.monotonic() - began:.0f} s", flush=True)


def test(
    version: str, made: str, given: Sequence[str], totals: Totals, *, measured: bool, last: bool
) -> None:
    """Run the tests in one environment: the measured one with coverage, the last one with the dearest ones too."""
    pytest = ["pytest", "-q", "-o", f"cache_dir={VENVS / version / 'pytest_cache'}"]
    apart = [] if last else ["--ignore=tests/coexistence"]  # two minutes each
    cover = ["-m", "coverage", "run", "--branch", "-m"] if measured else ["-m"]
    run(f"pytest on {version}", version, [made, *cover, *pytest, *apart, *given], totals)
    if measured:
        subprocess.run([made, "-m", "coverage", "combine", "-q"], cwd=ROOT)
        subprocess.run([made, "-m", "coverage", "report", "--skip-covered"], cwd=ROOT)
    if last and not given:
        attacks = [f"tests/attacks/test_{each}.py" for each in TIMED_ATTACKS]
        name = f"attacks with a stopwatch in every function, on {version}"
        run(name, version, [made, "-m", *pytest, *attacks], totals, ARENA_STOPWATCH="1")


def webassembly(python: str, totals: Totals) -> None:
    """Run the rewriting tests on the versions that exist here as WebAssembly only."""
    for version in WEBASSEMBLY:
        run(f"rewriting on {version}", version, [python, "-m", "tests.pyodide.run", version], totals)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is asked for; return 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests", description=__doc__.splitlines()[0])
    parser.add_argument("--python", action="append", metavar="X.Y", help="only this version; no WebAssembly")
    parser.add_argument("--jobs", type=int, default=JOBS, metavar="N", help=f"runs at once (default {JOBS})")
    parser.add_argument("pytest", nargs="*", help="arguments for pytest, after --")
    given = parser.parse_args(argv)
    totals = Totals()
    found = [each for each in interpreters() if not given.python or each[0] in given.python]
    if not found:
        print("no CPython 3.11, 3.12 or 3.13 found", file=sys.stderr)
        return 2
    measured = found[0][0]
    jobs: list[Callable[[], None]] = []
    for version, python in found:
        made = environment(version, python, "dev" if version == measured else "test")
        if version == measured:
            lint(made, totals)
        role = {"measured": version == measured, "last": version == found[-1][0]}
        jobs.append(partial(test, version, made, given.pytest, totals, **role))
    if not given.python:
        jobs.append(partial(webassembly, str(VENVS / measured / "bin" / "python"), totals))
    with ThreadPoolExecutor(max(given.jobs, 1)) as pool:
        for done in [pool.submit(job) for job in jobs]:
            done.result()
    if totals.broken:
        print("-- what failed, once more", *totals.told, sep="\n", flush=True)
        print(f"-- failed: {', '.join(totals.broken)}", flush=True)
    print(f"{totals.passed} passed, {totals.failed} failed, {totals.skipped} skipped", flush=True)
    return 1 if totals.failed else 0


if __name__ == "__main__":
    sys.exit(main())
