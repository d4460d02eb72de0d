"""The flight recorder: one thread that reads the stacks of the calls in flight, and sleeps when there are none.

A sampled call costs two list operations; the stacks come from `sys._current_frames()` at jittered intervals. The first
look after a pause comes after a uniformly drawn part of the interval, so calls far shorter than the interval are seen
in proportion to their length.
"""

from __future__ import annotations

import gc
import os
import sys
from _random import Random
from collections import deque

from autoprof import clock, guard
from autoprof import frames as reading
from autoprof.background import Background
from autoprof.callstacks import AWAIT
from autoprof.flight import Flight, afloat, drop_abandoned, forget, in_flight, leaf_of
from autoprof.primitives import allocate_lock
from autoprof.watching import Watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType
    from typing import Any

    from autoprof.callstacks import CallStacks, Key

STACKS_KEPT, STACKS_A_CALL, ADDED_HELD = 20_000, 2_000, 1_000
COLLECTS_WHILE_ALLOCATING = sys.version_info < (3, 12)
IDLE_AFTER_S, DROWSY_AFTER_S, DROWSY, RARE = 0.25, 60.0, 10, 2
"""After a minute without a watched call intervals are ten times as long; calls are rare after two of them asleep."""
_random = Random(int.from_bytes(os.urandom(16), "little"))

Stacks = dict[tuple["Any", tuple[str, ...]], tuple[int, int]]
"""(probe, frame labels root first) → samples, weight in nanoseconds."""


class Sampler:
    """The recorder of one process.

    Attributes:
        interval_ns: the shortest interval any installed probe asks for.
        dropped: samples not kept because more than STACKS_KEPT different stacks came up between two drains.
        busy_ns: what the sampler itself has used.
        stretch: factor of all intervals; the budget sets it.
        deadlines: key → (monotonic ns, what to call then), for strategies that stop before their call ends; looked at
            while any call is in flight.
        followed: generator-like calls whose stacks a strategy wants for itself, at an interval of its own.
    """

    def __init__(self) -> None:
        self.interval_ns = 10_000_000
        self.dropped = self.busy_ns = self.ticks = self._counted_ns = self._last_ns = self._idle_ns = 0
        self.on_ended: Callable[[Flight, int], None] = _ignore_end
        self.on_wake: Callable[[], None] = nothing
        self.deadlines: dict[object, tuple[int, Callable[[], None]]] = {}
        self.idle = True
        self.stretch = 1.0
        self._thread: Background | None = None
        self._table_lock = allocate_lock()
        self._counts: dict[tuple[Any, tuple[int, ...]], list[int]] = {}
        self._labels: dict[int, tuple[CodeType, str]] = {}
        self.watch = Watch()
        self.followed: dict[Flight, CallStacks] = {}
        self._added: deque[tuple[Any, dict[tuple[str, ...], tuple[int, int]]]] = deque()

    def wake(self) -> None:
        """Start sampling; called by a probe when `idle` is set. Starts the thread at the first call."""
        self.idle = False
        thread = self._thread
        if thread is not None and thread.running:
            thread.wake()
            return
        thread = self._thread = Background("sampler", self._run)
        if not thread.start():
            self._thread = None
            self.idle = True
        self.on_wake()

    def stop(self, wait_s: float = 0.0, delicate_wait_s: float = 0.0) -> None:
        """Let the thread end; a later `wake` starts another."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop(wait_s, delicate_wait_s)
        self.idle = True

    def forget_thread(self) -> None:
        """Start clean in a forked child, where the thread does not exist."""
        interval_ns, on_ended, watch = self.interval_ns, self.on_ended, self.watch
        self.__init__()  # type: ignore[misc]
        self.interval_ns, self.on_ended, self.watch = interval_ns, on_ended, watch
        watch.calls.clear()

    def _run(self, thread: Background) -> None:
        self._counted_ns = 0
        try:
            while thread.wanted:
                try:
                    self._sample_until_idle(thread)
                except Exception as error:  # no measured call wakes it again where only stopwatches run
                    guard.count("sampler", error)
                    thread.pause(IDLE_AFTER_S)
                # Asked to end it must not sleep. A wake-up may be left from a call that found it awake: it is none.
                while self.idle and thread.wanted:
                    thread.pause()
                thread.pause(0.0)
        finally:
            if self._thread is thread:
                self._thread = None
                self.idle = True

    def _sample_until_idle(self, thread: Background) -> None:
        now_ns, self._counted_ns, quiet_s = clock.monotonic_ns(), self._counted_ns or clock.thread_ns(), 0.0
        interval_ns = self._interval_ns()
        # Rare calls are looked at one by one; where they come fast, waking for each would cost more.
        idle_after_s = 0.0 if now_ns - self._idle_ns > RARE * interval_ns else IDLE_AFTER_S
        pause_s = interval_ns / 1e9 * _random.random()
        self._last_ns = now_ns + int(pause_s * 1e9 - interval_ns)  # the first stands for an interval, too
        while thread.wanted and thread.pause(pause_s):
            moved = self.watch.moved()
            quiet_s = 0.0 if in_flight or afloat or moved else quiet_s + pause_s
            self.tick(moved)
            if quiet_s > idle_after_s and not self.watch:
                self._idle_ns, self.idle = self._last_ns, True
                if not in_flight and not afloat:
                    return
                self.idle = False
            pause_s = self._interval_ns() / 1e9 * (0.5 + _random.random())
            if quiet_s > DROWSY_AFTER_S:
                pause_s *= DROWSY

    def _interval_ns(self) -> float:
        shortest_ns = min([self.interval_ns, *[each.interval_ns for each in list(self.followed.values())]])
        return shortest_ns * self.stretch

    def tick(self, watching: bool = False) -> None:
        """Look once at every thread with a call in flight, or with `watching` at every thread."""
        now_ns = clock.monotonic_ns()
        weight_ns = min(now_ns - self._last_ns, int(10 * self.interval_ns * self.stretch))
        self._last_ns, self.ticks = now_ns, self.ticks + 1
        before_ns = self._counted_ns or clock.thread_ns()  # of our thread: with what waking up has taken
        if in_flight or afloat or watching:
            self._look_round(now_ns, weight_ns, watching)
        self.busy_ns += max((used_ns := clock.thread_ns()) - before_ns, 0)
        self._counted_ns = used_ns if self._counted_ns else 0

    def _look_round(self, now_ns: int, weight_ns: int, watching: bool) -> None:
        for call, stacks in self.followed.copy().items():
            if now_ns >= stacks.until_ns:
                self.followed.pop(call, None)
        try:
            with self._table_lock:
                ended = self._look_uncollected(now_ns, weight_ns, watching)
            for each in ended:  # receivers run in here: never under the lock
                self.on_ended(each, now_ns)
            for key, (due_ns, stop) in self.deadlines.copy().items():
                if now_ns >= due_ns and self.deadlines.pop(key, None) is not None:
                    stop()
        except Exception as error:
            guard.report("sampler", error)

    def _look_uncollected(self, now_ns: int, weight_ns: int, watching: bool) -> list[Flight]:
        """Look without a collection in between.

        Beware: on 3.11 an allocation may collect. Finalizers then let other threads go on, whose frames are gone while
        CPython makes objects for them (`_PyFrame_MakeAndSetFrameObject`, Python/frame.c).
        """
        if not COLLECTS_WHILE_ALLOCATING or not gc.isenabled():
            return self._look(now_ns, weight_ns, watching)
        gc.disable()
        try:
            return self._look(now_ns, weight_ns, watching)
        finally:
            gc.enable()

    def _look(self, now_ns: int, weight_ns: int, watching: bool) -> list[Flight]:
        """Count the stacks of the calls in flight; return the generator-like ones that have ended unseen.

        Frames are let go of before this returns, and it takes far less than the switch interval: a frame held while
        its function returns would make the application's objects die late, on our thread.
        """
        frames = sys._current_frames()
        try:
            if watching:
                self.watch.look(frames, now_ns, weight_ns)
            threads, scale = reading.reservoir(list(in_flight.copy().items()))
            scaled_ns = int(weight_ns * scale)
            for ident, stack in threads:
                frame = leaf_of(ident, frames)
                if frame is None:
                    forget(ident)  # the thread ended inside the call
                else:
                    drop_abandoned(ident)
                    self._look_at_thread(frame, stack, now_ns, scaled_ns)
            return self._look_at_objects(frames, now_ns, weight_ns) if afloat else []
        finally:
            frames.clear()  # with our own frame in it, it is a cycle that would keep all the others alive

    def _look_at_thread(self, leaf: FrameType, stack: list[Flight], now_ns: int, weight_ns: int) -> None:
        """Walk from the leaf to the caller of each open call, innermost call first."""
        ids: list[int] = []
        add = ids.append
        frame: FrameType | None = leaf
        for each in stack[::-1]:
            caller = each.caller
            start, depth = frame, len(ids)
            for _ in range(reading.DEPTH_MAX - len(ids)):
                if frame is caller or frame is None:
                    break
                add(id(frame.f_code))
                frame = frame.f_back
            if frame is None and caller is not None:  # in a greenlet, begun before we knew that there are any
                frame = start
                del ids[depth:]
            elif now_ns - each.started_ns <= each.limit_ns:
                self._count(each, leaf, tuple(ids), weight_ns)

    def _count(
        self,
        each: Flight,
        leaf: FrameType,
        ids: tuple[int, ...],
        weight_ns: int,
        waiting: list[FrameType] | None = None,
    ) -> None:
        """Add one look at a call: its code ids, leaf first; new stacks are named while their frames are at hand.

        Args:
            waiting: the frames, root first, where they are not linked by `f_back`; they have been named.
        """
        counts = self._counts
        if each.stacks is not None:
            self._count_apart(each, waiting or reading.frames_below(leaf, len(ids)), weight_ns)
        for probe in each.probes:
            late = self._last_ns - each.started_ns > probe.limit_ns
            if late or not probe.sampled or probe.threshold_ns is not None:
                continue
            entry = counts.get((probe, ids))
            if entry is None:
                if not self._name(leaf, len(ids)):
                    return
                if len(counts) >= STACKS_KEPT:
                    self.dropped += 1
                    continue
                entry = counts[probe, ids] = [0, 0]
            entry[0] += 1
            entry[1] += int(weight_ns * each.weights.get(probe, 1.0)) if each.weights else weight_ns
            probe.samples += 1
            each.samples += 1

    def _count_apart(self, each: Flight, frames: list[FrameType], weight_ns: int) -> None:
        """Add one look at a call that a threshold may yet throw away to what the call itself keeps.

        Args:
            frames: root first.
        """
        stack = tuple([label for frame in frames if (label := reading.label_of(frame))])
        stacks = each.stacks
        weight_ns = int(weight_ns * max(each.weights.values())) if each.weights else weight_ns
        if stack and stacks is not None and (stack in stacks or len(stacks) < STACKS_A_CALL):
            sums = stacks.get(stack)
            if sums is None:
                sums = stacks[stack] = [0, 0]
            sums[0] += 1
            sums[1] += weight_ns
            each.samples += 1

    def keep(self, probe: Any, stacks: dict[tuple[str, ...], list[int]]) -> None:
        """Have the stacks of one call stored after all."""
        kept = {stack: (sums[0], sums[1]) for stack, sums in stacks.copy().items()}
        probe.samples += sum([samples for samples, _ in kept.values()])
        self.add(probe, kept)

    def _count_followed(self, each: Flight, leaf: FrameType, key: Key, depth: int, weight_ns: int) -> None:
        """Add one look at a call to the stacks that a strategy wants of it.

        Args:
            key: code ids, leaf first; before them what is no frame.
            depth: how many frames the key has.
        """
        stacks = self.followed.get(each)
        if stacks is None:
            return
        if not stacks.knows(key):
            self._name(leaf, depth)
            labels: dict[Any, Any] = self._labels
            stacks.name(key, [labels.get(each) or (None, str(each)) for each in key])
        stacks.count(key, weight_ns)

    def _name(self, leaf: FrameType, depth: int) -> bool:
        """Keep the labels of the frames from a leaf on, and their code, so that no id is used twice; any of theirs?"""
        frame: FrameType | None = leaf
        found = False
        for _ in range(depth):
            if frame is None:
                break
            found = bool(self._label(frame)) or found
            frame = frame.f_back
        return found

    def _label(self, frame: FrameType) -> str:
        code = frame.f_code
        known = self._labels.get(id(code))
        if known is None:
            known = self._labels[id(code)] = (
                code,
                reading.frame_label(code, frame.f_globals.get("__name__")),
            )
        return known[1]

    def _look_at_objects(self, frames: dict[int, FrameType], now_ns: int, weight_ns: int) -> list[Flight]:
        running: dict[int, Flight] = {}
        ended: list[Flight] = []
        objects, scale = reading.reservoir(list(afloat.copy().items()))
        weight_ns = int(weight_ns * scale)
        for _, each in objects:
            living = each.living() if each.living is not None else None
            frame = reading.frame_of(living) if living is not None else None
            if frame is None:
                ended.append(each)
            elif now_ns - each.started_ns > each.limit_ns:
                continue
            elif reading.is_running(living):
                running[id(frame)] = each
            else:
                self._look_at_suspended(each, living, weight_ns)
        if running:
            for leaf in frames.values():
                self._find_running(leaf, running, weight_ns)
        return ended

    def _find_running(self, leaf: FrameType, running: dict[int, Flight], weight_ns: int) -> None:
        ids: list[int] = []
        frame: FrameType | None = leaf
        while frame is not None and len(ids) < reading.DEPTH_MAX:
            ids.append(id(frame.f_code))
            here = running.get(id(frame))
            if here is not None:
                self._count(here, leaf, tuple(ids), weight_ns)
                if self.followed:
                    self._count_followed(here, leaf, tuple(ids), len(ids), weight_ns)
            frame = frame.f_back

    def _look_at_suspended(self, each: Flight, living: object, weight_ns: int) -> None:
        """Follow `cr_await`: what a suspended coroutine waits for is where its time goes."""
        if hasattr(living, "gi_frame") or (hasattr(living, "ag_await") and living.ag_await is None):
            each.suspended_ns += weight_ns
            return  # between two resumptions of a generator the time is the caller's
        chain = reading.awaiting(living, reading.DEPTH_MAX)
        for frame in chain:
            self._label(frame)
        if chain:
            ids = tuple([id(frame.f_code) for frame in reversed(chain)])
            self._count(each, chain[0], ids, weight_ns, chain)
            if self.followed:
                self._count_followed(each, chain[0], (AWAIT, *ids), len(ids), weight_ns)

    def add(self, probe: Any, stacks: dict[tuple[str, ...], tuple[int, int]]) -> None:
        """Have the next drain carry stacks that a strategy has counted itself: stack → samples, nanoseconds."""
        if len(self._added) < ADDED_HELD:
            self._added.append((probe, stacks))  # no lock: a signal handler may come here too
        else:
            self.dropped += sum(samples for samples, _ in stacks.values())

    def drain(self) -> Stacks:
        """Return the stacks since the last drain and forget them."""
        out: Stacks = {}
        while self._added:
            probe, stacks = self._added.popleft()
            for stack, (samples, weight_ns) in stacks.items():
                before = out.get((probe, stack), (0, 0))
                out[probe, stack] = (before[0] + samples, before[1] + weight_ns)
        if not self._counts:
            return out
        with self._table_lock:
            counts, self._counts = self._counts, {}
            labels, self._labels = self._labels, {}
        for (probe, ids), (samples, weight_ns) in counts.items():
            if not labels.keys() >= set(ids):  # its thread went on between the look and the naming
                self.dropped += samples
                continue
            stack = tuple(label for each in reversed(ids) if (label := labels[each][1]))
            before = out.get((probe, stack), (0, 0))
            out[probe, stack] = (before[0] + samples, before[1] + weight_ns)
        return out


def nothing() -> None:
    """Stand in where nobody wants to know that the sampler woke."""


def _ignore_end(each: Flight, now_ns: int) -> None:
    """Stand in until the probes have said what to do with a call that ended unseen."""


recorder = Sampler()
