"""One call of known parts, 50, 30 and 20 %: by a clock, by arithmetic, asleep; a function, a coroutine or a generator."""

import asyncio
import json
import sys
import time

spent_ns = {"first": 0, "second": 0, "third": 0}
now_ns = time.perf_counter_ns
HOW, SPAN_NS = sys.argv[2], int(sys.argv[3])


def by_clock(span_ns):
    end_ns = now_ns() + span_ns
    while now_ns() < end_ns:
        pass


def by_arithmetic(span_ns):
    end_ns = now_ns() + span_ns
    total = 0
    while now_ns() < end_ns:
        for number in range(20_000):
            total += number * number


def asleep(span_ns):
    time.sleep(span_ns / 1e9)


SPEND = {"clock": by_clock, "arithmetic": by_arithmetic, "asleep": asleep}


def timed(name, span_ns):
    began_ns = now_ns()
    SPEND[HOW](span_ns)
    spent_ns[name] += now_ns() - began_ns


def first():
    timed("first", SPAN_NS * 50 // 100)


def second():
    timed("second", SPAN_NS * 30 // 100)


def third():
    timed("third", SPAN_NS * 20 // 100)


def work():
    first()
    second()
    third()


async def pause(name, span_ns):
    began_ns = now_ns()
    if HOW == "asleep":
        await asyncio.sleep(span_ns / 1e9)
    else:
        SPEND[HOW](span_ns)
        await asyncio.sleep(0)
    spent_ns[name] += now_ns() - began_ns


class Waits:
    """The same, as a coroutine function's parts."""

    async def first(self):
        await pause("first", SPAN_NS * 50 // 100)

    async def second(self):
        await pause("second", SPAN_NS * 30 // 100)

    async def third(self):
        await pause("third", SPAN_NS * 20 // 100)


async def waits():
    parts = Waits()
    await parts.first()
    await parts.second()
    await parts.third()


async def among_others():
    over = False

    async def other():
        while not over:
            await asyncio.sleep(0.005)

    others = [asyncio.create_task(other()) for _ in range(20)]
    await waits()
    over = True
    await asyncio.gather(*others)


def yields():
    for part in (first, second, third):
        for _ in range(5):
            part()
            yield


def consume():
    for _ in yields():
        asleep(SPAN_NS // 10)  # the consumer's time


{"function": work, "coroutine": lambda: asyncio.run(among_others()), "generator": consume}[sys.argv[1]]()
print(json.dumps(spent_ns))
