"""Carries what probes and sampler have counted to the store, about once a second, on one background thread."""

from __future__ import annotations

from collections import deque
from time import monotonic

from autoprof import clock, guard, turns
from autoprof.arbiter import memory_is_traced
from autoprof.background import Background
from autoprof.collecting import Told, merged, news
from autoprof.errors import StoreError
from autoprof.primitives import allocate_lock
from autoprof.sampler import nothing, recorder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from autoprof.probe import Probe

PERIOD_S = 0.9
"""Whoever dies without a word loses what was counted since; each time costs 5 to 20 us a function that was called."""
LEAST_PAUSE_S = 0.02
SOONEST_NS = SOONEST_FLUSH_NS = 800_000_000
RETRY_S = 5.0
STACKS_HELD = 20_000
JOBS_HELD = 16
CLOSE_S, CLOSE_MORE_S = 2.0, 1.0
"""Until when the last jobs may begin, and how much longer the last write may take."""
THOROUGH = 16
"""How many looks at what is counted go by before one looks at everything."""

POSTPONED_MAX = 10
"""Periods that a flush waits while tracemalloc is on: what it allocates would be in the application's figures."""


class Flusher:
    """The background writer of one process.

    Attributes:
        active: probes that have had a call; the others have nothing to tell.
        unsent: what could not be written yet; bounded, `dropped` counts the rest.
        cut_off: a fork has come inside an import or the first opening of the store, which took longer than can be
            waited for. Beware: in the child they never end, and whoever imports or opens the same hangs.
        last_error: why writing fails at the moment; None when it works.
    """

    def __init__(self, make_writer: Callable[[], Any]) -> None:
        self._make_writer = make_writer
        self.cut_off = False
        self.dropped = 0
        self._restates = False
        self.last_error: str | None = None
        self.active: dict[Probe, Told] = {}
        self.artefacts: list[Any] = []
        self.states: Callable[[bool], tuple[list[Any], bool] | None] = _no_news
        self.on_window: Callable[[Probe, int, float], None] = _nobody
        self.on_period: Callable[[], None] = nothing
        self.on_collect: Callable[[], None] = nothing
        self._jobs: deque[Callable[[], object]] = deque()
        self._unsent_probes: list[Any] = []
        self._unsent_stacks: dict[Any, tuple[int, int]] = {}
        self._sampled: dict[Probe, int] = {}
        self._writer: Any = None
        self._busy = allocate_lock()
        self._flushed_ns = self._turned_ns = 0
        self._thread: Background | None = None
        self._closed = self._finished = False
        self._deadline_s = 0.0
        self._retry_ns = 0
        self._window_ns = 0
        self._postponed = self._looks = 0
        self.busy_ns = 0
        self._dropped_sent = 0
        self._overhead_sent_ns = 0

    def start(self) -> None:
        """Start the thread unless it runs; never raises (at interpreter shutdown there are no new threads)."""
        if self._closed or (self._thread is not None and self._thread.running):
            return
        thread = self._thread = Background("flusher", self._run)
        if not thread.start():
            self._thread = None

    def rest(self, wait_s: float, delicate_wait_s: float = 0.0) -> bool:
        """End the thread for now; tell whether there was one."""
        thread, self._thread = self._thread, None
        if thread is not None:
            gone = thread.stop(wait_s, delicate_wait_s)
            self.cut_off = not gone and thread.is_delicate()
        return thread is not None

    def wake(self) -> None:
        """Have `on_period` called now instead of with the next flush."""
        thread = self._thread
        if thread is not None:
            thread.wake()

    def give_up(self) -> None:
        """Never write anything."""
        self.flush = _written_by_nobody  # type: ignore[method-assign]
        self.close = self.start = nothing  # type: ignore[method-assign]

    def watch(self, probe: Probe) -> None:
        """Count a probe's numbers from now on."""
        if probe not in self.active:
            self.active[probe] = Told()

    def _run(self, thread: Background) -> None:
        self._turned_ns = clock.monotonic_ns()
        while thread.wanted:
            try:
                if thread.pause(self._pause_s()):
                    self._turn(thread)
            except Exception as error:
                # A thread that dies here would not come back: nothing starts it again before a new first call.
                guard.count("flusher", error)
                thread.pause(PERIOD_S)
        if self._closed:
            self._finish(self._deadline_s)

    def _turn(self, thread: Background) -> None:
        turns.keep_time()
        now_ns = clock.monotonic_ns()
        if now_ns - self._turned_ns >= SOONEST_NS:
            self._turned_ns = now_ns
        if self._postponed < POSTPONED_MAX and memory_is_traced():
            self._postponed += 1
        else:
            self._postponed = 0
            self._work()
            # Once the store is imported and open, it has its own way to keep a fork waiting.
            thread.delicate = self._writer is None
            try:
                if clock.monotonic_ns() - self._flushed_ns >= SOONEST_FLUSH_NS:
                    self._looks += 1
                    self.flush(self._looks % THOROUGH == 0)
            finally:
                thread.delicate = False
        self._tick()

    def _tick(self) -> None:
        used_ns = clock.thread_ns()
        try:
            self.on_period()
        except Exception as error:
            guard.count("budget", error)
        self.busy_ns += clock.thread_ns() - used_ns

    def _pause_s(self) -> float:
        # Who wakes us in between must not put off the next flush.
        since_s = (clock.monotonic_ns() - self._turned_ns) / 1e9
        pause_s = min(max(PERIOD_S - since_s, LEAST_PAUSE_S), PERIOD_S)
        due_ns = turns.next_turn_ns()
        if due_ns is not None:
            pause_s = min(pause_s, max((due_ns - clock.monotonic_ns()) / 1e9, 0.001))
        return pause_s

    def defer(self, job: Callable[[], object]) -> bool:
        """Have the background thread do something; False, counted as dropped, when it has too much to do."""
        if self._closed or len(self._jobs) >= JOBS_HELD:
            self.dropped += 1
            return False
        self._jobs.append(job)
        self.start()
        return True

    def _work(self, deadline_s: float | None = None) -> None:
        """Do the deferred jobs; drop what is left at the deadline (of `time.monotonic`)."""
        while self._jobs:
            try:
                job = self._jobs.popleft()
            except IndexError:
                return  # the other of the thread and `close` was faster
            if deadline_s is not None and monotonic() >= deadline_s:
                self.dropped += 1
                continue
            used_ns = clock.thread_ns()
            try:
                job()
            except Exception as error:
                guard.count("background", error)
            self.busy_ns += clock.thread_ns() - used_ns

    def restate(self) -> None:
        """Have the state of the probes written though nothing was measured since."""
        self._restates = True

    def flush(self, thorough: bool = True) -> None:
        """Collect and write; failures are kept for later, told once.

        Args:
            thorough: as `news` takes it.
        """
        if not self._busy.acquire(True, 2.0):
            return
        used_ns = clock.thread_ns()
        now_ns = self._flushed_ns = clock.monotonic_ns()
        try:
            self._collect(now_ns, thorough)
            unsent = self._unsent_probes or self._unsent_stacks or self.artefacts
            if (unsent or (self._restates and self._writer is not None)) and now_ns >= self._retry_ns:
                self._restates = False
                self._write()
        except Exception as error:
            if self._writer is not None:
                self._writer.stated = False
            guard.report("flusher", error)
        finally:
            self.busy_ns += clock.thread_ns() - used_ns
            self._busy.release()

    def _collect(self, now_ns: int, thorough: bool) -> None:
        self.on_collect()
        for (probe, stack), (samples, weight_ns) in recorder.drain().items():
            key = (probe, stack)
            held = self._unsent_stacks.get(key)
            if held is not None:
                self._unsent_stacks[key] = (held[0] + samples, held[1] + weight_ns)
            elif len(self._unsent_stacks) < STACKS_HELD:
                self._unsent_stacks[key] = (samples, weight_ns)
            else:
                self.dropped += samples
        self.dropped += recorder.dropped
        recorder.dropped = 0
        # Beware of `list(….items())`: it makes tuples, and on 3.11 each may set off the garbage collector, whose
        # finalizers may call a function for the first time. `copy` is done before anybody else can run.
        for probe, told in self.active.copy().items():
            self._collect_probe(probe, told, thorough)
        if now_ns - self._window_ns >= 1_000_000_000:
            self._send_windows(now_ns)

    def _collect_probe(self, probe: Probe, told: Told, thorough: bool) -> None:
        delta = news(probe, told, thorough)
        if delta is not None:
            self._unsent_probes.append(delta)
            if len(self._unsent_probes) > 2 * len(self.active) + 100:
                self._unsent_probes = merged(self._unsent_probes)

    def _send_windows(self, now_ns: int) -> None:
        window_s = (now_ns - self._window_ns) / 1e9 if self._window_ns else PERIOD_S
        self._window_ns = now_ns
        for probe in list(self.active):
            new = probe.samples - self._sampled.get(probe, 0)
            if new:
                self._sampled[probe] = probe.samples
                self.on_window(probe, new, window_s)

    def _write(self) -> None:
        from autoprof.store import StackDelta

        stacks = [
            StackDelta(probe.target, probe.rule, probe.policy, probe.strategy_name, stack, samples, weight_ns)
            for (probe, stack), (samples, weight_ns) in self._unsent_stacks.items()
        ]
        artefacts = list(self.artefacts)
        latest = list({each.path: each for each in artefacts}.values())  # a file may have replaced another
        dropped, overhead_ns = self.dropped, recorder.busy_ns + self.busy_ns
        overhead_ns += sum([each.counts[5] for each in list(self.active.values())])
        try:
            if self._writer is None:
                self._writer = self._make_writer()
            states, whole = self.states(not self._writer.stated) or (None, False)
            self._writer.write(
                self._unsent_probes,
                stacks,
                latest,
                dropped=dropped - self._dropped_sent,
                overhead_ns=overhead_ns - self._overhead_sent_ns,
                now_ns=clock.wall_ns(),
                states=states,
                whole=whole,
            )
        except (StoreError, OSError) as error:
            self.artefacts[: len(artefacts)] = latest
            if self._writer is not None:
                self._writer.stated = False
            self._retry_ns = clock.monotonic_ns() + int(RETRY_S * 1e9)
            if self.last_error is None:
                guard.warn(f"autoprof's measurements stay in memory for now: {error}")
            self.last_error = str(error)
            return
        self.last_error = None
        self._dropped_sent, self._overhead_sent_ns = dropped, overhead_ns
        self._unsent_probes = []
        self._unsent_stacks = {}
        del self.artefacts[: len(artefacts)]
        for notice in self._writer.take_notices():
            guard.warn(notice)

    def change_writer(self) -> None:
        """Write what is left and let go of the store; the next write opens that of the policy in force."""
        self.flush()
        if not self._busy.acquire(True, CLOSE_S):
            return
        try:
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.close(clock.wall_ns())
        except Exception as error:
            guard.report("store", error)
        finally:
            self._busy.release()

    def close(self) -> None:
        """Write what is left and end the thread; waits at most 2 s, never raises."""
        self._deadline_s = monotonic() + CLOSE_S
        self._closed = True  # last: the thread may see it from here on
        try:
            self._close()
        except Exception as error:
            guard.report("exit", error)

    def _close(self) -> None:
        """Have the thread write what is left: a disk that hangs must not keep the application from ending.

        From 3.12 on there are no new threads at exit, so it is the one that runs already.
        """
        thread, self._thread = self._thread, None
        gone = thread is None or thread.stop(CLOSE_S + CLOSE_MORE_S)
        if gone and not self._finished:  # there was none, or it died
            thread = Background("last write", lambda _: self._finish(self._deadline_s))
            if not thread.start():
                self._finish(self._deadline_s)
            gone = thread.stop(CLOSE_S + CLOSE_MORE_S)
        if not gone:
            # Whoever waits for the writer's locks now would hang as well.
            guard.count(
                "exit", TimeoutError(f"the store hangs: after {CLOSE_S:.0f} s the last batch is given up")
            )

    def _finish(self, deadline_s: float) -> None:
        self._finished = True
        self._work(deadline_s)
        self._window_ns = 0
        self._retry_ns = 0
        self.flush()
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.close(clock.wall_ns())
            except Exception as error:
                guard.report("store", error)


def _written_by_nobody(thorough: bool = True) -> None:
    """Stand in for `flush` where nothing is to be written."""


def _no_news(whole: bool) -> tuple[list[Any], bool] | None:
    """Stand in until the session tells the states of its probes."""
    return None


def _nobody(probe: Probe, samples: int, window_s: float) -> None:
    """Stand in until the session sends `sample`."""
