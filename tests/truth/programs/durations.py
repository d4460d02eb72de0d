"""Calls of 1 to 20 ms that time themselves: busy and asleep, plain functions and coroutines."""

import asyncio
import json
import random
import sys
import time

import blinker

CALLS = int(sys.argv[1])
reference_ns = {"plain": [], "waits": []}
outside_ns = {"plain": [], "waits": []}
told_ns = {"plain": [], "waits": []}


def receive(sender, *, measurements, metadata):
    told_ns[sender.partition(":")[2]].append(measurements["duration_ns"])


blinker.signal("autoprof.stop").connect(receive)


def busy(span_ns):
    end = time.perf_counter_ns() + span_ns
    while time.perf_counter_ns() < end:
        pass


def plain(span_ns, how):
    began_ns = time.perf_counter_ns()
    if how == "busy":
        busy(span_ns)
    else:
        time.sleep(span_ns / 1e9)
    reference_ns["plain"].append(time.perf_counter_ns() - began_ns)


async def waits(span_ns, how):
    began_ns = time.perf_counter_ns()
    if how == "busy":
        busy(span_ns)
    else:
        await asyncio.sleep(span_ns / 1e9)
    reference_ns["waits"].append(time.perf_counter_ns() - began_ns)


def spans():
    draw = random.Random(1)
    for number in range(CALLS):
        yield int(1_000_000 * 20 ** draw.random()), ("busy", "asleep")[number % 2]


async def wait_for_each():
    for span_ns, how in spans():
        began_ns = time.perf_counter_ns()
        await waits(span_ns, how)
        outside_ns["waits"].append(time.perf_counter_ns() - began_ns)


for each in spans():
    began_ns = time.perf_counter_ns()
    plain(*each)
    outside_ns["plain"].append(time.perf_counter_ns() - began_ns)
asyncio.run(wait_for_each())
print(json.dumps({"reference_ns": reference_ns, "outside_ns": outside_ns, "told_ns": told_ns}))
