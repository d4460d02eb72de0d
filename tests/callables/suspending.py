"""Callables that suspend: generators, coroutines, context managers."""

from __future__ import annotations

from tests.callables.row import Row

ROWS = [
    Row(
        "generator",
        """
#@
def count(n):
    received = []
    try:
        for i in range(n):
            received.append((yield i))
    except KeyError:
        yield "caught"
    finally:
        log.append(("closed", n))
    return received
#@
def outer(n):
    result = yield from count(n)
    yield result
log = []
def run():
    log.clear()
    out = [list(count(3)), list(outer(2))]
    talk = count(5)
    out += [next(talk), talk.send("hello"), talk.throw(KeyError("x"))]
    talk.close()
    started = count(4)
    next(started)
    started.close()
    out.append(sum(1 for _ in zip(count(9), range(2))))
    return out, log
""",
        {"count": 5, "outer": 1},
    ),
    Row(
        "coroutine",
        """
import types
@types.coroutine
def pause(value):
    return (yield value)
#@
async def fetch(n):
    got = await pause(n)
    return n, got
#@
async def gather(*numbers):
    return [await fetch(n) for n in numbers]
#@
async def failing():
    await pause(0)
    raise ValueError("no")
#@
async def guarded():
    try:
        await failing()
    except ValueError as error:
        return str(error)
def drive(coroutine):
    seen = []
    try:
        value = None
        while True:
            value = coroutine.send(value)
            seen.append(value)
            value = f"sent {value}"
    except StopIteration as stop:
        return stop.value, seen
def run():
    unused = fetch(5)
    unused.send(None)
    unused.close()
    return [drive(fetch(1)), drive(gather(2, 3)), drive(guarded())]
""",
        {"fetch": 4, "gather": 1, "failing": 1, "guarded": 1},
    ),
    Row(
        "async generator",
        """
import types
@types.coroutine
def pause(value):
    return (yield value)
#@
async def ticks(n):
    got = []
    try:
        for i in range(n):
            await pause(("wait", i))
            try:
                got.append((yield i))
            except KeyError as error:
                got.append((yield ("caught", error.args)))
    finally:
        await pause("cleanup")
        log.append(got)
#@
async def collect(n):
    return [i async for i in ticks(n)]
#@
async def talk():
    stream = ticks(5)
    out = [await stream.asend(None), await stream.asend("a"), await stream.athrow(KeyError("k"))]
    out.append(await stream.__anext__())
    await stream.aclose()
    try:
        await stream.__anext__()
    except StopAsyncIteration:
        out.append("over")
    return out
log = []
def drive(coroutine):
    seen = []
    try:
        while True:
            seen.append(coroutine.send(None))
    except StopIteration as stop:
        return stop.value, seen
def run():
    log.clear()
    return [drive(collect(3)), drive(talk()), log]
""",
        {"ticks": 2, "collect": 1, "talk": 1},
    ),
    Row(
        "context managers",
        """
from contextlib import asynccontextmanager, contextmanager
@contextmanager
#@
def opened(name):
    log.append(("open", name))
    try:
        yield name
    except KeyError:
        log.append("swallowed")
    finally:
        log.append(("close", name))
class Lock:
    #@
    def __enter__(self):
        return "in"
    #@
    def __exit__(self, kind, error, traceback):
        return kind is ValueError
@asynccontextmanager
#@
async def session():
    log.append("begin")
    yield "session"
    log.append("end")
#@
async def use():
    async with session() as s:
        return s
log = []
def run():
    log.clear()
    with opened("a") as a:
        pass
    with opened("b"):
        raise KeyError
    try:
        with opened("c"):
            raise IndexError
    except IndexError:
        log.append("passed")
    with Lock() as lock:
        raise ValueError
    try:
        use().send(None)
    except StopIteration as stop:
        log.append(stop.value)
    return [a, lock, log]
""",
        {"opened": 3, "Lock.__enter__": 1, "Lock.__exit__": 1, "session": 1, "use": 1},
    ),
]
