"""Whether the budget is held: 10 k, 100 k and 1 M opened gates a second offered, and as many timed calls.

Each case is a process of its own. After its first second (the writer is loaded, its file made) ten seconds are added up:
calls measured × the price of one, which a pair of loops in the same process gives, strategies and receivers aside; the
stopwatch the same way; and the processor time of the sampler and the writer. What `autoprof` itself believes to have
spent is not asked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.measure import Figure

SHARE = 0.01
OFFERED = (10_000, 100_000, 1_000_000)

_PROGRAM = """
import json, sys, time, types
from autoprof import costs, session
from autoprof.sampler import recorder
from tests.benchmarks.calls import fresh, spliced_at_import
from tests.benchmarks.measure import by_turns

offered, kind, output = int(sys.argv[1]), sys.argv[2], sys.argv[3]
settings = {"version": 1, "load": "off", "reload": "off", "output": output, "rules": []}
session.start({**settings, "budget": "off"})
more = {"threshold_ns": 10**8} if kind == "profile_if_slow" else {}
def prices():
    session.start({**settings, "budget": "off"})
    opened = spliced_at_import(1.0)
    timed = spliced_at_import(1.0, "profile_if_slow", threshold_ns=10**8)
    best = by_turns({"plain": fresh(), "opened": opened, "timed": timed}, 300, 60)
    return best["opened"] - best["plain"], best["timed"] - best["plain"]

first_prices = prices()
session.start({**settings, "budget": "1%"})
target = spliced_at_import(1.0, kind, **more)
(probe,) = session.current.installer.probes.values()
flusher = session.current.flusher

def counts():
    opened = probe.looked if kind == "profile_if_slow" else probe.profiled
    stopwatch = probe.timed_calls + sum(each.calls for each in probe.gates if each.timer is probe)
    return opened, stopwatch, recorder.busy_ns + flusher.busy_ns

def share(before, after, seconds):
    opened, timed, busy_ns = [later - sooner for sooner, later in zip(before, after)]
    return (opened * opened_ns + timed * timed_ns + busy_ns) / seconds / 1e9

def drive(seconds):
    began, done, passed = time.perf_counter(), 0, 0.0
    while passed < seconds:
        due = min(int(passed * offered) - done, 20_000)
        for number in range(due):
            target(number)
        done += due
        time.sleep(0.002)
        passed = time.perf_counter() - began
    return done, passed

target(0)
while not flusher.busy_ns:
    time.sleep(0.05)
time.sleep(0.6)
points = [counts()]
spans = []
for _ in range(2):
    done, passed = drive(10.0)
    points.append(counts())
    spans.append(passed)
opened_ns, timed_ns = map(min, first_prices, prices())
first, later = share(points[0], points[1], spans[0]), share(points[1], points[2], spans[1])
print(json.dumps({"first": first, "later": later, "offered": done / passed, "opened_ns": opened_ns,
                  "believed_ns": costs.prices.open_ns, "timed_ns": timed_ns,
                  "believed_timed_ns": costs.prices.stopwatch_ns}))
session.stop()
"""


def _measured(offered: int, kind: str) -> dict[str, float]:
    root = str(Path(__file__).resolve().parent.parent.parent)
    environment = {**os.environ, "PYTHONPATH": root}
    with tempfile.TemporaryDirectory() as output:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(offered), kind, output],
            env=environment, capture_output=True, text=True, check=True, timeout=120, cwd=root,
        )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout)
    return found


def figures() -> Iterator[Figure]:
    """Measure the means over the first ten seconds, and over the ten after them."""
    for kind in ("profile", "profile_if_slow"):
        for offered in OFFERED:
            found = _measured(offered, kind)
            what = "gates opened" if kind == "profile" else "calls timed"
            name = f"{offered:,} {what} a second, budget 1%"
            note = f"{found['offered']:,.0f} a second came"
            yield Figure(f"{name}: first 10 s / budget", found["first"] / SHARE, "times", 1.2, note=note)
            wanted = kind == "profile" or offered >= 100_000
            yield Figure(f"{name}: next 10 s / budget", found["later"] / SHARE, "times", 1.2)
            if wanted:
                yield Figure("  the same, at least", found["later"] / SHARE, "times", 0.8, at_least=True)
