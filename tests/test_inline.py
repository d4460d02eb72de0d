"""The countdown that is a constant of spliced code: runs, what it does beyond its open place, and at its end."""

from __future__ import annotations

import pickle
import sys
import weakref
from collections.abc import Callable
from operator import length_hint
from types import FunctionType
from typing import Any

import pytest

from autoprof import gate as gates
from autoprof import inline
from autoprof.gate import FOREVER, Gate, gap_scale
from autoprof.inline import RUN, SPARE, InlineGate
from autoprof.rewrite.splice import splice
from tests.spliced import call_from_threads


def nothing(*_: Any) -> None:
    """Be what is not called here."""


class Behind:
    """A function behind a gate; notes the calls that are sampled, and those that came to `begin` and were not."""

    def __init__(self, function: FunctionType, rate: float = 0.0) -> None:
        self.sampled: list[int] = []
        self.declined = 0
        gate = self.gate = InlineGate(self._begin, nothing, nothing)
        gate.retune(rate)
        code = splice(function.__code__, gate)
        gate.code = weakref.ref(code)
        function.__code__ = code

    def _begin(self, gate: Gate) -> None:
        if not gate.claim():
            self.declined += 1
            return
        try:
            self.sampled.append(gate.calls)
        except RecursionError:
            gate.used -= 1  # `missed` counts it, as in `calls.begin`
            raise


def make() -> FunctionType:
    def function(n: int = 0) -> int:
        return n + 1

    return function


@pytest.mark.parametrize("gap", [0, 1, RUN - 2, RUN - 1, RUN, RUN + 1, 2 * RUN - 1, 2 * RUN, 5 * RUN + 7])
def test_the_call_after_the_gap_is_the_one_that_is_sampled(gap: int, monkeypatch: pytest.MonkeyPatch) -> None:
    function = make()
    behind = Behind(function)
    monkeypatch.setattr(inline, "draw_gap", lambda scale: gap)
    behind.gate.swap(gap)
    for number in range(3 * (gap + 1)):
        assert function(number) == number + 1
        assert behind.gate.calls == number + 1
    assert behind.sampled == [gap + 1, 2 * (gap + 1), 3 * (gap + 1)]


def test_a_closed_gate_asks_nobody() -> None:
    function = make()
    behind = Behind(function)
    for number in range(10 * RUN):
        function(number)
    assert behind.gate.calls == 10 * RUN
    assert not behind.sampled and not behind.declined


def test_a_swap_in_the_middle_of_a_run_keeps_the_count() -> None:
    function = make()
    behind = Behind(function)
    made = 0
    for calls, size in ((3, 10), (10, FOREVER), (RUN + 5, 0), (1, 2 * RUN), (RUN, 1), (1, FOREVER)):
        for _ in range(calls):
            function()
        made += calls
        behind.gate.swap(size)
        assert behind.gate.calls == made


def test_calls_under_a_tracer_do_not_spend_the_countdown() -> None:
    """Each finds it open, since nobody winds it."""
    function = make()
    behind = Behind(function, 1.0)
    calls = 2 * SPARE

    def run() -> None:
        for number in range(calls):
            function(number)

    sys.settrace(lambda *_: None)
    try:
        run()
    finally:
        sys.settrace(None)
    assert not behind.sampled
    assert behind.gate.tally() == (calls, calls)
    function()
    assert behind.sampled == [calls + 1]
    assert behind.gate.tally() == (calls + 1, calls)


def test_nor_do_they_before_its_first_call() -> None:
    """A gate that is made under a tracer, as all are that a debugger was there before."""
    function = make()
    sampled: list[int] = []

    def begin(gate: Gate) -> None:
        if gate.claim():
            sampled.append(gate.calls)

    sys.settrace(lambda *_: None)
    try:
        gate = InlineGate(begin, nothing, nothing)
        gate.scale = gap_scale(1.0)
        function.__code__ = splice(function.__code__, gate)
        for number in range(2 * SPARE):
            function(number)
    finally:
        sys.settrace(None)
    function()
    assert sampled == [2 * SPARE + 1] and gate.tally() == (2 * SPARE + 1, 2 * SPARE)


@pytest.mark.parametrize("error", [RecursionError, MemoryError])
def test_calls_that_begin_could_not_look_at_do_not_spend_it(error: type[BaseException]) -> None:
    function = make()
    behind = Behind(function, 1.0)
    begin = behind.gate.begin

    def fails(gate: Gate) -> None:
        raise error

    behind.gate.begin = fails
    for number in range(2 * SPARE):
        assert function(number) == number + 1
    assert behind.gate.calls == 2 * SPARE
    behind.gate.begin = begin
    function()
    assert behind.sampled == [2 * SPARE + 1] and behind.gate.calls == 2 * SPARE + 1


def test_at_the_recursion_limit_calls_are_counted_and_run() -> None:
    function = make()
    behind = Behind(function, 1.0)
    made = 0

    def down(n: int) -> None:
        nonlocal made
        if n:
            return down(n - 1)
        for number in range(50):
            if function(number) == number + 1:
                made += 1

    deepest = 0
    for depth in range(1, sys.getrecursionlimit() + 10):
        try:
            down(depth)
        except RecursionError:
            break
        deepest = depth
    assert deepest > 100
    assert behind.gate.calls >= made
    assert behind.gate.calls - made <= 1, "a call that did not come to its body any more"
    before = len(behind.sampled)
    function()
    assert len(behind.sampled) == before + 1


def test_a_spent_countdown_counts_on_and_measures_no_more() -> None:
    function = make()
    behind = Behind(function, 1.0)
    function()
    for _ in behind.gate.countdown:
        pass
    for number in range(100):
        assert function(number) == number + 1
    assert behind.gate.calls == 101 and behind.sampled == [1]
    behind.gate.retune(1.0)
    behind.gate.close()
    assert function(1) == 2 and behind.gate.calls == 102
    assert behind.gate.claim() is False and behind.gate.calls == 103
    behind.gate.lend()


@pytest.mark.skipif(sys.platform == "emscripten", reason="no threads in WebAssembly")
@pytest.mark.parametrize("rate", [0.0, 0.0005, 0.3])
def test_threads_at_the_ends_of_runs_are_counted(rate: float) -> None:
    function = make()
    behind = Behind(function, rate)
    count = 10 * RUN
    call_from_threads(function, 6, count)
    assert behind.gate.calls == 6 * count
    if not rate:
        assert not behind.sampled


def test_a_lent_step_is_the_inner_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    made = InlineGate(nothing, nothing, nothing)
    monkeypatch.setattr(inline, "draw_gap", lambda scale: 6)
    assert made.claim() and made.calls == 1
    made.lend()
    assert made.calls == 0
    assert next(made.countdown) is True and made.calls == 1
    assert [next(made.countdown) for _ in range(7)] == [True] * 6 + [None]


@pytest.mark.parametrize("others", [1, 6, 7])
def test_calls_of_others_while_a_step_is_lent_are_counted(others: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads call between the look at the countdown and its winding; a seventh finds the gate open."""
    made = InlineGate(nothing, nothing, nothing)
    monkeypatch.setattr(inline, "draw_gap", lambda scale: 6)
    assert made.claim() and made.calls == 1
    came: list[bool] = []

    def winding(function: Callable[..., Any], given: Any) -> Any:
        if given != (made.countdown,) and not came:
            for _ in range(others):
                came.append(made.step())
                if not came[-1]:
                    assert made.claim()
        return map(function, given)

    monkeypatch.setattr(inline, "map", winding, raising=False)
    made.lend()
    assert len(came) == others
    assert next(made.countdown) is True
    assert made.calls == 1 + others


def test_of_more_steps_than_a_run_has_none_is_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    made = InlineGate(nothing, nothing, nothing)
    made.swap(FOREVER)
    for _ in range(5):
        made.lend()
        assert next(made.countdown) is True  # the inner call
    made.lend()
    made.lend()
    assert [next(made.countdown), next(made.countdown)] == [True, True]
    assert made.calls == 5 - 5, "what was lent is counted by the inner call, and the outer one by its claim"


def test_another_gate_in_force_takes_the_call_that_lost_the_race(monkeypatch: pytest.MonkeyPatch) -> None:
    made = InlineGate(nothing, nothing, nothing)
    made.scale = gap_scale(1.0)
    real = gates.draw_gap

    def draw(scale: float | None) -> int:
        monkeypatch.setattr(inline, "draw_gap", real)
        made.swap(5)
        return 0

    monkeypatch.setattr(inline, "draw_gap", draw)
    assert not made.claim(), "it is one of the five"
    assert made.calls == 1 and length_hint(made.countdown) == SPARE + 4


def test_a_gap_of_whole_runs_in_force_takes_the_call_that_lost_the_race(monkeypatch: pytest.MonkeyPatch) -> None:
    made = InlineGate(nothing, nothing, nothing)

    def draw(scale: float | None) -> int:
        made.swap(RUN)
        return 0

    monkeypatch.setattr(inline, "draw_gap", draw)
    assert not made.claim() and made.calls == 1
    assert [made.step() for _ in range(RUN)] == [True] * (RUN - 1) + [False]


def test_steps_end_where_the_gate_is_open() -> None:
    made = InlineGate(nothing, nothing, nothing)
    made.swap(2 * RUN)
    assert all(made.step() for _ in range(2 * RUN))
    for _ in range(3):
        assert not made.step()
        assert length_hint(made.countdown) == SPARE and made.calls == 2 * RUN


def test_a_run_that_can_not_be_wound_up_at_the_recursion_limit_is_not_used_up() -> None:
    """On 3.11 C code takes a level, too."""
    function = make()
    behind = Behind(function)
    made = 0

    def down(n: int) -> None:
        nonlocal made
        if n:
            return down(n - 1)
        for number in range(3):
            if function(number) == number + 1:
                made += 1

    deep = 0
    for depth in range(sys.getrecursionlimit() - 300, sys.getrecursionlimit() + 10):
        while length_hint(behind.gate.countdown) != SPARE:
            function()
            made += 1
        try:
            down(depth)
        except RecursionError:
            break
        deep = depth
        assert behind.gate.calls == made, depth
    assert deep > 100 and not behind.sampled


def test_a_function_travels_without_us() -> None:
    made = InlineGate(nothing, nothing, nothing)
    data = pickle.dumps((made, made.countdown))
    assert b"autoprof" not in data and len(data) < 500
    arrived, countdown = pickle.loads(data)
    function = make()
    arrived.timed, arrived.countdown = False, countdown
    function.__code__ = splice(function.__code__, arrived)
    for number in range(3 * (RUN + SPARE)):
        assert function(number) == number + 1
