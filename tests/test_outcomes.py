"""How coroutines, generators and async generators end: exactly when, and whether by return or by exception."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

import autoprof
from autoprof import signals

Ended = tuple[str, str | None, str | None]


@pytest.fixture(autouse=True)
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the default session's store out of the working folder."""
    monkeypatch.setenv("AUTOPROF_OUTPUT", str(tmp_path))


@pytest.fixture
def ends() -> Iterator[list[tuple[Ended, float]]]:
    """The ends that were signalled: ((event, kind, result), seconds)."""
    seen: list[tuple[Ended, float]] = []

    def note(sender: str, *, measurements: dict[str, Any], metadata: dict[str, Any]) -> None:
        end = (metadata["event"], metadata.get("kind"), metadata.get("result"))
        seen.append((end, measurements["duration_ns"] / 1e9))

    signals.connect(note, "stop", "exception")
    yield seen
    signals.stop.disconnect(note)
    signals.exception.disconnect(note)
    autoprof.stop()


def _made() -> tuple[Callable[[float], Coroutine[Any, Any, str]], ...]:
    @autoprof.profile(rate=1.0)
    async def fine(pause_s: float) -> str:
        await asyncio.sleep(pause_s)
        return "x"

    @autoprof.profile(rate=1.0)
    async def broken(pause_s: float) -> str:
        await asyncio.sleep(pause_s)
        raise ValueError(pause_s)

    return fine, broken


RETURNED = ("stop", None, "coroutine")


def test_coroutines_that_are_awaited(ends: list[tuple[Ended, float]]) -> None:
    fine, broken = _made()

    async def main() -> None:
        assert await fine(0.02) == "x"
        with pytest.raises(ValueError) as caught:
            await broken(0.02)
        names = [each.name for each in traceback.extract_tb(caught.value.__traceback__)]
        assert names == ["main", "broken"]
        assert sys.exc_info()[0] is None

    began_s = perf_counter()
    asyncio.run(main())
    all_s = perf_counter() - began_s
    assert [end for end, _ in ends] == [RETURNED, ("exception", "ValueError", None)]
    assert all(0.015 < span_s < all_s for _, span_s in ends)


def test_a_task_keeps_its_coroutine_but_not_the_clock_running(ends: list[tuple[Ended, float]]) -> None:
    fine, broken = _made()

    async def main() -> None:
        tasks = [asyncio.create_task(fine(0.01)), asyncio.create_task(broken(0.01))]
        await asyncio.sleep(0.8)
        assert sorted(end for end, _ in ends) == [("exception", "ValueError", None), RETURNED]
        assert all(span_s < 0.75 for _, span_s in ends)
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
    assert len(ends) == 2


def test_a_cancelled_coroutine(ends: list[tuple[Ended, float]]) -> None:
    fine, _ = _made()

    async def main() -> None:
        task = asyncio.create_task(fine(30))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert [end for end, _ in ends] == [("exception", "CancelledError", None)]


def test_generators(ends: list[tuple[Ended, float]]) -> None:
    @autoprof.profile(rate=1.0)
    def numbers(count: int) -> Iterator[int]:
        yield from range(count)
        if count == 3:
            raise KeyError(count)

    assert list(numbers(2)) == [0, 1]
    with pytest.raises(KeyError):
        list(numbers(3))
    dropped = numbers(5)
    next(dropped)
    del dropped
    thrown = numbers(5)
    next(thrown)
    with pytest.raises(OSError):
        thrown.throw(OSError())  # type: ignore[attr-defined]
    returned = ("stop", None, "generator")
    assert [end for end, _ in ends] == [
        returned,
        ("exception", "KeyError", None),
        returned,
        ("exception", "OSError", None),
    ]


def test_async_generators(ends: list[tuple[Ended, float]]) -> None:
    @autoprof.profile(rate=1.0)
    async def numbers(count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number
        if count == 3:
            raise KeyError(count)

    async def main() -> None:
        assert [number async for number in numbers(2)] == [0, 1]
        with pytest.raises(KeyError):
            async for _ in numbers(3):
                pass

    asyncio.run(main())
    assert [end for end, _ in ends] == [("stop", None, "async_generator"), ("exception", "KeyError", None)]


def test_an_interrupt_while_telling_leaves_the_stack_in_order(ends: list[tuple[Ended, float]]) -> None:
    @autoprof.profile(rate=1.0)
    def broken() -> Iterator[int]:
        yield 1
        raise ValueError

    def interrupt(sender: str, **more: Any) -> None:
        raise KeyboardInterrupt

    stream = broken()
    next(stream)
    signals.exception.connect(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            next(stream)
    finally:
        signals.exception.disconnect(interrupt)
    assert sys.exc_info()[0] is None
