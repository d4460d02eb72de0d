"""What nobody may notice of a spliced function, whether its gate is closed, opens, or declines."""

from __future__ import annotations

import inspect
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from autoprof.rewrite import backend, table
from autoprof.rewrite.splice import Unspliceable, splice
from tests.spliced import MODES, Call, Gate, Put, puts


@pytest.fixture(params=MODES)
def put(request: pytest.FixtureRequest) -> Iterator[Put]:
    yield from puts(request.param)


def test_self_test_chooses_the_splice_here() -> None:
    assert backend.choose("auto").name == backend.SPLICE
    assert backend.choose("splice").name == backend.SPLICE
    assert backend.choose("decorate").name == backend.DECORATE
    assert str(table.VERSION[1]) in backend.choose("auto").reason


def test_other_interpreters_get_the_portable_back_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(table, "VERSION", (3, 99))
        assert backend.choose("auto").name == backend.DECORATE
        assert "3.99" in backend.choose("splice").reason
    with monkeypatch.context() as patch:
        patch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
        assert "free-threaded" in backend.choose("auto").reason
    with monkeypatch.context() as patch:
        patch.setattr(backend, "_self_test", lambda: "a wrong result")
        assert backend.choose("auto").reason == "the self-test of the splice failed: a wrong result"

    def broken() -> str:
        raise ValueError("no such opcode")

    with monkeypatch.context() as patch:
        patch.setattr(backend, "_self_test", broken)
        assert "ValueError: no such opcode" in backend.choose("auto").reason


def test_order_of_calls(put: Put) -> None:
    def function(x: int) -> float:
        return 1 / x

    gate = put(function)
    assert function(2) == 0.5
    with pytest.raises(ZeroDivisionError):
        function(0)
    expected = {
        "closed": [],
        "open": ["begin", ("finish", "float"), "begin", ("unwind", "ZeroDivisionError")],
        "declined": ["begin", "begin"],
    }
    assert gate.log == expected[gate.mode]


def test_the_stack_shows_the_function_once(put: Put) -> None:
    def function() -> list[str]:
        names = []
        frame: Any = sys._getframe()
        while frame is not None:
            names.append(frame.f_code.co_name)
            frame = frame.f_back
        return names

    def caller() -> list[str]:
        return function()

    expected = caller()
    put(function, caller)
    assert caller() == expected
    assert sys._getframe().f_code.co_name == "test_the_stack_shows_the_function_once"


def test_inspect_stack_and_current_frames(put: Put) -> None:
    def function() -> Any:
        me = sys._current_frames()[__import__("_thread").get_ident()]
        return [each.function for each in inspect.stack()[:2]], me.f_code.co_name

    expected = function()
    put(function)
    assert function() == expected


def test_tracebacks_are_the_same_text(put: Put) -> None:
    def inner(x: int) -> float:
        return 1 / x

    def outer(x: int) -> float:
        try:
            return inner(x)
        except ZeroDivisionError as error:
            raise RuntimeError("outer") from error

    def text() -> str:
        try:
            outer(0)
        except RuntimeError:
            return traceback.format_exc()
        return ""

    expected = text()
    put(inner, outer)
    assert text() == expected


def test_exception_state_is_clean_afterwards(put: Put) -> None:
    def function() -> None:
        raise KeyError("x")

    def state_inside() -> Any:
        return sys.exc_info()[1]

    put(function, state_inside)
    try:
        function()
    except KeyError as error:
        kept = error
        assert state_inside() is error
    assert sys.exc_info() == (None, None, None)
    assert kept.__context__ is None and kept.__cause__ is None
    assert state_inside() is None


def test_context_of_exceptions(put: Put) -> None:
    def function() -> None:
        raise KeyError("x")

    put(function)
    try:
        try:
            raise ValueError("first")
        except ValueError:
            function()
    except KeyError as error:
        assert isinstance(error.__context__, ValueError)
        assert error.__context__.__context__ is None


def test_warnings_point_at_the_caller(put: Put) -> None:
    def function() -> None:
        warnings.warn("here", stacklevel=2)

    put(function)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
        line = sys._getframe().f_lineno - 1
    assert (caught[0].filename, caught[0].lineno) == (__file__, line)


def test_a_second_gate_is_refused(put: Put) -> None:
    """Several probes stand behind one gate; code with two of them could not tell whose tick is whose."""

    def function(a: int, *, b: int = 1) -> int:
        return a + b

    put(function)
    with pytest.raises(Unspliceable, match="first instruction"):
        put(function)
    assert function(1, b=5) == 6


def test_recursion_limit_is_met_in_the_body(put: Put) -> None:
    def down(n: int) -> int:
        return down(n + 1)

    gate = put(down)
    with pytest.raises(RecursionError):
        down(0)
    entered = gate.log.count("begin")
    assert gate.mode == "closed" or entered > 50
    assert (
        sum(each != "begin" for each in gate.log) == (entered if gate.mode == "open" else 0) or entered > 50
    )


@pytest.mark.parametrize("free", [0, 1, 12, 300])
@pytest.mark.parametrize("count", [0, 1, 10, 300])
def test_sizes(put: Put, count: int, free: int) -> None:
    arguments = [f"a{i}" for i in range(count)]
    keywords = [f"k{i}" for i in range(count)]
    variables = [f"v{i}" for i in range(free)]
    source = "\n".join(
        [
            "def make():",
            *(f"    {name} = {i}" for i, name in enumerate(variables)),
            f"    def positional({', '.join(arguments)}): return [{', '.join(arguments + variables)}]",
            f"    def keyword({', '.join(['*', *keywords] if keywords else [])}):",
            f"        return [{', '.join(keywords + variables)}]",
            f"    def both({', '.join([*arguments, '*rest', *keywords, '**more'])}):",
            f"        return [{', '.join([*arguments, *keywords, *variables])}], rest, more",
            "    return positional, keyword, both",
        ]
    )
    scope: dict[str, Any] = {}
    exec(source, scope)
    positional, keyword, both = scope["make"]()
    put(positional, keyword, both)
    numbers = list(range(count))
    values = list(range(free))
    named = dict(zip(keywords, numbers, strict=True))
    assert positional(*numbers) == numbers + values
    assert keyword(**named) == numbers + values
    assert both(*numbers, "x", **named, y=1) == (numbers * 2 + values, ("x",), {"y": 1})


def test_many_constants_and_names(put: Put) -> None:
    lines = ["def function():", "    import types; o = types.SimpleNamespace(); out = []"]
    lines += [f"    o.n{i} = {i}.5; out.append(o.n{i})" for i in range(2_000)]
    scope: dict[str, Any] = {}
    exec("\n".join([*lines, "    return out"]), scope)
    put(scope["function"])
    assert scope["function"]() == [i + 0.5 for i in range(2_000)]


def test_errors_of_finish_and_unwind_reach_the_caller_safely(put: Put) -> None:
    def function(x: int) -> float:
        return 1 / x

    gate = put(function)

    def interrupt(call: Call, what: object) -> None:
        raise KeyboardInterrupt

    gate.finish = gate.unwind = interrupt
    for _ in range(100):
        if gate.mode == "open":
            with pytest.raises(KeyboardInterrupt):
                function(1)
            with pytest.raises(KeyboardInterrupt):
                function(0)
        else:
            assert function(1) == 1
    assert sys.exc_info() == (None, None, None)


def test_a_dead_code_reference_declines(put: Put) -> None:
    def function() -> int:
        return 1

    gate = put(function)
    gate.begin = lambda gate: None  # what begin gives when gate.code() is None
    assert function() == 1


@pytest.mark.skipif(not hasattr(sys, "settrace"), reason="no settrace")
def test_a_closed_gate_shows_no_event() -> None:
    def function(n: int) -> int:
        total = 0
        for i in range(n):
            total += i
        return total

    def events() -> list[tuple[str, int]]:
        seen: list[tuple[str, int]] = []

        def trace(frame: Any, event: str, argument: Any) -> Any:
            if frame.f_code.co_name == "function":
                seen.append((event, frame.f_lineno))
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            function(3)
        finally:
            sys.settrace(before)
        return seen

    expected = events()
    gate = Gate("closed")
    code = splice(function.__code__, gate)
    function.__code__ = code
    assert events() == expected


def test_splicing_is_pure() -> None:
    def function(a: int) -> int:
        return a

    code = function.__code__
    before = code.co_code, code.co_consts, code.co_names, code.co_exceptiontable
    gate = Gate("open")
    new = splice(code, gate)
    assert new is not code
    assert (code.co_code, code.co_consts, code.co_names, code.co_exceptiontable) == before
    assert function(1) == 1 and not gate.log
    assert new.co_consts[len(code.co_consts)] is gate
