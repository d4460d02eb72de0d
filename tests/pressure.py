"""Programs of their own that are put under real load."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

_PROGRAM = """
import os, subprocess, sys, tempfile, threading, time
import autoprof
from autoprof import load, session, signals
from autoprof.policy import Policy

def work():
    return sum(range(100))

told = []
def receive(sender, *, measurements, metadata):
    told.append((metadata["event"], metadata["reason"]))
signals.connect(receive, "paused", "resumed")

def wait(true, seconds=60):
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        work()
        time.sleep(0.02)
    return bool(true())

autoprof.start({{"version": 1, "output": sys.argv[1], "load": {load}, "budget": "off", "reload": "off",
                "rules": [{{"match": "__main__:work", "policy": "profile", "rate": 1.0}}]}})
governor = session.current.governor
status = lambda: session.status()[0]
"""


def run(tmp_path: Path, limits: str, body: str) -> None:
    """Run a program under a policy with these limits; it must end well."""
    program = _PROGRAM.format(load=limits) + textwrap.dedent(body)
    script = tmp_path / "program.py"
    script.write_text(program)
    root = str(Path(__file__).resolve().parent.parent)
    env = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "out")],
        env=env,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
