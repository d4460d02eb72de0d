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
