"""A fork inside a measured call: what the child then sees."""

from __future__ import annotations

import os
from collections.abc import Callable


def told_by_child(fork: Callable[[], int], tell: Callable[[], object]) -> str:
    """Fork by `fork`, which returns what `os.fork` did; return the repr of what the child tells."""
    reader, writer = os.pipe()
    child = fork()
    if child == 0:
        status = 1
        try:
            os.write(writer, repr(tell()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as file:
        said = file.read()
    assert os.waitpid(child, 0)[1] == 0
    return said
