"""docutils, unmodified, converting a large file: same bytes, exact counts, a flame graph."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.conftest import Environment
from tests.truth.calls import SECTION, expected_of_docutils
from tests.truth.running import PROGRAMS

_POLICY = """\
version: 1
output: ./out
budget: off
load: off
rules:
  - match: ["docutils:*", "docutils.*:*"]
    policy: profile
    rate: 0.01
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, environment: Environment) -> Path:
    """A folder with the program, its input, the policy, and what a plain run makes of it."""
    made = tmp_path_factory.mktemp("docutils")
    for name in ("convert.py", "counted.py"):
        shutil.copy(PROGRAMS / name, made)
    (made / "policy.yaml").write_text(_POLICY)
    (made / "big.rst").write_text("".join(SECTION.format(n=n) for n in range(150)))
    done = environment.run("convert.py", "big.rst", "plain.html", cwd=made, timeout=120)
    assert done.returncode == 0, done.stderr
    env = {"AUTOPROF_CONFIG": "policy.yaml"}
    done = environment.run("convert.py", "big.rst", "profiled.html", cwd=made, env=env, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return made


def _report(folder: Path, environment: Environment, *options: str) -> str:
    done = environment.run("-m", "autoprof", "report", "out", *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_output_is_that_of_the_plain_run(folder: Path) -> None:
    plain = (folder / "plain.html").read_bytes()
    assert len(plain) > 200_000
    assert (folder / "profiled.html").read_bytes() == plain


def test_counts_are_those_of_cprofile(folder: Path, environment: Environment) -> None:
    """From 3.12 on, where cProfile has other ways of counting, those of the interpreter's own events."""
    arguments = ("counted.py", "docutils", "convert.py", "big.rst", "x.html")
    done = environment.run(*arguments, cwd=folder, timeout=240)
    assert done.returncode == 0, done.stderr
    expected, generators = expected_of_docutils(json.loads(done.stdout))
    reported = {
        row["target"]: row["calls"]
        for row in json.loads(_report(folder, environment, "--format", "json"))["probes"]
    }
    assert len(expected) > 400
    assert set(expected) == {target for target, calls in reported.items() if calls}
    plain = {target: calls for target, calls in expected.items() if target not in generators}
    assert plain == {target: calls for target, calls in reported.items() if target in plain}
    for target in generators:
        if sys.version_info < (3, 12):  # cProfile counts resumptions
            assert 0 < reported[target] <= expected[target]
        else:  # the event comes once, from each that was begun
            assert 0 < expected[target] <= reported[target]


def test_the_flame_graph_has_the_hot_path(folder: Path, environment: Environment) -> None:
    svg = _report(folder, environment, "--format", "svg")
    assert svg.startswith(("<?xml", "<svg"))
    assert "docutils" in svg
    document = json.loads(_report(folder, environment, "--format", "speedscope"))
    assert document["profiles"]
