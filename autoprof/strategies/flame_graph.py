"""One call as a flame graph: pyinstrument follows this call, our renderers draw it."""

from __future__ import annotations

import os
from _thread import allocate_lock

from autoprof import arbiter
from autoprof import probe as probes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from autoprof.flight import Flight
    from autoprof.probe import Probe
    from autoprof.strategies import Deliver

AT_ONCE = 1
"""pyinstrument's hook is one per thread and slows other threads from 3.12 on: never more than this many."""

Stacks = list[tuple[tuple[str, ...], int]]


class FlameGraph:
    """Measures one call at a time with pyinstrument at the probe's interval."""

    name = "flame_graph"

    def __init__(self, deliver: Deliver) -> None:
        self._deliver = deliver
        self._running = allocate_lock()
        self._profiler: Any = None

    def forget(self) -> None:
        """Start clean in a forked child: the call that was followed is the parent's."""
        profiler, self._profiler = self._profiler, None
        _discard(profiler)
        self._running = allocate_lock()

    def start(self, probe: Probe, flight: Flight) -> Any:
        """Start pyinstrument on this thread.

        Raises:
            Busy: another call is being followed, or pyinstrument is in use here.
        """
        if flight.gate.generator_like:
            raise probes.Busy("not for coroutines and generators yet")
        if arbiter.holder is not None or not self._running.acquire(False):
            raise probes.Busy("another call is being followed")
        profiler = None
        try:
            from pyinstrument import Profiler

            interval_s = max(probe.options.get("interval_ns") or 1_000_000, 100_000) / 1e9
            profiler = Profiler(interval=interval_s, async_mode="disabled")
            profiler.start()
        except BaseException as error:
            _discard(profiler)
            self._running.release()
            if isinstance(error, Exception):
                raise probes.Busy(str(error)) from error
            raise
        self._profiler = profiler
        return profiler

    def stop(self, probe: Probe, flight: Flight, state: Any, duration_ns: int, kept: bool) -> dict[str, Any]:
        """Stop it and hand the stacks on; `profile` is the path of the artefact."""
        self._profiler = None
        try:
            session = state.stop()
        finally:
            self._running.release()
        if not kept:
            return {}
        if duration_ns > flight.limit_ns:
            duration_ns = flight.limit_ns
        stacks = own_stacks(session, flight)
        probe.samples += sum(1 for _ in stacks)
        path = self._deliver(probe, stacks, duration_ns, "stacks") if stacks else None
        return {"profile": path, "samples": session.sample_count}


def _discard(profiler: Any) -> None:
    """Take a half-started profiler's hook off: it would raise inside the application later."""
    if profiler is None:
        return
    try:
        profiler.stop()
    except Exception:
        from pyinstrument.stack_sampler import get_stack_sampler

        sampler = get_stack_sampler()
        for subscriber in list(sampler.subscribers):
            if getattr(subscriber.target, "__self__", None) is profiler:
                sampler.subscribers.remove(subscriber)
        sampler._update()  # type: ignore[no-untyped-call]


def own_stacks(session: Any, flight: Flight) -> Stacks:
    """Return (stack root first, nanoseconds), aggregated, from the profiled function on down."""
    code = flight.code
    root = f"{code.co_name}\0{code.co_filename}\0{code.co_firstlineno}"
    totals: dict[tuple[str, ...], int] = {}
    limit_s = flight.limit_ns / 1e9
    elapsed_s = 0.0
    for frames, duration_s in session.frame_records:
        elapsed_s += duration_s
        if elapsed_s > limit_s:
            break
        names = [str(each).split("\1")[0] for each in frames]
        if root not in names:
            continue
        stack = tuple(_label(each) for each in names[names.index(root) :] if not each.startswith("\0"))
        totals[stack] = totals.get(stack, 0) + int(duration_s * 1e9)
    return sorted(totals.items())


def _label(identifier: str) -> str:
    name, _, place = identifier.partition("\0")
    file, _, line = place.rpartition("\0")
    module = os.path.splitext(os.path.basename(file))[0]
    return f"{module}:{name} ({file}:{line})" if file else name
