"""Nothing lives longer for having been measured, and nothing dies earlier."""

from __future__ import annotations

import gc
import sys
import weakref
from typing import Any

import pytest

from .arena import attack, made, probe, unprobe

MANY = 1500


class Thing:
    pass


def alive(references: list[Any]) -> int:
    gc.collect()
    gc.collect()
    return sum(each() is not None for each in references)


@attack
@pytest.mark.parametrize("end", ["restored", "dropped", "nested"])
def test_gates_and_code_die_with_their_functions(end: str) -> None:
    """A gate that held its code would be a cycle through a code object: out of the collector's sight for ever."""
    import autoprof
    from autoprof import session

    references: list[Any] = []
    for index in range(MANY):
        source = "def f(x):\n y = x + 1\n def g(): return y\n return g\n"
        function = made(source, "f")
        seen = probe(function)
        if index == 0:
            function(1)
        references += [weakref.ref(function.__code__), weakref.ref(seen.gates[0])]
        for _ in range(3):
            function(1)
        if end == "restored":
            unprobe(function)
        if end == "nested":
            inner = function(2)
            probe(inner)
            assert inner() == 3 == inner()
            references.append(weakref.ref(inner.__code__))
            del inner
        del function, seen
    # Probes keep their gates for their counts, as long as the session lasts.
    assert session.current is not None
    autoprof.stop()
    assert alive(references) == 0, (alive(references), len(references))


@attack
def test_a_dead_code_reference_declines() -> None:
    """Somebody keeps an old frame's code running after the function got its own code back."""

    def stream(n: int) -> Any:
        yield n
        yield n + 1

    probe(stream)
    running = stream(5)
    assert next(running) == 5
    unprobe(stream)
    gc.collect()
    assert list(running) == [6] and list(stream(1)) == [1, 2]

    def recursive(n: int) -> int:
        if n == 3:
            unprobe(function)
            gc.collect()
        return n if n == 0 else function(n - 1)

    function = recursive
    seen = probe(function)
    assert recursive(6) == 0
    assert recursive(2) == 0
    assert seen.profiled == 1


@attack
def test_arguments_die_when_the_body_lets_go_of_them() -> None:
    def positional(a: Any) -> bool:
        reference = weakref.ref(a)
        del a
        return reference() is None

    def keyword(*, k: Any) -> bool:
        reference = weakref.ref(k)
        del k
        return reference() is None

    def star(*rest: Any) -> bool:
        reference = weakref.ref(rest[0])
        del rest
        return reference() is None

    def starstar(**more: Any) -> bool:
        reference = weakref.ref(more["k"])
        more.clear()
        return reference() is None

    def celled(a: Any) -> bool:
        def inner() -> Any:
            return a

        reference = weakref.ref(inner())
        a = None
        return reference() is None

    def generator(a: Any) -> Any:
        reference = weakref.ref(a)
        del a
        yield reference() is None

    async def coroutine(a: Any) -> bool:
        reference = weakref.ref(a)
        del a
        return reference() is None

    def run(made_: Any) -> bool:
        try:
            made_.send(None)
        except StopIteration as stopped:
            return bool(stopped.value)
        raise AssertionError

    # A call with `*` or `**` makes its tuple and dict anew on both sides, so these objects are all there is.
    cases: list[tuple[Any, Any]] = [
        (positional, lambda: positional(Thing())),
        (keyword, lambda: keyword(k=Thing())),
        (celled, lambda: celled(Thing())),
        (star, lambda: star(Thing())),
        (starstar, lambda: starstar(k=Thing())),
        (generator, lambda: next(generator(Thing()))),
        (coroutine, lambda: run(coroutine(Thing()))),
    ]
    for function, call in cases:
        plain = call()
        seen = probe(function)
        assert plain, function.__name__
        # A limit on 3.11: CALL_FUNCTION_EX holds the tuple until a measured call is over.
        held = sys.version_info < (3, 12) and function in (star, starstar)
        for _ in range(3):
            assert call() is not held, function.__name__
        assert seen.profiled == 3


@attack
def test_results_exceptions_and_arguments_are_not_kept() -> None:
    def give(thing: Any) -> Any:
        return thing

    def take(thing: Any) -> None:
        raise LookupError(thing)

    def stream(thing: Any) -> Any:
        yield thing

    for function in (give, take, stream):
        probe(function)
    references = []
    for _ in range(50):
        thing = Thing()
        references.append(weakref.ref(thing))
        give(thing)
        next(stream(thing))
        try:
            take(thing)
        except LookupError:
            pass
        del thing
    gc.collect()
    assert alive(references) == 0


@attack
def test_reference_counts_stay_where_they_are() -> None:
    """COPY_FREE_VARS executed twice, or arguments loaded and not cleared, would leak a reference a call."""
    from autoprof.sampler import recorder

    thing = Thing()

    def outer() -> Any:
        cell = thing

        def closed(a: Any, *rest: Any, k: Any = None, **more: Any) -> Any:
            return cell, a, rest, k, more

        def stream(a: Any) -> Any:
            yield cell, a

        return closed, stream

    closed, stream = outer()
    probe(closed)
    probe(stream)
    recorder.interval_ns = 10_000_000_000  # its table of names holds code objects for a while
    tracked = [thing, closed, stream, closed.__closure__[0], closed.__code__, stream.__code__]

    def calls() -> None:
        for _ in range(500):
            closed(thing, thing, k=thing, z=thing)
            list(stream(thing))

    calls()
    gc.collect()
    before = [sys.getrefcount(each) for each in tracked]
    calls()
    gc.collect()
    after = [sys.getrefcount(each) for each in tracked]
    assert after == before, (before, after)


@attack
def test_thousands_of_live_splices_leave_calls_as_fast() -> None:
    import time

    def function(x: int) -> int:
        return x

    def beside(x: int) -> int:
        return x

    def ratio() -> float:
        """Return the function's time in that of one nobody splices: by turns, the best of each, in processor time."""
        best = {function: 1e9, beside: 1e9}
        for _ in range(20):
            for each in best:
                began = time.thread_time()
                for index in range(5_000):
                    each(index)
                best[each] = min(best[each], time.thread_time() - began)
        return best[function] / best[beside]

    def cycle(count: int) -> None:
        for _ in range(count):
            probe(function, rate=0.0)
            function(1)
            unprobe(function)

    # One assignment of `__code__` ends specialisation on 3.13 and later (see test_specialisation): compare after it.
    cycle(1)
    first = ratio()
    cycle(2000)
    # Growth would be with the number of splices: it stays.
    assert any(ratio() < 2 * first for _ in range(3))
