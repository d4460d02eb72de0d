"""Render and write the files that a strategy makes, atomically, into the output folder."""

from __future__ import annotations

import os

from autoprof import clock, guard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from autoprof.flusher import Flusher
    from autoprof.probe import Probe

FORMATS = {
    "stacks": {"svg": ("svg", "svg"), "html": ("html", "html"), "json": ("speedscope", "speedscope.json")},
    "memory": {"text": ("memory_table", "txt"), "json": ("memory_json", "json")},
}
"""View → format → (module of `reports` that has `render_<view>`, suffix of the file). The first is the default."""

NAMES = {"memory": "memory-{target}-{pid}"}
"""View → file name where a rule gives no `output`, without suffix: a later call of the process replaces the file."""

_NAME = "flame-{target}-{time}-{pid}"


def deliver(
    folder: str, probe: Probe, data: Any, duration_ns: int, flusher: Flusher, view: str
) -> str | None:
    """Write what a strategy measured and announce it to the store; return its path, None when it can't be written.

    Args:
        data: what the view's renderers take.
        view: a key of FORMATS.
    """
    from autoprof.store import Artefact

    format_ = probe.options.get("format") or next(iter(FORMATS[view]))
    path = path_for(folder, probe, FORMATS[view][format_][1], view)
    try:
        size_bytes = write_atomically(path, render(view, format_, data, f"{probe.target}, one call"))
    except Exception as error:
        guard.report("artefact", error)
        return None
    announced = Artefact(
        probe.target,
        probe.rule,
        probe.policy,
        probe.strategy_name,
        os.path.relpath(path, folder) if path.startswith(folder + os.sep) else path,
        format_,
        clock.wall_ns(),
        duration_ns=duration_ns,
        size_bytes=size_bytes,
    )
    flusher.artefacts.append(announced)
    return path


def render(view: str, format_: str, data: Any, title: str) -> str | bytes:
    """Return an artefact's content in one of the view's formats."""
    from importlib import import_module

    module = import_module(f"autoprof.reports.{FORMATS[view][format_][0]}")
    content: str | bytes = getattr(module, f"render_{view}")(data, title=title)
    return content


def path_for(folder: str, probe: Probe, suffix: str, view: str = "") -> str:
    """Return where a probe's file goes: its `output` with {target} {time} {pid} filled in, else a generated name."""
    import time

    target = "".join(each if each.isalnum() or each in "._-" else "-" for each in probe.target)[:100]
    moment = f"{time.strftime('%Y%m%d-%H%M%S')}-{clock.wall_ns() % 1_000_000_000 // 1_000_000:03d}"
    given = probe.options.get("output") or f"{NAMES.get(view, _NAME)}.{suffix}"
    for name, value in (("target", target), ("time", moment), ("pid", str(os.getpid()))):
        given = given.replace("{" + name + "}", value)
    return os.path.join(folder, given)


def write_atomically(path: str, content: str | bytes) -> int:
    """Write a file so that a reader sees the old one or the new one; return its size in bytes."""
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    data = content.encode("utf-8", "replace") if isinstance(content, str) else content
    temporary = f"{path}.{os.getpid()}.part"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return len(data)
