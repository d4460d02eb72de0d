"""Two functions of about the same time: one makes thousands of short calls, one makes none.

Prints function → the least of its times in runs without autoprof, in nanoseconds; runs with and without take turns.
"""

import json
import sys
import time

now_ns = time.perf_counter_ns
best_ns = {"many_calls": 1 << 60, "no_calls": 1 << 60, "built_in": 1 << 60}


def short(number):
    total = 0
    for each in RANGE:
        total += each * number
    return total


def many_calls():
    for number in range(3_000):
        short(number)


def no_calls():
    total = 0
    for number in range(80_000):
        total += number * 3
    return total


def built_in():
    total = 0
    for number in range(10_000):
        total += len(TEXT[number & 15])
        total *= number & 1
    return total


RANGE, TEXT = range(int(sys.argv[2])), ["x" * n for n in range(16)]


def work():
    many_calls()
    no_calls()
    built_in()


for _ in range(int(sys.argv[1])):
    for part in (many_calls, no_calls, built_in):
        began_ns = now_ns()
        part()
        best_ns[part.__name__] = min(best_ns[part.__name__], now_ns() - began_ns)
    work()
    time.sleep(0.002)  # files are told apart by the millisecond
print(json.dumps(best_ns))
