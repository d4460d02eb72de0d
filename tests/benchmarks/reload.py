"""What another policy for 5 000 functions of a running process costs, on a heap of 200 000 objects."""

from __future__ import annotations

import gc
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from autoprof import session
from tests.benchmarks.measure import Figure

FUNCTIONS = 5_000
OBJECTS = 200_000
_NAME = "autoprof_benchmark_reload"


def figures() -> Iterator[Figure]:
    """Put rules on all functions, retune them, take them off; meanwhile look how long a thread is kept waiting."""
    heap = [[each] for each in range(OBJECTS)]
    module = ModuleType(_NAME)
    sys.modules[_NAME] = module
    source = "\n".join(f"def f{each}(a, b=1):\n    return a + b + {each}" for each in range(FUNCTIONS))
    exec(compile(source, "/nowhere/reload.py", "exec"), module.__dict__)
    with tempfile.TemporaryDirectory() as folder:
        session.start(_policy(folder))
        try:
            quiet_s = min(_longest_pause(lambda: time.sleep(0.5))[1] for _ in range(3))
            for what, rules in (
                ("added", [_rule(rate=0.001)]),
                ("retuned", [_rule(rate=0.002)]),
                ("removed", []),
            ):
                gc.collect()  # a service's own full collections come between two edits, not with them
                took_s, pause_s = _longest_pause(lambda rules=rules: session.start(_policy(folder, *rules)))  # type: ignore[misc]
                yield Figure(f"reload: {FUNCTIONS} functions {what}", took_s, "s", 1.0)
                yield Figure(
                    f"reload: {FUNCTIONS} functions {what}, longest pause more",
                    (pause_s - quiet_s) * 1e3,
                    "ms",
                    20.0,
                    note=f"control {quiet_s * 1e3:.1f} ms",
                )
        finally:
            session.stop()
            del sys.modules[_NAME], heap


def _policy(folder: str, *rules: dict[str, Any]) -> dict[str, Any]:
    off = {"reload": "off", "budget": "off", "load": "off"}
    return {"version": 1, "output": folder, **off, "rules": list(rules)}


def _rule(rate: float) -> dict[str, Any]:
    return {"match": f"{_NAME}:*", "policy": "profile", "rate": rate}


def _longest_pause(act: Callable[[], None]) -> tuple[float, float]:
    """Return how long `act` took on another thread, and the longest pause of this one, which does nothing but look."""
    took_s: list[float] = []

    def work() -> None:
        began = time.perf_counter()
        act()
        took_s.append(time.perf_counter() - began)

    thread = threading.Thread(target=work)
    longest_s, before = 0.0, time.perf_counter()
    thread.start()
    while not took_s:
        now = time.perf_counter()
        longest_s = max(longest_s, now - before)
        before = now
    thread.join()
    return took_s[0], longest_s
