"""Whether the budget is held: 10 k, 100 k and 1 M opened gates a second offered, and as many timed calls.

Each case is a process of its own. By turns, a twentieth of a second each, the same loop calls a function under the budget
and one whose gate is closed: the processor time that the one takes more than the other is what opened gates and
stopwatches cost, in the caches and after the pauses in which they cost it. To it comes the processor time of all other
threads. The sum is divided by all the time that has passed. What autoprof itself believes to have spent is not asked.
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
import json, sys, time
SLICE_S = 0.05
from autoprof import costs, session
from tests.benchmarks.calls import spliced_at_import

offered, kind, output = int(sys.argv[1]), sys.argv[2], sys.argv[3]
settings = {"version": 1, "load": "off", "reload": "off", "output": output, "rules": [], "budget": "1%"}
session.start(settings)
more = {"threshold_ns": 10**8} if kind == "profile_if_slow" else {}
closed = spliced_at_import(0.0, kind, **more)
target = spliced_at_import(1.0, kind, **more)
beside, _ = session.current.installer.probes.values()
beside.state = "disabled"  # also where it has a stopwatch: a call that is not timed costs as much in both
for each in beside.gates:
    each.close()
flusher = session.current.flusher

def drive(function, seconds):
    began, done, passed = time.perf_counter(), 0, 0.0
    before_ns = time.thread_time_ns()
    while passed < seconds:
        due = min(int(passed * offered) - done, 20_000)
        for number in range(due):
            function(number)
        done += due
        time.sleep(0.002)
        passed = time.perf_counter() - began
    return (time.thread_time_ns() - before_ns) / done, done

def share(seconds):
    began, others_ns, more_ns, calls = time.perf_counter(), time.process_time_ns() - time.thread_time_ns(), 0.0, 0
    for number in range(int(seconds / SLICE_S / 2)):
        taken = {}
        for function in (closed, target) if number % 2 else (target, closed):
            taken[function], done = drive(function, SLICE_S)
            calls += done
        more_ns += (taken[target] - taken[closed]) * done
    others_ns = time.process_time_ns() - time.thread_time_ns() - others_ns
    passed_ns = (time.perf_counter() - began) * 1e9
    return (more_ns + others_ns) / passed_ns, others_ns / passed_ns, calls / passed_ns * 1e9

target(0)
while not flusher.busy_ns:
    time.sleep(0.05)
time.sleep(0.6)
first, *_ = share(10.0)
later, others, came = share(30.0)
print(json.dumps({"first": first, "later": later, "others": others, "offered": came,
                  "open_ns": costs.prices.open_ns, "loop_ns": costs.prices.warm_ns}))
session.stop()
"""


def _measured(offered: int, kind: str) -> dict[str, float]:
    root = str(Path(__file__).resolve().parent.parent.parent)
    environment = {**os.environ, "PYTHONPATH": root}
    with tempfile.TemporaryDirectory() as output:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(offered), kind, output],
            env=environment, capture_output=True, text=True, check=True, timeout=180, cwd=root,
        )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout)
    return found


def figures() -> Iterator[Figure]:
    """Measure the means over the first ten seconds, and over the thirty after them."""
    for kind in ("profile", "profile_if_slow"):
        for offered in OFFERED:
            found = _measured(offered, kind)
            what = "gates opened" if kind == "profile" else "calls timed"
            name = f"{offered:,} {what} a second, budget 1%"
            came = f"{found['offered']:,.0f} a second came"
            others = f"{found['others'] / SHARE:.2f} of it in other threads"
            price = f"{others}; a sampled call is charged {found['open_ns'] / 1e3:.1f} us; {found['loop_ns'] / 1e3:.1f} in a loop"
            yield Figure(f"{name}: first 10 s / budget", found["first"] / SHARE, "times", 1.2, note=came)
            wanted = kind == "profile" or offered >= 100_000
            yield Figure(f"{name}: next 30 s / budget", found["later"] / SHARE, "times", 1.2, note=price)
            if wanted:
                yield Figure("  the same, at least", found["later"] / SHARE, "times", 0.8, at_least=True)
