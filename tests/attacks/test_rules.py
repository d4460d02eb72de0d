"""What a sound prologue needs: each rule is taken out, and something must break.

A rule is a function with one argument: whether the rule is broken. Each runs in a child as it is, where it must
pass, and broken, where it must crash the interpreter or fail an assertion. A rule that makes no difference any more
is one that can go, or one that nothing watches over. The numbers are those of the design.
"""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from .arena import IN_CHILD, balance, made, probe, send

VERSION = sys.version_info[:2]
V311, V312, V313 = (3, 11), (3, 12), (3, 13)
ALL = (V311, V312, V313)

Rule = Callable[[bool], None]
RULES: dict[str, tuple[tuple[tuple[int, int], ...], str]] = {}


def rule(*shown_on: tuple[int, int], why_not: str = "") -> Callable[[Rule], Rule]:
    """Register a rule: the versions its lack is seen on, and why not on the others."""

    def register(function: Rule) -> Rule:
        assert set(shown_on) == set(ALL) or why_not
        RULES[function.__name__] = shown_on, why_not
        return function

    return register


def patch(place: Any, name: str, value: Any) -> None:
    """Replace what is there; a rule whose place has moved must be looked for, not passed over."""
    from autoprof.rewrite import splice, stopwatch

    assert hasattr(place, name), f"{place} has no {name} any more"
    setattr(place, name, value)
    splice._templates.clear()
    splice._fronts.clear()
    stopwatch._pieces.clear()


def without(part: list[Any], *dropped: Any) -> list[Any]:
    """Return instructions less the given ones; a call of an opcode's name drops every such."""
    left = [each for each in part if each not in dropped and each[0] not in dropped]
    assert len(left) < len(part)
    return left


def patch_part(name: str, change: Callable[[list[Any]], list[Any]]) -> None:
    """Replace one part of the prologue by what `change` makes of it."""
    from autoprof.rewrite import prologue

    real = getattr(prologue._Writer, name)
    patch(prologue._Writer, name, lambda self: change(real(self)))


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


def start() -> None:
    """Have the session's self-test over before anything is broken."""

    def nothing() -> None:
        pass

    probe(nothing)


@rule(*ALL)
def r1_stack_size_counts_cells(broken: bool) -> None:
    from autoprof.rewrite import prologue

    start()
    if broken:
        patch(prologue._Shape, "stack_need", lambda self: 12)
    cells = "".join(f" v{index} = {index}\n" for index in range(200))
    total = "+".join(f"v{index}" for index in range(200))
    source = f"def outer():\n{cells} def f(a):\n  if a < 0: return {total}\n  return a\n return f\n"
    function = made(source, "outer")()
    probe(function)

    def deep(levels: int) -> Any:
        return function(3) if levels == 0 else deep(levels - 1)

    sys.setrecursionlimit(4000)
    for levels in range(1500):
        assert deep(levels) == 3


@rule(V313, why_not="3.11 and 3.12 look the handler up at the call itself")
def r2_no_call_starts_an_exception_range(broken: bool) -> None:
    def start_at_call(part: list[Any]) -> list[Any]:
        labels = [each for each in part if each[0] == "label"]
        rest = [each for each in part if each[0] != "label"]
        index = next(index for index, each in enumerate(rest) if each[0] in ("PRECALL", "CALL"))
        return [labels[0], *rest[:index], ("label", "range"), *rest[index:-2], labels[1], *rest[-2:]]

    start()
    if broken:
        from autoprof.rewrite import splice

        patch_part("begin", start_at_call)
        real = splice._exception_entries

        def entries(labels: dict[str, int], base: int) -> Any:
            return real({**labels, "watching": labels["range"], "begin": labels["range"]}, base)

        patch(splice, "_exception_entries", entries)

    def leaf(x: int) -> int:
        return x

    def deep(levels: int) -> Any:
        return leaf(3) if levels == 0 else deep(levels - 1)

    def depths() -> list[int]:
        reached = []
        for levels in range(300):
            try:
                reached.append(deep(levels))
            except RecursionError:
                break
        return reached

    sys.setrecursionlimit(250)
    depths()
    plain = depths()
    probe(leaf)
    assert depths() == plain


@rule(*ALL)
def r2_the_range_covers_finish(broken: bool) -> None:

    start()
    if broken:
        patch_part(
            "finish", lambda part: [("NOP", 0), ("label", "tried"), *without(part, ("label", "tried"))]
        )

    def leaf(x: int) -> int:
        return x

    seen = probe(leaf)
    leaf(1)
    (gate,) = seen.gates

    def interrupted(call: Any, result: Any) -> None:
        raise KeyboardInterrupt

    from autoprof import ends

    gate.finish = interrupted
    for _ in range(20):
        with pytest.raises(KeyboardInterrupt):
            leaf(1)
    gate.finish = ends.finish
    assert leaf(5) == 5
    assert seen.profiled == 22 and not seen.busy, (seen.profiled, seen.busy)


@rule(*ALL)
def r3_the_gate_holds_its_code_weakly(broken: bool) -> None:
    import autoprof

    references = []
    for _ in range(20):
        function = made("def f(x): return x", "f")
        seen = probe(function)
        if broken:
            code = function.__code__
            seen.gates[0].code = lambda code=code: code
            del code
        function(1)
        references.append(weakref.ref(function.__code__))
        del function, seen
    autoprof.stop()
    gc.collect()
    assert not any(each() for each in references)


@rule(*ALL)
def r3_the_open_call_holds_the_code(broken: bool) -> None:
    """`p.code` is a strong reference taken by `begin`: MAKE_FUNCTION does not check what it gets."""
    from autoprof import calls

    start()
    if broken:
        real = calls._take_off

        def forgetful(*arguments: Any) -> Any:
            call = real(*arguments)
            assert call is not None
            call.code = None  # type: ignore[assignment]
            return call

        patch(calls, "_take_off", forgetful)

    def leaf(x: int) -> int:
        return x

    probe(leaf)
    assert leaf(1) == 1


@rule(*ALL)
def r3_begin_declines_when_the_code_is_dead(broken: bool) -> None:
    from autoprof import calls

    start()
    if broken:
        patch(calls, "_code_to_run", lambda gate: 0)

    def leaf(x: int) -> int:
        return x

    seen = probe(leaf)
    leaf(1)
    seen.gates[0].code = weakref.ref(made("def gone(): pass", "gone").__code__)
    seen.gates[0].owner = None
    gc.collect()
    assert leaf(1) == 1
    assert seen.skipped == {"error": 1}


def stampede(function: Any, calls: int) -> None:
    import threading

    def run() -> None:
        for index in range(calls):
            assert function(index) == index

    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=run) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


@rule(*ALL)
def r4_begin_is_a_plain_function(broken: bool) -> None:
    """After an object's `__call__` the interpreter looks for another thread to run, and the tick is gone."""
    from autoprof import calls

    class Begin:
        def __call__(self, gate: Any) -> Any:
            return calls.begin(gate, 3)

    def leaf(x: int) -> int:
        return x

    seen = probe(leaf)
    leaf(0)
    if broken:
        seen.gates[0].begin = Begin()
    stampede(leaf, 30_000)
    assert balance(seen) == (240_001, 240_001)
    assert seen.profiled == 240_001, (seen.profiled, seen.skipped)


@rule(*ALL)
def r4_begin_gives_the_tick_last(broken: bool) -> None:
    from autoprof import calls

    def early(gate: Any) -> Any:
        call = calls.begin(gate)
        sorted((3, 1, 2))  # after a call in C threads may switch
        return call

    def leaf(x: int) -> int:
        return x

    seen = probe(leaf)
    leaf(0)
    if broken:
        seen.gates[0].begin = early
    stampede(leaf, 30_000)
    assert seen.profiled == 240_001, (seen.profiled, seen.skipped)


@rule(*ALL)
def r4_recursion_errors_of_begin_mean_body_in_place(broken: bool) -> None:
    def leaf(x: int) -> int:
        return x

    def deep(levels: int) -> Any:
        return leaf(3) if levels == 0 else deep(levels - 1)

    def reached() -> int:
        for levels in range(300):
            try:
                deep(levels)
            except RecursionError:
                return levels
        raise AssertionError

    sys.setrecursionlimit(250)
    reached()
    plain = reached()
    seen = probe(leaf)
    if broken:
        seen.gates[0].caught = ()
    assert reached() == plain


@rule(*ALL)
def r4_begin_may_decline(broken: bool) -> None:
    start()
    if broken:
        from autoprof.rewrite import table

        patch_part("begin", lambda part: without(part, ("COPY", 1), table.JUMP_IF_NONE))

    def recursive(n: int) -> int:
        return 0 if n == 0 else 1 + recursive(n - 1)

    seen = probe(recursive)
    assert recursive(5) == 5
    assert balance(seen) == (6, 6)


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


@rule(*ALL)
def the_inner_call_runs_the_functions_own_code(broken: bool) -> None:
    from autoprof import calls

    start()
    if broken:
        patch(calls, "_code_to_run", lambda gate: gate.original)

    def asked() -> Any:
        return sys._getframe().f_code

    probe(asked)
    assert asked() is asked.__code__


@rule(*ALL)
def the_handler_leaves_no_handled_exception(broken: bool) -> None:
    start()
    if broken:
        patch_part("unwind", lambda part: [("NOP", 0) if each[0] == "POP_EXCEPT" else each for each in part])

    def failing() -> None:
        raise LookupError

    probe(failing)
    for _ in range(3):
        try:
            failing()
        except LookupError:
            pass
        assert sys.exc_info() == (None, None, None)


@rule(*ALL)
def copy_free_vars_runs_first_and_once(broken: bool) -> None:
    from autoprof.rewrite import splice

    start()
    if broken:
        patch(splice, "_prefix_units", lambda raw, code: 0)
    function = made("def outer(q):\n def f(a): return a + q\n return f\nf = outer(1)", "f")
    cell = function.__closure__[0]
    probe(function)
    function(1)
    held = sys.getrefcount(cell)
    for _ in range(200):
        assert function(1) == 2
    assert sys.getrefcount(cell) == held


@rule(*ALL)
def the_bodys_exception_table_moves(broken: bool) -> None:
    from autoprof.rewrite import splice

    start()
    if broken:
        patch(splice, "parse_exception_table", lambda table: [])

    def handled(x: int) -> Any:
        try:
            return 1 // x
        except ZeroDivisionError:
            return "handled"

    probe(handled)
    assert handled(0) == "handled"


@rule(*ALL)
def the_prologue_has_no_line(broken: bool) -> None:
    from autoprof.rewrite import splice

    start()
    if broken:
        # One entry of the kind "same column, line + 1" for each eight units.
        patch(splice, "blank_locations", lambda units: b"\xef\x02" * (units // 8) + b"\xef\x02")

    def lined(x: int) -> int:
        y = x
        return y

    before = {line for *_, line in lined.__code__.co_lines() if line}
    probe(lined)
    assert {line for *_, line in lined.__code__.co_lines() if line} == before


@rule(*ALL)
def a_tracer_is_asked_for_before_begin(broken: bool) -> None:
    from itertools import repeat

    from autoprof import gate as gates

    start()
    if broken:
        patch(gates.Gate, "watch", repeat(False))

    def leaf(x: int) -> int:
        return x

    probe(leaf)
    leaf(1)
    names = []

    def trace(frame: Any, event: str, argument: Any) -> None:
        names.append(frame.f_code.co_name)

    sys.settrace(trace)
    try:
        leaf(1)
    finally:
        sys.settrace(None)
    assert names == ["leaf"]


@rule(*ALL)
def a_gate_travels_as_something_of_the_standard_library(broken: bool) -> None:
    import pickle

    from autoprof.gate import Gate

    if broken:
        patch(Gate, "__reduce__", lambda self: (Gate, (None, None, None)))

    def leaf(x: int) -> int:
        return x

    seen = probe(leaf)
    assert b"autoprof" not in pickle.dumps(seen.gates[0])


@rule(*ALL)
def a_generator_is_not_made_in_place_when_its_code_was_taken_off(broken: bool) -> None:
    """RETURN_GENERATOR makes room by the function's code, which another thread has exchanged meanwhile."""
    from autoprof import calls, declining, live

    if broken:
        patch(declining, "in_place", lambda gate: None)
    undecided = calls._why_not
    kept = []
    for _ in range(400):
        stream = made("def stream(n):\n    yield n\n    yield n\n", "stream")
        probe(stream)
        assert list(stream(1)) == [1, 1]

        def taken_off(*_: Any, function: Any = stream) -> str:
            assert live.restore([function]) == 1
            return "nested"

        calls._why_not = taken_off
        try:
            kept.append(stream(2))
        finally:
            calls._why_not = undecided
        kept.append([next(kept[-1])])
    for each in kept[::2]:
        with pytest.raises(KeyError):
            each.throw(KeyError)  # the handler behind the body needs the room
        gc.collect(0)
    kept.clear()
    gc.collect()


@rule(V311, why_not="from 3.12 on nothing is collected in the middle of an instruction")
def frames_of_other_threads_are_read_without_a_collection(broken: bool) -> None:
    import threading
    import time

    from autoprof import sampler

    if broken:
        patch(sampler, "COLLECTS_WHILE_ALLOCATING", False)

    class Cycle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            time.sleep(0)  # lets the other threads run

    def deep(n: int) -> int:
        return deep(n - 1) if n else 3

    seen = probe(deep)
    deep(1)
    sys.setswitchinterval(1e-5)
    until = time.monotonic() + 4
    wrong: list[BaseException] = []

    def work(me: int) -> None:
        try:
            while time.monotonic() < until:
                assert deep(15 + me) == 3
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(me,)) for me in range(4)]
    for each in threads:
        each.start()
    while time.monotonic() < until:
        for _ in range(3):
            Cycle()
        gc.set_threshold(20)  # fewer than the frames that a look makes objects of
        sampler.recorder.tick(True)
        gc.set_threshold(1_000_000)
        time.sleep(0.0002)
    for each in threads:
        each.join()
    assert not wrong and seen.profiled


def _timed(function: Any, slow: Any = None, threshold_s: float = 0.0) -> Any:
    from autoprof import gate as gates
    from autoprof.rewrite.splice import splice

    def begin(gate: Any) -> None:
        gate.close()
        gate.time_calls(True)

    def ignore(*_: Any) -> None:
        return None

    gate = gates.TimedGate(begin, ignore, ignore, slow or ignore, slow or ignore)
    gate.threshold = threshold_s
    code = splice(function.__code__, gate)
    gate.code = weakref.ref(code)
    function.__code__ = code
    return gate


@rule(V311, why_not="from 3.12 on C code has a recursion limit of its own")
def the_stopwatch_starts_at_the_recursion_limit(broken: bool) -> None:
    from autoprof.rewrite import stopwatch

    start()

    def leaf(n: int) -> int:
        return n

    def down(n: int) -> int:
        try:
            return down(n + 1)
        except RecursionError:
            return leaf(n)

    plain = down(0)
    gate = _timed(leaf, threshold_s=100.0)
    leaf(1)
    if broken:
        gate.caught = ()
    assert stopwatch and down(0) == plain


@rule(*ALL)
def a_slow_call_that_cannot_be_told_goes_on(broken: bool) -> None:
    def slow(*_: Any) -> None:
        raise RecursionError

    def leaf(n: int) -> int:
        return n

    gate = _timed(leaf, slow)
    if broken:
        gate.caught = ()
    assert leaf(1) == 1 and leaf(2) == 2


@rule(*ALL)
def what_the_body_has_on_its_stack_stands_on_the_time_of_entry(broken: bool) -> None:
    from autoprof.rewrite import stopwatch

    start()
    if broken:
        real = stopwatch.move_entries
        patch(stopwatch, "move_entries", lambda entries, places, deeper: real(entries, places, 0))

    def looping(n: int) -> list[int]:
        found = []
        for each in range(n):
            try:
                found.append(1 // (each % 3))
            except ZeroDivisionError:
                found.append(-1)
        return found

    plain = looping(30)
    gate = _timed(looping, threshold_s=100.0)
    assert looping(30) == looping(30) == plain
    assert 0 < gate.total < 100


@rule(*ALL)
def the_lines_of_a_timed_body_move(broken: bool) -> None:
    from autoprof.rewrite import stopwatch

    start()
    if broken:
        patch(stopwatch, "stretch_locations", lambda table, insertions: table)

    def failing(n: int) -> int:
        if n == 1:
            return n
        if n == 2:
            return -n
        raise KeyError(n)

    def line() -> int:
        try:
            failing(3)
        except KeyError as error:
            assert error.__traceback__ is not None and error.__traceback__.tb_next is not None
            return error.__traceback__.tb_next.tb_lineno
        return 0

    plain = line()
    _timed(failing, threshold_s=100.0)
    assert line() == line() == plain


if not IN_CHILD:

    @pytest.mark.parametrize("name", sorted(RULES))
    def test_the_rule_holds(name: str) -> None:
        outcome = send(__name__, name, {"broken": False})
        assert outcome.status == 0, outcome.tell()

    @pytest.mark.parametrize("name", sorted(RULES))
    def test_something_breaks_without_the_rule(name: str) -> None:
        shown_on, why_not = RULES[name]
        if VERSION not in shown_on:
            pytest.skip(f"not seen on this version: {why_not}")
        outcome = send(__name__, name, {"broken": True})
        # A failure of the test's own making (a name that has moved) is none of the rule's.
        own = any(each in outcome.errors for each in ("any more", "ImportError", "NameError: "))
        assert (outcome.crashed or outcome.status == 1) and not own, outcome.tell()
