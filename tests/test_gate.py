"""The gate's algebra: calls always exact, the sampled share and its gaps those of independent trials."""

from __future__ import annotations

import gc
import math
import pickle
import random
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from itertools import pairwise, repeat
from types import FunctionType
from typing import Any

import pytest

from autoprof import gate as gates
from autoprof.gate import FOREVER, Gate, draw_gap, gap_scale
from autoprof.inline import InlineGate
from autoprof.rewrite.splice import splice
from tests.spliced import call_from_threads


class Call:
    __slots__ = ("code", "function")

    code: Any


class Spy:
    """A function behind a gate whose opened calls are only noted."""

    def __init__(self, function: FunctionType, rate: float) -> None:
        self.opened: list[int] = []
        self.finished = 0
        self.decline: Callable[[], bool] = lambda: False
        self.function = function
        gate = self.gate = InlineGate(self.begin, self.finish, self.unwind)
        gate.retune(rate)
        code = splice(function.__code__, gate)
        gate.code = weakref.ref(code)  # held strongly, gate and code would be a cycle that the GC can't see
        function.__code__ = code

    @property
    def begin(self) -> Any:
        def begin(gate: Gate) -> Call | None:
            if not gate.claim():
                return None
            self.opened.append(gate.calls)
            call = None
            if not self.decline():
                call = Call()
                call.code = gate.code()
                gate.lend()
            return call

        return begin

    @property
    def finish(self) -> Any:
        def finish(call: Call, result: object) -> None:
            self.finished += 1

        return finish

    unwind = finish


def make() -> FunctionType:
    def function(n: int = 0) -> int:
        return n + 1

    return function


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    gates._random.seed(12345)
    yield
    gates.reseed()


def test_rates_at_the_ends() -> None:
    assert gap_scale(1.0) == 0.0 and draw_gap(0.0) == 0
    assert gap_scale(0.0) is None and draw_gap(None) == FOREVER
    assert gap_scale(2.0) == 0.0 and gap_scale(-1.0) is None
    assert 0 <= draw_gap(gap_scale(1e-300)) <= FOREVER


@pytest.mark.parametrize("rate", [0.5, 0.1, 0.01, 0.001])
def test_gaps_are_geometric(rate: float) -> None:
    scale = gap_scale(rate)
    count = 20_000
    gaps = [draw_gap(scale) for _ in range(count)]
    mean = (1 - rate) / rate
    deviation = math.sqrt(1 - rate) / rate
    assert abs(sum(gaps) / count - mean) < 5 * deviation / math.sqrt(count)
    for quantile in (0.1, 0.5, 0.9):
        at_most = math.ceil(math.log(1 - quantile) / math.log(1 - rate)) - 1
        share = sum(gap <= at_most for gap in gaps) / count
        true = 1 - (1 - rate) ** (at_most + 1)
        assert abs(share - true) < 5 * math.sqrt(true * (1 - true) / count)


@pytest.mark.parametrize("rate", [0.0, 0.003, 0.05, 0.5, 1.0])
def test_calls_exact_and_share_binomial(rate: float) -> None:
    spy = Spy(make(), rate)
    count = 20_000
    for n in range(count):
        assert spy.function(n) == n + 1
    assert spy.gate.calls == count
    assert len(spy.opened) == spy.finished
    assert abs(len(spy.opened) - rate * count) <= 5 * math.sqrt(count * rate * (1 - rate))


def test_each_call_is_its_own_trial() -> None:
    """The number of calls between two opened ones does not depend on the gap before."""
    spy = Spy(make(), 0.2)
    for n in range(30_000):
        spy.function(n)
    gaps = [b - a for a, b in pairwise(spy.opened)]
    mean = sum(gaps) / len(gaps)
    both = [(a - mean) * (b - mean) for a, b in pairwise(gaps)]
    variance = sum((each - mean) ** 2 for each in gaps) / len(gaps)
    assert abs(sum(both) / len(both) / variance) < 5 / math.sqrt(len(gaps))


def _play(spy: Spy, steps: list[tuple[str, Any]]) -> int:
    made = 0
    for what, value in steps:
        if what == "call":
            for n in range(value):
                spy.function(n)
            made += value
        elif what == "retune":
            spy.gate.retune(value)
        elif what == "close":
            spy.gate.close()
        else:
            spy.decline = (lambda: True) if value else (lambda: False)
        assert spy.gate.calls == made, (what, value)
    return made


def test_any_sequence_of_calls_retunes_and_closes_keeps_the_count() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    strategies = hypothesis.strategies
    rates = strategies.one_of(strategies.sampled_from([0.0, 1.0]), strategies.floats(0.0, 1.0))
    step = strategies.one_of(
        strategies.tuples(strategies.just("call"), strategies.integers(1, 60)),
        strategies.tuples(strategies.just("retune"), rates),
        strategies.tuples(strategies.just("close"), strategies.none()),
        strategies.tuples(strategies.just("decline"), strategies.booleans()),
    )

    @hypothesis.settings(max_examples=150, deadline=None, database=None)
    @hypothesis.given(strategies.lists(step, max_size=25))
    def check(steps: list[tuple[str, Any]]) -> None:
        spy = Spy(make(), 1.0)
        made = _play(spy, steps)
        assert spy.gate.calls == made
        assert spy.finished <= len(spy.opened)

    check()


def test_random_sequences_without_hypothesis() -> None:
    """The same for where hypothesis can't be had (3.14 and 3.15 under WebAssembly)."""
    choose = random.Random(7)
    for _ in range(60):
        steps: list[tuple[str, Any]] = []
        for _ in range(choose.randrange(20)):
            what = choose.choice(("call", "call", "retune", "close", "decline"))
            value = {"call": choose.randrange(1, 80), "retune": choose.choice((0, 1, choose.random()))}
            steps.append((what, value.get(what, choose.random() < 0.5)))
        _play(Spy(make(), choose.choice((0.0, 0.3, 1.0))), steps)


def test_recursive_calls_count() -> None:
    def down(n: int) -> int:
        return 0 if n == 0 else 1 + down(n - 1)

    spy = Spy(down, 1.0)
    assert down(30) == 30
    assert spy.gate.calls == len(spy.opened) == spy.finished == 31


def test_retune_and_close_inside_an_open_call() -> None:
    def outer(action: Callable[[], None]) -> None:
        action()

    spy = Spy(outer, 1.0)
    for action in (spy.gate.close, lambda: spy.gate.retune(1.0), lambda: spy.gate.retune(0.3), lambda: None):
        outer(action)
    before = spy.gate.calls
    for _ in range(100):
        outer(int)  # type: ignore[arg-type]
    assert before == 4 and spy.gate.calls == 104


def test_errors_out_of_begin_that_mean_run_in_place() -> None:
    spy = Spy(make(), 1.0)
    for error in (RecursionError, MemoryError):

        def begin(gate: Gate, error: type[BaseException] = error) -> None:
            raise error

        spy.gate.begin = begin
        assert spy.function(1) == 2
    assert spy.gate.calls == 2

    def broken(gate: Gate) -> None:
        raise ValueError("out of begin")

    spy.gate.begin = broken
    with pytest.raises(ValueError, match="out of begin"):
        spy.function(1)


def _no_threads() -> bool:
    return sys.platform == "emscripten"


@pytest.mark.skipif(_no_threads(), reason="no threads in WebAssembly")
@pytest.mark.parametrize("rate", [1.0, 0.3, 0.0])
def test_eight_threads_exact(rate: float) -> None:
    spy = Spy(make(), rate)
    count = 5_000
    call_from_threads(spy.function, 8, count)
    assert spy.gate.calls == 8 * count
    if rate == 1.0:
        assert len(spy.opened) == spy.finished
        assert spy.finished == 8 * count


@pytest.mark.skipif(_no_threads(), reason="no threads in WebAssembly")
def test_threads_racing_swaps() -> None:
    spy = Spy(make(), 0.2)
    count = 8_000
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    stop = threading.Event()

    def work() -> None:
        for n in range(count):
            spy.function(n)

    def swap() -> None:
        choose = random.Random(3)
        while not stop.is_set():
            choose.choice((spy.gate.close, lambda: spy.gate.retune(0.5), lambda: spy.gate.retune(1.0)))()

    swapper = threading.Thread(target=swap)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        swapper.start()
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    finally:
        stop.set()
        swapper.join()
        sys.setswitchinterval(before)
    assert spy.gate.calls == 4 * count


@pytest.mark.parametrize("others", [1, 6, 7])
def test_calls_of_others_while_a_tick_is_lent_are_counted(others: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads call between the look at the ticks and the new ones; a seventh finds the gate open."""
    made = Gate(lambda gate: None, lambda call, result: None, lambda call, error: None)
    made.swap(0)
    assert next(made.ticks, False) is False
    monkeypatch.setattr(gates, "draw_gap", lambda scale: 6)
    assert made.claim() and made.calls == 1

    def make(tick: bool, size: int) -> Any:
        monkeypatch.setattr(gates, "repeat", repeat)
        for _ in range(others):
            if next(made.ticks, False) is False:
                assert made.claim()
        return repeat(tick, size)

    monkeypatch.setattr(gates, "repeat", make)
    made.lend()
    assert next(made.ticks, False) is True
    assert made.calls == 1 + others
    assert len(list(made.ticks)) == (6 - others if others < 7 else 6)


def test_a_dropped_gate_and_its_code_die() -> None:
    def begin(gate: Gate) -> Call:
        call = Call()
        call.code = gate.code and gate.code()
        gate.claim()
        gate.lend()
        return call

    function = make()
    gate = InlineGate(begin, lambda call, result: None, lambda call, error: None)
    gate.retune(1.0)
    function.__code__ = splice(function.__code__, gate)
    watch = weakref.ref(gate), weakref.ref(function.__code__)
    gate.code = watch[1]
    assert function(1) == 2
    del function, gate
    gc.collect()
    assert [each() for each in watch] == [None, None]


def test_a_gate_travels_without_us() -> None:
    gate = Gate(lambda gate: None, lambda call, result: None, lambda call, error: None)
    data = pickle.dumps(gate)
    assert b"autoprof" not in data
    arrived = pickle.loads(data)
    for _ in range(3):
        assert next(arrived.ticks) is True


def test_gate_is_hashable_and_reseeded_randomness_differs() -> None:
    gate = Gate(lambda gate: None, lambda call, result: None, lambda call, error: None)
    assert {gate: 1}[gate] == 1
    gates._random.seed(1)
    first = [draw_gap(gap_scale(0.001)) for _ in range(5)]
    gates._random.seed(1)
    gates.reseed()
    assert [draw_gap(gap_scale(0.001)) for _ in range(5)] != first


@pytest.mark.skipif(sys.maxsize < 1 << 32, reason="words of 32 bits: other sizes")
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="measured up to 3.13")
@pytest.mark.parametrize("kind", [Gate, gates.TimedGate])
def test_what_every_call_looks_at_is_in_one_line_of_the_cache(kind: type[Gate]) -> None:
    made = [kind(*[None] * (3 if kind is Gate else 5)) for _ in range(500)]  # type: ignore[arg-type]
    words_to_ticks = 2  # the count of references and the type
    assert {id(each) % 64 for each in made} <= set(range(0, 64 - 8 * words_to_ticks, 8))
