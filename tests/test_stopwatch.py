"""The stopwatch in the body: same results, same lines, same frames; every slow call is told, with its stacks."""

from __future__ import annotations

import asyncio
import dis
import gc
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest

from autoprof import flight, gate, guard, session, testing
from autoprof.gate import TimedGate
from autoprof.probe import Probe
from autoprof.rewrite.splice import splice
from autoprof.sampler import recorder
from tests import mechanisms, stdlib_codes

WEBASSEMBLY = sys.platform == "emscripten"
Calls = list[tuple[str, Any]]


def timed(function: Any, threshold_s: float = 0.0) -> tuple[TimedGate, Calls]:
    """Put a stopwatch into a function; return its gate and the slow calls it tells of."""
    told: Calls = []

    def begin(gate_: gate.Gate) -> None:
        gate_.close()
        gate_.used += 1
        gate_.time_calls(True)  # type: ignore[attr-defined]

    def nothing(*_: Any) -> None:
        raise AssertionError("not for plain calls")

    made = TimedGate(
        begin,
        nothing,
        nothing,
        lambda gate_, started, elapsed, result: told.append(("returned", result)),
        lambda gate_, started, elapsed, error: told.append(("raised", error)),
    )
    made.threshold = threshold_s
    code = splice(function.__code__, made)
    made.code = weakref.ref(code)
    function.__code__ = code
    return made, told


def test_results_and_exceptions_are_the_same() -> None:
    def several(x: int, *rest: int, key: int = 1, **more: int) -> Any:
        if x == 0:
            return None
        if x == 1:
            return "constant"
        for each in range(x):
            try:
                if each == 3:
                    raise KeyError(each)
            except KeyError:
                if key == 2:
                    raise
            finally:
                rest += (each,)
        with threading.Lock():
            return [*rest, key, more]

    arguments: list[tuple[tuple[int, ...], dict[str, int]]] = [
        ((0,), {}),
        ((1,), {}),
        ((5, 7), {"key": 3, "z": 4}),
    ]
    plain = [several(*args, **kwargs) for args, kwargs in arguments]
    made, told = timed(several)
    assert [several(*args, **kwargs) for args, kwargs in arguments] == plain
    with pytest.raises(KeyError) as caught:
        several(5, key=2)
    assert [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)][1:] == ["several"]
    assert caught.value.__context__ is None
    assert [how for how, _ in told] == ["returned"] * 3 + ["raised"]
    assert [value for _, value in told] == [*plain, caught.value]
    assert made.calls == 4 and made.total > 0


def test_a_fast_call_tells_nobody_and_a_paused_one_reads_no_clock() -> None:
    def function(x: int) -> int:
        return x

    made, told = timed(function, threshold_s=100.0)
    assert [function(n) for n in range(50)] == list(range(50))
    before = made.total
    assert before > 0 and not told
    made.close()
    made.threshold = 0.0
    assert [function(n) for n in range(50)] == list(range(50))
    assert made.total == before and not told and made.calls == 100


def test_a_paused_call_does_not_even_look_at_the_clock() -> None:
    def function(x: int) -> int:
        return x

    class Broken:
        def __iter__(self) -> Any:
            return self

        def __next__(self) -> Any:
            raise AssertionError("asked")

    made, told = timed(function)
    function(0)
    made.time_calls(False)
    made.clock = Broken()  # type: ignore[assignment]
    assert [function(n) for n in range(50)] == list(range(50))
    made.time_calls(True)
    function(1)
    assert made.calls == 52 and len(told) == 2


def test_gaps_are_kept_and_calls_counted_while_timing_goes_on_and_off() -> None:
    made = _inert()
    made.retune(0.001)
    for number in range(1, 2001):
        made.time_calls(number % 3 == 0)
        before = made.calls
        tick = next(made.ticks, False)
        if tick is False:
            assert made.claim()
            made.lend()
            tick = next(made.ticks, False)
        assert tick is (True if number % 3 == 0 else None)
        assert made.calls == before + 1 == number


@pytest.mark.parametrize("change", ["swap", "claim", "lend"])
def test_timing_that_begins_while_ticks_are_made_begins(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may switch it on between the making of ticks and their being put in place."""
    made = _inert()
    made.retune(0.001)
    made.time_calls(False)
    made.scale = None

    def make(value: bool | None, size: int) -> Any:
        fresh = repeat(value, size)
        monkeypatch.undo()
        made.time_calls(True)
        return fresh

    if change != "swap":
        made.swap(0)
    if change == "lend":
        assert made.claim()
    monkeypatch.setattr(gate, "repeat", make)
    if change == "swap":
        made.swap(10)
    elif change == "claim":
        assert made.claim()
    else:
        made.lend()
    assert next(made.ticks, False) is True


def test_paused_and_started_in_the_middle_of_a_call() -> None:
    def function(act: Any) -> int:
        act()
        return 1

    made, told = timed(function)
    function(made.close)
    assert not told
    function(lambda: made.time_calls(True))
    assert not told
    function(lambda: None)
    assert len(told) == 1


def test_recursion_is_no_deeper() -> None:
    def down(n: int) -> int:
        try:
            return down(n + 1)
        except RecursionError:
            return n

    plain = down(0)
    timed(down, threshold_s=100.0)
    assert down(0) == plain


def test_a_slow_call_at_the_recursion_limit_is_not_told() -> None:
    def down(n: int) -> int:
        try:
            return down(n + 1)
        except RecursionError:
            return n

    def fails(n: int) -> int:
        return fails(n + 1)

    plain = down(0)
    _, told = timed(down)
    assert down(0) == plain
    assert plain / 2 < len(told) <= plain + 2
    _, told = timed(fails)
    with pytest.raises(RecursionError) as caught:
        fails(0)
    assert all(value is caught.value for how, value in told)
    assert {how for how, _ in told} == {"raised"}


def test_long_jumps_grow() -> None:
    lines = ["def long(x):", "  total = 0", "  while x > 0:", "    x -= 1", "    try:"]
    for n in range(150):
        lines += [f"      if x == {1000 + n}: return ({n}, x)", f"      total += {n} * x"]
    lines += ["    except ValueError: return -1", "  return total"]
    space: dict[str, Any] = {}
    exec("\n".join(lines), space)
    long = space["long"]
    plain = [long(n) for n in (0, 5, 1010, 1140)]
    timed(long)
    assert [long(n) for n in (0, 5, 1010, 1140)] == plain


def _events(function: Any, *arguments: Any) -> list[tuple[Any, ...]]:
    seen: list[tuple[Any, ...]] = []
    name = function.__name__

    def tracer(frame: Any, event: str, argument: Any) -> Any:
        if frame.f_code.co_name == name:
            seen.append((event, frame.f_lineno, argument if event == "return" else None))
        return tracer

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        function(*arguments)
    except ZeroDivisionError:
        pass
    finally:
        sys.settrace(before)
    return seen


def test_a_tracer_sees_the_same_lines() -> None:
    def traced(x: int) -> Any:
        if x == 1:
            return (
                x,
                x,
            )
        for each in range(2):
            x += each
        return 1 // (x - 3)

    plain = [_events(traced, n) for n in (1, 2, 5)]
    _made, told = timed(traced)
    traced(5)
    told.clear()
    assert [_events(traced, n) for n in (1, 2, 5)] == plain
    assert not told, "a tracer would have seen our function"


def test_a_profiler_sees_the_same_calls() -> None:
    def profiled(x: int) -> int:
        return abs(len(str(x)))

    def calls() -> list[tuple[str, str]]:
        seen: list[tuple[str, str]] = []

        def hook(frame: Any, event: str, argument: Any) -> None:
            if frame.f_code.co_name == "profiled":
                seen.append((event, getattr(argument, "__name__", "")))

        before = sys.getprofile()
        sys.setprofile(hook)
        try:
            profiled(5)
        finally:
            sys.setprofile(before)
        return seen

    plain = calls()
    timed(profiled, threshold_s=100.0)
    profiled(1)
    assert calls() == plain


def test_objects_die_when_they_did() -> None:
    class Thing:
        pass

    dead: list[str] = []

    def function(thing: Any) -> Any:
        other = Thing()
        weakref.finalize(other, dead.append, "local")
        return thing

    _, told = timed(function)
    thing = Thing()
    weakref.finalize(thing, dead.append, "argument")
    result = function(thing)
    assert dead == ["local"]
    told.clear()
    del thing, result
    gc.collect()
    assert dead == ["local", "argument"]


def test_positions_of_all_instructions_are_kept() -> None:
    """Taken out of the timed code again, the body has every instruction of the plain one at its place in the source."""
    count = 0
    for code in (inner for _, _, top in stdlib_codes.chosen(12) for inner in stdlib_codes.inner_codes(top)):
        if code.co_flags & 0x2A3 != 0x3:
            continue
        plain = _instructions(code)
        spliced = _instructions(splice(code, _inert()))
        position = 0
        for each in plain:
            while spliced[position] != each:
                position += 1
                assert position < len(spliced), (code, each)
            position += 1
        count += 1
    assert count > 100


def _instructions(code: Any) -> list[tuple[str, Any]]:
    return [
        (each.opname, each.positions)
        for each in dis.get_instructions(code)
        if each.opname not in ("EXTENDED_ARG", "CACHE")
    ]


def _inert() -> TimedGate:
    def nothing(*_: Any) -> None:
        return None

    return TimedGate(nothing, nothing, nothing, nothing, nothing)


SOURCE = """
import time
def work(ms, fail=None):
    inner(ms)
    if fail: raise fail
    return ms
def inner(ms):
    time.sleep(ms / 1000)
def drive_many(n):
    for _ in range(n): work(0)
async def slow_coroutine(pause):
    await pause()
    return 5
def stream(n, act):
    for each in range(n):
        act()
        yield each
"""
IF_SLOW: dict[str, Any] = {"policy": "profile_if_slow", "threshold": "20ms", "rate": 1.0}


@pytest.fixture(params=["spliced_at_import", "spliced_live", "decorated_at_import"])
def loaded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    loads = mechanisms.loads(tmp_path)
    load = next(loads)
    yield lambda **options: load(request.param, SOURCE, **{**IF_SLOW, **options})
    next(loads, None)


def probe_on(module: Any, name: str) -> Probe:
    assert session.current is not None
    return session.current.installer.probes[f"{module.name}:{name}", "profile_if_slow"]


def test_slow_calls_are_told_and_kept(loaded: Any) -> None:
    module = loaded(threshold="300ms")  # a call of nothing takes 20 ms now and then on a loaded machine
    work = probe_on(module, "work")
    with testing.capture(sender=work.target) as events:
        module.work(0)
        module.work(400)
        with pytest.raises(KeyError):
            module.work(400, KeyError("k"))
    assert [each.name for each in events if each.name != "sample"] == [
        *("stop", "slow_operation", "complete"),
        *("exception", "slow_operation", "complete"),
    ]
    told = events.named("slow_operation")
    assert all(each.measurements["duration_ns"] >= 400e6 for each in told)
    assert {each.measurements["threshold_ns"] for each in told} == {300_000_000}
    assert {each.metadata["profiled"] for each in told} == {True}
    assert events.named("exception")[0].metadata["kind"] == "KeyError"
    assert (work.calls, work.slow, work.profiled) == (3, 2, 2)
    assert work.time_ns >= sum(each.measurements["duration_ns"] for each in told)


@pytest.mark.usefixtures("no_flushes")
@pytest.mark.skipif(WEBASSEMBLY, reason="no sampler without threads")
def test_stacks_are_there_from_the_beginning_of_the_call(loaded: Any) -> None:
    module = loaded(interval="2ms")
    module.work(0)
    recorder.drain()
    module.drive_many(20)
    module.work(200)
    stacks = {
        tuple(label.split(" ")[0].partition(":")[2] for label in stack): sums
        for (probe, stack), sums in recorder.drain().items()
        if probe is probe_on(module, "work")
    }
    assert set(stacks) <= {("work", "inner"), ("work",)}
    samples, weight_ns = stacks["work", "inner"]
    assert samples > 10
    assert 150e6 < weight_ns < 1e9


def test_a_share_of_the_slow_calls_is_kept(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = loaded(rate=0.3, threshold="0ms")
    work = probe_on(module, "work")
    with testing.capture("slow_operation", "stop", sender=work.target) as events:
        module.drive_many(2_000)
    assert (work.calls, work.slow) == (2_000, 2_000)
    assert len(events.named("slow_operation")) == 2_000
    assert len(events.named("stop")) == work.profiled
    assert abs(work.profiled - 600) < 5 * (2_000 * 0.3 * 0.7) ** 0.5
    assert sum(each.metadata["profiled"] for each in events.named("slow_operation")) == work.profiled


@pytest.mark.skipif(WEBASSEMBLY, reason="no event loop of its own in WebAssembly")
def test_coroutines_take_their_awaits_along(loaded: Any) -> None:
    module = loaded(threshold="300ms")
    probe = probe_on(module, "slow_coroutine")

    async def pause() -> None:
        await asyncio.sleep(0.4)

    async def no_pause() -> None:
        return None

    with testing.capture("slow_operation", sender=probe.target) as events:
        assert asyncio.run(module.slow_coroutine(pause)) == 5
        assert asyncio.run(module.slow_coroutine(no_pause)) == 5
    (told,) = events
    assert told.measurements["duration_ns"] > 390e6
    assert (probe.calls, probe.slow, probe.profiled) == (2, 1, 1)


@pytest.mark.skipif(WEBASSEMBLY, reason="no sampler without threads")
def test_a_slow_consumer_does_not_make_a_generator_slow(loaded: Any) -> None:
    module = loaded(interval="2ms", threshold="60ms")
    probe = probe_on(module, "stream")
    with testing.capture("slow_operation", sender=probe.target) as events:
        for _ in module.stream(4, lambda: None):
            time.sleep(0.03)
        for _ in module.stream(4, lambda: time.sleep(0.03)):
            pass
        gc.collect()
    (told,) = events
    assert told.measurements["duration_ns"] > 80e6
    assert (probe.calls, probe.slow) == (2, 1)


@pytest.mark.usefixtures("no_flushes")
def test_nothing_of_fast_calls_is_stored(loaded: Any) -> None:
    module = loaded(threshold="1m")
    module.drive_many(50)
    work = probe_on(module, "work")
    assert (work.calls, work.slow, work.profiled, work.samples) == (50, 0, 0, 0)
    assert not [each for each, _ in recorder.drain() if each is work]


def test_receivers_are_not_timed(loaded: Any) -> None:
    module = loaded(threshold="0ms")
    work = probe_on(module, "work")

    def receive(sender: str, **_: Any) -> None:
        module.work(0)

    from autoprof import signals

    signals.slow_operation.connect(receive, sender=work.target)
    try:
        module.work(0)
    finally:
        signals.slow_operation.disconnect(receive, sender=work.target)
    assert work.slow == 1


def test_a_failure_of_ours_stays_ours(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = loaded(threshold="0ms")
    module.work(0)
    work = probe_on(module, "work")

    def broken(*_: Any) -> None:
        raise ValueError("ours")

    monkeypatch.setattr(Probe, "record", broken)
    assert module.work(0) == 0
    monkeypatch.undo()
    assert sum(guard.internal_errors.values()) == 2, "of work and of inner"
    guard.internal_errors.clear()
    assert work.calls == 2


@pytest.mark.skipif(not hasattr(__import__("os"), "fork") or WEBASSEMBLY, reason="no fork here")
def test_a_childs_call_that_began_in_the_parent_is_the_parents(loaded: Any) -> None:
    import os

    module = loaded(threshold="0ms")
    module.work(0)
    began_s = time.perf_counter()
    pid = os.fork()
    if not pid:
        os._exit(0 if flight.born_s > began_s else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_two_decorators_and_a_rule_share_one_function(tmp_path: Path) -> None:
    source = "#@\ndef f(x):\n    return x\n"
    decorators = "@__import__('autoprof').profile_if_slow('0ms', rate=1.0)\n@__import__('autoprof').profile(rate=1.0)\n"
    start = mechanisms.policy("subject_stacked", str(tmp_path / "out"))
    start["rules"] = [{"match": "nothing.at.all:*", "policy": "profile"}]
    session.start(start)
    module = mechanisms.plain(source.replace("#@\n", decorators), "subject_stacked", start)
    try:
        assert [module.f(n) for n in range(10)] == list(range(10))
        assert session.current is not None
        found = session.current.installer.probes
        slow = found["subject_stacked:f", "profile_if_slow"]
        sampled = found["subject_stacked:f", "profile"]
        assert (slow.calls, slow.slow, slow.profiled) == (10, 10, 10)
        assert (sampled.calls, sampled.profiled) == (10, 10)
    finally:
        del sys.modules["subject_stacked"]
        session.stop()
