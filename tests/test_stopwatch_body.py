"""The stopwatch in the body: same results, same lines, same frames."""

from __future__ import annotations

import dis
import gc
import sys
import threading
import traceback
import weakref
from itertools import repeat
from typing import Any

import pytest

from autoprof import gate
from autoprof.gate import TimedGate
from autoprof.rewrite.splice import splice
from tests import stdlib_codes

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
