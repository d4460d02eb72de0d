"""Fail open: a fault in a function of ours leaves the application's results alone and shows in `status`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoprof import guard, session

ROOT = Path(__file__).resolve().parents[1]


def test_an_internal_error_shows_in_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "internal_errors", {"sampler": 3})
    session.start({"version": 1, "output": str(tmp_path), "rules": [{"match": "a:*", "policy": "profile"}]})
    try:
        assert session.current is not None
        news = session.current.flusher.states
        states, whole = news(False) or ([], False)
        assert whole
        assert [each.reason for each in states if each.target == "sampler" and each.state == "failed"] == [
            "3 or more internal errors; see the application's log"
        ]
        assert news(False) is None
        guard.internal_errors["sampler"] = 4
        assert news(False)
    finally:
        session.stop()


def faults(*arguments: str) -> subprocess.CompletedProcess[str]:
    import autoprof

    package = str(Path(autoprof.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-m", "tests.faults", *arguments],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": package}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_a_fault_in_a_function_of_ours_is_not_noticed() -> None:
    ended = faults("--nth", "1", "--error", "Exception", "--part", "0", "8")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Exception: injected" not in ended.stderr  # nor printed by the interpreter
    assert ": counted" in ended.stdout, ended.stdout


def test_in_a_session_that_lives_no_fault_is_noticed_and_all_works_again() -> None:
    """Reloads, load, an empty purse, imports; a sixteenth of the functions, `tests.faults living` has them all."""
    ended = faults("--nth", "1", "--error", "Exception", "--part", "3", "16", "living")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count(": counted") > 15, ended.stdout


@pytest.mark.parametrize("error", ["Exception", "MemoryError"])
def test_what_a_fault_leaves_half_done_is_made_up_for(error: str) -> None:
    """A change of policy is asked for again, and a batch that is stored is not written twice."""
    places = [
        "gate.Gate.close", "governor.Governor._turn", "importhook.Import._restore", "installer.Installer.end_change",
        "living.functions_of", "probe.Probe.leave", "regrant._recode", "regrant._retire",
        "store_bounds._Transaction.__exit__", "store_writer.StoreWriter._keep_bounds", "strategies.calls.Calls.__init__",
        "turns.end",
    ]  # fmt: skip
    ended = faults("--nth", "1", "--error", error, *(f"--site={each}" for each in places), "living")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for each in places:
        assert f"living {each} {error} call 1: " in ended.stdout, f"{each} was not reached"


@pytest.mark.parametrize("part", range(2))
def test_a_foreign_call_that_fails_is_not_noticed(part: int) -> None:
    """Each error in turn at the first and a middle call of os, sqlite3, threads, …, under every kind of policy.

    Two thirds of the faults; `python -m tests.faults.foreign` injects each error everywhere.
    """
    import autoprof

    package = str(Path(autoprof.__file__).parents[1])
    ended = subprocess.run(
        [sys.executable, "-m", "tests.faults.foreign", "--quick", "--every", "3", "--first", str(part)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": package}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "njected" not in ended.stderr  # nor printed by the interpreter
    rows = [line.split("|")[1:-1] for line in ended.stdout.splitlines() if line.startswith("| profile_")]
    assert len(rows) == 4
    assert all(int(faults) == int(identical) > 0 for _, _, faults, identical, _ in rows)
