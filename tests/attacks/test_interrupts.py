"""Exceptions and calls that come from outside at any instruction: interrupts, signals, finalisers, our failures."""

from __future__ import annotations

import gc
import signal
import sys
import threading
import time
from typing import Any

import pytest

from .arena import attack, balance, probe

STORM_S = 1.5


class Struck(Exception):
    """Thrown into a thread from another one."""


def with_keywords(x: int, *rest: int, k: int = 1, **more: int) -> int:
    return x


def leaf(x: int) -> int:
    return x


def nest(x: int) -> int:
    for _ in range(20):
        leaf(x)
    return x


def stream(x: int) -> Any:
    yield x
    yield x


def in_flight() -> int:
    """Return how many calls the flight recorder believes to be open in this thread."""
    from autoprof import flight

    return len(flight.in_flight.get(threading.get_ident(), ()))


def assert_still_measured(*functions: Any) -> None:
    """See that nothing stayed behind: the next calls are measured."""
    from autoprof import flight

    gc.collect()
    for function, seen in functions:
        before = seen.profiled
        for _ in range(3):
            function(1)
        assert seen.profiled == before + 3, seen.target
        assert not seen.busy, seen.target
    flight.drop_abandoned(threading.get_ident())
    assert in_flight() == 0
    assert not flight.afloat


def break_in(name: str, failure: type[BaseException]) -> None:
    """Have `finish` or `unwind` fail after its work, as an interrupt at its last instruction would."""
    from autoprof import session

    assert session.current is not None
    for gate in session.current.installer.all_gates():
        real = getattr(gate, name)

        def failing(call: Any, outcome: Any, real: Any = real) -> None:
            real(call, outcome)
            raise failure("from outside")

        setattr(gate, name, failing)


@attack
@pytest.mark.parametrize("failure", ["KeyError", "KeyboardInterrupt"])
def test_finish_that_raises_reaches_the_caller(failure: str) -> None:
    """3.13 looked the handler up one unit too early and took the wrong one with the wrong stack."""
    kind: type[BaseException] = {"KeyError": KeyError, "KeyboardInterrupt": KeyboardInterrupt}[failure]
    for function in (leaf, with_keywords):
        seen = probe(function)
        break_in("finish", kind)
        for _ in range(50):
            with pytest.raises(kind, match="from outside"):
                function(1)
            assert sys.exc_info() == (None, None, None)
        assert seen.profiled == 50, "finish and unwind both ran: the call counts once"
        assert in_flight() == 0 and not seen.busy


@attack
def test_unwind_that_raises_reaches_the_caller() -> None:
    def bad(x: int) -> None:
        raise LookupError(x)

    seen = probe(bad)
    break_in("unwind", KeyboardInterrupt)
    for _ in range(50):
        with pytest.raises(KeyboardInterrupt) as caught:
            bad(1)
        assert isinstance(caught.value.__context__, LookupError)
        assert sys.exc_info() == (None, None, None)
    assert seen.profiled == 50 and in_flight() == 0 and not seen.busy


@attack
def test_begin_that_raises_reaches_the_caller_unless_it_is_our_own_bug() -> None:
    from autoprof import calls, guard

    seen = probe(leaf)
    leaf(1)

    def fail(*_: Any) -> Any:
        raise failure

    real, calls._take_off = calls._take_off, fail  # type: ignore[assignment]
    failure: BaseException
    failure = KeyboardInterrupt("from outside")
    for _ in range(50):
        with pytest.raises(KeyboardInterrupt, match="from outside"):
            leaf(1)
        assert sys.exc_info() == (None, None, None)
    for failure in (RecursionError(), MemoryError(), ZeroDivisionError()):  # noqa: B007 - `fail` raises it
        for _ in range(50):
            assert leaf(5) == 5
            assert sys.exc_info() == (None, None, None)
    calls._take_off = real
    assert guard.internal_errors.pop("begin") == 50
    assert seen.skipped == {"error": 100}  # no memory, and our own bug
    assert_still_measured((leaf, seen))


@attack
def test_the_callers_handled_exception_stays_what_it_is() -> None:
    def bad(x: int) -> None:
        raise LookupError(x)

    probe(bad)
    probe(leaf)
    try:
        raise KeyError("outer")
    except KeyError as outer:
        for _ in range(20):
            try:
                bad(1)
            except LookupError as inner:
                assert inner.__context__ is outer
                assert sys.exc_info()[1] is inner
            assert sys.exc_info()[1] is outer
            leaf(1)
            assert sys.exc_info()[1] is outer
    assert sys.exc_info() == (None, None, None)


@attack
def test_a_storm_of_keyboard_interrupts() -> None:
    import _thread

    probes = [(each, probe(each)) for each in (leaf, nest, with_keywords)]
    streamed = probe(stream)
    ended = False
    struck = wrong = rounds = 0

    def shoot() -> None:
        while not ended:
            _thread.interrupt_main()
            time.sleep(0.0002)

    shooter = threading.Thread(target=shoot)
    until = time.monotonic() + STORM_S

    def call_everything() -> None:
        nonlocal wrong, rounds, ended
        while not ended:
            rounds += 1
            wrong += nest(rounds) != rounds
            wrong += with_keywords(rounds, 2, k=3, z=4) != rounds
            wrong += list(stream(rounds)) != [rounds, rounds]
            if time.monotonic() > until:
                ended = True

    def shielded(depth: int) -> None:
        nonlocal struck
        while not ended:
            try:
                call_everything() if depth == 0 else shielded(depth - 1)
            except KeyboardInterrupt:
                struck += 1

    try:
        shooter.start()
    except KeyboardInterrupt:
        struck += 1
    shielded(4)
    while shooter.is_alive():
        try:
            shooter.join()
        except KeyboardInterrupt:
            struck += 1
    try:
        time.sleep(0.05)
    except KeyboardInterrupt:
        struck += 1
    assert struck > 50 and rounds > 50, (struck, rounds)
    assert wrong == 0
    assert_still_measured(*probes)
    for _, seen in probes:
        calls, accounted = balance(seen)
        # An interrupt inside `begin` or `finish` costs at most one count of the one call it ends.
        assert abs(calls - accounted) <= struck, (seen.target, calls, accounted, struck)
    assert streamed.profiled > 0


@attack
def test_a_storm_of_asynchronous_exceptions() -> None:
    import ctypes

    probes = [(each, probe(each)) for each in (leaf, with_keywords)]
    sys.setswitchinterval(1e-5)
    target = ctypes.c_ulong(0)
    state = {"ended": False, "struck": 0, "wrong": 0, "rounds": 0}

    def victim() -> None:
        def call_everything() -> None:
            while not state["ended"]:
                state["rounds"] += 1
                now = state["rounds"]
                state["wrong"] += with_keywords(now, 2, k=3) != now
                state["wrong"] += leaf(now) != now

        def shielded(depth: int) -> None:
            while not state["ended"]:
                try:
                    call_everything() if depth == 0 else shielded(depth - 1)
                except Struck:
                    state["struck"] += 1

        shielded(6)

    def guarded() -> None:
        for _ in range(100):
            try:
                victim()
            except Struck:
                state["struck"] += 1

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    assert thread.ident is not None
    target.value = thread.ident
    until = time.monotonic() + 20
    while not state["rounds"] and time.monotonic() < until:  # before, nobody would catch it
        time.sleep(0.001)
    until = time.monotonic() + STORM_S
    while time.monotonic() < until:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(target, ctypes.py_object(Struck))
        time.sleep(0.0001)
    time.sleep(0.05)
    state["ended"] = True
    thread.join(20)
    assert not thread.is_alive()
    assert state["struck"] > 50 and state["rounds"] > 50, state
    assert state["wrong"] == 0
    assert_still_measured(*probes)
    for _, seen in probes:
        calls, accounted = balance(seen)
        assert abs(calls - accounted) <= state["struck"], (seen.target, calls, accounted, state)


@attack
@pytest.mark.parametrize("kind", ["TimeoutError", "KeyError", "Struck"])
def test_a_timeout_by_signal_reaches_the_application_wherever_it_strikes(kind: str) -> None:
    """`signal.alarm` with a handler that raises is how many programs bound their waiting."""
    failure: type[Exception] = {"TimeoutError": TimeoutError, "KeyError": KeyError, "Struck": Struck}[kind]
    seen = probe(leaf)

    def ring(*_: object) -> None:
        raise failure("too late")

    signal.signal(signal.SIGALRM, ring)
    rounds, struck = 1500, 0
    for index in range(rounds):
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.00002 + index % 37 / 1e6)
            while True:
                leaf(1)
        except failure:
            struck += 1
    assert struck == rounds
    assert_still_measured((leaf, seen))


@attack
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timer on this platform")
def test_signal_handlers_that_call_the_same_functions_keep_the_counts_exact() -> None:
    seen, keyed = probe(leaf), probe(with_keywords)
    state = {"alarms": 0, "rounds": 0, "inside": 0}

    def ring(*_: object) -> None:
        if state["inside"] >= 10:
            return  # a starved machine would nest them up to the recursion limit, where calls of the handler's own fail
        state["inside"] += 1
        state["alarms"] += 1
        leaf(1)
        with_keywords(1, 2, k=4)
        state["inside"] -= 1

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.00005, 0.00005)
    until = time.monotonic() + STORM_S
    while time.monotonic() < until:
        now = state["rounds"] = state["rounds"] + 1
        assert with_keywords(now, 2, k=3, z=5) == now
        assert leaf(now) == now
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert state["alarms"] > 100, state
    expected = state["alarms"] + state["rounds"]
    for each in (seen, keyed):
        assert balance(each) == (expected, expected), (each.target, balance(each), expected, each.skipped)
    assert_still_measured((leaf, seen), (with_keywords, keyed))


@attack
def test_finalisers_that_call_the_same_functions_keep_the_counts_exact() -> None:
    gc.set_threshold(5)
    seen, keyed, streamed = probe(leaf), probe(with_keywords), probe(stream)
    finalised = 0

    class Looped:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            nonlocal finalised
            finalised += 1
            with_keywords(1, 2, k=3, z=4)
            leaf(1)
            next(stream(1))

    rounds = 15_000
    for now in range(rounds):
        Looped()
        assert with_keywords(now, 2, k=3, z=5) == now
        assert leaf(now) == now
        assert next(stream(now)) == now
    gc.set_threshold(700)
    gc.collect()
    assert finalised > rounds // 2
    for each in (seen, keyed, streamed):
        expected = rounds + finalised
        assert balance(each) == (expected, expected), (each.target, balance(each), expected, each.skipped)
    assert_still_measured((leaf, seen), (with_keywords, keyed))
