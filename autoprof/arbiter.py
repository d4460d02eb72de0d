"""Who may follow calls deterministically: one tool of ours in the process at a time, and none beside another profiler.

Tools that hook every call (`sys.setprofile`, pyinstrument, cProfile) steal each other's hook or mix each other's
frames. `acquire` before a hook is put on, `take_off` it, `release`.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from sys import getprofile, setprofile

from autoprof.primitives import interrupt_main, start_new_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    class Tool(Protocol):
        """What follows calls.

        Attributes:
            hook: what `sys.getprofile()` returns in the followed thread; None before there is one.
            measuring: False while the hook has nothing to follow: the coroutine is suspended.
        ended: True when what it followed is over, and only an interrupt has kept it from being stopped.
        """

        hook: Any

        @property
        def measuring(self) -> bool: ...

        @property
        def ended(self) -> bool: ...

        def abandon(self) -> None:
            """Take the hook off, here or at its next event, and forget what was measured."""


_prepared = False
holder: Tool | None = None
"""The tool in possession; read without a lock."""

_retired: deque[Any] = deque(maxlen=64)

_get_tool: Callable[[int], str | None] | None = getattr(getattr(sys, "monitoring", None), "get_tool", None)
_DEBUGGER_ID, _PROFILER_ID = 0, 2


def acquire(tool: Tool) -> bool:
    """Take possession for a tool; False when one is at work, ours or another profiler on this thread or process.

    Also False while the application traces its memory: what a tool keeps of a long call would be in its figures.
    """
    global holder
    if not _prepared:
        _prepare()
    stale = holder
    if stale is not None and stale.ended:
        stale.abandon()
        release(stale)
    if another_profiler() or memory_is_traced():
        return False
    # No call in between: no other thread and no signal handler comes between the question and the taking.
    if holder is not None:
        return False
    holder = tool
    return True


def release(tool: Tool) -> None:
    """Give possession back; does nothing for a tool that does not have it."""
    global holder
    if holder is tool:
        holder = None


def take_off(hook: Any) -> bool:
    """Take a hook off this thread; False when another one is in its place, or none."""
    if hook is None or getprofile() is not hook:
        return False
    retire(hook)
    setprofile(None)
    return True


def retire(hook: object) -> None:
    """Keep a hook that is taken off for a while.

    Beware: the garbage collector can bring us here while CPython 3.11 is about to call the hook and holds no reference
    to it (`call_trace` allocates the frame first): a hook freed now would be called freed.
    """
    _retired.append(hook)


def let_go(end: Callable[[], object]) -> None:
    """Be what the callback of a weak reference does: end a measurement, and pass an interrupt that strikes here on.

    A callback's exception is only printed, and the interrupt is the application's.
    """
    try:
        end()
    except KeyboardInterrupt:
        start_new_thread(interrupt_main, ())


def another_profiler() -> bool:
    """Tell whether a hook is on this thread, or a tool under the ids that `sys.monitoring` keeps for profilers."""
    if getprofile() is not None:
        return True
    return _get_tool is not None and (
        _get_tool(_DEBUGGER_ID) is not None or _get_tool(_PROFILER_ID) is not None
    )


def memory_is_traced() -> bool:
    """Tell whether the application traces its memory; no while `autoprof.allocations` traces one call of its own."""
    tracemalloc = sys.modules.get("tracemalloc")
    return tracemalloc is not None and bool(tracemalloc.is_tracing())


def is_ours(profiler: object) -> bool:
    """Tell whether what `sys.getprofile()` returned is the hook of the tool in possession."""
    tool = holder
    return tool is not None and tool.hook is profiler


def is_waiting(profiler: object) -> bool:
    """Tell whether a hook is ours and has nothing to follow now: then a call may be measured beside it."""
    tool = holder
    return tool is not None and tool.hook is profiler and not tool.measuring


def _prepare() -> None:
    global _prepared
    _prepared = True
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forget)


def forget() -> None:
    """Let go of what is being followed: in a forked child it is the parent's call, and at the end nobody asks."""
    global holder
    tool, holder = holder, None
    if tool is not None:
        tool.abandon()
