"""Render and write the files that a strategy makes, atomically, into the output folder."""

from __future__ import annotations

import os

from autoprof import clock, guard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from autoprof.flusher import Flusher
    from autoprof.probe import Probe
    from autoprof.strategies.flame_graph import Stacks

_VIEW = {"svg": "svg", "html": "html", "json": "speedscope"}
_SUFFIX = {"svg": "svg", "html": "html", "json": "speedscope.json"}


def deliver(folder: str, probe: Probe, stacks: Stacks, duration_ns: int, flusher: Flusher) -> str | None:
    """Write a call's flame graph and announce it to the store; return its path, None when it can't be written."""
    from autoprof.store import Artefact

    format_ = probe.options.get("format") or "svg"
    path = path_for(folder, probe, _SUFFIX[format_])
    try:
        text = render(format_, stacks, f"{probe.target}, one call")
        size_bytes = write_atomically(path, text)
    except Exception as error:
        guard.report("flame graph", error)
        return None
    flusher.artefacts.append(
        Artefact(
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
    )
    return path


def render(format_: str, stacks: Stacks, title: str) -> str:
    """Return a flame graph as text in one of the formats svg, html, json (speedscope)."""
    from importlib import import_module

    view = import_module(f"autoprof.reports.{_VIEW[format_]}")
    text: str = view.render_stacks(stacks, title=title, unit="ns")
    return text


def path_for(folder: str, probe: Probe, suffix: str) -> str:
    """Return where a probe's file goes: its `output` with {target} {time} {pid} filled in, else a generated name."""
    import time

    target = "".join(each if each.isalnum() or each in "._-" else "-" for each in probe.target)[:100]
    moment = f"{time.strftime('%Y%m%d-%H%M%S')}-{clock.wall_ns() % 1_000_000_000 // 1_000_000:03d}"
    given = probe.options.get("output")
    if not given:
        return os.path.join(folder, f"flame-{target}-{moment}-{os.getpid()}.{suffix}")
    for name, value in (("target", target), ("time", moment), ("pid", str(os.getpid()))):
        given = given.replace("{" + name + "}", value)
    return os.path.join(folder, given)


def write_atomically(path: str, text: str) -> int:
    """Write a file so that a reader sees the old one or the new one; return its size in bytes."""
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    data = text.encode("utf-8", "replace")
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
