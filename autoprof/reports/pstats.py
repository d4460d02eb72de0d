"""Graphs of calls for the standard library's `pstats` and what reads its files (snakeviz, gprof2dot)."""

from __future__ import annotations

import marshal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from autoprof.callgraph import Figures, Function, Graph

_MARSHAL_VERSION = 4
"""Read by every Python from 3.4 on."""


def render_graph(graph: Graph, *, title: str) -> bytes:
    """Return what `cProfile` would have dumped; Source: `cProfile.Profile.snapshot_stats`."""
    return _stats(graph, timed=True)


def render_counts(graph: Graph, *, title: str) -> bytes:
    """Return the same with all times 0."""
    return _stats(graph, timed=False)


render_details = render_functions = render_graph


def _stats(graph: Graph, timed: bool) -> bytes:
    # Two functions may share a key (lambdas of one line), so their numbers are added.
    sums: dict[Any, list[Any]] = {}
    callers: dict[Any, dict[Any, list[Any]]] = {}
    for function, figures in graph.functions.items():
        primitive_calls, calls = figures.primitive, figures.calls
        _add(sums.setdefault(_key(function), [0, 0, 0.0, 0.0]), (primitive_calls, calls), figures, timed)
        callers.setdefault(_key(function), {})
    for (caller, callee), figures in graph.edges.items():
        known = callers[_key(callee)].setdefault(_key(caller), [0, 0, 0.0, 0.0])
        _add(known, (figures.calls, figures.primitive), figures, timed)
    stats = {
        key: (*numbers, {caller: tuple(each) for caller, each in callers[key].items()})
        for key, numbers in sums.items()
    }
    return marshal.dumps(stats, _MARSHAL_VERSION)


def _key(function: Function) -> tuple[str, int, str]:
    _, file, line, name = function
    return (file or "~", line, name)


def _add(sums: list[Any], counts: tuple[int, int], figures: Figures, timed: bool) -> None:
    times = (figures.self_ns / 1e9, figures.cumulative_ns / 1e9) if timed else (0.0, 0.0)
    for place, value in enumerate((*counts, *times)):
        sums[place] += value
