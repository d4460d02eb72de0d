"""Slow calls in three phases of 50, 30 and 20 %, in this order, each timed; between them calls a tenth as long.

program.py busy|idle|mixed CALLS SPAN_NS; mixed: the first phase computes, the others wait.
"""

import json
import sys
import time

spent_ns = {"first": 0, "second": 0, "third": 0}


def busy(span_ns):
    end = time.perf_counter_ns() + span_ns
    while time.perf_counter_ns() < end:
        pass


def idle(span_ns):
    time.sleep(span_ns / 1e9)


def timed(name, span_ns):
    wait = busy if how == "busy" or (how == "mixed" and name == "first") else idle
    began_ns = time.perf_counter_ns()
    wait(span_ns)
    return name, time.perf_counter_ns() - began_ns


def first(span_ns):
    return timed("first", span_ns * 50 // 100)


def second(span_ns):
    return timed("second", span_ns * 30 // 100)


def third(span_ns):
    return timed("third", span_ns * 20 // 100)


def work(span_ns, parts=(first, second, third)):
    return [part(span_ns) for part in parts]


def fast(span_ns):
    work(span_ns // 10, (third, second, first))


how, calls, span_ns = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for _ in range(calls):
    fast(span_ns)  # its stacks must not be kept: they would turn the shares round
    for name, took_ns in work(span_ns):
        spent_ns[name] += took_ns
print(json.dumps(spent_ns))
