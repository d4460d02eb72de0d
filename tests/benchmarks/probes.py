"""What 100 000 probes that nobody calls cost in memory: the same modules imported with and without a policy."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.measure import Figure

MODULES, FUNCTIONS = 25, 4_000
LIMIT_KB = 1.5
_ROOT = Path(__file__).resolve().parents[2]
_FUNCTION = """\
def f{}(a, b=1):
    total = a + b
    for each in range(total):
        total += each
    return total
"""
_CHILD = """\
import gc, os, sys
import autoprof.wiring, autoprof.live
from autoprof import session
from autoprof.rewrite import backend, splice, tree
def rss_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
import many0
many0.__dict__.clear()
del sys.modules["many0"]
if sys.argv[1] == "with":
    rule = {"match": "many*:*", "policy": "profile_production"}
    session.start({"version": 1, "budget": "off", "load": "off", "reload": "off", "rules": [rule]})
gc.collect()
before = rss_bytes()
for number in range(int(sys.argv[2])):
    __import__(f"many{number}")
gc.collect()
print(rss_bytes() - before, len(session.status()))
"""


def figures() -> Iterator[Figure]:
    """Measure resident memory; the modules' bytecode is cached before, so that no source is compiled."""
    if not os.path.exists("/proc/self/statm"):
        return
    with tempfile.TemporaryDirectory(prefix="autoprof-benchmark-") as folder:
        text = "".join(_FUNCTION.format(number) for number in range(FUNCTIONS))
        for number in range(MODULES):
            Path(folder, f"many{number}.py").write_text(text)
        _run(folder, "without")
        plain_bytes, none = _run(folder, "without")
        our_bytes, probes = _run(folder, "with")
    assert (none, probes) == (0, MODULES * FUNCTIONS)
    each_kb = (our_bytes - plain_bytes) / probes / 1000
    note = f"{plain_bytes / probes / 1000:.2f} KB a function without autoprof"
    yield Figure(f"memory of a probe, {probes:,} never called", each_kb, "KB", LIMIT_KB, note=note)


def _run(folder: str, kind: str) -> tuple[int, int]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AUTOPROF_")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # else what compiling leaves behind is measured
    environment["PYTHONPATH"] = os.pathsep.join((folder, str(_ROOT)))
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, kind, str(MODULES)],
        env=environment,
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    used, probes = done.stdout.split()
    return int(used), int(probes)
