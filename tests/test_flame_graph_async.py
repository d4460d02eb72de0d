"""Flame graphs of what runs later: coroutines by pyinstrument's hook, generators by the sampler's thread."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import os
import re
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoprof import testing
from autoprof.sampler import recorder
from autoprof.strategies import flame_graph
from tests.flames import BACK_ENDS, Make, makes

stack_sampler = pytest.importorskip("pyinstrument.stack_sampler")

MS_NS = 1_000_000
SOURCE = """
import asyncio
from time import perf_counter
def spin(seconds):
    end = perf_counter() + seconds
    while perf_counter() < end: hash(end)
async def pause(seconds):
    await asyncio.sleep(seconds)
async def work(rounds=3, seconds=0.02, act=None, fail=None):
    for _ in range(rounds):
        spin(seconds)
        await pause(seconds)
    if act: return act()
    if fail: raise fail
    return "done"
async def other(rounds, seconds):
    for _ in range(rounds):
        spin(seconds)
        await asyncio.sleep(0)
def work_items(count, seconds, fail=None):
    for each in range(count):
        spin(seconds)
        yield each
    if fail: raise fail
async def work_stream(count, seconds):
    for each in range(count):
        spin(seconds)
        await pause(seconds)
        yield each
"""
WORK = "subject_flame:work"
AWAITED = (WORK, "subject_flame:pause", "asyncio.tasks:sleep", "[await]")


@pytest.fixture(params=BACK_ENDS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    yield from makes(request.param, tmp_path)


def split(stacks: dict[tuple[str, ...], int]) -> tuple[int, int]:
    """Return the nanoseconds that were awaited and the others."""
    awaited_ns = sum(weight_ns for stack, weight_ns in stacks.items() if stack[-1] == "[await]")
    return awaited_ns, sum(stacks.values()) - awaited_ns


@pytest.mark.parametrize("way", ["run", "await", "task", "thread"])
def test_own_time_and_awaiting_time_are_shown(make: Make, way: str) -> None:
    shop = make(SOURCE, format="json")

    async def awaits() -> Any:
        return await shop.work()

    async def makes_a_task() -> Any:
        task = asyncio.create_task(shop.work())
        await asyncio.sleep(0)
        return await task

    async def on_another_thread() -> Any:
        loop = asyncio.get_running_loop()
        coroutine = await loop.run_in_executor(None, shop.work)
        return await coroutine

    ways: dict[str, Any] = {
        "run": shop.work,
        "await": awaits,
        "task": makes_a_task,
        "thread": on_another_thread,
    }
    assert asyncio.run(ways[way]()) == "done"
    assert sys.getprofile() is None
    stacks = shop.stacks()
    assert {stack[0] for stack in stacks} == {WORK}
    assert AWAITED in stacks
    awaited_ns, own_ns = split(stacks)
    assert awaited_ns > 30 * MS_NS and own_ns > 30 * MS_NS
    assert any(stack[:2] == (WORK, "subject_flame:spin") for stack in stacks)
    assert (shop.probe.calls, shop.probe.profiled, shop.probe.skipped) == (1, 1, {})


def test_of_two_tasks_each_graph_shows_its_own(make: Make) -> None:
    shop = make(SOURCE, format="json")

    async def both() -> None:
        await asyncio.gather(shop.work(3, 0.02), shop.other(30, 0.01))

    asyncio.run(both())
    stacks = shop.stacks()
    names = {name for stack in stacks for name in stack}
    assert "subject_flame:other" not in names and not any("run_forever" in name for name in names)
    awaited_ns, own_ns = split(stacks)
    # The other task spins for 300 ms while this one waits; three times 20 ms are this one's own.
    assert awaited_ns > 60 * MS_NS and 30 * MS_NS < own_ns < 200 * MS_NS


def test_of_two_coroutines_of_one_function_only_the_followed_one_is_drawn(make: Make) -> None:
    shop = make(SOURCE, format="json", rate=1.0)

    async def both() -> None:
        await asyncio.gather(shop.work(1, 0.01), shop.work(10, 0.02))

    asyncio.run(both())
    assert shop.probe.profiled == 1
    _, own_ns = split(shop.stacks())
    assert own_ns < 150 * MS_NS  # the second one has 200 ms of its own


@pytest.mark.parametrize("format", ["svg", "html", "json"])
def test_every_format_opens(make: Make, format: str) -> None:
    shop = make(SOURCE, format=format)
    asyncio.run(shop.work())
    (path,) = shop.files()
    text = path.read_text()
    assert "pause" in text and "[await]" in text
    if format == "svg":
        ElementTree.fromstring(text)
    elif format == "json":
        document = json.loads(text)
        assert document["activeProfileIndex"] == 0
        count = len(document["shared"]["frames"])
        assert all(0 <= each < count for sample in document["profiles"][0]["samples"] for each in sample)


def test_exceptions_and_cancelling(make: Make) -> None:
    shop = make(SOURCE, format="json", output="{time}.json")
    error = ValueError("reason")
    with pytest.raises(ValueError, match="reason") as caught:
        asyncio.run(shop.work(1, 0.01, fail=error))
    assert caught.value is error

    async def cancels() -> None:
        task = asyncio.create_task(shop.work(100, 0.01))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sys.getprofile() is None

    asyncio.run(cancels())
    assert shop.probe.profiled == 2
    assert len(shop.files()) == 2


def test_the_applications_profiler_may_run_inside(make: Make) -> None:
    """Strict mode of pyinstrument's own Profiler would raise here: two in one context."""
    from pyinstrument import Profiler

    shop = make(SOURCE)
    texts: list[str] = []

    def act() -> None:
        assert stack_sampler.active_profiler_context_var.get() is None
        with Profiler(interval=0.001, async_mode="strict") as profiler:
            shop.spin(0.02)
        texts.append(profiler.output_text(show_all=True))

    asyncio.run(shop.work(5, 0.02, act=act))
    assert "spin" in texts[0]
    assert len(shop.files()) == 1


def test_another_tasks_profiler_is_untouched(make: Make) -> None:
    from pyinstrument import Profiler

    shop = make(SOURCE)
    texts: list[str] = []

    async def profiled() -> None:
        with Profiler(interval=0.001, async_mode="strict") as profiler:
            for _ in range(10):
                shop.spin(0.005)
                await asyncio.sleep(0)
        texts.append(profiler.output_text(show_all=True))

    async def both() -> None:
        await asyncio.gather(shop.work(3, 0.01), profiled())
        assert sys.getprofile() is None
        await asyncio.gather(profiled(), later())
        assert sys.getprofile() is None
        # Theirs takes the place of what waits for the first step: the sampler's thread looks on instead.
        await asyncio.gather(profiled(), shop.work(3, 0.01))

    async def later() -> None:
        await asyncio.sleep(0)
        await shop.work(3, 0.01)

    asyncio.run(both())
    assert all("spin" in each and not re.search(r"[0-9] work  ", each) for each in texts)
    assert len(texts) == 3
    probe = shop.probe
    # The second time theirs was first: ours gave way. The third time a coroutine of the portable back end, which
    # begins at its first step, gave way as well.
    assert (probe.calls, probe.profiled + probe.skipped["other_profiler"]) == (3, 3)
    assert probe.profiled == (1 if probe.skipped["other_profiler"] == 2 else 2)


def test_measuring_stops_at_the_duration(make: Make) -> None:
    shop = make(SOURCE, format="json", duration="30ms")
    hooks: list[Any] = []
    asyncio.run(shop.work(4, 0.02, act=lambda: hooks.append(sys.getprofile())))
    assert hooks == [None]
    assert 0 < sum(shop.stacks().values()) <= 30 * MS_NS


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_a_coroutine_that_is_never_awaited_leaves_nothing(make: Make) -> None:
    shop = make(SOURCE)
    coroutine = shop.work()
    assert sys.getprofile() is None or "Following" in repr(sys.getprofile())
    del coroutine
    gc.collect()
    assert sys.getprofile() is None
    assert not recorder.followed
    assert asyncio.run(shop.work(1, 0.01)) == "done"
    assert len(shop.files()) >= 1


def test_a_coroutine_that_takes_no_step_is_not_waited_for_long(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = make(SOURCE)
    monkeypatch.setattr(flame_graph, "EVENTS_WAITED", 100)
    coroutine = shop.work(1, 0.01)
    for _ in range(200):
        contextvars.copy_context()
        len("")
    assert sys.getprofile() is None
    assert asyncio.run(coroutine) == "done"


def test_another_coroutine_of_the_function_is_not_taken_for_the_one_waited_for(make: Make) -> None:
    shop = make(SOURCE, format="json")
    waited_for = shop.work(1, 0.01)
    hook = sys.getprofile()
    if hook is not None:  # the portable back end begins at the first step
        asyncio.run(shop.work(1, 0.01))
        assert sys.getprofile() == hook
    assert asyncio.run(waited_for) == "done"
    assert shop.probe.profiled == 1 and shop.stacks()


def test_a_coroutine_dropped_half_way_on_another_thread(make: Make) -> None:
    shop = make(SOURCE)
    held: list[Any] = [shop.work(5, 0.0)]
    step = type("Step", (), {"__await__": lambda self: iter([None])})
    shop.module.pause = lambda _: step()
    held[0].send(None)
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    len("")  # an event on this thread: its hook takes itself off
    shop.spin(0.01)
    assert sys.getprofile() is None
    assert not stack_sampler.get_stack_sampler().subscribers
    shop.module.pause = asyncio.sleep
    assert asyncio.run(shop.work(1, 0.01)) == "done"
    assert shop.probe.skipped == {}


def test_a_generators_graph_leaves_its_consumer_out(make: Make) -> None:
    shop = make(SOURCE, format="json")
    for _ in shop.work_items(4, 0.03):
        assert sys.getprofile() is None
        shop.spin(0.03)
    stacks = shop.stacks()
    assert {stack[0] for stack in stacks} == {"subject_flame:work_items"}
    assert 30 * MS_NS < sum(stacks.values()) < 220 * MS_NS
    assert shop.probe_of("work_items").profiled == 1


def test_an_async_generators_graph(make: Make) -> None:
    shop = make(SOURCE, format="json")

    async def consume() -> None:
        async for _ in shop.work_stream(4, 0.03):
            shop.spin(0.03)

    asyncio.run(consume())
    stacks = shop.stacks()
    assert {stack[0] for stack in stacks} == {"subject_flame:work_stream"}
    awaited_ns, own_ns = split(stacks)
    assert awaited_ns > 40 * MS_NS and own_ns > 30 * MS_NS


def test_generators_that_fail_are_closed_or_left_alone(make: Make) -> None:
    shop = make(SOURCE, format="json", output="{time}.json")
    with pytest.raises(KeyError):
        list(shop.work_items(2, 0.02, fail=KeyError("reason")))
    closed = shop.work_items(10, 0.02)
    next(closed)
    closed.close()
    left = shop.work_items(10, 0.02)
    next(left)
    del left
    gc.collect()
    probe = shop.probe_of("work_items")
    deadline_s = time.monotonic() + 30
    while probe.profiled < 3 and time.monotonic() < deadline_s:
        time.sleep(0.01)  # 3.13 closes generators without a word: the sampler's thread finds out
    assert (probe.calls, probe.profiled, probe.skipped) == (3, 3, {})
    assert not recorder.followed


def test_a_generator_that_never_ends_frees_the_slot_at_the_limit(make: Make) -> None:
    shop = make(SOURCE, duration="10s")
    with testing.FakeClock() as clock:
        endless = shop.work_items(1000, 0.0)
        next(endless)
        list(shop.work_items(1, 0.0))
        assert shop.probe_of("work_items").skipped == {"busy": 1}
        clock.advance(s=10)
        list(shop.work_items(1, 0.0))
        assert (shop.probe_of("work_items").calls, shop.probe_of("work_items").profiled) == (3, 1)
        recorder.tick()
        assert not recorder.followed  # and the sampler's interval is the usual one again
        endless.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_inside_a_coroutine_is_not_followed(make: Make) -> None:
    shop = make(SOURCE)

    def act() -> int:
        child = os.fork()
        if child:
            return child
        status = 1
        try:
            followed = sys.getprofile(), stack_sampler.get_stack_sampler().subscribers, recorder.followed
            shop.spin(0.01)
            status = 0 if followed == (None, [], {}) and shop.strategy()._current is None else 2
        finally:
            os._exit(status)

    child = asyncio.run(shop.work(1, 0.01, act=act))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert shop.probe.profiled == 1 and len(shop.files()) == 1
