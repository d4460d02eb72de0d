"""The tracer: what it finds in one call, held against known trees, and what it bounds."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoprof import arbiter, flight, guard, session, testing, tracer
from autoprof.callgraph import MAX_FUNCTIONS, OTHER, Figures, Graph
from autoprof.gate import Gate
from tests.traced import BACK_ENDS, Make, makes


@pytest.fixture(params=BACK_ENDS)
def make(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    yield from makes(request.param, tmp_path, monkeypatch)


TREE = """
MS = 1_000_000
def main(clock):
    clock.now_ns += MS
    branch(clock, 10)
    branch(clock, 20)
    leaf(clock, 5)
    return "done"
def branch(clock, ms):
    clock.now_ns += ms * MS
    leaf(clock, 100)
    clock.now_ns += ms * MS
def leaf(clock, ms):
    clock.now_ns += ms * MS
    clock.advance(s=1)
"""


def test_a_tree_of_known_times(make: Make) -> None:
    """The times are exact, and what passes inside our own functions (`advance`) belongs to nobody."""
    traced = make(TREE)
    with testing.FakeClock() as clock:
        assert traced.main(clock) == "done"
    ms = 1_000_000
    main, branch, leaf = (traced.figures(name) for name in ("main", "branch", "leaf"))
    assert (main.calls, main.self_ns, main.cumulative_ns) == (1, 1 * ms, 266 * ms)
    assert (branch.calls, branch.self_ns, branch.cumulative_ns) == (2, 60 * ms, 260 * ms)
    assert (leaf.calls, leaf.self_ns, leaf.cumulative_ns) == (3, 205 * ms, 205 * ms)
    assert traced.graph.total_ns == 266 * ms
    assert traced.edges() == {("main", "branch"), ("main", "leaf"), ("branch", "leaf")}


def test_what_the_hook_costs_is_taken_off_by_kind_of_function(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event of a C function costs less than one of a Python function."""
    monkeypatch.setattr(tracer, "_biases_ns", lambda: (1_000, 10))
    source = "def main(clock):\n    clock.now_ns += 100_000\n    {}"
    took = {}
    for call in ("pass", "leaf()", "abs(1)"):
        traced = make(source.format(call) + "\ndef leaf():\n    pass\n")
        with testing.FakeClock() as clock:
            traced.main(clock)
        took[call] = traced.graphs[-1].total_ns
        session.stop()
    assert took["pass"] == 100_000 - 1_000  # its call; its return comes after it was looked at
    assert took["pass"] - took["abs(1)"] == 10
    assert took["pass"] - took["leaf()"] == 1_000


@pytest.mark.parametrize(("loop_ns", "expected"), [(800, (200, 100)), (2_400, (600, 300))])
def test_what_the_hook_costs_is_that_of_the_machine_as_fast_as_it_is_now(
    monkeypatch: pytest.MonkeyPatch, loop_ns: int, expected: tuple[int, int]
) -> None:
    """Measured in a slow second of a virtual machine and taken off in a fast one, it was an eighth of all time."""
    monkeypatch.setattr(tracer, "_biases", [(0.25, 0.125)])
    takes = iter([10**6, loop_ns - 50, loop_ns, 10**6, loop_ns - 1])  # cold, held up
    monkeypatch.setattr(tracer, "_python_loop", lambda: next(takes))
    assert tracer._biases_ns() == expected


def test_counts_are_those_of_pstats_with_recursion(make: Make) -> None:
    traced = make(
        "def main(n):\n    return fib(n)\n"
        "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n"
        "def even(n):\n    return n == 0 or odd(n - 1)\ndef odd(n):\n    return n != 0 and even(n - 1)\n"
    )
    assert traced.main(12) == 144
    fib = traced.figures("fib")
    assert (fib.calls, fib.primitive) == (465, 1)
    assert fib.cumulative_ns <= traced.figures("main").cumulative_ns
    (inner,) = [
        f for (a, b), f in traced.graph.edges.items() if a[0].endswith(":fib") and b[0].endswith(":fib")
    ]
    assert (inner.calls, inner.primitive) == (464, 2)


def test_recursion_through_the_target_itself(make: Make) -> None:
    traced = make(
        "def main(n):\n    return other(n - 1) if n else 0\ndef other(n):\n    return main(n) if n >= 0 else 0\n"
    )
    with testing.FakeClock():
        traced.main(5)
    main = traced.figures("main")
    assert (main.calls, main.primitive) == (6, 1)
    assert traced.probe.calls == 6


def test_exceptions_end_calls(make: Make) -> None:
    traced = make(
        "def main():\n"
        "    for _ in range(3):\n"
        "        try: outer()\n"
        "        except KeyError: pass\n"
        "    int.from_bytes(b'')\n"
        "    try: max()\n"
        "    except TypeError: pass\n"
        "    raise ValueError\n"
        "def outer():\n    inner()\n"
        "def inner():\n    raise KeyError\n"
    )
    with pytest.raises(ValueError):
        traced.main()
    calls = traced.calls()
    assert (calls["outer"], calls["inner"], calls["builtins:max"], calls["main"]) == (3, 3, 1, 1)
    assert calls["builtins:int.from_bytes"] == 1
    assert ("main", "outer") in traced.edges() and ("main", "inner") not in traced.edges()
    assert sys.getprofile() is None


def test_c_functions_and_what_they_call(make: Make) -> None:
    traced = make(
        "class Mine(list): pass\n"
        "def main():\n"
        "    m = Mine(); m.append(2); m.append(1); [].append(0)\n"
        "    sorted(m, key=lambda v: v)\n"
        "    return len('x') + abs(-1) + abs(1)\n"
    )
    traced.main()
    calls = traced.calls()
    assert (calls["builtins:list.append"], calls["builtins:sorted"]) == (3, 1)
    assert (calls["builtins:len"], calls["builtins:abs"], calls["main.<locals>.<lambda>"]) == (1, 2, 2)
    assert ("builtins:sorted", "main.<locals>.<lambda>") in traced.edges()


def test_generators_count_once_per_call(make: Make) -> None:
    traced = make(
        "def main():\n"
        "    a = sum(numbers(4))\n"
        "    half = numbers(4); next(half); next(half); half.close()\n"
        "    broken = numbers(4); next(broken)\n"
        "    try: broken.throw(KeyError)\n"
        "    except KeyError: pass\n"
        "    return a\n"
        "def numbers(n):\n"
        "    for i in range(n):\n        yield helper(i)\n"
        "def helper(i):\n    return i\n"
    )
    assert traced.main() == 6
    assert (traced.calls()["numbers"], traced.calls()["helper"]) == (3, 4 + 2 + 1)
    assert ("numbers", "helper") in traced.edges()


def test_a_generator_begun_outside_is_no_call_inside(make: Make) -> None:
    traced = make("def main(made):\n    return list(made)\ndef numbers(n):\n    yield from range(n)\n")
    made = traced.numbers(3)
    next(made)
    assert traced.main(made) == [1, 2]
    assert traced.figures("numbers").calls == 0


def test_only_this_thread(make: Make) -> None:
    traced = make(
        "import threading\n"
        "def main(event, go):\n    go.set(); mine(); event.wait(); return mine()\n"
        "def mine():\n    return 1\n"
        "def theirs():\n    return 2\n"
    )
    event, go = threading.Event(), threading.Event()

    def other() -> None:
        go.wait()
        for _ in range(500):
            traced.theirs()
        event.set()

    thread = threading.Thread(target=other)
    thread.start()
    traced.main(event, go)
    thread.join()
    assert traced.calls()["mine"] == 2 and "theirs" not in traced.calls()


def test_two_threads_one_is_followed_the_other_is_busy(make: Make) -> None:
    traced = make("def main(act):\n    return act()\n")

    def in_another_thread() -> Any:
        results: list[Any] = []
        thread = threading.Thread(target=lambda: results.append(traced.main(lambda: "inner")))
        thread.start()
        thread.join()
        return results

    assert traced.main(in_another_thread) == ["inner"]
    assert (traced.probe.calls, traced.probe.profiled, traced.probe.skipped) == (2, 1, {"busy": 1})
    traced.main(lambda: None)
    assert traced.probe.profiled == 2


def test_measuring_stops_after_the_duration(make: Make) -> None:
    traced = make(
        "def main(clock):\n"
        "    early(); clock.now_ns += 8_000_000; late(); clock.now_ns += 8_000_000; never(); never()\n    return 'done'\n"
        "def early(): pass\ndef late(): pass\ndef never(): pass\n",
        duration="10ms",
    )
    with testing.FakeClock() as clock:
        assert traced.main(clock) == "done"
    calls = traced.calls()
    assert (calls["early"], calls["late"]) == (1, 1) and "never" not in calls
    assert traced.graph.total_ns == 10_000_000 and traced.graph.cut == 1
    assert sys.getprofile() is None


def test_deep_recursion_is_still_a_recursion_error(make: Make) -> None:
    traced = make("def main(n):\n    return deep(n)\ndef deep(n):\n    return deep(n + 1)\n")
    with pytest.raises(RecursionError):
        traced.main(0)
    with pytest.raises(RecursionError):
        traced.main(0)
    assert traced.probe.calls == 2
    assert sys.getprofile() is None and arbiter.holder is None


def test_a_call_that_nobody_ends_is_let_go() -> None:
    """An interrupt that strikes in `begin` or `finish` leaves a flight that only the tracer knows."""
    gate = Gate(lambda _: None, lambda *_: None, lambda *_: None)
    for resumable in (False, True):
        gate.generator_like = resumable
        call = flight.Flight()
        call.code, call.gate, call.caller, call.living = (
            test_a_sum_of_graphs_is_bounded.__code__,
            gate,
            None,
            None,
        )
        trace = tracer.follow(call, 10**12)
        assert trace is not None and arbiter.holder is trace and sys.getprofile() is trace.hook
        assert tracer.follow(call, 10**12) is trace
        del call
        assert arbiter.holder is None and sys.getprofile() is None


def test_a_sum_of_graphs_is_bounded() -> None:
    whole = Graph()
    for number in range(MAX_FUNCTIONS + 10):
        other = Graph()
        function = (f"m:f{number}", "f.py", number, f"f{number}")
        other.count(function, Figures(1, 1, 5, 5))
        other.measured = 1
        whole.add(other)
    assert len(whole.functions) == MAX_FUNCTIONS + 1
    assert whole.functions[OTHER].calls == 10
    assert (whole.measured, whole.total_ns) == (MAX_FUNCTIONS + 10, 5 * (MAX_FUNCTIONS + 10))


def test_a_trace_of_ever_new_functions_is_bounded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracer, "MAX_NODES", 20)
    traced = make(
        "def main(n):\n    for i in range(n):\n        scope = {}\n        exec('def f(): pass', scope)\n        scope['f']()\n"
    )
    traced.main(100)
    assert len(traced.graph.functions) <= 40
    assert traced.graph.functions[OTHER].calls > 50


def test_our_failure_is_not_the_applications(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    traced = make("def main():\n    return inner()\ndef inner():\n    return 1\n")

    def broken(frame: Any) -> Any:
        raise ValueError("ours")

    monkeypatch.setattr("autoprof.naming.python_function", broken)
    assert traced.main() == 1
    assert guard.internal_errors.pop("tracer") == 1
    assert sys.getprofile() is None and arbiter.holder is None
