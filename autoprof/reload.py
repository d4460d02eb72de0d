"""Look at the policy file, and hand over what it says when that has changed.

By content, not by time: an editor's rename, a ConfigMap's symlink swap and an edit within one tick of the file
system's clock are all the same here. A stat a look tells whether to read.
"""

from __future__ import annotations

import os
from time import monotonic

from autoprof import guard
from autoprof.background import Background

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SETTLE_S = 0.05
SETTLED_AFTER_S = 0.5
"""A file is read once two stats in so short a time are equal, or after so long: some are written without a pause."""

TRIES = 5
"""Looks at which a change is tried anew that faults of ours have cut short."""

Signature = tuple[int, int, int, int, int]


class Watcher:
    """Looks at one file on a thread of its own, which starts with `start` and not before.

    Attributes:
        period_s: seconds between two looks.
        missing: whether the file was not there at the last look.
    """

    def __init__(
        self,
        path: str,
        content: bytes | None,
        period_s: float,
        changed: Callable[[bytes, bool], bool],
        gone: Callable[[OSError], None],
    ) -> None:
        self.path = path
        self.period_s = period_s
        self.missing = content is None
        self._content = content
        self._signature: Signature | None = None
        self._changed = changed
        self._asks_left = 0
        self._gone = gone
        self._thread: Background | None = None

    @property
    def running(self) -> bool:
        """Whether there is a thread that looks."""
        return self._thread is not None and self._thread.running

    def start(self) -> None:
        """Start the thread unless it runs; never raises."""
        if self.running:
            return
        thread = self._thread = Background("reload", self._run)
        if not thread.start():
            self._thread = None

    def rest(self, wait_s: float, delicate_wait_s: float = 0.0) -> None:
        """End the thread; `start` starts another, which knows what this one has seen."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop(wait_s, delicate_wait_s)

    def forget_thread(self) -> None:
        """Start clean in a forked child, where the thread does not exist."""
        self._thread = None

    def _run(self, thread: Background) -> None:
        while thread.pause(self.period_s):
            thread.delicate = True
            try:
                self.look(thread.pause)
            except Exception as error:
                guard.count("reload", error)
            finally:
                thread.delicate = False

    def look(self, pause: Callable[[float], bool]) -> None:
        """Look once; call `changed` with the content if it is another than last time, `gone` when there is no file.

        What `changed` does not like may be half of a file: it is asked again, for good, if the next look finds the
        same. So it is after faults of ours, at up to five looks.

        Args:
            pause: sleeps for some seconds; False: give up.
        """
        try:
            signature = self._settled(pause)
            if signature is None:
                return
            if signature == self._signature:
                self._ask_again()
                return
            with open(self.path, "rb") as file:
                content = file.read()
        except OSError as error:
            self._signature = None
            if not self.missing:
                self.missing = True
                self._gone(error)
            return
        self.missing = False
        self._signature = signature
        if content != self._content:
            self._content = content
            # So it stays where a fault of ours leaves the change half done: later looks make up for it.
            self._asks_left = TRIES
            self._asks_left = 0 if self._changed(content, False) else 1

    def _ask_again(self) -> None:
        if self._asks_left and self._content is not None:
            self._asks_left -= 1
            self._changed(self._content, True)
            self._asks_left = 0

    def _settled(self, pause: Callable[[float], bool]) -> Signature | None:
        """Return the file's signature once it stands still; None when asked to end."""
        signature = self._stat()
        until = monotonic() + SETTLED_AFTER_S
        while signature != self._signature:
            if not pause(SETTLE_S):
                return None
            before, signature = signature, self._stat()
            if signature == before or monotonic() >= until:
                break
        return signature

    def _stat(self) -> Signature:
        found = os.stat(self.path)
        # The change time too: `rsync --inplace -t` and `cp -p` set the other one back.
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev
