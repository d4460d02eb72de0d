"""What the command line writes: to a terminal, a pipe or a file."""

from __future__ import annotations

import os
import sys
import time

from autoprof.errors import printable


def write_file(path: str, content: bytes) -> None:
    """Write a file so that its reader sees the old content or the new; devices and pipes are written as such.

    Raises:
        OSError: It can't be written; an old file is unharmed.
    """
    path = os.path.realpath(path)
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as device:
            device.write(content)
        return
    part = f"{path}.{os.getpid()}.part"
    try:
        with open(part, "xb") as file:
            file.write(content)
        os.replace(part, path)
    except OSError:
        if os.path.exists(part):
            os.unlink(part)
        raise


def to_stdout(text: str) -> None:
    """Write text as UTF-8 where the terminal can show it, escaped where it can't."""
    encoding = (sys.stdout.encoding or "utf-8") if sys.stdout.isatty() else "utf-8"
    content = text.encode(encoding, "backslashreplace")
    raw = getattr(sys.stdout, "buffer", None)
    if raw is None:  # a caller's StringIO
        sys.stdout.write(text)
    else:
        sys.stdout.flush()
        raw.write(content)
    sys.stdout.flush()


class Progress:
    """Says on a terminal what takes long, on one line that goes away."""

    def __init__(self) -> None:
        self._shown = False
        self._since_s = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def say(self, what: str) -> None:
        """Show what is being done, from the first half second on."""
        if time.monotonic() - self._since_s > 0.5 and sys.stderr.isatty():
            self._shown = True
            print(f"\r\x1b[K{printable(what)[:79]}", end="", file=sys.stderr, flush=True)
