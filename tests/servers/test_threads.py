"""Threads by the thousand leave nothing behind; subinterpreters are left alone, with a reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.servers.harness import Site

Make = Callable[[str], Site]

THOUSANDS = """
import sys, threading
def work(number): return helper(number)
def helper(number): return number
def pieces(number):
    yield number
def target(number):
    work(number)
    for _ in pieces(number): pass
for batch in range(20):
    threads = [threading.Thread(target=target, args=(number,)) for number in range(100)]
    for each in threads: each.start()
    for each in threads: each.join()
from autoprof import flight, guard, sampler, session
import gc
gc.collect()
flying = {ident for ident in flight.in_flight} - set(sys._current_frames())
probes = session.current.installer.probes.values()
print(flying, flight.afloat, [each.target for each in probes if each.busy], sampler.recorder.watch.calls)
print(guard.suppressed - set(sys._current_frames()), guard.internal_errors, threading.active_count())
"""


@pytest.mark.parametrize("policy", ["profile", "profile_if_slow"])
def test_two_thousand_threads_leave_nothing(site: Make, policy: str) -> None:
    measured = site("__main__:*")
    path = measured.folder / "policy.yaml"
    slow = "policy: profile_if_slow\n    threshold: 1us" if policy == "profile_if_slow" else "policy: profile"
    path.write_text(path.read_text().replace("policy: profile", slow))
    done = measured.run_text(THOUSANDS)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "set() {} [] {}\nset() {} 1\n"
    names = ("target", "work", "helper", "pieces")
    found = measured.calls()
    assert {name: found[f"__main__:{name}"] for name in names} == dict.fromkeys(names, 2000)


def test_threads_that_die_inside_a_call(site: Make) -> None:
    """`_thread.exit` and an exception nobody catches end the call too."""
    program = """
import _thread, threading
def leave(how):
    if how: _thread.exit()
    raise SystemExit
threading.excepthook = lambda *_: None
threads = [threading.Thread(target=leave, args=(number % 2,)) for number in range(200)]
for each in threads: each.start()
for each in threads: each.join()
from autoprof import flight, session
print(flight.in_flight, [each.target for each in session.current.installer.probes.values() if each.busy])
"""
    measured = site("__main__:*")
    done = measured.run_text(program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{} []\n", "")
    measured.check({"__main__:leave": 200})


INSIDE = """
import sys, os
sys.path[:] = {path!r}
import autoprof
@autoprof.profile(rate=1.0)
def work(): return 2
assert work() == 2 and not [each for each in work.__code__.co_consts if "Gate" in type(each).__name__]
autoprof.start({policy!r})
assert autoprof.status() == []
session = sys.modules["autoprof.session"]
assert session.current is None and not [each for each in sys.meta_path if "autoprof" in type(each).__module__]
autoprof.stop()
"""

SUBINTERPRETERS = """
import os, sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

def work(): return 1

with open("inside.py") as file:
    inside = file.read().format(path=sys.path, policy=os.environ["AUTOPROF_CONFIG"])
for _ in range(3):
    work()
    each = interpreters.create()
    failed = interpreters.run_string(each, inside)
    assert not failed, failed
    interpreters.destroy(each)
    work()
"""


def test_subinterpreters_are_refused(site: Make) -> None:
    """Nothing happens in them, which is said once; the main interpreter is profiled."""
    measured = site("__main__:*")
    (measured.folder / "inside.py").write_text(INSIDE)
    done = measured.run_text(SUBINTERPRETERS)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr.count("\n") == 1 and "does nothing in a subinterpreter" in done.stderr, done.stderr
    measured.check({"__main__:work": 6}, processes=1)
