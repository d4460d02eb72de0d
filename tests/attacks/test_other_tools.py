"""Coverage, line profilers and samplers report what they report without us."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from .arena import assert_same, attack, environment, probe
from .traced_functions import HAS_MONITORING, caller, cleanup, keyed, splice_all, target


def needs(module: str) -> Any:
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"{module} is not installed")


# What others measure with, each in its own process: identical reports.

PROGRAM = """
import sys
def leaf(x):
    y = x + 1
    if y < 0:
        return None
    return y * 2
def middle(x, *, k=1):
    try:
        return leaf(x) + k
    finally:
        k = 0
def stream(n):
    for each in range(n):
        yield middle(each, k=2)
def failing(x):
    raise LookupError(x)
class Thing:
    def __init__(self, x):
        self.x = x
    @property
    def half(self):
        return self.x // 2
def main():
    total = 0
    for each in range(30):
        total += sum(stream(3)) + Thing(each).half
        try:
            failing(each)
        except LookupError:
            total += 1
    return total
"""
RUN = """
import sys, prey
from autoprof import session
probes = list(session.current.installer.probes.values()) if session.current else []
assert prey.main() == prey.main()
if probes:
    assert sum(each.calls for each in probes) > 600
    print("measured", sum(each.profiled for each in probes), file=sys.stderr)
"""
POLICY = "version: 1\noutput: out\nrules:\n  - {match: 'prey:*', policy: profile, rate: RATE}\n"


def measured_by(
    tool: list[str], folder: Path, rate: float | None, **variables: str
) -> subprocess.CompletedProcess[str]:
    (folder / "prey.py").write_text(PROGRAM)
    (folder / "run.py").write_text(RUN)
    (folder / "policy.yaml").write_text(POLICY.replace("RATE", str(rate)))
    started = (
        "import autoprof; autoprof.start('policy.yaml')"
        if rate is not None
        else "from autoprof import session"
    )
    (folder / "start.py").write_text(f"{started}\nexec(open('run.py').read())\n")
    ended = subprocess.run(
        [sys.executable, *tool, "start.py"],
        cwd=folder,
        env={**environment(), **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended


CORES = ["ctrace", "pytrace", *(["sysmon"] if HAS_MONITORING else [])]


@needs("coverage")
@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("branch", [True, False])
def test_coverage_reports_the_same(tmp_path: Path, core: str, branch: bool) -> None:
    if core == "sysmon" and branch and sys.version_info < (3, 14):
        pytest.skip("coverage's sysmon core measures branches from 3.14 on")
    found = {}
    for rate in (None, 1.0, 0.2):
        folder = tmp_path / str(rate)
        folder.mkdir()
        tool = ["-m", "coverage", "run", "--include=prey.py", *(["--branch"] if branch else [])]
        ended = measured_by(tool, folder, rate, COVERAGE_CORE=core)
        if rate == 1.0:
            # Exceptions that leave a measured call upset both tracers, so nothing is measured under them.
            assert (int(ended.stderr.split("measured ")[1].split()[0]) > 300) is (core == "sysmon")
        subprocess.run(
            [sys.executable, "-m", "coverage", "json", "-q", "-o", "found.json"], cwd=folder, check=True
        )
        import json

        found[rate] = json.loads((folder / "found.json").read_text())["files"]
        assert found[rate], ended.stderr
    for rate in (1.0, 0.2):
        assert_same(found[None], found[rate])


@needs("line_profiler")
@attack
def test_line_profiler_counts_the_same() -> None:
    import line_profiler

    def run() -> Any:
        profiler = line_profiler.LineProfiler()
        for each in (target, cleanup, keyed):
            profiler.add_function(each)
        profiler.enable_by_count()
        for _ in range(5):
            caller()
        profiler.disable_by_count()
        timings = profiler.get_stats().timings
        return {key[2]: [(line, hits) for line, hits, _ in rows] for key, rows in timings.items()}

    plain = run()
    splice_all()
    caller()
    assert_same(plain, run())


@needs("pyinstrument")
@attack
def test_pyinstrument_shows_the_same_tree() -> None:
    import pyinstrument

    def leaf(x: int) -> int:
        until = time.perf_counter() + 0.001
        while time.perf_counter() < until:
            x += 1
        return x

    def middle(x: int) -> int:
        return leaf(x)

    def top(n: int) -> None:
        for each in range(n):
            middle(each)

    def run() -> list[tuple[str, ...]]:
        profiler = pyinstrument.Profiler(interval=0.0005)
        profiler.start()
        top(200)
        profiler.stop()
        assert profiler.last_session is not None
        paths: set[tuple[str, ...]] = set()

        def walk(frame: Any, path: tuple[str, ...]) -> None:
            path = (*path, frame.function)
            paths.add(path)
            for each in frame.children:
                walk(each, path)

        walk(profiler.last_session.root_frame(), ())
        ours = {"top", "middle", "leaf"}
        return sorted(each for each in paths if each[-1] in ours)

    plain = run()
    for each in (leaf, middle, top):
        probe(each)
    top(1)
    assert_same({"tree": plain}, {"tree": run()})


@needs("executing")
@attack
def test_executing_finds_the_same_nodes() -> None:
    import ast

    import executing

    def who() -> Any:
        found = executing.Source.executing(sys._getframe(1))
        return type(found.node).__name__, found.node and ast.unparse(found.node), found.code_qualname()

    def asked(x: int) -> Any:
        return [who(), max(who(), who()), {"k": who()}["k"]]

    def asked_stream(x: int) -> Any:
        yield who()
        yield [who() for _ in range(2)]

    plain = asked(1), list(asked_stream(1))
    seen = [probe(asked), probe(asked_stream)]
    for _ in range(3):
        assert (asked(1), list(asked_stream(1))) == plain
    assert all(each.profiled == 3 for each in seen)


@attack
def test_tracemalloc_names_the_applications_lines() -> None:
    import tracemalloc

    def allocating() -> list[bytes]:
        return [bytes(1000) for _ in range(100)]

    seen = probe(allocating)
    allocating()
    tracemalloc.start(8)
    kept = [allocating() for _ in range(10)]
    snapshot = tracemalloc.take_snapshot()
    tracemalloc.stop()
    biggest = snapshot.statistics("traceback")[0]
    lines = [Path(each.filename).name for each in biggest.traceback]
    assert lines[-1] == Path(__file__).name and biggest.size > 900_000
    assert not any("autoprof" + os.sep in each.filename for each in biggest.traceback)
    assert seen.profiled == 11 and len(kept) == 10


@pytest.mark.skipif(sys.platform != "linux", reason="py-spy is tried on Linux only")
def test_py_spy_shows_an_open_call_twice(tmp_path: Path) -> None:
    """A documented limit: it reads frames from outside and does not know incomplete ones."""
    spy = next((each for each in (Path(sys.executable).with_name("py-spy"),) if each.exists()), None)
    if spy is None:
        pytest.skip("py-spy is not installed beside this interpreter")
    (tmp_path / "spied.py").write_text(
        textwrap.dedent(
            """
            import sys, time
            from attacks.arena import probe
            def leaf(x):
                time.sleep(30)
            def outer(x, *rest, k):
                leaf(x)
            probe(leaf), probe(outer)
            print("ready", flush=True)
            outer(1, 2, k=3)
            """
        )
    )
    command = [sys.executable, "spied.py"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout is not None and child.stdout.readline() == "ready\n"
            time.sleep(0.3)
            seen = subprocess.run(
                [spy, "dump", "--pid", str(child.pid)],
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
        finally:
            child.kill()
    if seen.returncode:
        pytest.skip(f"py-spy can't read this process here: {seen.stderr.strip()[-200:]}")
    functions = [
        each.split()[0] for each in seen.stdout.splitlines() if each.strip().startswith(("leaf", "outer"))
    ]
    assert functions == ["leaf", "leaf", "outer", "outer"], seen.stdout
