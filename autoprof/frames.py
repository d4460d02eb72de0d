"""Frames as the sampler reads them: their labels, and how many threads it looks at."""

from __future__ import annotations

import os
from _random import Random

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, FrameType
    from typing import Any, TypeVar

    Item = TypeVar("Item")

DEPTH_MAX = 128
THREADS_A_TICK = 25
_LABELS_KEPT = 20_000
_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_random = Random(int.from_bytes(os.urandom(16), "little"))
_labels: dict[int, tuple[CodeType, str]] = {}


def frame_label(code: CodeType, module: object) -> str:
    """Return `module:qualname (file:line)`; empty for our own code, which never shows in a stack."""
    if code.co_filename.startswith(_PACKAGE):
        return ""
    return f"{module}:{code.co_qualname} ({code.co_filename}:{code.co_firstlineno})"


def label_of(frame: FrameType) -> str:
    """Return a frame's label, from a bounded table that keeps the code: no id must be used twice."""
    code = frame.f_code
    known = _labels.get(id(code))
    if known is None:
        if len(_labels) >= _LABELS_KEPT:
            _labels.clear()
        known = _labels[id(code)] = (code, frame_label(code, frame.f_globals.get("__name__")))
    return known[1]


def frames_below(leaf: FrameType, depth: int) -> list[FrameType]:
    """Return the innermost frames of a thread, outermost first."""
    frames: list[FrameType] = []
    frame: FrameType | None = leaf
    while frame is not None and len(frames) < depth:
        frames.append(frame)
        frame = frame.f_back
    return frames[::-1]


def forget_labels() -> None:
    """Let go of the application's code."""
    _labels.clear()


def reservoir(items: list[tuple[int, Item]]) -> tuple[list[tuple[int, Item]], float]:
    """Return at most THREADS_A_TICK items, and by how much each one's weight grows for the left-out ones."""
    scale = max(1.0, len(items) / THREADS_A_TICK)
    while len(items) > THREADS_A_TICK:
        items[int(_random.random() * len(items))] = items[-1]
        items.pop()
    return items, scale


def frame_of(living: Any) -> FrameType | None:
    """Return the frame of a coroutine, generator or async generator; None when it has ended."""
    for name in ("cr_frame", "gi_frame", "ag_frame"):
        frame: FrameType | None = getattr(living, name, None)
        if frame is not None:
            return frame
    return None


def is_running(living: Any) -> bool:
    """Tell whether a coroutine or generator is on some thread's stack now."""
    return bool(
        getattr(living, "cr_running", False)
        or getattr(living, "gi_running", False)
        or (getattr(living, "ag_running", False) and getattr(living, "ag_await", None) is None)
    )


def awaited(waiting: Any) -> object | None:
    """Return what a suspended coroutine or generator waits for; None when that can't be seen."""
    for name in ("cr_await", "gi_yieldfrom", "ag_await"):
        found: object | None = getattr(waiting, name, None)
        if found is not None:
            return found
    return None


def awaiting(living: object, depth: int) -> list[FrameType]:
    """Return the frames of a suspended coroutine and of what it waits for, its own first, at most `depth`."""
    chain: list[FrameType] = []
    waiting: object | None = living
    while len(chain) < depth and (frame := frame_of(waiting)) is not None:
        chain.append(frame)
        waiting = awaited(waiting)
    return chain
