"""`profile_if_slow`: every slow call is told, with its stacks; fast ones leave nothing."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autoprof import flight, guard, session, testing
from autoprof.probe import Probe
from autoprof.sampler import recorder
from tests import mechanisms

WEBASSEMBLY = sys.platform == "emscripten"
SOURCE = """
import time
def work(ms, fail=None):
    inner(ms)
    if fail: raise fail
    return ms
def inner(ms):
    time.sleep(ms / 1000)
def drive_many(n):
    for _ in range(n): work(0)
async def slow_coroutine(pause):
    await pause()
    return 5
def stream(n, act):
    for each in range(n):
        act()
        yield each
"""
IF_SLOW: dict[str, Any] = {"policy": "profile_if_slow", "threshold": "20ms", "rate": 1.0}


@pytest.fixture(params=["spliced_at_import", "spliced_live", "decorated_at_import"])
def loaded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    loads = mechanisms.loads(tmp_path)
    load = next(loads)
    yield lambda **options: load(request.param, SOURCE, **{**IF_SLOW, **options})
    next(loads, None)


def probe_on(module: Any, name: str) -> Probe:
    assert session.current is not None
    return session.current.installer.probes[f"{module.name}:{name}", "profile_if_slow"]


def test_slow_calls_are_told_and_kept(loaded: Any) -> None:
    module = loaded(threshold="300ms")  # a call of nothing takes 20 ms now and then on a loaded machine
    work = probe_on(module, "work")
    with testing.capture(sender=work.target) as events:
        module.work(0)
        module.work(400)
        with pytest.raises(KeyError):
            module.work(400, KeyError("k"))
    assert [each.name for each in events if each.name != "sample"] == [
        *("stop", "slow_operation", "complete"),
        *("exception", "slow_operation", "complete"),
    ]
    told = events.named("slow_operation")
    assert all(each.measurements["duration_ns"] >= 400e6 for each in told)
    assert {each.measurements["threshold_ns"] for each in told} == {300_000_000}
    assert {each.metadata["profiled"] for each in told} == {True}
    assert events.named("exception")[0].metadata["kind"] == "KeyError"
    assert (work.calls, work.slow, work.profiled) == (3, 2, 2)
    assert work.time_ns >= sum(each.measurements["duration_ns"] for each in told)


@pytest.mark.usefixtures("no_flushes")
@pytest.mark.skipif(WEBASSEMBLY, reason="no sampler without threads")
def test_stacks_are_there_from_the_beginning_of_the_call(loaded: Any) -> None:
    module = loaded(interval="2ms")
    module.work(0)
    recorder.drain()
    module.drive_many(20)
    module.work(200)
    stacks = {
        tuple(label.split(" ")[0].partition(":")[2] for label in stack): sums
        for (probe, stack), sums in recorder.drain().items()
        if probe is probe_on(module, "work")
    }
    assert set(stacks) <= {("work", "inner"), ("work",)}
    samples, weight_ns = stacks["work", "inner"]
    assert samples > 10
    assert 150e6 < weight_ns < 1e9


def test_a_share_of_the_slow_calls_is_kept(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = loaded(rate=0.3, threshold="0ms")
    work = probe_on(module, "work")
    with testing.capture("slow_operation", "stop", sender=work.target) as events:
        module.drive_many(2_000)
    assert (work.calls, work.slow) == (2_000, 2_000)
    assert len(events.named("slow_operation")) == 2_000
    assert len(events.named("stop")) == work.profiled
    assert abs(work.profiled - 600) < 5 * (2_000 * 0.3 * 0.7) ** 0.5
    assert sum(each.metadata["profiled"] for each in events.named("slow_operation")) == work.profiled


@pytest.mark.skipif(WEBASSEMBLY, reason="no event loop of its own in WebAssembly")
def test_coroutines_take_their_awaits_along(loaded: Any) -> None:
    module = loaded(threshold="300ms")
    probe = probe_on(module, "slow_coroutine")

    async def pause() -> None:
        await asyncio.sleep(0.4)

    async def no_pause() -> None:
        return None

    with testing.capture("slow_operation", sender=probe.target) as events:
        assert asyncio.run(module.slow_coroutine(pause)) == 5
        assert asyncio.run(module.slow_coroutine(no_pause)) == 5
    (told,) = events
    assert told.measurements["duration_ns"] > 390e6
    assert (probe.calls, probe.slow, probe.profiled) == (2, 1, 1)


@pytest.mark.skipif(WEBASSEMBLY, reason="no sampler without threads")
def test_a_slow_consumer_does_not_make_a_generator_slow(loaded: Any) -> None:
    module = loaded(interval="2ms", threshold="60ms")
    probe = probe_on(module, "stream")
    with testing.capture("slow_operation", sender=probe.target) as events:
        for _ in module.stream(4, lambda: None):
            time.sleep(0.03)
        for _ in module.stream(4, lambda: time.sleep(0.03)):
            pass
        gc.collect()
    (told,) = events
    assert told.measurements["duration_ns"] > 80e6
    assert (probe.calls, probe.slow) == (2, 1)


@pytest.mark.usefixtures("no_flushes")
def test_nothing_of_fast_calls_is_stored(loaded: Any) -> None:
    module = loaded(threshold="1m")
    module.drive_many(50)
    work = probe_on(module, "work")
    assert (work.calls, work.slow, work.profiled, work.samples) == (50, 0, 0, 0)
    assert not [each for each, _ in recorder.drain() if each is work]


def test_receivers_are_not_timed(loaded: Any) -> None:
    module = loaded(threshold="0ms")
    work = probe_on(module, "work")

    def receive(sender: str, **_: Any) -> None:
        module.work(0)

    from autoprof import signals

    signals.slow_operation.connect(receive, sender=work.target)
    try:
        module.work(0)
    finally:
        signals.slow_operation.disconnect(receive, sender=work.target)
    assert work.slow == 1


def test_a_failure_of_ours_stays_ours(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = loaded(threshold="0ms")
    module.work(0)
    work = probe_on(module, "work")

    def broken(*_: Any) -> None:
        raise ValueError("ours")

    monkeypatch.setattr(Probe, "record", broken)
    assert module.work(0) == 0
    monkeypatch.undo()
    assert sum(guard.internal_errors.values()) == 2, "of work and of inner"
    guard.internal_errors.clear()
    assert work.calls == 2


@pytest.mark.skipif(not hasattr(__import__("os"), "fork") or WEBASSEMBLY, reason="no fork here")
def test_a_childs_call_that_began_in_the_parent_is_the_parents(loaded: Any) -> None:
    import os

    module = loaded(threshold="0ms")
    module.work(0)
    began_s = time.perf_counter()
    pid = os.fork()
    if not pid:
        os._exit(0 if flight.born_s > began_s else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_two_decorators_and_a_rule_share_one_function(tmp_path: Path) -> None:
    source = "#@\ndef f(x):\n    return x\n"
    decorators = "@__import__('autoprof').profile_if_slow('0ms', rate=1.0)\n@__import__('autoprof').profile(rate=1.0)\n"
    start = mechanisms.policy("subject_stacked", str(tmp_path / "out"))
    start["rules"] = [{"match": "nothing.at.all:*", "policy": "profile"}]
    session.start(start)
    module = mechanisms.plain(source.replace("#@\n", decorators), "subject_stacked", start)
    try:
        assert [module.f(n) for n in range(10)] == list(range(10))
        assert session.current is not None
        found = session.current.installer.probes
        slow = found["subject_stacked:f", "profile_if_slow"]
        sampled = found["subject_stacked:f", "profile"]
        assert (slow.calls, slow.slow, slow.profiled) == (10, 10, 10)
        assert (sampled.calls, sampled.profiled) == (10, 10)
    finally:
        del sys.modules["subject_stacked"]
        session.stop()
