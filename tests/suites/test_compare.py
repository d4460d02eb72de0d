"""The comparison of runs can fail: a transparency table that only ever says 0 would prove nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .catalogue import SUITES, named
from .cells import Cell, failing
from .compare import Difference, differences
from .profiled import Counts, count, policy
from .runs import INSIDE, STATUS, read_outcomes, run_suite
from .table import details, table

PYTEST_FILE = """
import pytest

def test_passes(): pass
def test_fails(): assert 1 == 2
def test_raises(): raise KeyError("x")
def test_skips(): pytest.skip("no")
@pytest.mark.xfail
def test_expected(): assert False
@pytest.mark.xfail
def test_unexpected(): pass
@pytest.fixture
def broken(): raise ValueError("set-up")
def test_setup(broken): pass
@pytest.fixture
def leaves():
    yield
    raise OSError("tear-down")
def test_teardown(leaves): pass
"""

UNITTEST_FILE = """
import unittest

class Case(unittest.TestCase):
    def test_passes(self): pass
    def test_fails(self): self.fail()
    def test_raises(self): raise KeyError("x")
    @unittest.skip("no")
    def test_skips(self): pass
    @unittest.expectedFailure
    def test_expected(self): self.fail()
    @unittest.expectedFailure
    def test_unexpected(self): pass
    def test_subtests(self):
        for number in range(3):
            with self.subTest(number=number):
                self.assertNotEqual(number, 1)

class Broken(unittest.TestCase):
    @classmethod
    def setUpClass(cls): raise ValueError("set-up")
    def test_never(self): pass
"""


def recorded(runner: str, folder: Path, *arguments: str) -> dict[str, str]:
    """Run a runner on what lies in a folder and read the outcomes, without the modules' names."""
    results = folder / "results.jsonl"
    command = [sys.executable, str(INSIDE / f"{runner}_results.py"), str(results), *arguments]
    subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": str(folder)}, capture_output=True, timeout=60, check=False
    )
    return {
        test.split("sample.")[-1].split("::")[-1]: outcome for test, outcome in read_outcomes(results).items()
    }


def test_pytest_outcomes(tmp_path: Path) -> None:
    (tmp_path / "test_sample.py").write_text(PYTEST_FILE)
    (tmp_path / "test_unreadable.py").write_text("import nothing_of_this_name")
    assert recorded("pytest", tmp_path, "-p", "no:cacheprovider", "--continue-on-collection-errors", ".") == {
        "test_unreadable.py": "collection failed",
        "test_passes": "passed",
        "test_fails": "failed: assert",
        "test_raises": "failed: KeyError",
        "test_skips": "skipped",
        "test_expected": "failed as expected",
        "test_unexpected": "passed unexpectedly",
        "test_setup": "error in setup: ValueError",
        "test_teardown": "error in teardown: OSError",
    }


def test_unittest_outcomes(tmp_path: Path) -> None:
    (tmp_path / "sample.py").write_text(UNITTEST_FILE)
    outcomes = recorded("unittest", tmp_path, "sample")
    assert outcomes.pop("Case.test_subtests (number=1)") == "failed: AssertionError"
    assert outcomes.pop("Broken)") == "error: ValueError"
    assert outcomes == {
        "Case.test_passes": "passed",
        "Case.test_fails": "failed: AssertionError",
        "Case.test_raises": "error: KeyError",
        "Case.test_skips": "skipped",
        "Case.test_expected": "failed as expected: AssertionError",
        "Case.test_unexpected": "passed unexpectedly",
        "Case.test_subtests": "failed in subtests",
    }


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 11)", "os._exit(0)"])
def test_a_run_that_dies_is_a_difference(tmp_path: Path, end: str) -> None:
    source = "import os, time\ndef test_one(): pass\ndef test_two(): {}\ndef test_three(): pass\n"
    suite, python = named(["click"])[0], Path(sys.executable)
    runs = []
    for name, body in (("well", "pass"), ("badly", end)):
        folder = tmp_path / name / "tests"
        folder.mkdir(parents=True)
        (folder / "test_it.py").write_text(source.format(body))
        runs.append(run_suite(suite, python, folder.parent, tmp_path / f"{name}.jsonl").outcomes)
    found = differences(*runs)
    assert ("tests/test_it.py::test_two", "passed", "missing") in [(d.test, d.before, d.after) for d in found]
    assert len(found) == (3 if "kill" in end else 2)
    assert runs[1][STATUS] == ("killed by SIGSEGV" if "kill" in end else "0")


def test_differences() -> None:
    before = {
        "a": "passed",
        "b": "passed",
        "c": "passed",
        "x[<o at 0x7f00aa11bb22>]": "passed",
        "flaky": "passed",
    }
    after = {
        "a": "passed",
        "b": "failed: E",
        "d": "passed",
        "x[<o at 0x7f00cc33dd44>]": "passed",
        "flaky": "error",
    }
    assert differences(before, after, leave_out=["flaky"]) == [
        Difference("b", "passed", "failed: E"),
        Difference("c", "passed", "missing"),
        Difference("d", "missing", "passed"),
    ]
    assert differences(before, before) == []


def test_repeated_names_and_cut_off_lines(tmp_path: Path) -> None:
    results = tmp_path / "r.jsonl"
    results.write_text('["t", "passed"]\n["t", "failed: E"]\n["u", "pas')
    assert read_outcomes(results) == {"t": "passed", "t #2": "failed: E"}
    assert failing(read_outcomes(results)) == ["t #2"]
    assert read_outcomes(tmp_path / "none") == {}


def test_a_cell_is_judged() -> None:
    good = Counts(2, 1000, 900, 80, {"nested": 80, "busy": 20})
    poor = Counts(2, 1000, 900, 79, {"nested": 79, "busy": 21})
    assert Cell("s", "3.12.1", tests=3, profiled_s=1.0, counts=good).ok
    assert not Cell("s", "3.12.1", tests=3, profiled_s=1.0, counts=poor).ok
    assert not Cell("s", "3.12.1", tests=0, profiled_s=1.0, counts=good).ok
    assert not Cell("s", "3.12.1", tests=3, profiled_s=1.0, counts=Counts(0, 0, 0, 0, {})).ok
    bad = Cell(
        "s",
        "3.12.1",
        tests=3,
        differences=[Difference("t", "passed", "missing")],
        profiled_s=1.0,
        counts=poor,
    )
    assert not bad.ok
    assert "| 1,000 |" in table([bad]) and "| all" in table([bad, bad])
    assert details([bad]) == (
        "s 3.12.1 profile: DIFFERENT: t: passed -> missing\ns 3.12.1 profile: SHARE under 98%: "
        "skipped by busy 21, nested 79\n"
    )


def test_a_report_is_counted() -> None:
    row = {"calls": 10, "profiled": 6, "skipped_by": {"nested": 3, "busy": 1}}
    assert count({"probes": [row, row, {"calls": 1, "profiled": 1, "skipped_by": {}}]}) == Counts(
        3, 21, 13, 6, {"nested": 6, "busy": 2}
    )
    with pytest.raises(TypeError):
        count({"probes": [{"calls": None, "profiled": 0, "skipped_by": {}}]})


def test_policies_name_the_packages() -> None:
    import yaml

    for suite in SUITES:
        rule = yaml.safe_load(policy(suite, Path("/out")))["rules"][0]
        assert rule["match"] == [glob for name in suite.packages for glob in (f"{name}:*", f"{name}.*:*")]
        assert (rule["policy"], rule["rate"]) == ("profile", 1.0)
    assert json.loads(json.dumps(named(["attrs"])[0].packages)) == ["attr", "attrs"]
    with pytest.raises(LookupError, match="no suite is called 'atrs'"):
        named(["atrs"])
