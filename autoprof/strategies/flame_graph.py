"""One call as a flame graph: pyinstrument's hook follows this call, our renderers draw it.

pyinstrument's `Profiler` is not used, only the hook below it, which may have several subscribers: a second `Profiler`
in one context raises, so ours would break the application's own; and a running one can't end itself at a limit.
Our subscriber takes the frames as they are, keeps those of this very call, and takes the hook off when it is over.

- A plain function is followed from its call to its return.
- A coroutine is followed from its first step, on the thread that called the function. Of other tasks' steps nothing
  shows; while the coroutine waits, its time goes to what it awaits (as pyinstrument's `async_mode="strict"` has it).
- Generators and async generators end later, elsewhere or never, and between two items the time is their consumer's,
  who must not run under a hook: the sampler's thread looks at them, and at coroutines that run on other threads.
"""

from __future__ import annotations

import sys

from autoprof import arbiter, clock, guard
from autoprof import probe as probes
from autoprof.callstacks import AWAIT, CallStacks
from autoprof.frames import awaiting, frame_label, frame_of
from autoprof.importing import load
from autoprof.primitives import allocate_lock, get_ident
from autoprof.sampler import recorder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, FrameType
    from typing import Any

    from autoprof.flight import Flight
    from autoprof.probe import Probe
    from autoprof.strategies import Deliver

DEPTH_MAX = 1_000
INTERVAL_NS = 1_000_000
INTERVAL_MIN_NS = 100_000
EVENTS_WAITED = 50_000
"""Calls and returns on the thread that the first step of a coroutine is waited for."""

_CO_COROUTINE = 0x80
_BUILT_IN = "<built-in>"


class FlameGraph:
    """Measures one call at a time at the probe's interval.

    pyinstrument's hook is one per thread, and slows other threads from 3.12 on: hence never more than one.
    """

    name = "flame_graph"

    def __init__(self, deliver: Deliver) -> None:
        self._deliver = deliver
        self._turn = allocate_lock()
        self._current: Following | None = None

    def forget(self) -> None:
        """Start clean in a forked child: the call that was followed is the parent's."""
        current, self._current = self._current, None
        self._turn = allocate_lock()
        if current is not None:
            current.stop()

    def start(self, probe: Probe, flight: Flight) -> Following:
        """Follow a call from now on, or from its first step.

        Raises:
            Busy: another call is being followed.
        """
        interval_ns = max(probe.options.get("interval_ns") or INTERVAL_NS, INTERVAL_MIN_NS)
        following = Following(flight, interval_ns, clock.monotonic_ns() + probe.limit_ns)
        if arbiter.holder is not None or not self._claim(following):
            raise probes.Busy("another call is being followed")
        try:
            following.start()
        except BaseException:
            following.stop()
            raise
        return following

    def _claim(self, following: Following) -> bool:
        if not self._turn.acquire(False):
            return False
        try:
            # Looked at, not released: an interrupt may leave a call that nothing ever stops.
            if self._current is not None and not self._current.is_over():
                return False
            self._current = following
            return True
        finally:
            self._turn.release()

    def stop(self, probe: Probe, flight: Flight, state: Any, duration_ns: int, kept: bool) -> dict[str, Any]:
        """Stop following and hand the stacks on; `profile` is the path of the artefact."""
        following: Following = state
        following.stop()
        if not kept:
            return {}
        found = following.stacks.totals()
        probe.samples += following.stacks.samples
        recorder.add(probe, found)
        recorder.dropped += following.stacks.dropped
        path = None
        if found:
            drawn = sorted((stack, weight_ns) for stack, (_, weight_ns) in found.items())
            path = self._deliver(probe, drawn, min(duration_ns, probe.limit_ns), "stacks")
        return {"profile": path, "samples": following.stacks.samples}


class Following:
    """One call being followed.

    Attributes:
        stacks: what was seen; nothing is added after `stop`, nor after the probe's `duration`.
        ident: of the thread that has the hook: it alone can take it off.
    """

    def __init__(self, flight: Flight, interval_ns: int, until_ns: int) -> None:
        self.flight = flight
        self.stacks = CallStacks(interval_ns, until_ns)
        self.ident = get_ident()
        self._stopped = False
        self._sampler: Any = None
        self._see = self._saw
        self._wait = self._waiting
        self._events_left = EVENTS_WAITED
        self._labels: dict[int, tuple[CodeType, str]] = {}

    def is_over(self) -> bool:
        """Tell whether nothing is being measured any more."""
        if self._stopped or self.flight.done or clock.monotonic_ns() >= self.stacks.until_ns:
            return True
        living = self.flight.living
        return living is not None and frame_of(living()) is None  # 3.13 closes generators without a word

    def start(self) -> None:
        """Put the hook on this thread, or wait for the coroutine's first step; look at generators from outside."""
        if not self.flight.gate.generator_like:
            self._hook()
            return
        recorder.followed[self.flight] = self.stacks
        if self.flight.code.co_flags & _CO_COROUTINE:
            sys.setprofile(self._wait)

    def stop(self) -> None:
        """Count nothing any more. On another thread than the hook's, the hook takes itself off at its next event."""
        self._stopped = True
        recorder.followed.pop(self.flight, None)
        if get_ident() == self.ident:
            self._unhook()

    def _waiting(self, frame: FrameType, event: str, _: object) -> None:
        """Be the thread's profile function until the coroutine takes its first step here."""
        try:
            self._events_left -= 1
            if self.is_over() or self._events_left < 0:
                self._unhook()
            elif event == "call" and frame.f_code is self.flight.code and self._is_ours(frame):
                self._unhook()
                recorder.followed.pop(self.flight, None)
                self._hook()
        except Exception as error:
            self._failed(error)

    def _is_ours(self, frame: FrameType) -> bool:
        living = self.flight.living
        coroutine = living() if living is not None else None
        return bool(getattr(coroutine, "cr_running", False)) and frame_of(coroutine) is frame

    def _hook(self) -> None:
        self._sampler = sampler = load("pyinstrument.stack_sampler").get_stack_sampler()
        warned = sampler.has_warned_about_timing_overhead
        sampler.has_warned_about_timing_overhead = True  # it would measure its clock and print into stderr
        try:
            interval_s = self.stacks.interval_ns / 1e9
            sampler.subscribe(self._see, desired_interval=interval_s, use_async_context=False)
        finally:
            sampler.has_warned_about_timing_overhead = warned

    def _unhook(self) -> None:
        """Take off what this thread has of ours, and nothing else; may be called from the hook itself."""
        hook = sys.getprofile()
        if hook is not None:
            arbiter.retire(hook)
        if hook is self._wait:
            sys.setprofile(None)
        sampler, self._sampler = self._sampler, None
        if sampler is None:
            return
        # A new list: pyinstrument may be walking through the old one, for the application's profiler too.
        sampler.subscribers = [each for each in sampler.subscribers if each.target is not self._see]
        if hook is None or type(hook).__module__.startswith("pyinstrument"):  # else it is the application's
            sampler._update()
        if not sampler.subscribers:
            _renew(sampler)

    def _saw(self, call_stack: list[str], span_s: float, _: object) -> None:
        """Be pyinstrument's subscriber: called on the profiled thread, an interval or more after the last time."""
        try:
            now_ns = clock.monotonic_ns()
            late_ns = now_ns - self.stacks.until_ns
            weight_ns = int(span_s * 1e9) - max(late_ns, 0)
            if not self._stopped and not self.flight.done and weight_ns > 0:
                self._look(call_stack, sys._getframe(2), weight_ns)
            if late_ns >= 0 or self._stopped or self.flight.done:
                self._unhook()
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        if guard.is_foreign(error):
            raise error
        self._stopped = True
        guard.count("flame graph", error)
        self._unhook()

    def _look(self, call_stack: list[str], leaf: FrameType, weight_ns: int) -> None:
        living = self.flight.living
        if living is None:
            frames = self._frames(call_stack, leaf, self.flight.caller, False)
        else:
            coroutine = living()
            own = frame_of(coroutine) if coroutine is not None else None
            if own is None:
                return
            if not coroutine.cr_running:
                self._count(awaiting(coroutine, DEPTH_MAX)[::-1], AWAIT, weight_ns)
                return
            frames = self._frames(call_stack, leaf, own, True)  # none when it runs on another thread
        if frames:
            last = call_stack[-1].split("\0")
            self._count(frames, f"{_BUILT_IN}:{last[0]}" if last[1:2] == [_BUILT_IN] else "", weight_ns)

    def _frames(
        self, call_stack: list[str], leaf: FrameType, end: FrameType | None, inclusive: bool
    ) -> list[FrameType]:
        """Return the frames of the call, leaf first; none when it is not the one that runs."""
        frames: list[FrameType] = []
        length = 0
        frame: FrameType | None = leaf
        while frame is not None:
            frames.append(frame)
            if frame is end:
                length = len(frames) - (not inclusive)
            frame = frame.f_back
        if end is None:
            length = len(frames)
        # Time up to a call belongs to the caller: pyinstrument leaves the called frame out. Its list has the thread's
        # name, the frames, and perhaps a C function.
        builtin = f"\0{_BUILT_IN}\0" in call_stack[-1]
        called = len(frames) > len(call_stack) - 1 - builtin
        return frames[called:length][-DEPTH_MAX:]

    def _count(self, frames: list[FrameType], leaf: str, weight_ns: int) -> None:
        ids: list[int | str] = [id(each.f_code) for each in frames]
        key = (leaf, *ids) if leaf else tuple(ids)
        if not self.stacks.knows(key):
            named: list[tuple[CodeType | None, str]] = [self._label(each) for each in frames]
            self.stacks.name(key, [(None, leaf), *named] if leaf else named)
        self.stacks.count(key, weight_ns)

    def _label(self, frame: FrameType) -> tuple[CodeType, str]:
        code = frame.f_code
        known = self._labels.get(id(code))
        if known is None:
            known = self._labels[id(code)] = (code, frame_label(code, frame.f_globals.get("__name__")))
        return known


def _renew(used: Any) -> None:
    """Give the thread a fresh sampler of pyinstrument's: one that is still in its hook notes its time at the end.

    The next profiler on the thread, the application's perhaps, would count its first sample from there.
    """
    stack_sampler = load("pyinstrument.stack_sampler")
    if stack_sampler.get_stack_sampler() is used:
        del stack_sampler.thread_locals.stack_sampler
        fresh = stack_sampler.get_stack_sampler()
        fresh.timer_func = used.timer_func
        fresh.has_warned_about_timing_overhead = used.has_warned_about_timing_overhead
