"""The flight recorder: right stacks, right shares, and no more of them than it may keep."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import pytest

from autoprof import flusher, frames, sampler, testing
from autoprof.sampler import recorder
from tests import sampled
from tests.mechanisms import Loaded
from tests.sampled import SOURCE, Load, stacks

pytestmark = pytest.mark.usefixtures("no_flushes")


load, loaded, by_hand = sampled.load, sampled.loaded, sampled.by_hand


def test_a_stack_begins_at_the_target_from_the_first_call_on(loaded: Any, by_hand: Any) -> None:
    module = loaded()
    for _ in range(3):
        module.outer(lambda: by_hand())
    assert stacks(f"{module.name}:outer") == {("outer", "inner", "<lambda>"): 3}
    for _ in range(2):
        module.outer(lambda: by_hand())
    assert stacks(f"{module.name}:inner") == {("inner", "<lambda>"): 2}


def test_labels_say_module_name_file_and_line(loaded: Any, by_hand: Any) -> None:
    module = loaded()
    module.outer(lambda: by_hand())
    (first, *_) = next(stack for (probe, stack) in recorder.drain() if probe.target.endswith(":outer"))
    assert first == f"{module.name}:outer (/nowhere/{module.name}.py:2)"


def test_none_of_our_own_frames_is_in_a_stack(loaded: Any, by_hand: Any) -> None:
    module = loaded()
    module.outer(lambda: by_hand())
    for _, stack in recorder.drain():
        assert not [each for each in stack if "autoprof" in each.partition(" ")[0]]


def test_every_open_call_gets_its_part_of_the_stack(loaded: Any, by_hand: Any) -> None:
    module = loaded()
    module.outer(lambda: module.inner(lambda: by_hand()))
    found = recorder.drain()
    assert {probe.target.rpartition(":")[2] for probe, _ in found} == {"outer", "inner"}


def test_samples_are_counted_on_the_probe_and_in_complete(loaded: Any, by_hand: Any) -> None:
    module = loaded()

    def twice() -> None:
        by_hand()
        by_hand()

    with testing.capture("complete") as events:
        module.outer(twice)
    assert module.probe("outer").samples == 2
    assert [each.measurements["samples"] for each in events.named("complete", f"{module.name}:outer")] == [2]


def test_beyond_the_duration_nothing_is_sampled(loaded: Any, by_hand: Any) -> None:
    module = loaded(duration="1s")

    def act() -> None:
        by_hand()
        clock.advance(ms=1100)
        by_hand()

    with testing.FakeClock() as clock, testing.capture("stop") as events:
        module.outer(act)
    assert module.probe("outer").samples == 1
    assert all(each.measurements["duration_ns"] == 1_100_000_000 for each in events)


def test_depth_is_capped(loaded: Any, by_hand: Any) -> None:
    module = loaded(
        "def top(n, act):\n    return drive(n, act)\ndef drive(n, act):\n"
        "    return act() if n == 0 else drive(n - 1, act)\n"
    )
    module.top(400, lambda: by_hand())
    (stack,) = (stack for (probe, stack) in recorder.drain())
    assert frames.DEPTH_MAX - 10 < len(stack) <= frames.DEPTH_MAX


def test_other_threads_are_seen(loaded: Any, by_hand: Any) -> None:
    module = loaded()
    inside, leave = threading.Barrier(4), threading.Event()

    def act() -> None:
        inside.wait()
        leave.wait(5)

    threads = [threading.Thread(target=module.outer, args=(act,)) for _ in range(3)]
    for each in threads:
        each.start()
    inside.wait()
    by_hand()
    leave.set()
    for each in threads:
        each.join()
    assert module.probe("outer").samples == 3
    assert all(stack[:2] == ("outer", "inner") for stack in stacks(f"{module.name}:outer"))


def test_a_suspended_coroutine_is_followed_to_what_it_waits_for(loaded: Any, by_hand: Any) -> None:
    module = loaded(
        "import types\n@types.coroutine\ndef run_pause():\n    yield\n"
        "async def fetch():\n    await run_pause()\nasync def page():\n    await fetch()\n"
    )
    coroutine = module.page()
    coroutine.send(None)
    by_hand()
    found = stacks(f"{module.name}:page")
    assert found == {("page", "fetch", "run_pause"): 1}
    coroutine.close()


@pytest.mark.parametrize("options", [{}, {"policy": "profile_if_slow"}])
def test_so_it_is_where_only_slow_calls_are_kept(loaded: Any, by_hand: Any, options: dict[str, Any]) -> None:
    module = loaded(
        "import types\n@types.coroutine\ndef run_pause():\n    yield\n"
        "async def fetch():\n    await run_pause()\nasync def page():\n    await fetch()\n",
        threshold="0ms",
        **options,
    )
    coroutine = module.page()
    coroutine.send(None)
    by_hand()
    assert stacks(f"{module.name}:page") == {}
    coroutine.close()
    assert stacks(f"{module.name}:page") == {("page", "fetch", "run_pause"): 1}


def test_a_running_coroutine_is_seen_where_it_runs(loaded: Any, by_hand: Any) -> None:
    module = loaded(
        "async def page(act):\n    return run_inside(act)\ndef run_inside(act):\n    return act()\n"
    )
    with pytest.raises(StopIteration):
        module.page(lambda: by_hand()).send(None)
    assert stacks(f"{module.name}:page") == {("page", "run_inside", "<lambda>"): 1}


def test_a_suspended_generator_is_not_sampled(loaded: Any, by_hand: Any) -> None:
    module = loaded("def numbers():\n    yield 1\n    yield 2\n")
    made = module.numbers()
    next(made)
    by_hand()
    assert module.probe("numbers").samples == 0
    made.close()


def test_stacks_kept_are_bounded(loaded: Any, by_hand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "STACKS_KEPT", 3)
    module = loaded(
        "def top(n, act):\n    return drive(n, act)\ndef drive(n, act):\n"
        "    return act() if n == 0 else drive(n - 1, act)\n"
    )
    for depth in range(8):
        module.top(depth, lambda: by_hand())
    assert len(recorder.drain()) == 3
    assert recorder.dropped >= 5
    recorder.dropped = 0


def test_few_threads_a_tick_and_the_weight_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    items: list[tuple[int, Any]] = [(n, n) for n in range(100)]
    chosen, scale = frames.reservoir(list(items))
    assert len(chosen) == frames.THREADS_A_TICK and len(set(chosen)) == len(chosen)
    assert scale == 100 / frames.THREADS_A_TICK
    assert frames.reservoir(items[:5]) == (items[:5], 1.0)


@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_shares_come_out_right(load: Load, rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flusher, "PERIOD_S", 60.0)  # it would take the stacks away
    module = load(
        "spliced_at_import",
        """
from time import perf_counter
def work(scale):
    run_a(scale * 7e-4)
    run_b(scale * 2e-4)
    run_c(scale * 1e-4)
def run_spin(s):
    end = perf_counter() + s
    while perf_counter() < end: pass
def run_a(s): run_spin(s)
def run_b(s): run_spin(s)
def run_c(s): run_spin(s)
""",
        rate=rate,
        interval="1ms",
    )
    # On a loaded machine the looks may fall in with the scheduler's turns; a wrong share is wrong each time.
    for _ in range(4):
        found = _found_below(module, rate)
        total = sum(found.values())
        wrong = [
            name
            for name, share in (("run_a", 0.7), ("run_b", 0.2), ("run_c", 0.1))
            if abs(found.get(name, 0) / total - share) >= 0.03 + 4 * (share * (1 - share) / total) ** 0.5
        ]
        if not wrong:
            break
    assert not wrong, found


def _found_below(module: Loaded, rate: float) -> dict[str, int]:
    target = f"{module.name}:work"
    found: dict[str, int] = {}
    enough = 400 if rate == 1.0 else 100
    deadline = time.monotonic() + 60  # a loaded machine looks seldom
    scale = 1.0 if rate == 1.0 else 0.5
    while sum(found.values()) < enough and time.monotonic() < deadline:
        for _ in range(500):
            module.work(scale)
        for stack, samples in stacks(target).items():
            if len(stack) > 1:
                found[stack[1]] = found.get(stack[1], 0) + samples
    assert sum(found.values()) >= enough
    return found


def test_a_thread_that_ended_inside_a_call_is_forgotten(loaded: Any, by_hand: Any) -> None:
    from autoprof import flight

    module = loaded()
    module.outer(lambda: None)
    ghost = max(sys._current_frames()) + 12345
    flight.in_flight[ghost] = []
    by_hand()
    assert ghost not in flight.in_flight


def test_a_stack_whose_thread_went_on_before_it_was_named_is_dropped(load: Load) -> None:
    module = load("spliced_at_import", SOURCE)
    probe = module.probe("outer")
    recorder.drain()
    dropped = recorder.dropped
    recorder._counts[probe, (1, 2)] = [3, 4]
    assert recorder.drain() == {}
    assert recorder.dropped == dropped + 3
    recorder.dropped = dropped
