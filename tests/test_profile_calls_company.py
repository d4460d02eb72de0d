"""The policy profile_calls in company: other threads, tasks and children, other profilers, traced memory."""

from __future__ import annotations

import asyncio
import cProfile
import gc
import json
import os
import sys
import threading
import tracemalloc
from typing import Any

import pytest

from autoprof import entries, signals, testing
from tests import counted
from tests.counted import Make

MONITORING: Any = getattr(sys, "monitoring", None)


make = counted.make


@pytest.mark.parametrize("callees", [True, False])
def test_other_threads_are_not_mixed_in(make: Make, callees: bool) -> None:
    counted = make("fibonacci", callees=callees)
    stop = threading.Event()
    found: set[tuple[bool, int]] = set()

    def receive(sender: str, *, measurements: Any, metadata: Any) -> None:
        found.add((threading.current_thread() is thread, measurements["calls"]))

    def other() -> None:
        while not stop.is_set():
            counted.fibonacci(6)

    thread = threading.Thread(target=other)
    signals.connect(receive, "calls")
    thread.start()
    try:
        for _ in range(200):
            counted.fibonacci(9)
    finally:
        stop.set()
        thread.join()
        signals.disconnect(receive, "calls")
    assert found and found <= {(False, 109), (True, 25)}
    if MONITORING is not None and not callees:
        assert len(found) == 2 and set(counted.probe("fibonacci").skipped) == {"nested"}


ASYNC = """
import asyncio
async def work(n):
    await asyncio.sleep(0)
    return 1 if n < 2 else await work(n - 1) + await work(n - 2)
def numbers(n):
    yield n
    if n: yield from numbers(n - 1)
async def stream(n):
    yield n
    if n:
        async for each in stream(n - 1): yield each
async def run_many():
    return await asyncio.gather(work(5), work(3), work(4))
async def run_stream():
    return [each async for each in stream(4)]
"""


@pytest.mark.parametrize("callees", [True, False])
def test_coroutines_recurse_and_are_told_apart(make: Make, callees: bool) -> None:
    counted = make("work", ASYNC, callees=callees)
    with testing.capture("calls") as events:
        assert asyncio.run(counted.run_many()) == [8, 3, 5]
    gc.collect()
    found = sorted(each.measurements["calls"] for each in events)
    # work(5) takes 15 entries, work(3) 5, work(4) 9; a hook can follow only one of them.
    assert found == ([15] if callees or MONITORING is None else [5, 9, 15])
    assert sum(counted.probe("work").skipped.values()) == 29 - len(found)
    assert counted.probe("work").calls == 15 + 5 + 9


@pytest.mark.parametrize("callees", [True, False])
def test_generators(make: Make, callees: bool) -> None:
    counted = make("numbers", ASYNC, callees=callees)
    with testing.capture("calls") as events:
        assert list(counted.numbers(4)) == [4, 3, 2, 1, 0]
    gc.collect()
    assert [each.measurements["calls"] for each in events] == [5]
    assert counted.probe("numbers").calls == 5


@pytest.mark.parametrize("callees", [True, False])
def test_async_generators(make: Make, callees: bool) -> None:
    counted = make("stream", ASYNC, callees=callees)
    with testing.capture("calls") as events:
        assert asyncio.run(counted.run_stream()) == [4, 3, 2, 1, 0]
    gc.collect()
    assert [each.measurements["calls"] for each in events] == [5]


@pytest.mark.parametrize("callees", [True, False])
def test_the_applications_cprofile_has_the_right_of_way(make: Make, callees: bool) -> None:
    counted = make("work", callees=callees)
    profile = cProfile.Profile()
    profile.enable()
    counted.work()
    profile.disable()
    assert counted.figures("work") == (1, 0, {"other_profiler": 1})
    counted.work()
    assert counted.figures("work") == (2, 1, {"other_profiler": 1})


@pytest.mark.skipif(MONITORING is None, reason="sys.monitoring is new in 3.12")
def test_tool_ids_that_others_have(make: Make) -> None:
    counted = make("work", callees=False)
    MONITORING.use_tool_id(4, "another")
    try:
        counted.work()
        assert counted.figures("work") == (1, 1, {})
        MONITORING.use_tool_id(3, "a third")
        counted.work()
        assert counted.figures("work") == (2, 1, {"busy": 1})
        assert (MONITORING.get_tool(4), MONITORING.get_tool(3)) == ("another", "a third")
    finally:
        MONITORING.free_tool_id(4)
        MONITORING.free_tool_id(3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("callees", [True, False])
def test_a_child_forked_inside_starts_clean(make: Make, callees: bool) -> None:
    counted = make("work", callees=callees)
    reader, writer = os.pipe()
    children: list[int] = []
    counted.work(act=lambda: children.append(os.fork()))
    (child,) = children
    if child == 0:
        status = 1
        try:
            left = sys.getprofile(), MONITORING and MONITORING.get_tool(4), len(entries._active)
            with testing.capture("calls") as events:
                counted.work()
            found = [each.measurements["calls"] for each in events]
            os.write(writer, json.dumps([*left, found, counted.probe("work").profiled]).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as file:
        said = json.loads(file.read())
    assert os.waitpid(child, 0)[1] == 0
    assert said == [None, None, 0, [1], 1]
    assert counted.probe("work").profiled == 1


TRACED = """
import tracemalloc
def before(): pass
def after(): pass
def work():
    before()
    tracemalloc.start()
    try:
        after()
        after()
    finally:
        tracemalloc.stop()
    after()
"""


def test_while_the_application_traces_its_memory_nothing_is_followed(make: Make) -> None:
    """What we keep of a long call would be in its figures: tornado's tests hold parsers to 30 bytes a byte."""
    counted = make("work", TRACED)
    with testing.capture("calls") as events:
        counted.work()
    (event,) = events
    assert event.metadata["callees"] == {"subject_calls:before": 1, "_tracemalloc:start": 1}
    tracemalloc.start()
    try:
        counted.before()
        counted.work()
    finally:
        tracemalloc.stop()
    counted.work()
    assert counted.figures("work") == (3, 2, {"busy": 1})
