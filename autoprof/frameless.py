"""Calls chained in C: none of the links leaves a Python frame below the next one.

An import hook that calls the application's code from a function of its own shows up in every traceback, in
`f_back` chains and in `warnings.warn(stacklevel=…)`. A chain made here runs its links one after another from
`functools.reduce`: while a link runs, only its own frame is there, as if the caller had called it.
"""

from __future__ import annotations

# The C originals: importing functools takes 2 ms at start.
from _functools import partial, reduce  # type: ignore[import-not-found]
from _operator import matmul

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class _Link:
    # `value @ link`: C finds this slot on the type under `__rmatmul__`, and calls what it holds.
    __slots__ = ("__rmatmul__",)

    def __init__(self, call: Callable[[Any], Any]) -> None:
        self.__rmatmul__ = call


def chain(*calls: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a C callable of one argument that hands it through `calls`, each getting the result before it.

    Beware: the argument and the results must not define `__matmul__` themselves.
    """
    chained: Callable[[Any], Any] = partial(reduce, matmul, tuple([_Link(call) for call in calls]))
    return chained
