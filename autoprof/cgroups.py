"""The limits that control groups put on this process, and what is used of them: version 1, version 2, or both at once.

Which version counts is decided for each controller by itself: on a hybrid machine the limits are in version 1 though
version 2 is mounted too. A limit may stand at any ancestor, and holds for all below it.
"""

from __future__ import annotations

import os

_READ_BYTES = 1 << 16
_MOUNTINFO_BYTES = 1 << 22
_UNIFIED = ""
"""Stands for version 2 among the controllers of version 1."""

_NEVER_BYTES = 1 << 60
"""Version 1 writes "no limit" as the largest multiple of a page."""


def text_of(path: str, most_bytes: int = _READ_BYTES) -> str | None:
    """Return what a small kernel file says; None where it can't be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except (OSError, ValueError):
        return None
    try:
        parts = []
        while most_bytes > 0 and (part := os.read(descriptor, most_bytes)):
            parts.append(part)
            most_bytes -= len(part)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return b"".join(parts).decode("utf-8", "surrogateescape")


def number_of(path: str) -> int | None:
    """Return the whole number a file consists of; None for anything else, "max" included."""
    return _whole((text_of(path) or "").strip())


def _whole(text: str) -> int | None:
    digits = text[1:] if text[:1] == "-" else text
    return int(text) if digits.isascii() and digits.isdecimal() and len(digits) < 40 else None


def fields_of(path: str) -> dict[str, int]:
    """Return the "name number" lines of a file."""
    found = {}
    for line in (text_of(path) or "").splitlines():
        name, _, value = line.partition(" ")
        number = _whole(value.strip())
        if number is not None:
            found[name] = number
    return found


class CpuLevel:
    """One group with a CPU quota, this process's own or an ancestor's.

    Attributes:
        cores: what the quota comes to.
    """

    __slots__ = ("_stat", "_usage", "cores")

    def __init__(self, cores: float, usage: str, stat: str) -> None:
        self.cores = cores
        self._usage = usage
        self._stat = stat

    def usage_ns(self) -> int | None:
        """Return the CPU time that the group has used so far."""
        if self._usage.endswith("cpu.stat"):
            used_us = fields_of(self._usage).get("usage_usec")
            return None if used_us is None else used_us * 1000
        return number_of(self._usage)

    def throttling(self) -> tuple[int, int]:
        """Return the periods so far, and those in which somebody of the group had to wait for the next."""
        fields = fields_of(self._stat)
        return fields.get("nr_periods", 0), fields.get("nr_throttled", 0)


class MemoryLevel:
    """One group with a memory limit, this process's own or an ancestor's."""

    __slots__ = ("_inactive", "_stat", "_usage", "limit_bytes")

    def __init__(self, limit_bytes: int, usage: str, stat: str, inactive: str) -> None:
        self.limit_bytes = limit_bytes
        self._usage = usage
        self._stat = stat
        self._inactive = inactive

    def used_bytes(self) -> int | None:
        """Return the working set: without files that were read once and can be dropped."""
        used = number_of(self._usage)
        if used is None:
            return None
        return max(used - fields_of(self._stat).get(self._inactive, 0), 0)


class Cgroups:
    """Where this process stands in the trees of control groups, at one moment.

    Args:
        proc: the folder that describes the process; another one in tests.
    """

    def __init__(self, proc: str = "/proc/self") -> None:
        self._paths = _paths(text_of(f"{proc}/cgroup") or "")
        self._mounts = _mounts(text_of(f"{proc}/mountinfo", _MOUNTINFO_BYTES) or "")

    def _levels(self, controller: str) -> list[tuple[str, str]]:
        """Return (mount point, path below it) of the own group and each ancestor, the own one first."""
        path = self._paths.get(controller)
        for root, mount in self._mounts.get(controller, ()) if path is not None else ():
            below = _below(path or "", root)
            # Where the file names a group outside of what is mounted here, the mount point is what we see of it.
            while below and not os.path.isdir(mount + below):
                below = below.rpartition("/")[0]
            if not os.path.isdir(mount):
                continue
            levels = [(mount, below)]
            while below:
                below = below.rpartition("/")[0]
                levels.append((mount, below))
            return levels
        return []

    def cpu_levels(self) -> list[CpuLevel]:
        """Return every quota that holds for this process and whose use can be read, the nearest first."""
        found = []
        for mount, below in self._levels(_UNIFIED):
            folder = mount + below
            quota, _, period = (text_of(f"{folder}/cpu.max") or "").strip().partition(" ")
            cores = _ratio(_whole(quota), _whole(period))
            if cores is not None:
                found.append(CpuLevel(cores, f"{folder}/cpu.stat", f"{folder}/cpu.stat"))
        for mount, below in self._levels("cpu"):
            folder = mount + below
            quota_us = number_of(f"{folder}/cpu.cfs_quota_us")
            cores = _ratio(quota_us, number_of(f"{folder}/cpu.cfs_period_us"))
            usage = self._usage_file(below)
            if cores is not None and usage is not None:
                found.append(CpuLevel(cores, usage, f"{folder}/cpu.stat"))
        return [level for level in found if level.usage_ns() is not None]

    def _usage_file(self, below: str) -> str | None:
        """Return what tells the CPU time of a group of version 1; its controller may be mounted elsewhere."""
        for _, mount in self._mounts.get("cpuacct", ()):
            if number_of(f"{mount}{below}/cpuacct.usage") is not None:
                return f"{mount}{below}/cpuacct.usage"
        for _, mount in self._mounts.get(_UNIFIED, ()) if below else ():
            if "usage_usec" in fields_of(f"{mount}{below}/cpu.stat"):
                return f"{mount}{below}/cpu.stat"
        return None

    def memory_levels(self) -> list[MemoryLevel]:
        """Return every memory limit that holds for this process and whose use can be read, the nearest first."""
        found = []
        for mount, below in self._levels(_UNIFIED):
            folder = mount + below
            # Above memory.high a group is slowed down: the kernel's distress comes before memory.max.
            limits = [number_of(f"{folder}/memory.{name}") for name in ("max", "high")]
            found.append((folder, limits, "memory.current", "inactive_file"))
        for mount, below in self._levels("memory"):
            folder = mount + below
            # The second is the least of all ancestors, also of those that can't be seen from inside a container.
            limits = [
                number_of(f"{folder}/memory.limit_in_bytes"),
                fields_of(f"{folder}/memory.stat").get("hierarchical_memory_limit"),
            ]
            found.append((folder, limits, "memory.usage_in_bytes", "total_inactive_file"))
        levels = []
        for folder, limits, usage, inactive in found:
            least = min(
                (each for each in limits if each is not None and 0 < each < _NEVER_BYTES), default=None
            )
            if least is not None:
                levels.append(MemoryLevel(least, f"{folder}/{usage}", f"{folder}/memory.stat", inactive))
        return [level for level in levels if level.used_bytes() is not None]

    def cpu_pressure_file(self) -> str | None:
        """Return the file that tells how long somebody of the own group had to wait for a CPU; None without one."""
        for mount, below in self._levels(_UNIFIED)[:1]:
            path = f"{mount}{below}/cpu.pressure"
            if below and text_of(path):
                return path
        return None


def _ratio(quota: int | None, period: int | None) -> float | None:
    return quota / period if quota and period and quota > 0 and period > 0 else None


def _paths(text: str) -> dict[str, str]:
    """Return the path of the own group by controller, from /proc/self/cgroup."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3 and parts[2].startswith("/"):
            for controller in parts[1].split(","):
                found.setdefault(controller, parts[2])
    return found


def _mounts(text: str) -> dict[str, list[tuple[str, str]]]:
    """Return (what is mounted, where) by controller, from /proc/self/mountinfo."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in text.splitlines():
        before, dash, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if not dash or len(fields) < 6 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        names = [_UNIFIED] if kind[0] == "cgroup2" else kind[-1].split(",")
        for name in names:
            found.setdefault(name, []).append((_unescaped(fields[3]), _unescaped(fields[4]).rstrip("/")))
    return found


def _below(path: str, root: str) -> str:
    """Return a group's path below what is mounted; "" for the mount point itself."""
    root = root.rstrip("/")
    if ".." in path.split("/") or (root and path != root and not path.startswith(f"{root}/")):
        return ""
    return path[len(root) :].rstrip("/")


def _unescaped(field: str) -> str:
    """Return a field of mountinfo with its blanks back: they are written as three octal digits."""
    head, *rest = field.split("\\")
    for part in rest:
        octal = part[:3]
        if len(octal) == 3 and all(each in "01234567" for each in octal):
            head += chr(int(octal, 8) & 0xFF) + part[3:]
        else:
            head += "\\" + part
    return head
