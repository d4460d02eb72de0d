"""A hundred tasks at once; each call of their coroutine waits for two things, 60 and 40 % of its time."""

import asyncio
import json
import random
import sys
import time

TASKS = 100
spent_ns = {"fetch": 0, "save": 0}


async def pause(name, span_s):
    began_ns = time.perf_counter_ns()
    await asyncio.sleep(span_s)
    spent_ns[name] += time.perf_counter_ns() - began_ns


async def fetch(span_s):
    await pause("fetch", span_s * 0.6)


async def save(span_s):
    await pause("save", span_s * 0.4)


async def work(span_s):
    await fetch(span_s)
    await save(span_s)


async def loop(seed, until):
    spans = random.Random(seed)
    while time.perf_counter() < until:
        await work(0.05 + 0.15 * spans.random())


async def main(seconds):
    until = time.perf_counter() + seconds
    await asyncio.gather(*[loop(seed, until) for seed in range(TASKS)])


asyncio.run(main(float(sys.argv[1])))
print(json.dumps(spent_ns))
