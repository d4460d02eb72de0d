"""Sampled shares against the truth: 70, 20 and 10 %, calls from 50 us to 5 ms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Environment

_PROGRAM = """\
import collections, json, random, sys, threading, time

spent_ns = collections.Counter()

def busy(span_ns):
    end = time.perf_counter_ns() + span_ns
    while time.perf_counter_ns() < end:
        pass

def idle(span_ns):
    time.sleep(span_ns / 1e9)

def timed(name, wait, span_ns):
    began = time.perf_counter_ns()
    wait(span_ns)
    spent_ns[name] += time.perf_counter_ns() - began

def large(wait, span_ns):
    timed("large", wait, span_ns * 70 // 100)

def middle(wait, span_ns):
    timed("middle", wait, span_ns * 20 // 100)

def small(wait, span_ns):
    timed("small", wait, span_ns * 10 // 100)

def work(wait, span_ns):
    large(wait, span_ns)
    middle(wait, span_ns)
    small(wait, span_ns)

def loop(wait, seconds, seed):
    spans = random.Random(seed)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        work(wait, int(50_000 * 100 ** spans.random()))

if __name__ == "__main__":
    threads, wait, seconds = int(sys.argv[1]), globals()[sys.argv[2]], float(sys.argv[3])
    crew = [threading.Thread(target=loop, args=(wait, seconds, seed)) for seed in range(threads)]
    for each in crew:
        each.start()
    for each in crew:
        each.join()
    print(json.dumps(spent_ns))
"""


def _sampled(folder: Path, environment: Environment) -> tuple[dict[str, float], int]:
    done = environment.run("-m", "autoprof", "report", "out", "--format", "collapsed", cwd=folder)
    counts = dict.fromkeys(("large", "middle", "small"), 0)
    for line in done.stdout.splitlines():
        stack, _, count = line.rpartition(" ")
        for name in counts:
            counts[name] += int(count) * (f"__main__:{name} " in f"{stack} ")
    total = sum(counts.values())
    return {name: 100 * count / total for name, count in counts.items()}, total


@pytest.mark.parametrize(
    ("rate", "threads", "wait", "seconds"),
    [
        pytest.param(1.0, 1, "busy", 18, id="every call, one busy thread"),
        # At 5 % of one thread's calls 2 000 samples take five minutes; twenty waiting threads have them in one.
        pytest.param(0.05, 20, "idle", 6, id="1 in 20, twenty waiting threads"),
    ],
)
def test_shares_are_within_four_points(
    rate: float, threads: int, wait: str, seconds: int, tmp_path: Path, environment: Environment
) -> None:
    (tmp_path / "program.py").write_text(_PROGRAM)
    (tmp_path / "policy.yaml").write_text(
        "version: 1\noutput: ./out\nrules:\n"
        f"  - {{match: '__main__:work', policy: profile, rate: {rate}, interval: 1ms, check_load: false}}\n"
    )
    arguments = ("program.py", str(threads), wait, str(seconds))
    env = {"AUTOPROF_CONFIG": "policy.yaml"}
    done = environment.run(*arguments, cwd=tmp_path, env=env, timeout=seconds + 60)
    assert (done.returncode, done.stderr) == (0, "")
    spent_ns = json.loads(done.stdout)
    truth = {name: 100 * span / sum(spent_ns.values()) for name, span in spent_ns.items()}
    found, samples = _sampled(tmp_path, environment)
    assert samples >= 2_000
    print(f"rate {rate}: true {truth}, sampled {found}, {samples} samples")
    for name in truth:
        assert abs(found[name] - truth[name]) <= 4, (found, truth)
