"""What a call costs under `profile_memory`, with a small heap and with one that is slow to count."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

from autoprof import live, session
from autoprof.policy import options_for
from autoprof.strategies.profile_memory import BLOCKS_MAX_NS
from tests.benchmarks.calls import fresh
from tests.benchmarks.measure import ROUNDS, Figure, by_turns, median_of

LIMIT_US = 25.0
_CALLS, _REPEATS = 300, 50  # short bursts: the best of many escapes other processes' turns


def measured(**options: Any) -> Any:
    """Return a function under `profile_memory`."""
    assert session.current is not None
    function = fresh()
    function.__qualname__ = f"measured_{random.random()}"
    installer = session.current.installer
    target = f"{function.__module__}:{function.__qualname__}"
    probe = installer.new_probe(
        target, "benchmark", "profile_memory", options_for("profile_memory", **options)
    )
    live.splice_function(installer, function, [probe])
    return function


def figures() -> Iterator[Figure]:
    """Measure with nobody listening, with a receiver, and with heaps of several sizes."""
    from autoprof import signals

    session.start(None)
    assert session.current is not None
    session.current.budget.change(None)
    try:
        yield _figure("profile_memory, a call", measured)
        with signals.memory.connected_to(_receive):
            yield _figure("profile_memory, a call, with a receiver", measured)
        heap: list[object] = []
        while _counting_us() < 0.8 * BLOCKS_MAX_NS / 1000:
            heap += [(each, str(each)) for each in range(len(heap), len(heap) + 2_000)]
        yield _figure("profile_memory, a call, blocks at their limit", measured)
        for million in (1, 2, 4):
            heap += [(each, str(each)) for each in range(len(heap), million * 500_000)]
            yield _figure(f"profile_memory, a call, {million} M objects", measured)
    finally:
        session.stop()


def _receive(sender: str, **event: Any) -> None:
    """Stand in for an application's receiver."""


def _figure(name: str, make: Callable[[], Any]) -> Figure:
    rounds = []
    for _ in range(ROUNDS):
        best = by_turns({"plain": fresh(), "measured": make()}, _CALLS, _REPEATS)
        rounds.append((best["measured"] - best["plain"]) / 1000)
    note = f"counting blocks: {_counting_us():.1f} us"
    return Figure(name, median_of(rounds), "us", LIMIT_US, note=note)


def _counting_us() -> float:
    best = by_turns({"blocks": lambda _: sys.getallocatedblocks()}, 100)
    return best["blocks"] / 1000
