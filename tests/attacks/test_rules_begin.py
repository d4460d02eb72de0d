"""Rules of what comes before the body: room for it, ranges, who holds the code, `begin` and its tick."""

from __future__ import annotations

import gc
import sys
import weakref
from typing import Any

import pytest

from .arena import IN_CHILD, balance, made, probe
from .rules import ALL, V313, judged, patch, patch_part, rule, start, without


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
            return real({**labels, "asking": labels["range"], "begin": labels["range"]}, base)

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


if not IN_CHILD:
    test_the_rule_holds, test_something_breaks_without_the_rule = judged(__name__)
