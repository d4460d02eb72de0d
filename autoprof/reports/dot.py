"""Graphs of calls in Graphviz' language: https://graphviz.org/doc/info/lang.html."""

from __future__ import annotations

from autoprof.reports.model import clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from autoprof.callgraph import Figures, Graph


def render_graph(graph: Graph, *, title: str) -> str:
    """Return a digraph: a box per function, an arrow per caller and callee, darker where more time went."""
    return _digraph(graph, title, timed=True)


def render_counts(graph: Graph, *, title: str) -> str:
    """Return the same without times, darker where more calls were made."""
    return _digraph(graph, title, timed=False)


render_details = render_functions = render_graph


def _digraph(graph: Graph, title: str, timed: bool) -> str:
    places = {function: place for place, function in enumerate(sorted(graph.functions))}
    most = max((_weight(each, timed) for each in graph.functions.values()), default=0) or 1
    lines = [
        "digraph calls {",
        f"  label={_quoted(title)}; labelloc=t; rankdir=TB;",
        '  node [shape=box, style=filled, fontname="sans-serif"];',
    ]
    for function, place in places.items():
        target, file, line, _ = function
        figures = graph.functions[function]
        rows = [target, f"{file}:{line}" if file else "", _figures(figures, timed)]
        lightness = 1.0 - 0.35 * _weight(figures, timed) / most
        label = "\\n".join(_escaped(each) for each in rows if each)
        lines.append(f'  n{place} [label="{label}", fillcolor="0.08 {1 - lightness:.3f} 1.0"];')
    for (caller, callee), figures in sorted(graph.edges.items(), key=lambda item: item[0]):
        label = _quoted(_figures(figures, timed))
        lines.append(f"  n{places[caller]} -> n{places[callee]} [label={label}];")
    return "\n".join([*lines, "}"]) + "\n"


def _weight(figures: Figures, timed: bool) -> int:
    return figures.cumulative_ns if timed else figures.calls


def _figures(figures: Figures, timed: bool) -> str:
    calls = f"{figures.calls}x"
    if not timed:
        return calls
    return f"{calls}, {figures.self_ns / 1e6:.3f} / {figures.cumulative_ns / 1e6:.3f} ms"


def _escaped(text: str) -> str:
    # A backslash begins an escape in labels (\N is the node's name), and & an HTML entity.
    return clean(text).replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")


def _quoted(text: str) -> str:
    return f'"{_escaped(text)}"'
