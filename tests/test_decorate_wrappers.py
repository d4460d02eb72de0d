"""The wrappers of the portable back end, which change little; most with a gate that is always open."""

from __future__ import annotations

import asyncio
import inspect
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autoprof import session
from autoprof.gate import Gate
from autoprof.rewrite.decorate import wrap
from tests import mechanisms
from tests.mechanisms import Loaded

WEBASSEMBLY = sys.platform == "emscripten"
Load = Callable[..., Loaded]


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    yield from mechanisms.loads(tmp_path)


class Call:
    __slots__ = ("function",)


class Log(list[Any]):
    """What the gate was asked, and a gate that notes it."""

    def __init__(self, open_: bool = True) -> None:
        self.gate = Gate(self._begin, self._finish, self._unwind)
        self.gate.retune(1.0 if open_ else 0.0)

    def _begin(self, gate: Gate) -> Call:
        self.append("begin")
        gate.claim()
        gate.lend()
        return Call()

    def _finish(self, call: Call, result: Any) -> None:
        self.append(("finish", type(result).__name__))

    def _unwind(self, call: Call, error: BaseException) -> None:
        self.append(("unwind", type(error).__name__))


@pytest.fixture(params=[True, False], ids=["open", "closed"])
def log(request: pytest.FixtureRequest) -> Log:
    return Log(request.param)


def test_a_traceback_has_no_line_of_ours(log: Log) -> None:
    def fail(kind: type[BaseException]) -> None:
        raise kind("reason")

    def text(function: Any, *arguments: Any) -> str:
        try:
            function(*arguments)
        except (KeyError, TypeError):
            return traceback.format_exc()
        return ""

    wrapped = wrap(fail, log.gate)
    assert text(wrapped, KeyError) == text(fail, KeyError)
    assert text(wrapped) == text(fail)
    if log:
        assert log[:2] == ["begin", ("unwind", "KeyError")]


def test_a_traceback_through_coroutines_and_generators(log: Log) -> None:
    def generator() -> Any:
        yield 1
        raise KeyError("g")

    async def coroutine() -> None:
        raise KeyError("c")

    async def stream() -> Any:
        yield 1
        raise KeyError("s")

    async def iterate(function: Any) -> None:
        async for _ in function():
            pass

    def drive(awaitable: Any) -> list[str]:
        try:
            awaitable.send(None)
        except KeyError as error:
            return [each.name for each in traceback.extract_tb(error.__traceback__)]
        return []

    def exhaust(function: Any) -> list[str]:
        try:
            list(function())
        except KeyError as error:
            return [each.name for each in traceback.extract_tb(error.__traceback__)]
        return []

    assert exhaust(wrap(generator, log.gate)) == ["exhaust", "generator"]
    assert drive(wrap(coroutine, log.gate)()) == ["drive", "coroutine"]
    assert drive(iterate(wrap(stream, log.gate))) == ["drive", "iterate", "stream"]


def test_a_wrapper_looks_like_the_function(log: Log) -> None:
    def function(a: int, b: str = "x", *, c: float = 1.5) -> None:
        """Doc."""

    function.attribute = 1  # type: ignore[attr-defined]
    wrapped: Any = wrap(function, log.gate)
    for name in ("__name__", "__qualname__", "__doc__", "__module__", "__defaults__", "__kwdefaults__"):
        assert getattr(wrapped, name) == getattr(function, name)
    assert wrapped.__annotations__ == function.__annotations__
    assert inspect.signature(wrapped) == inspect.signature(function)
    assert inspect.getsource(wrapped) == inspect.getsource(function)
    assert wrapped.attribute == 1
    assert wrapped.__wrapped__ is function


def test_send_throw_close_and_return_value(log: Log) -> None:
    def generator() -> Any:
        got = []
        try:
            while True:
                try:
                    got.append((yield len(got)))
                except KeyError as error:
                    got.append(str(error))
                if len(got) == 4:
                    return got
        finally:
            got.append("closed")

    made = wrap(generator, log.gate)()
    assert inspect.isgenerator(made)
    assert next(made) == 0
    assert made.send("a") == 1
    assert made.throw(KeyError("k")) == 2
    assert next(made) == 3
    with pytest.raises(StopIteration) as stop:
        made.send("z")
    assert stop.value.value == ["a", "'k'", None, "z", "closed"]
    again = wrap(generator, log.gate)()
    next(again)
    again.close()
    assert not [each for each in log if each[0] == "unwind"], "closing is no exception"


def test_async_generator_delegation(log: Log) -> None:
    steps: list[Any] = []

    async def stream() -> Any:
        try:
            while True:
                try:
                    steps.append((yield len(steps)))
                except KeyError as error:
                    steps.append(("caught", str(error)))
        finally:
            steps.append("closed")

    def now(awaitable: Any) -> Any:
        try:
            awaitable.send(None)
        except StopIteration as stop:
            return stop.value
        raise AssertionError("it waits")

    made = wrap(stream, log.gate)()
    assert inspect.isasyncgen(made)
    assert now(made.__anext__()) == 0
    assert now(made.asend("a")) == 1
    assert now(made.athrow(KeyError("k"))) == 2
    now(made.aclose())
    assert steps == ["a", ("caught", "'k'"), "closed"]
    with pytest.raises(StopAsyncIteration):
        now(made.__anext__())
    other = wrap(stream, log.gate)()
    now(other.__anext__())
    with pytest.raises(ValueError, match="out"):
        now(other.athrow(ValueError("out")))


@pytest.mark.skipif(WEBASSEMBLY, reason="no event loop of its own in WebAssembly")
def test_an_event_loop_knows_only_the_wrapper(log: Log) -> None:
    closed = []

    async def stream() -> Any:
        try:
            for i in range(10):
                await asyncio.sleep(0)
                yield i
        finally:
            await asyncio.sleep(0)
            closed.append(True)

    wrapped = wrap(stream, log.gate)
    problems: list[Any] = []

    async def main() -> list[int]:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
        left_open = wrapped()
        keep.append(left_open)
        first = await left_open.__anext__()
        return [first, *[i async for i in wrapped()]]

    keep: list[Any] = []
    assert asyncio.run(main()) == [0, *range(10)]
    assert closed == [True, True]
    assert not problems


def test_errors_out_of_begin_run_in_place() -> None:
    log = Log()

    def begin(gate: Gate) -> None:
        gate.used += 1
        raise RecursionError

    log.gate.begin = begin
    assert wrap(lambda x: x + 1, log.gate)(1) == 2


def test_c_functions_get_a_wrapper() -> None:
    log = Log()
    wrapped = wrap(len, log.gate)
    assert wrapped([1, 2]) == 2
    assert wrapped.__name__ == "len"
    with pytest.raises(TypeError, match="no len"):
        wrapped(5)
    assert log == ["begin", ("finish", "int"), "begin", ("unwind", "TypeError")]


def test_types_coroutine_stays_awaitable(log: Log) -> None:
    @types.coroutine
    def pause() -> Any:
        return (yield 5)

    async def main(function: Any) -> Any:
        return await function()

    made = main(wrap(pause, log.gate))
    assert made.send(None) == 5
    with pytest.raises(StopIteration) as stop:
        made.send("x")
    assert stop.value.value == "x"


def test_tasks_beside_each_other_are_all_measured(load: Load) -> None:
    """A coroutine that waits does not keep its thread from measuring another."""
    loaded = load("decorated_at_import", "async def work(gate):\n    await gate\n    return 1\n")

    class Pause:
        def __await__(self) -> Any:
            yield

    running = [loaded.work(Pause()) for _ in range(5)]
    for each in running:
        each.send(None)
    for each in running:
        with pytest.raises(StopIteration):
            each.send(None)
    probe = loaded.probe("work")
    assert (probe.calls, probe.profiled, probe.skipped) == (5, 5, {})


def test_stop_stops_the_wrappers(load: Load) -> None:
    loaded = load("decorated_at_import", "def f(): return 1\n")
    loaded.f()
    probe = loaded.probe("f")
    session.stop()
    assert loaded.f() == 1
    assert (probe.calls, probe.profiled) == (2, 1)


@pytest.mark.skipif(WEBASSEMBLY, reason="cloudpickle is not installed in WebAssembly")
def test_a_wrapped_function_travels(log: Log) -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec("def f(x, k=2):\n    return x * k\n", scope)
    data = cloudpickle.dumps(wrap(scope["f"], log.gate))
    import subprocess

    program = (
        "import sys, pickle\n"
        "sys.modules['autoprof'] = None\n"
        "f = pickle.loads(sys.stdin.buffer.read())\n"
        "print([f(i) for i in range(5)], f(2, k=5))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], input=data, capture_output=True)
    assert done.stdout.split() == b"[0, 2, 4, 6, 8] 10".split(), done.stderr
