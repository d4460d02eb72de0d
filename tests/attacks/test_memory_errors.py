"""No memory for one allocation, or a few in a row, anywhere in an open gate.

Not for all later ones: CPython then loops for ever in any handler that keeps the last instruction (`except … as`) beyond
the 256th, because it needs an int for that.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from typing import Any

import pytest

from .arena import attack, made, probe, unprobe

ALLOCATIONS = 70

SOURCES = {
    "positional": ("def f(a, b=2): return [a]", lambda f: f(1)),
    "keywords": ("def f(a, *, k=2): return [a]", lambda f: f(1, k=3)),
    "star": ("def f(a, *rest): return [a]", lambda f: f(1, 2, 3)),
    "stars": ("def f(a, *rest, k=1, **more): return [a]", lambda f: f(1, 2, k=4, z=3)),
    "raising": ("def f(a): raise LookupError(a)", lambda f: f(1)),
    "generator": ("def f(a): yield a", lambda f: list(f(1))),
    "coroutine": ("async def f(a): return [a]", lambda f: run_to_end(f(1))),
    "closure": ("def outer(q=1):\n def f(a): return [a * q]\n return f\nf = outer()", lambda f: f(1)),
    "closed generator": (
        "def outer(q=1):\n def f(a): yield a * q\n return f\nf = outer()",
        lambda f: list(f(1)),
    ),
}


def run_to_end(coroutine: Any) -> Any:
    try:
        coroutine.send(None)
    except StopIteration as stopped:
        return stopped.value
    raise AssertionError("it awaits nothing")


def starve(call: Any, function: Any, start: int, stop: int) -> str:
    """Call with the allocations from `start` to before `stop` failing; return how it ended."""
    import _testcapi

    # Made beforehand: what happens between the hooks must need no memory of ours.
    result: Any = None
    _testcapi.set_nomemory(start, stop)
    try:
        result = call(function)
    except MemoryError:
        _testcapi.remove_mem_hooks()
        return "MemoryError"
    except LookupError:
        _testcapi.remove_mem_hooks()
        return "LookupError"
    except SystemError:  # "error return without exception set": a plain `raise` does the same
        _testcapi.remove_mem_hooks()
        return "MemoryError"
    finally:
        _testcapi.remove_mem_hooks()
    return repr(result)


def expected(call: Any, function: Any) -> str:
    try:
        return repr(call(function))
    except LookupError:
        return "LookupError"


@attack
@pytest.mark.parametrize("kind", sorted(SOURCES))
@pytest.mark.parametrize("failures", [1, 6])
def test_no_memory_somewhere_in_an_open_gate(kind: str, failures: int) -> None:
    from autoprof import guard, session
    from autoprof.flusher import Flusher
    from autoprof.sampler import recorder

    pytest.importorskip("_testcapi")
    source, call = SOURCES[kind]
    Flusher.start = lambda self: None  # type: ignore[method-assign]  # its thread would eat the failing allocations
    function = made(source, "f")
    good = expected(call, function)
    seen = probe(function)
    recorder.interval_ns = 10_000_000_000
    assert session.current is not None
    ends: dict[str, int] = {}
    for _ in range(3):
        expected(call, function)
    gc.disable()
    for start in range(ALLOCATIONS):
        end = starve(call, function, start, start + failures)
        assert end in (good, "MemoryError"), (start, end)
        ends[end] = ends.get(end, 0) + 1
        assert sys.exc_info() == (None, None, None)
        for _ in range(2):
            assert expected(call, function) == good, start
    assert ends.get("MemoryError"), ends
    gc.enable()
    gc.collect()
    before = seen.profiled
    for _ in range(3):
        assert expected(call, function) == good
    # Several failures in a row can leave a call open for good: CPython's last-resort MemoryError keeps its traceback,
    # and with it our frames. The function works, its thread is no longer measured.
    if failures == 1:
        assert seen.profiled == before + 3 and not seen.busy
    # The code objects must have kept all their references: take them apart, and reuse their memory.
    for _ in range(3):
        unprobe(function)
        gc.collect()
        rubbish = [compile(f"def g{index}(a): return a", "rubbish", "exec") for index in range(200)]
        assert expected(call, function) == good
        probe(function)
        assert expected(call, function) == good
        del rubbish
    del function
    gc.collect()
    with contextlib.suppress(MemoryError):
        guard.internal_errors.clear()


@attack
@pytest.mark.parametrize("entries", [5, 10, 21, 42])
def test_no_memory_for_a_larger_table_of_counts(entries: int) -> None:
    """A full table must stay as it is: `dict.setdefault` of 3.13.0 counts an entry that it could not write."""
    from autoprof.probe import Probe
    from autoprof.strategies.call_graph import add_callees
    from autoprof.strategies.profile_memory import _add

    testcapi = pytest.importorskip("_testcapi")
    failed = 0
    for start in range(12):
        probe = Probe("m:f", "rule", "profile", None, {"rate": 1.0})
        probe.prepare()
        full = [1_000 << step for step in range(entries)]
        for each in full:
            probe.record(each)
            probe.skip(str(each))
            add_callees(probe, {str(each): 2})
            _add(probe.memory_counts, str(each), 2)
        steps = (
            lambda made: made.record(7 << entries + 12),
            lambda made: made.skip("one more"),
            lambda made: add_callees(made, {"one more": 2}),
            lambda made: _add(made.memory_counts, "one more", 2),
        )
        for step in steps:
            testcapi.set_nomemory(start, start + 1)
            try:
                step(probe)
            except MemoryError:
                testcapi.remove_mem_hooks()
                failed += 1
            finally:
                testcapi.remove_mem_hooks()
        for table in (probe.durations, probe._skipped, probe.callees, probe.memory_counts):
            assert len(table) == len(list(table)) and set(map(type, table.values())) == {int}
        taken = probe.take_durations()
        assert sum(taken.values()) in (entries, entries + 1)
    assert failed
