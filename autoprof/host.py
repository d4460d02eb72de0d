"""What the machine, the container and this process use: the only importer of psutil."""

from __future__ import annotations

import os
from os import O_RDONLY, close, fstat, getpid, open, read
from sys import platform

from autoprof.primitives import allocate_lock

try:
    from os import pread
except ImportError:
    pass  # Windows: there is no /proc to read either

from autoprof.cgroups import text_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_STATM = "/proc/self/statm"
_STATM_MAX_BYTES = 128
_FROM_DESCRIPTOR = 200
"""Descriptors of ours start here: a program that closes 0 to 2 and opens them anew must get those numbers."""

_FOREIGN = (-1, -1)


class RssReader:
    """Reads the resident set size of this process; one object a user, `close` it at the end.

    On Linux from a descriptor of /proc/self/statm that stays open: opening it for every reading costs 5.5 µs instead
    of 2.3, and ten times that while other threads want the GIL. The descriptor belongs to a process in which everybody
    may close everything, so what is read is checked to be statm each time, and nothing else is ever closed.

    Beware: from Linux 6.2 to 6.15 statm itself may be some tens of pages per processor behind.
    """

    __slots__ = ("_closed", "_descriptor", "_identity", "_opening", "_page_bytes", "_pid", "_process")

    def __init__(self) -> None:
        self._page_bytes = _page_bytes()
        self._closed = False
        self._process: Any = None
        self._forgotten()

    def _forgotten(self) -> None:
        self._descriptor = -1
        self._identity = _FOREIGN
        self._pid = 0
        self._opening = allocate_lock()

    def read(self) -> int | None:
        """Return bytes; None where nothing tells them."""
        if self._pid == getpid():
            try:
                status = fstat(self._descriptor)
                if (status.st_dev, status.st_ino) == self._identity:
                    return self._parsed(pread(self._descriptor, _STATM_MAX_BYTES, 0))
            except OSError:
                pass  # closed by the application
        return self._read_anew()

    def _parsed(self, statm: bytes) -> int:
        return int(statm.split(None, 2)[1]) * self._page_bytes

    def _read_anew(self) -> int | None:
        if not self._page_bytes:
            return self._read_by_psutil()
        try:
            descriptor = open(_STATM, O_RDONLY)
        except FileNotFoundError:
            self._page_bytes = 0
            return self._read_by_psutil()
        except OSError:  # no descriptor left, or forbidden: the application's trouble, perhaps over soon
            return None
        try:
            self._keep(descriptor)
            return self._parsed(read(descriptor, _STATM_MAX_BYTES))
        finally:
            close(descriptor)

    def _keep(self, descriptor: int) -> None:
        """Keep a duplicate of the descriptor for the next reading."""
        # Never wait: opening can run the application's audit hooks, under which no lock of ours may block.
        if self._closed or not self._opening.acquire(False):
            return
        try:
            self._let_go()
            from fcntl import F_DUPFD_CLOEXEC, fcntl

            self._descriptor = fcntl(descriptor, F_DUPFD_CLOEXEC, _FROM_DESCRIPTOR)
            status = fstat(self._descriptor)
            self._identity = status.st_dev, status.st_ino
            self._pid = getpid()
        except (ImportError, OSError):
            pass  # a limit below our number: every reading opens for itself then
        finally:
            self._opening.release()

    def _let_go(self) -> None:
        """Close the descriptor if it still is what we opened: the number may be somebody else's file by now."""
        descriptor, self._descriptor, self._pid = self._descriptor, -1, 0
        identity, self._identity = self._identity, _FOREIGN
        if descriptor < 0:
            return
        try:
            status = fstat(descriptor)
            if (status.st_dev, status.st_ino) == identity:
                close(descriptor)
        except OSError:
            pass

    def _read_by_psutil(self) -> int | None:
        if self._process is False:
            return None
        try:
            if self._process is None or self._process.pid != getpid():
                import psutil

                self._process = psutil.Process()
            return int(self._process.memory_info().rss)
        except (
            Exception
        ):  # ImportError (WebAssembly), and psutil's own errors: no permission, no such process
            self._process = False
            return None

    def forget(self) -> None:
        """Start clean in a forked child: the descriptor there is the parent's statm."""
        self._let_go()
        self._process = None
        self._forgotten()

    def close(self) -> None:
        """Give the descriptor back; later readings open and close one each."""
        self._closed = True
        self._let_go()


def _page_bytes() -> int:
    """Return the size of a page; 0 where /proc is not the way to rss."""
    if platform != "linux":
        return 0
    from os import sysconf

    return int(sysconf("SC_PAGE_SIZE"))


# what the machine uses; how long threads wait for it

_STAT_MAX_BYTES = 1 << 20
_TASKS_READ = 32
"""Threads whose waiting is looked at; more of them cost more than they tell."""


class Host:
    """Reads what the machine uses.

    Args:
        proc: the folder that describes the machine; another one in tests.
    """

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc

    def cpus(self) -> frozenset[int]:
        """Return the numbers of the CPUs that this process may run on."""
        try:
            return frozenset(os.sched_getaffinity(0))
        except (AttributeError, OSError):
            return frozenset(range(os.cpu_count() or 1))

    def cpu_ticks(self, cpus: frozenset[int]) -> tuple[float, float] | None:
        """Return (busy, busy and idle) time of these CPUs since the start, in any unit; None: no figure.

        What a hypervisor takes away counts as busy.
        """
        text = text_of(f"{self._proc}/stat", _STAT_MAX_BYTES)
        if text is None:
            return None if self._proc != "/proc" or platform == "linux" else _ticks_by_psutil()
        busy = idle = 0
        for line in text.splitlines():
            if not line.startswith("cpu"):
                break
            name, *fields = line.split()
            if not (name[3:].isdecimal() and int(name[3:]) in cpus):
                continue
            ticks = [int(each) for each in fields if each.isdecimal()][:8]  # guests' time is in that of users
            if len(ticks) >= 4:
                waiting = sum(ticks[3:5])  # idle and iowait
                busy += sum(ticks) - waiting
                idle += waiting
        return (busy, busy + idle) if busy + idle else None

    def memory_bytes(self) -> tuple[int, int] | None:
        """Return (used, all) memory of the machine; None: no figure."""
        text = text_of(f"{self._proc}/meminfo")
        if text is None:
            return None if self._proc != "/proc" or platform == "linux" else _memory_by_psutil()
        found = {}
        for line in text.split("\n", 8)[:8]:  # they are among the first
            name, _, rest = line.partition(":")
            amount = rest.split()[:1]
            if amount and amount[0].isdecimal():
                found[name] = int(amount[0]) * 1024
        total, available = found.get("MemTotal"), found.get("MemAvailable")
        return (max(total - available, 0), total) if total and available is not None else None

    def waited_ns(self) -> int:
        """Return how long the calling thread has waited for a CPU so far; 0 where nothing tells."""
        return (_run_and_wait(f"{self._proc}/thread-self/schedstat") or (0, 0))[1]

    def tasks(self) -> dict[str, tuple[int, int]]:
        """Return (time on a CPU, time waiting for one) in ns of this process's threads, by id: a bounded number."""
        folder = f"{self._proc}/self/task"
        try:
            names = os.listdir(folder)[:_TASKS_READ]
        except OSError:
            return {}
        read = [(name, _run_and_wait(f"{folder}/{name}/schedstat")) for name in names]
        return {name: times for name, times in read if times is not None}

    def pressure_ns(self, path: str | None = None) -> int | None:
        """Return how long so far at least one task had to wait for a CPU, of the machine or of a group's file."""
        for line in (text_of(path or f"{self._proc}/pressure/cpu") or "").splitlines():
            if line.startswith("some "):
                total = line.rpartition("total=")[2]
                return int(total) * 1000 if total.isdecimal() else None
        return None


def _run_and_wait(path: str) -> tuple[int, int] | None:
    fields = (text_of(path) or "").split()
    if len(fields) < 2 or not (fields[0].isdecimal() and fields[1].isdecimal()):
        return None
    return int(fields[0]), int(fields[1])


def _ticks_by_psutil() -> tuple[float, float] | None:
    # Not cpu_percent: it remembers its last reading by thread, and a thread's first answer is 0.0.
    try:
        import psutil

        times = psutil.cpu_times()
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        return total - times.idle - getattr(times, "iowait", 0.0), total
    except Exception:  # ImportError, and psutil's own errors
        return None


def _memory_by_psutil() -> tuple[int, int] | None:
    try:
        import psutil

        memory = psutil.virtual_memory()
        return int(memory.total - memory.available), int(memory.total)
    except Exception:
        return None
