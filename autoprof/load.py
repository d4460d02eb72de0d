"""Whether the machine, the container or this process is under load: figures over 5 s, and when they say pause.

The figures stand in for what the scheduler utilisation of the BEAM tells in one: how much of the CPU is taken, and
whether somebody waits. Waiting counts by itself only where it is certain that somebody of this process waits:

- the GIL: most looks found it taken, *and* at least two threads of this process share about one core. One busy thread
  also has it taken at every look, but nobody waits for it.
- a CPU: threads of this process wait longer for one than they run, *and* the kernel's pressure figure agrees, if any.
- the quota: the container was throttled in most of its periods.
- an event loop: most looks found callbacks waiting in one, *and* this process used the better part of a core. A task
  alone keeps nobody waiting, and a loop that a blocking call holds up is no load.
"""

from __future__ import annotations

import sys
from collections import deque, namedtuple
from time import process_time_ns

from autoprof import loops
from autoprof.cgroups import Cgroups
from autoprof.host import Host
from autoprof.units import format_share, format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NamedTuple

    from autoprof.cgroups import CpuLevel, MemoryLevel

    class _Reading(NamedTuple):
        cpu: float | None
        memory: float | None
        gil: float | None
        queue: float | None
        throttled: float | None
        loop: float | None

    class _Sample(NamedTuple):
        now_ns: int
        usage: tuple[int, ...]
        ticks: tuple[float, float] | None
        throttling: tuple[tuple[int, int], ...]
        looks: int
        taken: int
        pressure_ns: int | None
        tasks: dict[str, tuple[int, int]]
        looped: int
        process_ns: int

else:
    _Reading = namedtuple("_Reading", "cpu memory gil queue throttled loop")
    _Sample = namedtuple(
        "_Sample", "now_ns usage ticks throttling looks taken pressure_ns tasks looped process_ns"
    )

SECOND_NS = 1_000_000_000
MEAN_NS = 5 * SECOND_NS
STALE_NS = 2 * MEAN_NS
"""After so long without a look (the process was stopped, its threads were not scheduled) the mean starts anew."""

LIMITS_NS = 30 * SECOND_NS
"""How long limits are believed: containers are resized and processes moved while they run."""

PAUSED_NS = 10 * SECOND_NS
RUNNING_NS = 5 * SECOND_NS
"""Shortest time paused, and between a resumption and the next pause."""

_LOOKS_MIN = 4
_OTHERS_MIN, _CORES_MAX, _BUSY_MIN = 0.2, 1.25, 0.8
"""What threads besides the busiest use of the process's time, and the cores of all together, where threads wait for
the GIL: more than one core together is work that does without it. What a busy loop's process uses at least."""

_WAITERS_MIN = 0.5
_PRESSED_MIN = 0.1


_SENTENCES = {
    "cpu": "{0} of {1} is in use (mean of 5 s)",
    "memory": "{0} of {2} is in use",
    "gil": "threads had to wait for the GIL at {0} of the looks in 5 s",
    "queue": "threads had to wait for a CPU in {0} of the time in which they could run",
    "throttled": "the container was throttled in {0} of its periods",
    "loop": "callbacks had to wait for their event loop at {0} of the looks in 5 s",
}


class Reading(_Reading):
    """Shares, mean of 5 s; None: no figure, or nobody waits.

    Attributes:
        cpu: of the container's CPU, else of the machine's CPUs that this process may use.
        memory: of the container's memory, else of the machine's; now.
        gil: of the looks that found the GIL taken, while several threads want it.
        queue: of the time in which threads of this process could run and had to wait for a CPU.
        throttled: of the periods in which the container had used up its quota.
        loop: of the looks that found callbacks waiting in an event loop, while this process is busy.
    """

    __slots__ = ()


NOTHING = Reading(None, None, None, None, None, None)


class Meter:
    """Reads the figures; its means go back 5 s."""

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc
        self._host = Host(proc)
        self._samples: deque[_Sample] = deque()
        self._looks = self._taken = self._looped = 0
        self._suspected_ns: int | None = None
        self._read_tasks = True
        self._found_ns: int | None = None
        self._cpus: frozenset[int] = frozenset()
        self._cpu_levels: list[CpuLevel] = []
        self._memory_levels: list[MemoryLevel] = []
        self._pressure: str | None = None

    def waited_ns(self) -> int:
        """Return how long the calling thread has waited for a CPU so far."""
        return self._host.waited_ns()

    def woke(self, late_ns: int) -> None:
        """Hear how late the calling thread woke from a sleep, without what it waited for a CPU."""
        self._looks += 1
        # A thread that wants the GIL has it after the switch interval at the earliest, where somebody computes.
        self._taken += late_ns > sys.getswitchinterval() * SECOND_NS / 2
        self._looped += loops.waits()

    def read(self, now_ns: int) -> Reading:
        """Look at everything once; the means are None before they go back 5 s.

        Args:
            now_ns: of the monotonic clock.
        """
        if self._found_ns is None or now_ns - self._found_ns >= LIMITS_NS:
            self._find_limits()
            self._found_ns = now_ns
        sample = self._sample(now_ns)
        samples = self._samples
        if samples and (
            now_ns - samples[-1].now_ns > STALE_NS or len(samples[-1].usage) != len(sample.usage)
        ):
            samples.clear()
        samples.append(sample)
        while len(samples) > 2 and now_ns - samples[1].now_ns >= MEAN_NS:
            samples.popleft()
        memory = self._memory()
        before = samples[0]
        if now_ns - before.now_ns < MEAN_NS:
            return NOTHING._replace(memory=memory)
        return Reading(
            self._cpu(before, sample),
            memory,
            _gil_waited(before, sample),
            _queued(before, sample),
            _throttled(before, sample),
            _looped(before, sample),
        )

    def _find_limits(self) -> None:
        self._cpus = self._host.cpus()
        groups = Cgroups(f"{self._proc}/self")
        levels = groups.cpu_levels()
        # A quota of all the CPUs there are bounds nothing: others may take them, and the machine tells that.
        bounding = [level for level in levels if level.cores < len(self._cpus)]
        if [level.cores for level in bounding] != [level.cores for level in self._cpu_levels]:
            self._samples.clear()
        self._cpu_levels = bounding
        machine = self._host.memory_bytes()
        self._memory_levels = [
            level for level in groups.memory_levels() if machine is None or level.limit_bytes < machine[1]
        ]
        self._pressure = groups.cpu_pressure_file()

    def _sample(self, now_ns: int) -> _Sample:
        usage = [level.usage_ns() for level in self._cpu_levels]
        pressure_ns = self._host.pressure_ns(self._pressure)
        return _Sample(
            now_ns,
            tuple([each for each in usage if each is not None]),
            None if self._cpu_levels else self._host.cpu_ticks(self._cpus),
            tuple([level.throttling() for level in self._cpu_levels]),
            self._looks,
            self._taken,
            pressure_ns,
            self._tasks_at(now_ns, pressure_ns),
            self._looped,
            process_time_ns(),
        )

    def _tasks_at(self, now_ns: int, pressure_ns: int | None) -> dict[str, tuple[int, int]]:
        """Return the threads' times, read once a second; nothing while nobody seems to wait."""
        if not self._suspects(now_ns, pressure_ns):
            return {}
        if self._samples and self._samples[-1].tasks and not self._read_tasks:
            self._read_tasks = True
            return self._samples[-1].tasks
        self._read_tasks = False
        return self._host.tasks()

    def _suspects(self, now_ns: int, pressure_ns: int | None) -> bool:
        """Tell whether it is worth asking each thread: every file read gives the GIL away and waits for it again."""
        if self._samples:
            before = self._samples[-1]
            taken = self._taken > before.taken
            pressed = (pressure_ns or 0) - (before.pressure_ns or 0) > _PRESSED_MIN * (now_ns - before.now_ns)
            if taken or pressed:
                self._suspected_ns = now_ns
        return self._suspected_ns is not None and now_ns - self._suspected_ns < MEAN_NS

    def _cpu(self, before: _Sample, now: _Sample) -> float | None:
        span_ns = now.now_ns - before.now_ns
        if self._cpu_levels:
            if len(now.usage) != len(self._cpu_levels):
                self._found_ns = None  # a group is gone: we were moved
                return None
            pairs = zip(self._cpu_levels, before.usage, now.usage, strict=True)
            shares = [(used - used_before) / span_ns / level.cores for level, used_before, used in pairs]
            return max(max(shares), 0.0)
        if before.ticks is None or now.ticks is None:
            return None
        busy, passed = (new - old for new, old in zip(now.ticks, before.ticks, strict=True))
        return min(max(busy / passed, 0.0), 1.0) if passed > 0 else None

    def _memory(self) -> float | None:
        shares = []
        for level in self._memory_levels:
            used = level.used_bytes()
            if used is not None:
                shares.append(used / level.limit_bytes)
        if shares:
            return max(shares)
        machine = self._host.memory_bytes()
        return machine[0] / machine[1] if machine else None

    def cpu_of(self) -> str:
        """Say whose CPU the figure is a share of; "" without a figure."""
        if self._cpu_levels:
            return f"the container's {_count(min(level.cores for level in self._cpu_levels), 'CPU')}"
        if self._host.cpu_ticks(self._cpus) is None:
            return ""
        return f"the machine's {_count(len(self._cpus), 'CPU')}"

    def memory_of(self) -> str:
        """Say whose memory the figure is a share of; "" without a figure."""
        if self._memory_levels:
            return f"the container's {format_size(min(level.limit_bytes for level in self._memory_levels))}"
        machine = self._host.memory_bytes()
        return f"the machine's {format_size(machine[1])}" if machine else ""


def _yes() -> bool:
    """Stand in before 3.13, where there always is a GIL."""
    return True


def _gil_waited(before: _Sample, now: _Sample) -> float | None:
    looks = now.looks - before.looks
    if looks < _LOOKS_MIN or not before.tasks or not getattr(sys, "_is_gil_enabled", _yes)():
        return None
    span_ns = now.now_ns - before.now_ns
    cores = [(run - before.tasks.get(task, (0, 0))[0]) / span_ns for task, (run, _) in now.tasks.items()]
    together = sum(cores)
    if not 0 < together <= _CORES_MAX or together - max(cores) < _OTHERS_MIN * together:
        return None
    return (now.taken - before.taken) / looks


def _queued(before: _Sample, now: _Sample) -> float | None:
    span_ns = now.now_ns - before.now_ns
    ran = waited = 0
    for task, (run_ns, wait_ns) in now.tasks.items():
        earlier = before.tasks.get(task)
        if earlier is not None:
            ran += run_ns - earlier[0]
            waited += wait_ns - earlier[1]
    if waited < _WAITERS_MIN * span_ns:
        return None
    known = now.pressure_ns is not None and before.pressure_ns is not None
    if known and (now.pressure_ns or 0) - (before.pressure_ns or 0) < _PRESSED_MIN * span_ns:
        return None
    return waited / (waited + max(ran, 0))


def _throttled(before: _Sample, now: _Sample) -> float | None:
    shares = []
    for (periods_before, throttled_before), (periods, throttled) in zip(
        before.throttling, now.throttling, strict=True
    ):
        if periods - periods_before >= _LOOKS_MIN:
            shares.append((throttled - throttled_before) / (periods - periods_before))
    return max(shares, default=None)


def _looped(before: _Sample, now: _Sample) -> float | None:
    looks = now.looks - before.looks
    busy = now.process_ns - before.process_ns >= _BUSY_MIN * (now.now_ns - before.now_ns)
    return (now.looped - before.looped) / looks if busy and looks >= _LOOKS_MIN else None


def _count(amount: float, what: str) -> str:
    return f"{amount:.3g} {what}{'' if amount == 1 else 's'}"


def lower(limit: float) -> float:
    """Return the share below which measuring goes on after a pause: 80 % → 70 %, 90 % → 80 %."""
    return max(limit - 0.1, limit * 0.875)


class Judge:
    """Decides by hysteresis: pauses above a limit, resumes well below it, and never in a hurry.

    Attributes:
        reason: one sentence why measuring is paused; "" while it is not.
    """

    def __init__(self, cpu: float | None, memory: float | None) -> None:
        self.cpu = cpu
        self.memory = memory
        self.reason = ""
        self._until_ns: int | None = None

    def _figures(self, reading: Reading) -> list[tuple[str, float, float]]:
        """Return (name, figure, limit) for all that there is; a figure of waiting is bounded by the CPU's limit."""
        limits = [self.memory if name == "memory" else self.cpu for name in reading._fields]
        return [
            (name, figure, limit)
            for name, figure, limit in zip(reading._fields, reading, limits, strict=True)
            if figure is not None and limit is not None
        ]

    def look(
        self,
        reading: Reading,
        now_ns: int,
        cpu_of: Callable[[], str] = str,
        memory_of: Callable[[], str] = str,
    ) -> bool:
        """Take a reading into account; tell whether to pause or to resume now: `reason` says which.

        Args:
            now_ns: of the monotonic clock.
            cpu_of, memory_of: say whose, for the sentence.
        """
        if self._until_ns is not None and now_ns < self._until_ns:
            return False
        figures = self._figures(reading)
        if self.reason:
            if any(figure > lower(limit) for _, figure, limit in figures):
                return False
            self.reason = ""
            self._until_ns = now_ns + RUNNING_NS
            return True
        for name, figure, limit in figures:
            if figure > limit:
                key = "memory" if name == "memory" else "cpu"
                whose = cpu_of() or "the CPU", memory_of() or "the memory"
                said = _SENTENCES[name].format(_percent(figure), *whose)
                self.reason = f"paused by load: {said}, above load: {key} {format_share(limit)}"
                self._until_ns = now_ns + PAUSED_NS
                return True
        return False

    def below(self, reading: Reading) -> str:
        """Say why measuring goes on."""
        said = [f"{name} {_percent(figure)}" for name, figure, _ in self._figures(reading)]
        return f"load is over: {', '.join(said)}" if said else "load is over: there is no figure any more"


def _percent(share: float) -> str:
    return format_share(round(share, 3))


def outlook(cpu: float | None, memory: float | None, proc: str = "/proc") -> list[str]:
    """Say above which load measuring pauses in processes started here, and what is in use now.

    Args:
        cpu, memory: the limits; None: never because of it.
        proc: the folder that describes the machine; another one in tests.
    """
    meter = Meter(proc)
    reading = meter.read(0)
    lines = []
    for name, limit, whose in (("cpu", cpu, meter.cpu_of()), ("memory", memory, meter.memory_of())):
        if limit is None:
            lines.append(f"{name}: never pauses (load: off)")
        elif not whose:
            lines.append(f"{name}: never pauses: this system tells no figure")
        else:
            mean = ", mean of 5 s" if name == "cpu" else f"; {_percent(reading.memory or 0.0)} is in use now"
            again = format_share(round(lower(limit), 4))
            lines.append(
                f"{name}: pauses above {format_share(limit)} of {whose}, goes on below {again}{mean}"
            )
    return lines
