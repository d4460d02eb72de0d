"""Rules of the code that is made, and of who else looks at it or at its frames."""

from __future__ import annotations

import gc
import sys
from typing import Any

import pytest

from .arena import IN_CHILD, made, probe
from .rules import ALL, V311, judged, patch, patch_part, rule, start


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

    from autoprof.inline import InlineGate

    if broken:
        patch(InlineGate, "__reduce__", lambda self: (InlineGate, (None, None, None)))

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


if not IN_CHILD:
    test_the_rule_holds, test_something_breaks_without_the_rule = judged(__name__)
