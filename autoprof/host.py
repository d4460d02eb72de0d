"""What the machine, the container and this process use: the only importer of psutil."""

from __future__ import annotations

from os import O_RDONLY, close, fstat, getpid, open, read
from sys import platform

from autoprof.primitives import allocate_lock

try:
    from os import pread
except ImportError:
    pass  # Windows: there is no /proc to read either

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
