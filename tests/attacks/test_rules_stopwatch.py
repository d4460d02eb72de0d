"""Rules of the stopwatch in the body."""

from __future__ import annotations

import weakref
from typing import Any

from .arena import IN_CHILD
from .rules import ALL, V311, judged, patch, rule, start


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
    test_the_rule_holds, test_something_breaks_without_the_rule = judged(__name__)
