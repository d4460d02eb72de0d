"""Functions that call, raise, yield and return, for other tools to look at."""

from __future__ import annotations

import sys
from typing import Any

from .arena import probe

HAS_MONITORING = sys.version_info >= (3, 12)


def target(
    a: int,
    b: int = 2,
) -> int:
    c = a + b
    d = c * 2
    return d


def boom(a: int) -> None:
    raise ValueError(a)


def cleanup(a: int) -> int:
    try:
        if a:
            raise KeyError(a)
    finally:
        a = 1
    return a


def stream(n: int) -> Any:
    for each in range(n):
        yield target(each)


def keyed(a: int, *, k: int = 1, **more: int) -> int:
    return target(a) + k


def caller() -> int:
    x = target(1)
    try:
        boom(1)
    except ValueError:
        x += 1
    try:
        cleanup(1)
    except KeyError:
        x += 1
    return x + sum(stream(2)) + keyed(1, k=2, z=3)


FUNCTIONS = (target, boom, cleanup, stream, keyed)
NAMES = {each.__name__ for each in FUNCTIONS} | {"caller", "begin", "finish", "unwind", "first"}


def splice_all() -> list[Any]:
    return [probe(each) for each in FUNCTIONS]
