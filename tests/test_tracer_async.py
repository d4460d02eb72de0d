"""The tracer follows one task, one generator: whatever runs while they wait is not theirs."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoprof import arbiter, session, testing
from tests.traced import BACK_ENDS, Make, makes


@pytest.fixture(params=BACK_ENDS)
def make(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    yield from makes(request.param, tmp_path, monkeypatch)


ASYNC = """
import asyncio
async def main(name, n):
    for i in range(n):
        await step(name, i)
    return name
async def step(name, i):
    await asyncio.sleep(0)
    return globals()["only_" + name](i)
def only_a(i): return i
def only_b(i): return i
async def run_other(n):
    for i in range(n):
        only_b(i)
        await asyncio.sleep(0)
async def run_all():
    return await asyncio.gather(main("a", 3), main("b", 5), run_other(20))
"""


def test_only_this_task(make: Make) -> None:
    traced = make(ASYNC)
    assert asyncio.run(traced.run_all()) == ["a", "b", None]
    assert (traced.probe.calls, traced.probe.profiled, traced.probe.skipped) == (2, 1, {"busy": 1})
    calls = traced.calls()
    assert (calls["main"], calls["step"], calls["only_a"]) == (1, 3, 3)
    assert not {"only_b", "run_other", "run_all"} & set(calls)
    assert sys.getprofile() is None


def test_time_in_which_the_coroutine_waits_is_not_its_own(make: Make) -> None:
    traced = make(
        "import asyncio\n"
        "async def main(clock):\n"
        "    clock.now_ns += 1_000_000; await asyncio.sleep(0); clock.now_ns += 2_000_000; await asyncio.sleep(0)\n"
        "async def run_both(clock):\n"
        "    async def other():\n"
        "        for _ in range(5):\n"
        "            clock.now_ns += 1_000_000_000; await asyncio.sleep(0)\n"
        "    await asyncio.gather(main(clock), other())\n"
    )
    with testing.FakeClock() as clock:
        asyncio.run(traced.run_both(clock))
    assert traced.graph.total_ns == traced.figures("main").cumulative_ns == 3_000_000


def test_a_generator_as_target(make: Make) -> None:
    traced = make(
        "def main(n):\n    for i in range(n):\n        yield inner(i)\ndef inner(i):\n    return i\ndef outer():\n    return 1\n"
    )
    for _ in traced.main(3):
        traced.outer()
    gc.collect()
    assert traced.calls()["main"] == 1 and traced.calls()["inner"] == 3
    assert "outer" not in traced.calls()
    assert sys.getprofile() is None


def test_an_abandoned_generator_lets_go(make: Make) -> None:
    traced = make(
        "def main(n):\n    for i in range(n):\n        yield inner(i)\ndef inner(i):\n    return i\n"
    )
    made = traced.main(3)
    next(made)
    assert arbiter.holder is not None
    del made
    gc.collect()
    assert arbiter.holder is None and sys.getprofile() is None
    assert traced.calls()["inner"] == 1


def test_stopping_autoprof_takes_the_hook_off(make: Make) -> None:
    traced = make("def main(n):\n    for i in range(n):\n        yield i\n")
    made = traced.main(3)
    next(made)
    session.stop()
    assert sys.getprofile() is None and arbiter.holder is None
    assert list(made) == [1, 2]


def test_an_async_generator_and_a_failing_coroutine(make: Make) -> None:
    traced = make(
        "async def main(n):\n    for i in range(n):\n        yield inner(i)\n    raise KeyError\n"
        "def inner(i):\n    return i\n"
        "async def run_it():\n    return [i async for i in main(2)]\n"
    )
    with pytest.raises(KeyError):
        asyncio.run(traced.run_it())
    gc.collect()
    assert (traced.calls()["main"], traced.calls()["inner"]) == (1, 2)


def test_while_a_coroutine_waits_other_probes_measure(make: Make) -> None:
    traced = make(
        "import asyncio\n"
        "async def main():\n    beside(); await asyncio.sleep(0.01); beside()\n"
        "def beside():\n    return 1\n"
        "async def run_both():\n"
        "    async def other():\n        beside(); beside()\n"
        "    await asyncio.gather(main(), other())\n",
        others="beside",
    )
    asyncio.run(traced.run_both())
    assert session.current is not None
    beside = session.current.installer.probes["subject_traced:beside", "profile"]
    assert (beside.calls, beside.profiled, beside.skipped) == (4, 2, {"busy": 2})
    assert traced.calls()["beside"] == 2


def test_generator_like_nested_probes_pass_through(make: Make) -> None:
    traced = make(
        "import asyncio\n"
        "def main():\n    return list(nested(3)), asyncio.new_event_loop\n"
        "def nested(n):\n    for i in range(n):\n        yield deeper(i)\n"
        "def deeper(i):\n    return i\n",
        others="nested",
    )
    traced.main()
    assert (traced.calls()["nested"], traced.calls()["deeper"]) == (1, 3)
    assert ("main", "nested") in traced.edges() and ("nested", "deeper") in traced.edges()
