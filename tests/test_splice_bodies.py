"""The body of a spliced function: what it sees of its arguments, its locals and itself, and what it returns."""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
import types
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from tests.spliced import MODES, Call, Put, puts

WEBASSEMBLY = sys.platform == "emscripten"


@pytest.fixture(params=MODES)
def put(request: pytest.FixtureRequest) -> Iterator[Put]:
    yield from puts(request.param)


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
