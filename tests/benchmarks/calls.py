"""What a call costs: gate closed, gate open, and the plain decorator it stands against."""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

from autoprof import live, session, turns
from tests.benchmarks.measure import ROUNDS, Figure, by_turns, median_of, version

_SOURCE = "def target(x):\n    return x\n"


def fresh() -> Any:
    """Return a function nobody has called yet: specialisation starts anew."""
    namespace: dict[str, Any] = {"__name__": "tests.benchmarks.calls"}
    exec(compile(_SOURCE, __file__, "exec"), namespace)
    return namespace["target"]


def spliced_at_import(rate: float, policy: str = "profile", **more: Any) -> Any:
    """Return a function spliced before it was made, as the import hook does it."""
    assert session.current is not None
    installer = session.current.installer
    code = compile(_SOURCE, __file__, "exec")
    function_code = next(each for each in code.co_consts if hasattr(each, "co_code"))
    holder = fresh()
    holder.__qualname__ = f"target_{rate}_{random.random()}"
    options = {"rate": rate, "strategy": "sample", **more}
    probe = installer.new_probe(f"{holder.__module__}:{holder.__qualname__}", "benchmark", policy, options)
    timed = policy == "profile_if_slow"
    gate = installer.new_gate(function_code, holder.__module__, holder.__qualname__, timed)
    spliced = live.splice(function_code, gate)
    import weakref

    gate.code = weakref.ref(spliced)
    probe.add(gate)
    consts = tuple(spliced if each is function_code else each for each in code.co_consts)
    namespace: dict[str, Any] = {"__name__": "tests.benchmarks.calls"}
    exec(code.replace(co_consts=consts), namespace)
    return namespace["target"]


def decorated(function: Callable[..., Any], rate: float) -> Any:
    """The equivalent decorator: a closure that draws a random number per call."""
    draw = random.random

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if draw() < rate:
            return function(*args, **kwargs)
        return function(*args, **kwargs)

    return wrapper


def with_clocks(function: Callable[..., Any]) -> Any:
    """The plainest decorator that times every call."""
    clock = time.perf_counter

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        started = clock()
        try:
            return function(*args, **kwargs)
        finally:
            if clock() - started > 0.1:
                raise AssertionError("too slow for this benchmark")

    return wrapper


def figures() -> Iterator[Figure]:
    """Measure the closed and the open gate, and the stopwatch."""
    # Neither the budget nor the machine's load may close what is measured.
    session.start({"version": 1, "budget": "off", "load": "off", "reload": "off", "rules": []})
    try:
        yield from _closed()
        yield from _open()
        yield from _timed()
        yield from _paused()
    finally:
        session.stop()


def _closed() -> Iterator[Figure]:
    added, factors, live_added = [], [], []
    for _ in range(ROUNDS):
        alive = fresh()
        _install_live(alive)
        best = by_turns(
            {
                "plain": fresh(),
                "closed": spliced_at_import(0.001),
                "live": alive,
                "decorator": decorated(fresh(), 0.001),
            },
            200_000,
        )
        added.append(best["closed"] - best["plain"])
        live_added.append(best["live"] - best["plain"])
        factors.append((best["decorator"] - best["plain"]) / max(best["closed"] - best["plain"], 0.1))
    limit, factor = (20.0, 6.0) if version() >= (3, 13) else (15.0, 8.0)
    yield Figure("closed gate (1 in 1 000), added to a call", median_of(added), "ns", limit)
    yield Figure("closed gate put in live, added to a call", median_of(live_added), "ns", note="no limit")
    yield Figure("decorator's cost / closed gate's cost", median_of(factors), "times", factor, at_least=True)


def _install_live(function: Any) -> None:
    assert session.current is not None
    function.__qualname__ = f"alive_{random.random()}"
    installer = session.current.installer
    options = {"rate": 0.001, "strategy": "sample"}
    probe = installer.new_probe(
        f"{function.__module__}:{function.__qualname__}", "benchmark", "profile", options
    )
    live.splice_function(installer, function, [probe])


def _timed() -> Iterator[Figure]:
    added, factors = [], []
    for _ in range(ROUNDS):
        watched = spliced_at_import(0.1, "profile_if_slow", threshold_ns=100_000_000)
        best = by_turns({"plain": fresh(), "timed": watched, "clocks": with_clocks(fresh())}, 200_000)
        added.append(best["timed"] - best["plain"])
        factors.append((best["clocks"] - best["plain"]) / max(added[-1], 0.1))
    yield Figure("every call timed (profile_if_slow), added to a call", median_of(added), "ns", 150.0)
    yield Figure("decorator with two clocks / that", median_of(factors), "times", note="no limit")


def _paused() -> Iterator[Figure]:
    assert session.current is not None
    probes = session.current.installer.probes
    gates, watches = [], []
    for _ in range(ROUNDS):
        known = set(probes.values())
        functions = {
            "plain": fresh(),
            "gate": spliced_at_import(0.5),
            "watch": spliced_at_import(0.5, "profile_if_slow", threshold_ns=100_000_000),
        }
        for each in functions.values():
            each(1)
        for probe in set(probes.values()) - known:
            turns.hold(probe, "paused by a benchmark")
        best = by_turns(functions, 200_000)
        gates.append(best["gate"] - best["plain"])
        watches.append(best["watch"] - best["plain"])
    limit = 20.0 if version() >= (3, 13) else 15.0
    yield Figure("paused gate, added to a call", median_of(gates), "ns", limit)
    yield Figure("paused stopwatch, added to a call", median_of(watches), "ns", limit)


def _open() -> Iterator[Figure]:
    added = []
    for _ in range(ROUNDS):
        best = by_turns({"plain": fresh(), "open": spliced_at_import(1.0)}, 20_000)
        added.append(best["open"] - best["plain"])
    yield Figure("sampled call (rate 1.0, strategy sample)", median_of(added) / 1000, "us", 3.0)
