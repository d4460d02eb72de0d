"""Threads that meet at one gate: the tick of the inner call must not be taken by another thread."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
import types
from typing import Any

import pytest

from .arena import attack, balance, probe, unprobe

THREADS = 8
CALLS = 30_000


def positional(x: int) -> int:
    return x


def keyed(x: int, *rest: int, k: int = 1, **more: int) -> int:
    return x


def keyword_only(x: int, *, k: int) -> int:
    return x


class Method:
    def method(self, x: int) -> int:
        try:
            return x
        finally:
            pass


one = Method()
SHAPES: dict[str, tuple[Any, Any]] = {
    "positional": (positional, positional),
    "keyed": (keyed, lambda x: keyed(x, 2, 3, k=5, z=6)),
    "keyword_only": (keyword_only, lambda x: keyword_only(x, k=2)),
    "method": (Method.method, lambda x: one.method(x)),
}


def stampede(call: Any, calls: int = CALLS) -> int:
    """Call from many threads at once and return how many results were wrong."""
    wrong = []

    def run() -> None:
        wrong.extend(index for index in range(calls) if call(index) != index)

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return len(wrong)


@attack
@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_every_call_begins_and_ends_exactly_once(shape: str) -> None:
    sys.setswitchinterval(1e-6)
    function, call = SHAPES[shape]
    seen = probe(function)
    assert stampede(call) == 0
    assert seen.calls == THREADS * CALLS
    assert seen.profiled == THREADS * CALLS, seen.skipped


@attack
def test_a_gate_open_now_and_then_samples_the_share_that_it_should() -> None:
    """The thread that finds it open closes it before all else: otherwise the calls of the others are sampled meanwhile."""
    sys.setswitchinterval(1e-6)
    seen = probe(positional, rate=1 / 3)
    assert stampede(positional) == 0
    calls, accounted = balance(seen)
    assert calls == THREADS * CALLS
    assert abs(seen.profiled / calls - 1 / 3) < 0.006, (calls, seen.profiled)  # six standard deviations
    assert accounted == seen.profiled, seen.skipped


@attack
def test_a_gate_swapped_from_outside_counts_every_call() -> None:
    """What a governor does: close, open and retune while other threads are in the prologue."""
    sys.setswitchinterval(1e-6)
    seen = probe(positional, rate=0.5)
    positional(0)
    (gate,) = seen.gates
    ended = threading.Event()
    swaps = 0

    def swap() -> None:
        nonlocal swaps
        while not ended.is_set():
            gate.close()
            gate.retune(0.5)
            swaps += 2

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        assert stampede(positional, CALLS // 2) == 0
    finally:
        ended.set()
        swapper.join()
    assert swaps > 100
    assert seen.calls == THREADS * (CALLS // 2) + 1


def counting(n: int) -> Any:
    total = 0
    for each in range(n):
        total += each
        yield total


@types.coroutine
def pause() -> Any:
    yield


async def pausing(n: int) -> int:
    for _ in range(n):
        await pause()
    return n


@attack
def test_a_storm_of_live_splices_with_suspended_generators() -> None:
    """Code objects come and go while threads are between `begin` and the making of the inner function."""
    sys.setswitchinterval(1e-5)
    functions = (positional, keyed, counting, pausing)
    ended = threading.Event()
    errors: list[BaseException] = []
    loops = [0, 0, 0, 0]

    def work(me: int) -> None:
        held: list[Any] = []
        try:
            while not ended.is_set():
                for index in range(30):
                    assert positional(index) == index
                    assert keyed(index, 1, k=2) == index
                    assert list(counting(4)) == [0, 1, 3, 6]
                    made = pausing(3)
                    try:
                        while True:
                            made.send(None)
                    except StopIteration as stopped:
                        assert stopped.value == 3
                    held.append(counting(5))
                    next(held[-1])
                    if len(held) > 100:
                        assert all(list(each) == [1, 3, 6, 10] for each in held)
                        held.clear()
                loops[me] += 1
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=work, args=(me,)) for me in range(4)]
    for each in threads:
        each.start()
    until = time.monotonic() + 5
    swaps = 0
    while time.monotonic() < until and not errors:
        for each in functions:
            probe(each, rate=0.5)
        time.sleep(0.0003)
        for each in functions:
            unprobe(each)
        swaps += 2 * len(functions)
    ended.set()
    for thread in threads:
        thread.join()
    assert not errors, errors[0]
    assert swaps > 500 and min(loops) > 3, (swaps, loops)


@attack
@pytest.mark.parametrize("dump", [False, True])
def test_sweeps_over_all_stacks_while_every_gate_is_open(dump: bool) -> None:
    """A frame that waits in the prologue never shows: no doubled function, no frame without a line.

    `faulthandler` reads the frames itself; it is left out for generators, because CPython 3.13.0 crashes there
    without us: of two entry frames in a row (a finaliser's at the end of a generator consumed in C) it takes the
    second for a function.
    """
    import faulthandler
    import tracemalloc

    sys.setswitchinterval(1e-5)
    tracemalloc.start(5)

    def leaf(x: int) -> int:
        for each in range(20):
            x += each
        return x

    def middle(x: int, *, k: int = 1) -> int:
        return leaf(x) + k

    def top(x: int, *rest: int, **more: int) -> int:
        return middle(x, k=rest[0])

    def stream(n: int) -> Any:
        for each in range(n):
            yield middle(each, k=2)

    for each in (leaf, middle, top, stream):
        probe(each)
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            top(1, 2, z=3)
            if not dump:
                list(stream(3))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for each in threads:
        each.start()
    ours = {each.ident for each in threads}
    known = {"work", "leaf", "middle", "top", "stream"}
    bad: set[tuple[str, ...]] = set()
    sweeps = 0
    until = time.monotonic() + 2
    with open("/dev/null", "w") as nowhere:
        while time.monotonic() < until:
            for ident, frame in sys._current_frames().items():
                if ident not in ours:
                    continue
                stack: list[str] = []
                while frame is not None:
                    name = frame.f_code.co_name
                    if name in known:
                        stack.append(name if frame.f_lineno is not None else f"{name} without a line")
                    frame = frame.f_back  # type: ignore[assignment]
                if len(set(stack)) != len(stack) or any("without" in each for each in stack):
                    bad.add(tuple(stack))
            sweeps += 1
            if dump and sweeps % 20 == 0:
                faulthandler.dump_traceback(nowhere)
    ended.set()
    for each in threads:
        each.join()
    assert sweeps > 100
    assert not bad, bad


@attack
def test_many_tasks_and_threads_share_one_coroutine_function() -> None:
    from autoprof import flight

    sys.setswitchinterval(1e-5)
    seen = probe(pausing)

    def run() -> None:
        async def main() -> None:
            for _ in range(20):
                assert await asyncio.gather(*(pausing(each) for each in range(20))) == list(range(20))

        asyncio.run(main())

    threads = [threading.Thread(target=run) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    gc.collect()
    assert balance(seen) == (4 * 400, 4 * 400)
    assert seen.profiled == 4 * 400, seen.skipped
    assert not flight.afloat
