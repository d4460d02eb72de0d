"""What is asked of coroutines, generators and async generators, one case each."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import io
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import pytest

from .coroutine_specimens import Specimens

CASES: dict[str, Any] = {}


def case(function: Any) -> Any:
    CASES[function.__name__] = function
    return function


def names(error: BaseException) -> list[tuple[str, int | None, str | None]]:
    return [(each.name, each.lineno, each.line) for each in traceback.extract_tb(error.__traceback__)][1:]


@case
def never_awaited(s: Specimens) -> Any:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        s.co(1)
        gc.collect()
    return [(str(each.message), Path(each.filename).name, each.lineno) for each in caught]


@case
def origin_tracking(s: Specimens) -> Any:
    sys.set_coroutine_origin_tracking_depth(3)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            made = s.co(1)
            origin = [(Path(each[0]).name, each[1], each[2]) for each in made.cr_origin]
            del made
            gc.collect()
        return origin[:1], len(caught), str(caught[0].message).splitlines()[:3]
    finally:
        sys.set_coroutine_origin_tracking_depth(0)


@case
def state_of_a_coroutine(s: Specimens) -> Any:
    made = s.co(1)

    def look() -> Any:
        frame = made.cr_frame
        line = frame and frame.f_lineno - made.cr_code.co_firstlineno
        return (
            inspect.getcoroutinestate(made),
            line,
            sorted(inspect.getcoroutinelocals(made)),
            made.cr_await is None,
        )

    seen = [look(), made.cr_code is s.co.__code__, made.__name__, made.__qualname__, type(made).__name__]
    made.send(None)
    seen.append(look())
    made.close()
    seen += [look(), made.cr_frame]
    return seen


@case
def a_throw_into_a_coroutine_not_started(s: Specimens) -> Any:
    made = s.co(1)
    try:
        made.throw(ValueError("x"))
    except ValueError as error:
        return names(error), inspect.getcoroutinestate(made)


@case
def a_closed_coroutine(s: Specimens) -> Any:
    made = s.co(1)
    made.close()
    with pytest.raises(RuntimeError) as caught:
        made.send(None)
    return str(caught.value)


@case
def a_generator_from_start_to_end(s: Specimens) -> Any:
    made = s.gen(2)
    seen = [inspect.getgeneratorstate(made), next(made), made.throw(KeyError), next(made)]
    try:
        next(made)
    except StopIteration as stopped:
        seen.append(stopped.value)
    return seen, inspect.getgeneratorstate(made), s.log[-1:], made.gi_code is s.gen.__code__


@case
def a_generator_closed_and_one_dropped(s: Specimens) -> Any:
    s.log.clear()
    made = s.gen(2)
    next(made)
    made.close()
    made = s.gen(3)
    next(made)
    del made
    return list(s.log)


@case
def a_generator_thrown_out(s: Specimens) -> Any:
    made = s.gen(2)
    next(made)
    try:
        made.throw(LookupError("x"))
    except LookupError as error:
        return names(error), list(made), s.log[-1:]


@case
def yield_from(s: Specimens) -> Any:
    made = s.delegating(1)
    first, inner = next(made), made.gi_yieldfrom
    try:
        next(made)
    except StopIteration as stopped:
        return first, inner.__name__, stopped.value


@case
def stop_iteration_inside(s: Specimens) -> Any:
    made = s.stopping()
    next(made)
    try:
        next(made)
    except RuntimeError as error:
        return str(error), repr(error.__cause__), names(error)


@case
def stop_iteration_inside_a_coroutine(s: Specimens) -> Any:
    try:
        s.failing_at_once(StopIteration).send(None)
    except RuntimeError as error:
        return str(error), names(error)


@case
def an_async_generator(s: Specimens) -> Any:
    async def main() -> Any:
        made = s.agen(3)
        seen: list[Any] = [await made.__anext__(), await made.athrow(KeyError), await made.__anext__()]
        await made.aclose()
        seen += [s.log[-1], [each async for each in s.agen(2)], s.log[-1]]
        dropped = s.agen(2)
        await dropped.__anext__()
        del dropped
        gc.collect()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return seen, s.log.count("async generator's end"), made.ag_code is s.agen.__code__

    return asyncio.run(main())


@case
def an_async_generator_left_to_the_loop(s: Specimens) -> Any:
    s.log.clear()

    async def main() -> Any:
        async for each in s.agen(5):
            if each == 1:
                return each

    return asyncio.run(main()), list(s.log)


def drive(function: Any) -> Any:
    async def main() -> Any:
        return await function(3)

    made = main()
    first = made.send(None)
    try:
        made.send(9)
    except StopIteration as stopped:
        return first, stopped.value


@case
def types_coroutine_before(s: Specimens) -> Any:
    return drive(s.marked), inspect.isawaitable(s.marked(1))


@case
def types_coroutine_after(s: Specimens) -> Any:
    return drive(s.marked_afterwards), inspect.isawaitable(s.marked_afterwards(1))


@case
def an_async_context_manager(s: Specimens) -> Any:
    async def main() -> Any:
        async with s.manager() as value:
            raise ValueError
        return value

    return asyncio.run(main())


@case
def a_task_and_its_stack(s: Specimens) -> Any:
    async def main() -> Any:
        event = asyncio.Event()
        task = asyncio.create_task(s.waiter(event), name="named")
        await asyncio.sleep(0)
        out = io.StringIO()
        task.print_stack(file=out)
        coroutine = task.get_coro()
        seen = (
            task.get_name(),
            coroutine.__qualname__,
            coroutine.cr_code.co_name,
            [(each.f_code.co_name, each.f_lineno) for each in task.get_stack()],
            out.getvalue().count("File"),
            repr(task).count("waiter()"),
        )
        event.set()
        await task
        return seen

    return asyncio.run(main())


@case
def context_variables(s: Specimens) -> Any:
    variable = contextvars.ContextVar("variable", default=0)

    async def main() -> Any:
        await s.setter(variable)
        task = asyncio.create_task(s.setter(variable))
        variable.set(7)
        await task
        return variable.get()

    return asyncio.run(main())


@case
def cancellation(s: Specimens) -> Any:
    async def main() -> Any:
        task = asyncio.create_task(s.sleeper())
        await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError as error:
            return [each[0] for each in names(error)], task.cancelled()

    return asyncio.run(main())


@case
def a_timeout(s: Specimens) -> Any:
    async def main() -> Any:
        try:
            async with asyncio.timeout(0.01):
                await s.sleeper()
        except TimeoutError as error:
            return type(error.__cause__).__name__, [each[0] for each in names(error)]

    return asyncio.run(main())


@case
def an_exception_through_await(s: Specimens) -> Any:
    async def main() -> Any:
        try:
            await s.failing(LookupError)
        except LookupError as error:
            return names(error), error.__context__, sys.exc_info()[1] is error

    return asyncio.run(main())


@case
def a_task_group(s: Specimens) -> Any:
    async def main() -> Any:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(s.failing(ValueError))
                group.create_task(s.sleeper())
        except* ValueError as errors:
            found = len(errors.exceptions), names(errors.exceptions[0])
        return found

    return asyncio.run(main())


@case
def gathered(s: Specimens) -> Any:
    async def main() -> Any:
        found = await asyncio.gather(s.co(1), s.failing(KeyError), s.co(2), return_exceptions=True)
        return [repr(each) for each in found]

    return asyncio.run(main())


@case
def the_running_loop_closes_what_is_left(s: Specimens) -> Any:
    async def main() -> Any:
        asyncio.get_running_loop().create_task(s.sleeper())
        await asyncio.sleep(0)
        return "left"

    return asyncio.run(main())
