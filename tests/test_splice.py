"""What nobody may notice of a spliced function, whether its gate is closed, opens, or declines."""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
import traceback
import types
import warnings
import weakref
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

import pytest

from autoprof.rewrite import backend, table
from autoprof.rewrite.splice import Unspliceable, splice

WEBASSEMBLY = sys.platform == "emscripten"


class Call:
    __slots__ = ("code", "function", "gate")

    code: Any
    function: Any
    gate: Any


class Gate:
    """A gate that always opens, never opens, or opens and declines; notes what is asked of it."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.log: list[Any] = []
        self.code: Any = None
        self.ticks: Any = repeat(True, 0 if mode != "closed" else sys.maxsize >> 1)
        self.caught = (RecursionError, MemoryError)
        self.missed: Any = repeat(True, 99)
        self.traced: Any = repeat(True, 99)
        self.watch: Any = repeat(False)
        self.begin, self.finish, self.unwind, self.raised = _begin, _finish, _unwind, None


def _begin(gate: Gate) -> Call | None:
    gate.log.append("begin")
    if gate.mode == "declined":
        return None
    call = Call()
    call.code = gate.code()
    call.gate = gate
    gate.ticks = repeat(True, 1)
    return call


def _finish(call: Call, result: object) -> None:
    call.gate.log.append(("finish", type(result).__name__))


def _unwind(call: Call, error: BaseException) -> None:
    call.gate.log.append(("unwind", type(error).__name__))


MODES = ("closed", "open", "declined")
Put = Callable[..., Gate]


@pytest.fixture(params=MODES)
def put(request: pytest.FixtureRequest) -> Iterator[Put]:
    """Return a function that puts a gate of this mode in front of functions; gives the last gate."""
    kept = []

    def put_before(*functions: Any) -> Gate:
        for function in functions:
            gate = Gate(request.param)
            code = splice(function.__code__, gate)
            gate.code = weakref.ref(code)
            function.__code__ = code
            kept.append(code)
        return gate

    yield put_before


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


def test_arguments_die_when_the_body_drops_them(put: Put) -> None:
    class Thing:
        pass

    def positional(thing: Any, watch: Any) -> bool:
        del thing
        return watch() is None

    def stars(*things: Any, watch: Any, **more: Any) -> bool:
        del things
        more.clear()
        return watch() is None

    gate = put(positional, stars)
    functions: list[Any] = [lambda t, w: positional(t.pop(), w), lambda t, w: stars(t.pop(), watch=w)]
    if sys.version_info < (3, 12) and gate.mode == "open":
        functions.pop()  # CALL_FUNCTION_EX is a call in C there, which holds the tuple until it returns
    for function in functions:
        thing = [Thing()]
        watch = weakref.ref(thing[0])
        assert function(thing, watch)
    thing = [Thing()]
    watch = weakref.ref(thing[0])
    if len(functions) == 1:
        return
    died = stars(watch=watch, key=thing.pop())  # inside an assert pytest would keep the argument
    assert died


def test_results_and_locals_do_not_leak(put: Put) -> None:
    class Thing:
        pass

    def function(n: int) -> Any:
        local = Thing()
        return local

    put(function)
    watch = weakref.ref(function(1))
    assert watch() is None


def test_cells_arguments_and_super(put: Put) -> None:
    class Base:
        def value(self, n: int) -> int:
            return n

    class Child(Base):
        def value(self, n: int) -> int:
            def bump() -> int:
                nonlocal n
                n += 1
                return n

            return super().value(bump()) + bump()

    put(Base.value, Child.value)
    assert Child().value(1) == 5


def test_locals_eval_and_frame_locals(put: Put) -> None:
    def function(a: int, b: int = 2, *rest: int, c: int = 3, **more: int) -> Any:
        d = 4
        seen = dict(locals())
        frame = sys._getframe()
        return (
            seen,
            eval("a + b + c + d"),
            sorted(frame.f_locals),
            frame.f_lineno - function.__code__.co_firstlineno,
        )

    expected = function(1, 2, 3, c=5, e=6)
    put(function)
    assert function(1, 2, 3, c=5, e=6) == expected


def test_signature_source_and_lines(put: Put) -> None:
    def function(a: int, b: str = "x", *, c: float = 1.5) -> None:
        """Doc."""
        if a:
            raise ValueError(b)

    def facts() -> Any:
        code = function.__code__
        return (
            str(inspect.signature(function)),
            inspect.getsource(function),
            inspect.getdoc(function),
            inspect.getfullargspec(function),
            [line for _, _, line in code.co_lines() if line is not None],
            [each for each in code.co_positions() if each[0] is not None],
            code.co_name,
            code.co_qualname,
            code.co_firstlineno,
            code.co_varnames,
            code.co_flags,
        )

    expected = facts()
    put(function)
    assert facts() == expected


def test_kinds_of_functions_stay(put: Put) -> None:
    async def coroutine() -> None: ...

    def generator() -> Iterator[None]:
        yield

    async def async_generator() -> Any:
        yield

    put(coroutine, generator, async_generator)
    assert inspect.iscoroutinefunction(coroutine)
    assert inspect.isgeneratorfunction(generator)
    assert inspect.isasyncgenfunction(async_generator)


def test_what_a_generator_function_returns(put: Put) -> None:
    def generator(n: int) -> Any:
        got = yield n
        return got

    gate = put(generator)
    made = generator(3)
    assert type(made) is types.GeneratorType
    assert inspect.getgeneratorstate(made) == "GEN_CREATED"
    assert made.gi_code is generator.__code__
    assert made.gi_frame.f_code is generator.__code__
    assert made.__name__ == "generator" and made.__qualname__ == generator.__qualname__
    assert next(made) == 3
    with pytest.raises(StopIteration) as stop:
        made.send("x")
    assert stop.value.value == "x"
    assert made.gi_frame is None
    assert (
        gate.log
        == {"closed": [], "open": ["begin", ("finish", "generator")], "declined": ["begin"]}[gate.mode]
    )


def test_an_unawaited_coroutine_warns_once(put: Put) -> None:
    async def coroutine() -> None: ...

    put(coroutine)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        coroutine()
        gc.collect()
    assert [str(each.message) for each in caught] == [
        f"coroutine '{coroutine.__qualname__}' was never awaited"
    ]


def test_the_inner_function_dies_with_the_body(put: Put) -> None:
    """What the end of a coroutine is known by."""

    async def coroutine(n: int) -> int:
        return n

    gate = put(coroutine)
    kept: list[Any] = []
    original = gate.finish

    def finish(call: Call, result: object) -> None:
        kept.append(weakref.ref(call.function))
        call.function = None
        original(call, result)

    gate.finish = finish
    made = coroutine(5)
    with pytest.raises(StopIteration):
        made.send(None)
    if gate.mode == "open":
        assert [each() for each in kept] == [None]


@pytest.mark.skipif(WEBASSEMBLY, reason="no event loop of its own in WebAssembly")
def test_asyncio(put: Put) -> None:
    async def work(n: int) -> int:
        await asyncio.sleep(0)
        return n * 2

    async def stream(n: int) -> Any:
        for i in range(n):
            yield await work(i)

    async def main() -> Any:
        async with asyncio.timeout(5):
            results = await asyncio.gather(*(work(i) for i in range(5)))
            return results, [i async for i in stream(3)]

    put(work, stream, main)
    assert asyncio.run(main()) == ([0, 2, 4, 6, 8], [0, 2, 4])


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


def test_named_lambdas_comprehensions_and_nested_functions(put: Put) -> None:
    def function(values: list[int]) -> Any:
        offset = 1
        key = lambda v: -v + offset  # noqa: E731
        return sorted((v + offset for v in values), key=key), {
            v: [v + i for i in range(offset)] for v in values
        }

    expected = function([3, 1, 2])
    put(function)
    assert function([3, 1, 2]) == expected


def test_match_with_walrus_and_exception_groups(put: Put) -> None:
    def function(value: Any) -> Any:
        match value:
            case {"a": [x, *rest]} if y := len(rest):
                return x, rest, y
            case Exception():
                try:
                    raise ExceptionGroup("g", [value, KeyError("k")])
                except* ValueError as group:
                    handled.extend(str(each) for each in group.exceptions)
        return None

    handled: list[str] = []

    put(function)
    assert function({"a": [1, 2, 3]}) == (1, [2, 3], 2)
    with pytest.raises(ExceptionGroup):
        function(ValueError("v"))
    assert handled == ["v"]
    assert function(5) is None
