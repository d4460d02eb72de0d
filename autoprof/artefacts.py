"""Render and write the files that a strategy makes, atomically, into the output folder."""

from __future__ import annotations

import os
import time
from binascii import crc32
from functools import partial

from autoprof import clock, guard
from autoprof.importing import load
from autoprof.primitives import get_ident, strand_ident
from autoprof.store import Artefact

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from autoprof.flusher import Flusher
    from autoprof.probe import Probe

_TABLES = {
    "text": ("graph_text", "txt"),
    "json": ("graph_json", "json"),
    "dot": ("dot", "dot"),
    "callgrind": ("callgrind", "callgrind"),
    "pstats": ("pstats", "pstats"),
}
FORMATS = {
    "stacks": {"svg": ("svg", "svg"), "html": ("html", "html"), "json": ("speedscope", "speedscope.json")},
    "memory": {"text": ("memory_table", "txt"), "json": ("memory_json", "json")},
    "graph": _TABLES,
    "details": _TABLES,
    "functions": _TABLES,
    "counts": _TABLES,
}
"""View → format → (module of `reports` that has `render_<view>`, suffix of the file). The first is the default."""


def deliver(
    folder: str, probe: Probe, data: Any, duration_ns: int, flusher: Flusher, view: str
) -> str | None:
    """Write what a strategy measured and announce it to the store; return its path, None when it can't be written.

    Under `async: true` the flusher's thread does it, and the path is the one the file will have; None when too
    many files wait already.

    Args:
        data: what the view's renderers take; nobody may change it any more.
        view: a key of FORMATS.
    """
    format_ = probe.options.get("format") or next(iter(FORMATS[view]))
    path = path_for(folder, probe, FORMATS[view][format_][1], one_file=view != "stacks")
    artefact = Artefact(
        probe.target,
        probe.rule,
        probe.policy,
        probe.strategy_name,
        os.path.relpath(path, folder) if path.startswith(folder + os.sep) else path,
        format_,
        clock.wall_ns(),
        duration_ns=duration_ns,
    )
    job = partial(_write, folder, path, view, format_, data, artefact, flusher)
    if probe.asynchronous:
        return path if flusher.defer(partial(_charged, probe, job, flusher)) else None
    ident = strand_ident()
    entered = ident not in guard.suppressed
    guard.suppressed.add(ident)
    try:
        return path if job() else None
    finally:
        if entered:
            guard.suppressed.discard(ident)


def _charged(probe: Probe, job: Callable[[], object], flusher: Flusher) -> None:
    """Do a job on the writer's thread at the cost of the probe, not of all."""
    used_ns = clock.thread_ns()
    try:
        job()
    finally:
        spent_ns = clock.thread_ns() - used_ns
        probe.charge(spent_ns)
        flusher.busy_ns -= spent_ns  # which `Flusher._work` adds in a moment


def _write(
    folder: str, path: str, view: str, format_: str, data: Any, artefact: Artefact, flusher: Flusher
) -> bool:
    try:
        _make_folder(folder)  # before those below it: its parents are not ours
        measured = getattr(data, "measured", 1)
        title = f"{artefact.target}, {'one call' if measured == 1 else f'{measured:,} calls'}"
        content = render(view, format_, data, title)
        artefact.size_bytes = write_atomically(path, content)
    except Exception as error:
        guard.report("artefact", error)
        return False
    flusher.artefacts.append(artefact)
    return True


def render(view: str, format_: str, data: Any, title: str) -> str | bytes:
    """Return an artefact's content in one of the view's formats."""
    module = load(f"autoprof.reports.{FORMATS[view][format_][0]}")
    content: str | bytes = getattr(module, f"render_{view}")(data, title=title)
    return content


def path_for(folder: str, probe: Probe, suffix: str, one_file: bool = False) -> str:
    """Return where a probe's file goes: its `output` with {target} {time} {pid} filled in, else a generated name.

    Args:
        one_file: the generated name is the same for all calls of the probe in this process.
    """
    target = "".join([each if each.isalnum() or each in "._-" else "-" for each in probe.target])
    target = target.encode("utf-8", "replace")[:100].decode("utf-8", "ignore")  # file names have 255 bytes
    moment = f"{time.strftime('%Y%m%d-%H%M%S')}-{clock.wall_ns() % 1_000_000_000 // 1_000_000:03d}"
    given = probe.options.get("output")
    if not given and one_file:
        # The sum tells targets apart whose names only differ in what a file name can't hold.
        mark = crc32(probe.target.encode("utf-8", "replace"))
        return os.path.join(folder, f"{probe.strategy_name}-{target}-{mark:08x}-{os.getpid()}.{suffix}")
    if not given:
        return os.path.join(folder, f"flame-{target}-{moment}-{os.getpid()}.{suffix}")
    for name, value in (("target", target), ("time", moment), ("pid", str(os.getpid()))):
        given = given.replace("{" + name + "}", value)
    return os.path.join(folder, given)


def _make_folder(folder: str) -> None:
    try:
        os.makedirs(folder, mode=0o700)
        os.chmod(folder, 0o700)  # makedirs obeys the umask
    except FileExistsError:
        pass


def _make_folders(folder: str) -> None:
    """Make a folder and the missing ones above it, all of mode 0700: `makedirs` leaves those to the umask."""
    parent = os.path.dirname(folder)
    if parent != folder and parent and not os.path.exists(parent):
        _make_folders(parent)
    _make_folder(folder)


def write_atomically(path: str, content: str | bytes) -> int:
    """Write a file so that a reader sees the old one or the new one; return its size in bytes."""
    folder = os.path.dirname(path)
    _make_folders(folder)
    data = content.encode("utf-8", "replace") if isinstance(content, str) else content
    temporary = f"{path}.{os.getpid()}-{get_ident()}.part"
    try:
        os.unlink(temporary)  # what a killed process of the same id left
    except FileNotFoundError:
        pass
    # Exclusive: a symbolic link planted under this name is not followed.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        try:
            os.unlink(temporary)
        except OSError:
            pass  # the folder is gone
        raise
    return len(data)
