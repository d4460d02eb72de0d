"""Rules of the call of the body: its arguments, its frame, its one end, and memory that runs out."""

from __future__ import annotations

import gc
import sys
import weakref
from typing import Any

import pytest

from .arena import IN_CHILD, made, probe
from .rules import ALL, V311, V312, V313, judged, patch, rule, start


class OpenGate:
    """A gate that opens for every call, nested ones too."""

    def __init__(self) -> None:
        from itertools import repeat

        from autoprof.rewrite.backend import _TrialGate

        trial = _TrialGate()
        self.__dict__.update({name: getattr(trial, name) for name in trial.__slots__})
        self.watch, self.missed = repeat(False), repeat(True)

    def on(self, function: Any) -> Any:
        from autoprof.rewrite.splice import splice

        code = splice(function.__code__, self)
        self.code = code
        function.__code__ = code
        return function


@rule(V311, why_not="from 3.12 on CALL_FUNCTION_EX does not recurse in C")
def r5_keyword_only_arguments_need_no_c_stack(broken: bool) -> None:
    from autoprof.rewrite import prologue

    if broken:
        patch(prologue._Shape, "needs_keyword_names", lambda self: False)
        patch(prologue._Writer, "inner_call", prologue._Writer.inner_call_with_stars)
    function = made("def f(n, *, k):\n return f(n - 1, k=k) if n else k\n", "f")
    sys.setrecursionlimit(200_000)
    OpenGate().on(function)
    assert function(30_000, k=5) == 5


@rule(*ALL)
def r6_arguments_are_handed_over(broken: bool) -> None:
    from autoprof.rewrite import table

    start()
    if broken:
        patch(table, "take_local", lambda index: [("LOAD_FAST", index)])

    class Thing:
        pass

    def lets_go(thing: Any) -> bool:
        reference = weakref.ref(thing)
        del thing
        return reference() is None

    probe(lets_go)
    assert lets_go(Thing())


@rule(*ALL)
def r6_jumps_and_operands_of_any_length(broken: bool) -> None:
    from autoprof.rewrite import assemble

    start()
    if broken:
        patch(assemble, "_argument_units", lambda argument: 1)
    names = ", ".join(f"a{index}" for index in range(1000))
    function = made(f"def f({names}): return [{names}]", "f")
    seen = probe(function)
    assert function(*range(1000)) == list(range(1000))
    assert seen.profiled == 1


@rule(V311, why_not="only there a C call's event makes a frame object that RETURN_GENERATOR leaves behind")
def r7_no_c_call_in_a_generators_prologue(broken: bool) -> None:
    from autoprof import gate as gates
    from autoprof.rewrite import prologue, table

    start()
    if broken:
        patch(gates.Gate, "watch", sys.gettrace)

        def watch(self: Any) -> Any:
            load = table.callee(self.gate(), self.attribute(prologue._WATCH))
            return [*load, *table.call(0), ("POP_TOP", 0), ("JUMP_FORWARD", "count_now"), *counted(self)]

        def counted(self: Any) -> Any:
            # Declines in place: what an inline check would do under a profiler.
            return [
                ("label", "count_now"),
                self.gate(),
                self.attribute(prologue._TRACED),
                ("JUMP_FORWARD", "count"),
            ]

        patch(prologue._Writer, "watch", watch)

    def tagged(n: int, tag: str) -> Any:
        for each in range(n):
            pair = (tag, each)
            yield pair

    def trash(levels: int) -> Any:
        return levels if levels == 0 else [1, 2, 3, trash(levels - 1)]

    bad = []
    names: list[str] = []

    def check(frame: Any, event: str, argument: Any) -> None:
        names.append(frame.f_code.co_name)
        if frame.f_code.co_name == "tagged" and frame.f_locals.get("tag") != "T":
            bad.append(event)

    def run() -> int:
        kept = []
        names.clear()
        sys.setprofile(check)
        try:
            for _ in range(200):
                generator = tagged(5, "T")
                trash(5)
                next(generator)
                frame = generator.gi_frame
                trash(6)
                assert frame.f_code.co_name == "tagged" and frame.f_locals.get("tag") == "T"
                kept.append(generator)
            gc.collect()
            for each in kept:
                assert list(each) == [("T", number) for number in range(1, 5)]
        finally:
            sys.setprofile(None)
        return names.count("tagged")

    plain = run()
    probe(tagged)
    assert run() == plain and not bad


@rule(*ALL)
def r8_an_open_call_ends_once(broken: bool) -> None:

    def leaf(x: int) -> int:
        return x

    seen = probe(leaf)
    leaf(1)
    (gate,) = seen.gates

    from autoprof import ends

    def interrupted_at_its_end(call: Any, result: Any) -> None:
        ends.finish(call, result)
        if broken:
            call.done = False
        raise KeyboardInterrupt

    gate.finish = interrupted_at_its_end
    for _ in range(20):
        with pytest.raises(KeyboardInterrupt):
            leaf(1)
    assert seen.profiled == 21, seen.profiled


@rule(V312, V313, why_not="MAKE_FUNCTION of 3.11 gives its code object back once")
def r9_no_memory_for_the_inner_function(broken: bool) -> None:
    _testcapi = pytest.importorskip("_testcapi")
    from autoprof import guard
    from autoprof.flusher import Flusher
    from autoprof.rewrite import table

    Flusher.start = lambda self: None  # type: ignore[method-assign]
    start()
    if broken:
        patch(table, "MAKE_FUNCTION_OVERDRAWS", False)
    function = made("def outer(q=1):\n def f(a, *, k=2): return [a, q]\n return f\nf = outer()", "f")
    probe(function)
    for _ in range(4):
        function(1)
    held = sys.getrefcount(function.__code__)
    for start_at in range(90):
        _testcapi.set_nomemory(start_at, start_at + 1)
        try:
            function(1)
        except MemoryError:
            pass
        finally:
            _testcapi.remove_mem_hooks()
        assert sys.getrefcount(function.__code__) >= held, start_at
        assert function(1) == [1, 1]
    guard.internal_errors.clear()  # a MemoryError in `finish` is one


if not IN_CHILD:
    test_the_rule_holds, test_something_breaks_without_the_rule = judged(__name__)
