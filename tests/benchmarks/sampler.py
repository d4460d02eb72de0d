"""What the flight recorder uses with 20 threads in flight at 100 Hz."""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Iterator

from autoprof import live, session
from autoprof.sampler import recorder
from tests.benchmarks.measure import ROUNDS, Figure, median_of

THREADS = 20
DEPTH = 12
SPAN_S = 2.0


def nested(depth: int, done: threading.Event) -> None:
    """Wait at the bottom of a stack of some depth."""
    if depth:
        nested(depth - 1, done)
    else:
        done.wait()


def flown(done: threading.Event) -> None:
    """Be the profiled call of one thread."""
    nested(DEPTH, done)


def figures() -> Iterator[Figure]:
    """Measure the processor time of the whole process while all other threads wait."""
    session.start(None)
    assert session.current is not None
    session.current.budget.change(None)
    installer = session.current.installer
    options = {"rate": 1.0, "strategy": "sample", "interval_ns": 10_000_000}
    probe = installer.new_probe(f"{__name__}:flown", "benchmark", "profile", options)
    live.splice_function(installer, flown, [probe])
    try:
        shares, bare = zip(*[(_round(), _bare()) for _ in range(ROUNDS)], strict=True)
    finally:
        session.stop()
    note = f"a thread that only wakes up as often: {median_of(list(bare)):.2f} %"
    name = f"sampler, 100 Hz, {THREADS} threads in flight"
    yield Figure(name, median_of(list(shares)), "% core", 1.0, note=note)


def _bare() -> float:
    """Return what waking up takes, which on virtual machines is most of it."""
    never = _thread.allocate_lock()
    never.acquire()
    used, began = time.thread_time_ns(), time.perf_counter_ns()
    while time.perf_counter_ns() - began < SPAN_S * 1e9:
        never.acquire(True, 0.01)
    return (time.thread_time_ns() - used) / (time.perf_counter_ns() - began) * 100


def _round() -> float:
    done = threading.Event()
    threads = [threading.Thread(target=flown, args=(done,), daemon=True) for _ in range(THREADS)]
    for each in threads:
        each.start()
    time.sleep(0.3)
    ticks, used, began = recorder.ticks, time.process_time_ns(), time.perf_counter_ns()
    time.sleep(SPAN_S)
    share = (time.process_time_ns() - used) / (time.perf_counter_ns() - began)
    assert recorder.ticks - ticks > SPAN_S * 50, "the sampler slept"
    done.set()
    for each in threads:
        each.join()
    return share * 100
