"""Calls of 50 us to 5 ms that spend 70, 20 and 10 % of their time in three functions, and add up how long these took."""

import collections
import json
import random
import sys
import threading
import time

spent_ns = collections.Counter()


def busy(span_ns):
    end = time.perf_counter_ns() + span_ns
    while time.perf_counter_ns() < end:
        pass


def idle(span_ns):
    time.sleep(span_ns / 1e9)


def timed(name, wait, span_ns):
    began = time.perf_counter_ns()
    wait(span_ns)
    spent_ns[name] += time.perf_counter_ns() - began


def large(wait, span_ns):
    timed("large", wait, span_ns * 70 // 100)


def middle(wait, span_ns):
    timed("middle", wait, span_ns * 20 // 100)


def small(wait, span_ns):
    timed("small", wait, span_ns * 10 // 100)


def work(wait, span_ns):
    large(wait, span_ns)
    middle(wait, span_ns)
    small(wait, span_ns)


def loop(wait, seconds, seed):
    spans = random.Random(seed)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        work(wait, int(50_000 * 100 ** spans.random()))


if __name__ == "__main__":
    threads, wait, seconds = int(sys.argv[1]), globals()[sys.argv[2]], float(sys.argv[3])
    crew = [threading.Thread(target=loop, args=(wait, seconds, seed)) for seed in range(threads)]
    for each in crew:
        each.start()
    for each in crew:
        each.join()
    print(json.dumps(spent_ns))
