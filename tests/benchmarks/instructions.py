"""What a call costs in the processor's instructions, counted by valgrind: the same on every machine, busy or not.

Threads of ours do not start meanwhile. A count of a process with many calls less that of one with few is divided by the
difference. Instructions are no time: what is not in the processor's caches takes longer. For before and after they do.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.measure import Figure

FEW, MANY = 500, 2_500
_VALGRIND = shutil.which("valgrind")

_PROGRAM = """
import gc, os, sys
from autoprof import background, session
from autoprof.sampler import recorder
from tests.benchmarks import calls

background.Background.start = lambda thread: True
session.start({"version": 1, "budget": "off", "load": "off", "reload": "off", "rules": []})
kind, count = sys.argv[1], int(sys.argv[2])
function = {
    "plain": calls.fresh,
    "closed": lambda: calls.spliced_at_import(0.0),
    "sampled": lambda: calls.spliced_at_import(1.0),
    "timed": lambda: calls.spliced_at_import(0.1, "profile_if_slow", threshold_ns=100_000_000),
}[kind]()

def call(times):
    for number in range(times):
        function(number)

call(200)
recorder.idle = False
gc.collect()
gc.disable()  # a collection more or less is more than a hundred calls
call(count)
os._exit(0)
"""


def figures() -> Iterator[Figure]:
    """Count the instructions of a plain call, and what gates and stopwatches add to them."""
    if _VALGRIND is None:
        yield Figure("instructions: not measured (valgrind is not installed)", 0.0, "")
        return
    plain = _a_call("plain")
    yield Figure("a plain call in a loop", plain, "instructions")
    for kind, what in (("closed", "a closed gate"), ("timed", "a stopwatch"), ("sampled", "a sampled call")):
        more = _a_call(kind) - plain
        yield Figure(f"{what}, added to it", more, "instructions", note=f"{more / plain:.2f} times the plain call")


def _a_call(kind: str) -> float:
    return (_counted(kind, MANY) - _counted(kind, FEW)) / (MANY - FEW)


def _counted(kind: str, calls: int) -> int:
    root = str(Path(__file__).resolve().parents[2])
    with tempfile.TemporaryDirectory() as folder:
        command = [str(_VALGRIND), "--tool=callgrind", f"--callgrind-out-file={folder}/out"]
        command += [sys.executable, "-c", _PROGRAM, kind, str(calls)]
        environment = {"PYTHONPATH": root, "PYTHONHASHSEED": "0", "HOME": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=True)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if found is None:
        raise RuntimeError(f"valgrind counted nothing: {done.stderr[-300:]}")
    return int(found[1])
