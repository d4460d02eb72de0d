"""Call functions of every kind a known number of times: generators exhausted, abandoned, never begun, and coroutines."""

import asyncio
import json

calls = {}


def called(name, times):
    calls[name] = calls.get(name, 0) + times
    return range(times)


def numbers(count):
    yield from range(count)


def begun(count):
    yield from range(count)


def unbegun(count):
    yield from range(count)


def recursive(depth):
    return recursive(depth - 1) if depth else 0


def raising():
    raise KeyError


async def waits():
    await asyncio.sleep(0)


async def items(count):
    for number in range(count):
        yield number


async def main():
    for _ in called("waits", 70):
        await waits()
    for _ in called("items", 60):
        async for _ in items(5):
            pass
    called("waits", 100)
    await asyncio.gather(*[waits() for _ in range(100)])


for _ in called("numbers", 1_000):
    sum(numbers(10))
for _ in called("begun", 100):
    next(begun(10))
for _ in called("unbegun", 50):
    unbegun(10)
called("recursive", 30 * 11)
for _ in range(30):
    recursive(10)
for _ in called("raising", 40):
    try:
        raising()
    except KeyError:
        pass
asyncio.run(main())
print(json.dumps(calls))
