"""Coroutines, generators and async generators of every kind, to be looked at plain and with every call measured."""

from __future__ import annotations

import asyncio
import types
from typing import Any


class Specimens:
    """One set of functions, each passed through `dress` where it is defined."""

    def __init__(self, dress: Any) -> None:
        log = self.log = []

        @dress
        async def co(n):
            await asyncio.sleep(0)
            return n

        @dress
        def gen(n):
            try:
                for i in range(n):
                    try:
                        yield i
                    except KeyError:
                        yield "caught"
            finally:
                log.append("generator's end")
            return "result"

        @dress
        async def agen(n):
            try:
                for i in range(n):
                    try:
                        yield i
                    except KeyError:
                        yield "caught"
            finally:
                log.append("async generator's end")

        @dress
        async def sleeper():
            await asyncio.sleep(10)

        @dress
        async def failing(kind):
            await asyncio.sleep(0)
            raise kind(3)

        @dress
        async def failing_at_once(kind):
            raise kind(3)

        @dress
        def stopping():
            yield 1
            raise StopIteration("inside")

        @dress
        def delegating(n):
            return (yield from gen(n))

        @dress
        async def waiter(event):
            await event.wait()

        @dress
        async def setter(variable):
            variable.set(5)
            await asyncio.sleep(0)

        class Manager:
            @dress
            async def __aenter__(self):
                await asyncio.sleep(0)
                return 5

            @dress
            async def __aexit__(self, kind, error, tb):
                return kind is ValueError

        @types.coroutine
        def marked(n):
            answer = yield n
            return answer

        dress(marked)

        @dress
        def to_mark(n):
            answer = yield n
            return answer

        self.marked_afterwards = types.coroutine(to_mark)
        self.co, self.gen, self.agen, self.sleeper, self.failing = co, gen, agen, sleeper, failing
        self.failing_at_once, self.stopping, self.delegating, self.waiter = (
            failing_at_once,
            stopping,
            delegating,
            waiter,
        )
        self.setter, self.manager, self.marked = setter, Manager, marked
