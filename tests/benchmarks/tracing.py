"""What following every call costs: a call in the followed thread, another busy thread, and how true the times are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from autoprof import entries, tracer
from autoprof.callgraph import Graph
from tests.benchmarks.measure import ROUNDS, Figure, median_of

_CALLS = 50_000
_SPIN = 20_000


class _Flight:
    """Stands in for the flight of a plain call."""

    generator_like = False
    caller = None

    def __init__(self, function: Callable[..., Any]) -> None:
        self.code: Any = function.__code__  # type: ignore[attr-defined]
        self.gate = self


def leaf() -> None:
    """Be the call that is followed."""


def loop() -> None:
    """Call a Python function many times."""
    for _ in range(_CALLS):
        leaf()


def c_loop() -> None:
    """Call a function of a C module many times."""
    for _ in range(_CALLS):
        abs(1)


def method_loop() -> None:
    """Call a C method of an object many times."""
    numbers: list[int] = []
    for _ in range(_CALLS):
        numbers.append(1)  # noqa: PERF401


def followed(function: Callable[[], Any]) -> tuple[float, Graph]:
    """Return the nanoseconds a followed call of a function took, and what was found."""
    flight: Any = _Flight(function)
    trace: Any = tracer.follow(flight, 10**12)
    began = time.perf_counter_ns()
    function()
    took = time.perf_counter_ns() - began
    return took, trace.stop()


def plain(function: Callable[[], Any]) -> float:
    """Return the nanoseconds a call of a function takes."""
    began = time.perf_counter_ns()
    function()
    return time.perf_counter_ns() - began


def figures() -> Iterator[Figure]:
    """Measure pairs, by turns."""
    followed(loop)
    named = (
        ("a Python function", loop),
        ("a function of a C module", c_loop),
        ("a method in C", method_loop),
    )
    for name, function in named:
        added = []
        for _ in range(ROUNDS):
            without = min(plain(function) for _ in range(3))
            added.append((min(followed(function)[0] for _ in range(3)) - without) / _CALLS / 1000)
        yield Figure(f"followed call of {name}, added", median_of(added), "us", 5.0)
    yield Figure("another busy thread, slower while one is followed", _others(_follow), "times", 6.0)
    yield Figure("another busy thread, while entries are counted", _others(_count), "times", 1.5)
    yield from _accuracy()


def _follow(flight: Any) -> Any:
    return tracer.follow(flight, 10**12)


def _count(flight: Any) -> Any:
    return entries.count(flight)


def _others(start: Callable[[Any], Any]) -> float:
    """Return how many times slower calls are in a thread beside one that is followed and waits."""
    ratios = []
    for _ in range(ROUNDS):
        without = min(_in_another_thread() for _ in range(3))
        flight = _Flight(_waits)
        state = start(flight)
        try:
            with_it = min(_in_another_thread() for _ in range(3))
        finally:
            state.stop()
        ratios.append(with_it / without)
    return median_of(ratios)


def _waits() -> None:
    """Be the function that is followed and does nothing meanwhile."""


def _in_another_thread() -> float:
    took: list[float] = []
    thread = threading.Thread(target=lambda: took.append(plain(loop)))
    thread.start()
    thread.join()
    return took[0]


def spin(count: int) -> None:
    """Use the processor in C: on 3.11 the interpreter itself is slower under any hook."""
    sum(range(count))


def tree(depth: int) -> None:
    """Spin at every node of a binary tree, and call many small functions."""
    spin(_SPIN)
    for _ in range(200):
        leaf()
    if depth:
        tree(depth - 1)
        side(depth - 1)


def side(depth: int) -> None:
    """Be another branch of the tree."""
    spin(_SPIN * 2)
    if depth:
        tree(depth - 1)


def _branch() -> None:
    side(3)


def _whole() -> None:
    tree(3)


def _waiting() -> None:
    end = time.perf_counter() + 0.005
    while time.perf_counter() < end:
        pass


def _accuracy() -> Iterator[Figure]:
    """Compare the cumulative times of a tree and its branches with those of the same, not followed."""
    for name, function in (("a branch", _branch), ("a tree", _whole), ("a loop that waits", _waiting)):
        errors = []
        for _ in range(ROUNDS):
            turns = [(plain(function), _found(function)) for _ in range(15)]
            # One after the other, since a virtual machine may be half as fast the next moment.
            errors.append(abs(median_of([found / true for true, found in turns]) - 1) * 100)
        yield Figure(f"cumulative time of {name}, error", median_of(errors), "%", 10.0)


def _found(function: Callable[[], Any]) -> float:
    _, graph = followed(function)
    assert graph.root is not None
    return graph.functions[graph.root].cumulative_ns
