"""Calls whose times are known: each function times itself; by a loop over a clock and by arithmetic, and in recursion.

Prints function → [calls, cumulative nanoseconds, nanoseconds in itself]; the last is 0 where a clock, which is a function
too, takes part of them.
"""

import json
import sys
import time

now_ns = time.perf_counter_ns
MS = 1_000_000
known = {name: [0, 0, 0] for name in ("work", "left", "right", "twig", "leaf", "down")}


def add(name, began_ns, own_ns, outermost=True):
    known[name][0] += 1
    known[name][1] += outermost * (now_ns() - began_ns)
    known[name][2] += own_ns


def leaf():
    began_ns = now_ns()
    end_ns = began_ns + MS
    while now_ns() < end_ns:
        pass
    add("leaf", began_ns, 0)


def twig():
    began_ns = now_ns()
    total = 0
    for number in range(60_000):
        total += number * number
    own_ns = now_ns() - began_ns
    leaf()
    add("twig", began_ns, own_ns)


def left():
    began_ns = now_ns()
    for _ in range(4):
        twig()
    add("left", began_ns, 0)


def right():
    began_ns = now_ns()
    end_ns = began_ns + 6 * MS
    while now_ns() < end_ns:
        pass
    leaf()
    leaf()
    add("right", began_ns, 0)


def down(depth, outermost=True):
    began_ns = now_ns()
    total = 0
    for number in range(20_000):
        total += number * number
    own_ns = now_ns() - began_ns
    leaf()
    if depth:
        down(depth - 1, False)
        if depth == 2:
            down(depth - 1, False)
    add("down", began_ns, own_ns, outermost)


def work():
    began_ns = now_ns()
    left()
    right()
    down(5)
    add("work", began_ns, 0)


for _ in range(int(sys.argv[1])):
    work()
print(json.dumps(known))
