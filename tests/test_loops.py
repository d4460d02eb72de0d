"""Callbacks that wait in an event loop, seen from outside."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autoprof import load, loops
from tests.conftest import Environment


@pytest.fixture(autouse=True)
def none_known() -> Iterator[None]:
    loops.forget()
    yield
    loops.forget()


def seen_while(act: Callable[[asyncio.AbstractEventLoop], None]) -> bool:
    """Return what a look finds while the loop runs one callback; `act` gets the loop before."""
    found: list[bool] = []

    async def main() -> None:
        loops.meet()
        loop = asyncio.get_running_loop()
        act(loop)
        found.append(loops.waits())

    asyncio.run(main())
    return found[0]


@pytest.mark.parametrize(("ready", "waits"), [(0, False), (1, False), (2, True), (30, True)])
def test_callbacks_that_could_run_wait_for_each_other(ready: int, waits: bool) -> None:
    def fill(loop: asyncio.AbstractEventLoop) -> None:
        for _ in range(ready):
            loop.call_soon(len, "")

    assert seen_while(fill) is waits


def test_a_timer_waits_when_it_is_overdue() -> None:
    def overdue(loop: asyncio.AbstractEventLoop) -> None:
        loop.call_later(0.001, len, "")
        time.sleep(0.001 + 2 * loops.LATE_S)

    def cancelled(loop: asyncio.AbstractEventLoop) -> None:
        loop.call_later(0.001, print, "").cancel()
        time.sleep(0.001 + 2 * loops.LATE_S)

    def due_later(loop: asyncio.AbstractEventLoop) -> None:
        loop.call_later(60, len, "")

    assert seen_while(due_later) is False
    assert seen_while(overdue) is True
    assert seen_while(cancelled) is False


def test_a_loop_that_does_not_run_keeps_nobody_waiting() -> None:
    loop = asyncio.new_event_loop()

    async def main() -> None:
        loops.meet()

    loop.run_until_complete(main())
    for _ in range(loops.READY_MIN):
        loop.call_soon(len, "")
    assert loop._ready and len(loops._known) == 1  # type: ignore[attr-defined]
    assert not loops.waits()
    loop.close()
    gone = weakref.ref(loop)
    del loop
    gc.collect()
    assert gone() is None, "known loops are not kept"
    assert not loops.waits()


def test_without_a_running_loop_none_is_met() -> None:
    loops.meet()
    assert not loops._known


def test_no_more_loops_are_kept_than_some() -> None:
    async def main() -> None:
        loops.meet()

    made = [asyncio.new_event_loop() for _ in range(2 * loops.LOOPS_KEPT + 1)]
    for loop in made:
        loop.run_until_complete(main())
        loop.run_until_complete(main())
        assert 0 < len(loops._known) <= loops.LOOPS_KEPT
        loop.close()


class Odd:
    """A loop that is none of CPython's, and whose code must not run."""

    __slots__ = ("__weakref__",)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"_thread_id": 1},
        {"_thread_id": 1, "_ready": [1, 2, 3], "_scheduled": []},
        {"_thread_id": 1, "_ready": iter([1]), "_scheduled": None},
    ],
)
def test_other_loops_are_left_out(attributes: dict[str, Any]) -> None:
    class Other:
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError(name)

    made = Other()
    object.__getattribute__(made, "__dict__").update(attributes)
    assert not loops._waits(made)
    assert not loops._waits(Odd())
    assert not loops._waits(None)


# What the load gate makes of it


def sample(**changes: Any) -> Any:
    empty = load._Sample(0, (), None, (), 0, 0, None, {}, 0, 0)
    return empty._replace(**changes)


@pytest.mark.parametrize(
    ("looks", "looped", "cores", "share"),
    [
        (10, 9, 1.0, 0.9),
        (10, 9, 0.5, None),  # a blocking call holds the loop up: what one wants to see profiled
        (10, 0, 1.0, 0.0),  # one busy task alone
        (load._LOOKS_MIN - 1, 3, 1.0, None),
    ],
)
def test_waiting_counts_in_a_busy_process_only(
    looks: int, looped: int, cores: float, share: float | None
) -> None:
    span_ns = 5 * load.SECOND_NS
    now = sample(now_ns=span_ns, looks=looks, looped=looped, process_ns=int(cores * span_ns))
    assert load._looped(sample(), now) == share


PROGRAM = """\
import asyncio, json, sys, time, autoprof

told = []

def listen(sender, **event):
    told.append(event)

async def request(until):
    while time.monotonic() < until and not told:
        work()
        await asyncio.sleep(0)

def work():
    end = time.perf_counter() + 0.01
    while time.perf_counter() < end:
        pass

async def main(tasks):
    autoprof.signals.paused.connect(listen)
    until = time.monotonic() + 25
    await asyncio.gather(*(request(until) for _ in range(tasks)))

asyncio.run(main(int(sys.argv[1])))
print(json.dumps([each["metadata"]["reason"] for each in told]), json.dumps([each["measurements"] for each in told]))
"""


def test_a_saturated_loop_pauses_profiling(environment: Environment, tmp_path: Path) -> None:
    """With two CPUs or more one busy loop is at most half of them, so only its callbacks can tell."""
    (tmp_path / "app.py").write_text(PROGRAM)
    (tmp_path / "policy.yaml").write_text(
        "version: 1\nreload: off\nrules: [{match: '__main__:*', policy: profile, rate: 0.01}]\n"
    )
    run = environment.run("app.py", "10", cwd=tmp_path, env={"AUTOPROF_CONFIG": "policy.yaml"})
    assert run.returncode == 0, run.stderr
    decoder = json.JSONDecoder()
    reasons, end = decoder.raw_decode(run.stdout)
    (measurements,) = json.loads(run.stdout[end:].strip())
    assert reasons[0].startswith("paused by load: "), run.stdout
    if measurements["cpu"] <= 0.8:  # else the machine is busy with other things, and that is named
        assert "event loop" in reasons[0] and measurements["loop"] > 0.8, run.stdout


def test_looks_from_another_thread_see_who_waits() -> None:
    """One task alone keeps nobody waiting, ten take turns."""
    shares = {}
    for tasks in (1, 10):
        loops.forget()
        over = threading.Event()

        async def spin(over: threading.Event = over) -> None:
            loops.meet()
            while not over.is_set():
                end = time.perf_counter() + 0.002
                while time.perf_counter() < end:
                    pass
                await asyncio.sleep(0)

        async def main(tasks: int = tasks) -> None:
            await asyncio.gather(*(spin() for _ in range(tasks)))

        thread = threading.Thread(target=lambda main=main: asyncio.run(main()))
        thread.start()
        time.sleep(0.1)
        looks = []
        for _ in range(40):
            time.sleep(0.01)
            looks.append(loops.waits())
        over.set()
        thread.join()
        shares[tasks] = sum(looks) / len(looks)
    assert shares[1] < 0.3 and shares[10] > 0.8, shares
