"""Graphs of calls as JSON, for programs."""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from autoprof.callgraph import Figures, Graph


def render_graph(graph: Graph, *, title: str) -> str:
    """Return functions and edges; an edge names its functions by their place in the list."""
    return _document(graph, title, timed=True)


def render_counts(graph: Graph, *, title: str) -> str:
    """Return the same without times."""
    return _document(graph, title, timed=False)


render_details = render_functions = render_graph


def _document(graph: Graph, title: str, timed: bool) -> str:
    places = {function: place for place, function in enumerate(sorted(graph.functions))}
    functions = [
        {"target": each[0], "file": each[1] or None, "line": each[2] or None, "name": each[3]}
        | _figures(graph.functions[each], timed)
        for each in places
    ]
    edges = [
        {"caller": places[caller], "callee": places[callee]} | _figures(figures, timed)
        for (caller, callee), figures in sorted(graph.edges.items(), key=lambda item: item[0])
    ]
    document = {
        "schema": 1,
        "title": title,
        "measured_calls": graph.measured,
        "cut_calls": graph.cut,
        "functions": functions,
        "edges": edges,
    }
    return json.dumps(document, separators=(",", ":")) + "\n"


def _figures(figures: Figures, timed: bool) -> dict[str, Any]:
    found = {"calls": figures.calls, "primitive_calls": figures.primitive}
    if timed:
        found |= {"self_ns": figures.self_ns, "cumulative_ns": figures.cumulative_ns}
    return found
