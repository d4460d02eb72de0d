"""What gates cost a Flask application, its functions and those of its frameworks by turns with and without them.

Two processes differ by several per cent for as long as they live, so `service` can't tell a per cent from none. One
process does not differ from itself: every tenth of a second all functions get their original code, gates that are
closed, or gates that open at 0.1 % under the budget, in a random order; each round gives two ratios.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.measure import Figure
from tests.benchmarks.service import FRAMEWORKS

SECONDS = 120
REQUESTS = 20
_HERE = Path(__file__).resolve().parent

_PROGRAM = """
import gc, json, os, random, sys, time
from types import FunctionType
import service_app
from autoprof import gate, live, session
from autoprof.turns import combined_rate

seconds, requests = float(sys.argv[1]), int(sys.argv[2])
client = service_app.app.test_client()

def serve(count):
    began_ns = time.thread_time_ns()
    for number in range(count):
        client.get(f"/?first={number}").get_data()
    return (time.thread_time_ns() - began_ns) / count

serve(400)
probes = list(session.current.installer.probes.values())
gates = [each for probe in probes for each in probe.gates if each.used or each.size]
functions = [each for each in gc.get_objects() if isinstance(each, FunctionType) and gate.gate_of(each.__code__)]
codes = [(each, each.__code__, live.original_of(each.__code__)) for each in functions]

def put(state):
    for function, spliced, original in codes:
        function.__code__ = original if state == "plain" else spliced
    for each in gates:
        if state == "closed":
            each.close()
        else:
            each.retune(combined_rate(each))

taken_ns = {"plain": [], "closed": [], "sampled": []}
calls, served = 0, 0
end = time.monotonic() + seconds
while time.monotonic() < end:
    for state in random.sample(list(taken_ns), 3):
        put(state)
        serve(requests // 2)  # inline caches find themselves again
        before = sum(each.calls for each in gates)
        taken_ns[state].append(serve(requests))
        if state == "closed":
            calls, served = calls + sum(each.calls for each in gates) - before, served + requests
print(json.dumps({"taken_ns": taken_ns, "calls": calls / served, "functions": len(codes)}))
sys.stdout.flush()
os._exit(0)
"""


def figures() -> Iterator[Figure]:
    """Measure the serving thread's processor time a request, as a multiple of that without gates."""
    with tempfile.TemporaryDirectory(prefix="autoprof-gates-") as folder:
        policy = Path(folder) / "policy.yaml"
        policy.write_text(
            f"version: 1\nenv: prod\nload: off\noutput: {folder}/data\nrules:\n"
            f"  - match: {FRAMEWORKS}\n    policy: profile_production\n    sample_rate: 0.1%\n"
        )
        program = Path(folder) / "program.py"
        program.write_text(_PROGRAM)
        paths = [str(_HERE.parents[1]), str(_HERE), os.environ.get("PYTHONPATH", "")]
        command = [sys.executable, "-m", "autoprof", "run", "-c", str(policy), str(program), str(SECONDS), str(REQUESTS)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS + 120)
        if done.returncode:
            yield Figure(f"gates: not measured ({done.stderr.strip()[-200:]})", 0.0, "")
            return
        found = json.loads(done.stdout)
    plain = found["taken_ns"]["plain"]
    for state in ("closed", "sampled"):
        ratios = [each / other for each, other in zip(found["taken_ns"][state], plain, strict=True)]
        note = f"{len(ratios)} rounds, mean {statistics.mean(ratios):.3f} +- {_error(ratios):.3f}"
        if state == "closed":
            nanoseconds = (statistics.median(ratios) - 1.0) * statistics.median(plain) / found["calls"]
            note += f"; {found['calls']:.0f} calls a request, {nanoseconds:.0f} ns each; {found['functions']} functions"
        yield Figure(f"gates of a Flask service, {state}", statistics.median(ratios), "times", note=note)


def _error(ratios: list[float]) -> float:
    return statistics.stdev(ratios) / len(ratios) ** 0.5
